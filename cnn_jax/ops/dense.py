"""The product of a fully connected layer."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from cnn_jax.ops.errors import ArgumentError
from cnn_jax.ops.platform import on_cpu


def dense(x: Array, kernel: Array) -> Array:
    """`[..., inputs]` times `[inputs, features]`, to `[..., features]`.

    Raises:
      ArgumentError: the kernel isn't a matrix with a row for each of x's inputs, of x's dtype.
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    if kernel.ndim != 2 or x.shape[-1:] != kernel.shape[:1]:
        raise ArgumentError(
            f"kernel must be a matrix [inputs, features] with one row for each input of x "
            f"{x.shape}, got {kernel.shape}."
        )
    if x.dtype != kernel.dtype:
        raise ArgumentError(
            f"x and kernel must have one dtype, got {x.dtype} and {kernel.dtype}; cast one of them."
        )
    examples = math.prod(x.shape[:-1])  # a symbol where a program of any batch size is exported
    few = isinstance(examples, int) and examples < kernel.shape[0]
    if on_cpu() and few and min(kernel.shape) >= 512:
        return _cpu_dense(x, kernel)
    return jnp.dot(x, kernel)


@jax.custom_jvp
def _cpu_dense(x: Array, kernel: Array) -> Array:
    return jnp.dot(x, kernel)


@partial(_cpu_dense.defjvp, symbolic_zeros=True)
def _dense_jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    x, kernel = primals
    dx, dkernel = tangents
    terms = []
    if not isinstance(dx, SymbolicZero):
        terms.append(_input_term(dx, kernel))
    if not isinstance(dkernel, SymbolicZero):
        terms.append(jnp.dot(x, dkernel))
    return _cpu_dense(x, kernel), sum(terms[1:], terms[0])


def _input_term(dx: Array, kernel: Array) -> Array:
    """dx times kernel, whose transpose in dx is kernel times the cotangent, then transposed.

    The other order of the factors, which the barrier keeps XLA from choosing, makes XLA:CPU read
    the kernel across its rows (experiments/reports/cpu_operations.md).
    """
    rows = dx.reshape(-1, dx.shape[-1])
    columns = lax.optimization_barrier(rows.T)
    y = lax.dot_general(kernel, columns, (((0,), (0,)), ((), ()))).T
    return y.reshape(*dx.shape[:-1], kernel.shape[1])
