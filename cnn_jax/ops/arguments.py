"""Reading arguments: what counts as an integer, a boolean, a number or a probability."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cnn_jax.ops.errors import ArgumentError


def as_integer(value: Any) -> int:
    """An int, or a scalar of an integer dtype, as Python's int.

    Raises:
      TypeError: it is anything else, such as a float, a boolean or a traced value.
    """
    if isinstance(value, bool | np.bool_) or getattr(value, "dtype", None) == np.bool_:
        raise TypeError(f"{value!r} is a boolean")
    return operator.index(value)


def integer(name: str, value: Any, least: int) -> int:
    """`value` as Python's int.

    Raises:
      ArgumentError: it is no integer, or smaller than `least`.
    """
    try:
        number = as_integer(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ArgumentError(f"{name} must be an integer of at least {least}, got {value!r}.")
    return number


def boolean(name: str, value: Any) -> bool:
    """`value` as Python's bool.

    Raises:
      ArgumentError: it is neither a boolean nor 0 or 1.
    """
    try:
        if is_concrete(value) and np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biu":
            number = int(value)
            if number in (0, 1):
                return bool(number)
    except (TypeError, ValueError):
        pass
    raise ArgumentError(f"{name} must be True or False, got {value!r}.")


def entries(values: Any) -> tuple[Any, ...]:
    """The entries of a sequence or an array; TypeError if it is neither."""
    if isinstance(values, jax.Array) and is_concrete(values):
        values = np.asarray(values)  # its entries stay known even while a function is traced
    return tuple(values)


def is_concrete(value: Any) -> bool:
    """Whether a value is known while tracing."""
    return not isinstance(value, jax.core.Tracer)


def is_number(value: Any) -> bool:
    """Whether a value is one real number, possibly traced; a boolean is not."""
    if value is None:
        return False
    try:
        dtype, shape = jnp.result_type(value), np.shape(value)
    except (TypeError, ValueError):
        return False
    real = jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
    return shape == () and real


def check_probability(name: str, meaning: str, value: ArrayLike) -> None:
    """ArgumentError unless `value` is one number, from 0 to 1 if it is known."""
    if np.ndim(value) != 0:
        raise ArgumentError(f"{name} must be one number, not of shape {np.shape(value)}.")
    if not is_number(value) or (is_concrete(value) and not 0 <= np.asarray(value) <= 1):
        raise ArgumentError(f"{name}, {meaning}, must be 0 to 1, got {value}.")  # not NaN either
