"""The arrays, lists and numbers in a pickle, of which nothing is run.

A pickle names the functions that make its objects. Those of NumPy's arrays are replaced here by
plain ones that keep what they are given, and any other name is refused.
"""

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np


def read(content: bytes) -> dict[str, Any]:
    """Returns the dictionary in a pickle, with NumPy's arrays of bytes in it as arrays.

    Raises:
      Exception: of many kinds, as damage may make anything of a pickle.
    """
    # The class written in Python: the one in C takes memory for any index that a pickle announces.
    reader = type("Reader", (pickle._Unpickler,), {"find_class": _find_class(_stand_ins())})
    found = reader(io.BytesIO(content), encoding="bytes").load()
    return {_decode(key): _make_array(value) for key, value in found.items()}


class _Array:
    """Takes the place of an array while it is unpickled."""

    state: Any = None


def _stand_ins() -> dict[tuple[str, str], Callable[..., Any]]:
    """What takes the place of the functions that a pickle names, made anew for each pickle."""

    class Array(_Array):
        def __setstate__(self, state: Any) -> None:
            self.state = state

    class Type:
        def __init__(self, name: Any = "", *_: Any) -> None:
            self.name = name

        def __setstate__(self, state: Any) -> None:
            pass

    def reconstruct(*_: Any) -> Array:
        return Array()

    def encode(value: str, _: str = "latin1") -> bytes:  # of bytes, as Python 3 writes them
        return value.encode("latin1")

    return {
        ("numpy.core.multiarray", "_reconstruct"): reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): reconstruct,
        ("numpy", "ndarray"): Array,
        ("numpy", "dtype"): Type,
        ("_codecs", "encode"): encode,
    }


def _find_class(known: dict[tuple[str, str], Callable[..., Any]]) -> Callable[..., Any]:
    def find_class(_: Any, module: str, name: str) -> Any:
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is never called")
        return known[module, name]

    return find_class


def _decode(value: Any) -> Any:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _make_array(value: Any) -> Any:
    """The array of bytes that was unpickled in the place of one; other values as they are."""
    if not isinstance(value, _Array):
        return value
    _, shape, kind, in_columns, raw = value.state
    if _decode(kind.name) != "u1":
        raise ValueError(f"an array of the type {_decode(kind.name)!r}")
    order = "F" if in_columns else "C"
    return np.frombuffer(raw, np.uint8).reshape(shape, order=order)  # type: ignore[call-overload]
