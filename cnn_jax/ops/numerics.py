"""Dtypes, shifts and limits that keep operations from losing digits and from NaN."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def to_float(x: Array) -> tuple[Array, Any]:
    """x in the dtype to compute in, at least float32, and the dtype to return."""
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return x, x.dtype
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.dtype(jnp.float32)
    return x.astype(np.promote_types(dtype, np.float32)), dtype


def below_largest(x: Array, axis: int) -> Array:
    """x minus its largest element along `axis`, which counts as constant for derivatives.

    Elements equal to the largest become 0 even if they are infinite.
    """
    return _difference(x, lax.stop_gradient(x.max(axis, keepdims=True)))


@jax.custom_jvp
def _difference(x: Array, largest: Array) -> Array:
    tied = x == largest
    return jnp.where(tied, 0, x) - jnp.where(tied, 0, largest)


@_difference.defjvp
def _difference_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    return _difference(*primals), tangents[0]


@jax.custom_jvp
def with_derivative_of(x: Array, value: Array) -> Array:
    """`value`, with the derivative of x: for points where a formula fails but its limit exists."""
    return value


@with_derivative_of.defjvp
def _with_derivative_of_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    return with_derivative_of(*primals), tangents[0]
