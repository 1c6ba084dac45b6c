"""How a part declares its options: typed fields with defaults, choices and ranges.

The annotation has the type, with a `Literal` for a choice, and `option` adds the range of a number.
Ranges keep out typing errors and what no machine can hold; whether a number fits the network and
the data is checked there.
"""

import collections.abc
import dataclasses
import functools
import math
import operator
import types
import typing
from collections.abc import Iterable
from typing import Any, NamedTuple

from cnn_jax import schema, text

FLOAT32_MAX = 3.4028234663852886e38
_INT32_MAX = 2**31 - 1


class Range(NamedTuple):
    """The numbers from `low` to `high`, described by `text`."""

    low: float
    high: float
    text: str
    without_low: bool = False
    without_high: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number is within the range; NaN never is."""
        above = value > self.low if self.without_low else value >= self.low
        below = value < self.high if self.without_high else value <= self.high
        return above and below


def whole(low: int, high: int) -> Range:
    """Returns the whole numbers from `low` to `high`."""
    first = f"{low} or more" if low == 0 else f"at least {low}"
    return Range(low, high, f"{first}, and at most {high:,}")


def bits(count: int) -> Range:
    """Returns the whole numbers of `count` bits."""
    return Range(0, 2**count - 1, f"0 or more, and less than 2**{count}")


POSITIVE = Range(0, FLOAT32_MAX, "positive and finite", without_low=True)
NOT_NEGATIVE = Range(0, FLOAT32_MAX, "0 or more, and finite")
PROBABILITY = Range(0, 1, "from 0 to 1")
POSITIVE_SHARE = Range(0, 1, "more than 0 and at most 1", without_low=True)
BELOW_ONE = Range(0, 1, "at least 0 and less than 1", without_high=True)
PIXELS = whole(0, 4096)


def option(default: Any, within: Range) -> Any:
    """Returns a dataclass's field with a default and a range, of a tuple's entries if it is one."""
    return dataclasses.field(default=default, metadata={"range": within})


def find_problem(value: Any, field: "dataclasses.Field[Any]") -> str | None:
    """Ends a sentence, after 'NAME=', about a value of a wrong type, choice or range; else None.

    Without a range a float must be finite, and an int no larger than an array could be.
    """
    if problem := find_wrong_type(value, field.type):
        return problem
    choices = read_choices(field.type)
    if choices and value is not None and value not in choices:
        return f"{value!r} is unknown{suggest_name(value, choices)}"
    expected = _expected(value, field.metadata.get("range"))
    return expected and f"{schema.show(value)} is out of range; it must be {expected}."


def find_wrong_type(value: Any, hint: Any) -> str | None:
    """Ends a sentence, after 'NAME=', about a value of a wrong type; else None."""
    hint = plain_type(hint)
    if schema.is_a(value, hint):
        return None
    return f"{schema.show(value)} is of the wrong type; it must be {schema.type_name(hint)}."


def _expected(value: Any, within: Range | None) -> str | None:
    if isinstance(value, tuple | list):
        return next((expected for v in value if (expected := _expected(v, within))), None)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if within:
        return None if within.holds(value) else within.text
    if isinstance(value, float):
        return None if math.isfinite(value) else "finite"
    return None if abs(value) <= _INT32_MAX else f"at most {_INT32_MAX:,}"


def plain_type(hint: Any) -> Any:
    """Returns the type in files and flags: a choice of names is a str, a sequence a tuple.

    >>> plain_type(typing.Literal["max", "avg"] | None)
    str | None
    >>> plain_type(collections.abc.Sequence[int])
    tuple[int, ...]
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return type(args[0])
    if origin in (types.UnionType, typing.Union):
        return functools.reduce(operator.or_, map(plain_type, args))
    if origin is collections.abc.Sequence:
        return tuple[plain_type(args[0]), ...]  # type: ignore[misc]
    if origin is tuple:
        return tuple[tuple(arg if arg is ... else plain_type(arg) for arg in args)]  # type: ignore[misc]
    return hint


def read_choices(hint: Any) -> tuple[Any, ...]:
    """Returns the choices of a `Literal`, optional or not; () for other types."""
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return next(filter(None, map(read_choices, typing.get_args(hint))), ())
    return ()


def suggest_name(name: str, known: Iterable[str]) -> str:
    """Ends a sentence with the known name most like `name`, or else with all known names."""
    known = list(known)
    near = text.find_nearest(str(name), known, 0.5)
    return f"; did you mean {near}?" if near else f"; it must be one of {', '.join(known)}."
