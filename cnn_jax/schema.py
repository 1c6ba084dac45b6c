"""Checks values from JSON or a command line against types, and reads JSON.

Types are annotations: int, float, str, bool, None, Any, Literal, unions, `tuple[…]`, `list[…]`,
`dict[str, …]` and TypedDict.
"""

import json
import math
import pathlib
import types
import typing
from typing import Any

from cnn_jax import files, text
from cnn_jax.errors import RunDirectoryError

MAX_BYTES = 256 << 20  # of a file of records
_MAX_INT = 2**63


def is_a(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; an int is a float too, a bool is not an int."""
    return find_problem(value, hint) is None


def type_name(hint: Any) -> str:
    """Returns a type as a person writes it."""
    if typing.is_typeddict(hint):
        return "an object"
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " | ".join(map(type_name, typing.get_args(hint)))
    name = hint.__name__ if isinstance(hint, type) else str(hint)
    return name.replace("NoneType", "None").replace("typing.", "")


def find_problem(value: Any, hint: Any, key: str = "") -> str | None:
    """Describes what is wrong with a value that isn't of the type, by its key; else None.

    An object may have keys that its TypedDict doesn't declare.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return None
    if typing.is_typeddict(hint):
        return _find_problem_of_object(value, hint, key)
    if origin in (types.UnionType, typing.Union):
        problems = [find_problem(value, arg, key) for arg in args]
        if None in problems:
            return None
        # A problem inside an optional object or list says most.
        inner = [p for p in problems if p and not p.startswith(f"{_name(key)} is ")]
        return inner[0] if inner else _wrong(value, hint, key)
    if origin is typing.Literal:
        return None if value in args else _wrong(value, hint, key)
    if origin is dict and isinstance(value, dict):
        return _first(
            find_problem(v, args[1], f"{key}.{k}" if key else k) for k, v in value.items()
        )
    if origin in (tuple, list) and isinstance(value, tuple | list):
        if origin is tuple and args[-1] is not Ellipsis:
            if len(value) != len(args):
                return _wrong(value, hint, key)
            hints: typing.Sequence[Any] = args
        else:
            hints = [args[0]] * len(value)
        return _first(
            find_problem(v, h, f"{key}[{i}]")
            for i, (v, h) in enumerate(zip(value, hints, strict=True))
        )
    if origin is not None:
        return _wrong(value, hint, key)
    if hint is float and isinstance(value, float | int) and not isinstance(value, bool):
        return None
    if hint is int and isinstance(value, bool):
        return _wrong(value, hint, key)
    if hint is None:
        hint = type(None)
    return None if isinstance(value, hint) else _wrong(value, hint, key)


def _find_problem_of_object(value: Any, hint: Any, key: str) -> str | None:
    if not isinstance(value, dict):
        return _wrong(value, hint, key)
    hints = typing.get_type_hints(hint)
    prefix = f"{key}." if key else ""
    for name in sorted(hint.__required_keys__):
        if name not in value:
            return f"{prefix}{name} is missing"
    return _first(find_problem(value[n], hints[n], prefix + n) for n in hints if n in value)


def _first(problems: typing.Iterator[str | None]) -> str | None:
    return next((problem for problem in problems if problem), None)


def _name(key: str) -> str:
    return text.one_line(key) or "it"


def show(value: Any) -> str:
    """Returns a value in one line of at most 60 characters."""
    try:
        shown = text.one_line(repr(value))
    except ValueError:  # Python writes no more than 4300 digits of a whole number
        return "a number of thousands of digits"
    return shown if len(shown) <= 60 else f"{shown[:57]}…"


def _wrong(value: Any, hint: Any, key: str) -> str:
    return f"{_name(key)} is {show(value)}, where {type_name(hint)} is expected"


def parse_json(content: bytes | str, hint: Any, file: pathlib.Path, part: str = "") -> Any:
    """Returns the value of JSON text, checked; `part` names the part of the file.

    Raises:
      RunDirectoryError: it isn't JSON, it holds NaN, infinities or whole numbers beyond 64 bits,
        or a value isn't of its type.
    """
    try:
        value = json.loads(content, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)
        problem = find_problem(value, hint)
    except RecursionError:
        problem = "it is nested too deep"
    except ValueError as error:  # of JSON and of UTF-8
        problem = text.one_line(str(error))
    if problem:
        raise RunDirectoryError(f"{file} can't be read: {part}{problem}.")
    return value


def read_json(file: pathlib.Path, hint: Any) -> Any:
    """Returns the value of a JSON file, with the errors of `parse_json` and `read_record`."""
    return parse_json(read_record(file), hint, file)


def read_record(file: pathlib.Path) -> bytes:
    """Returns the bytes of a file of records.

    Raises:
      RunDirectoryError: it doesn't exist, isn't a regular file, or the system refused it.
    """
    try:
        return files.read_bytes(file, MAX_BYTES)
    except OSError as error:
        raise RunDirectoryError(f"{file} can't be read: {files.say_reason(error)}.") from error


def _refuse(constant: str) -> Any:
    raise ValueError(f"it holds {constant}, which is no number of JSON")


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"the number {digits[:20]} in it is out of range")
    return value


def _whole(digits: str) -> int:
    if len(digits) > 20 or abs(value := int(digits)) >= _MAX_INT:
        raise ValueError(f"the number {digits[:20]} in it is out of range")
    return value
