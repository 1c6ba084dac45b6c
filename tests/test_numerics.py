"""Dtypes to compute in, shifts that meet infinities, derivatives beside values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.ops.numerics import below_largest, to_float, with_derivative_of
from tests.networks import quick_jit

INF = np.inf


@pytest.mark.parametrize(
    ("dtype", "inside", "returned"),
    [
        ("bfloat16", "float32", "bfloat16"),
        ("float16", "float32", "float16"),
        ("float32", "float32", "float32"),
        ("int32", "float32", "float32"),
        ("uint8", "float32", "float32"),
        ("bool", "float32", "float32"),
        ("complex64", "complex64", "complex64"),
    ],
)
def test_the_dtype_to_compute_in(dtype, inside, returned):
    x, kept = to_float(jnp.array([1, 0], dtype))
    assert (x.dtype, kept) == (inside, returned)
    np.testing.assert_array_equal(x, [1, 0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_dtype_changes_where_float64_is_on(dtype):
    with jax.enable_x64(True):
        x, kept = to_float(jnp.zeros(2, dtype))
    assert (x.dtype, kept) == (dtype, dtype)


def test_below_the_largest():
    x = jnp.array([[1.0, 3.0, -2.0], [INF, 1.0, INF], [-INF, -INF, -INF], [-INF, 2.0, 2.0]])
    expected = [[-2, 0, -5], [0, -INF, 0], [0, 0, 0], [-INF, 0, 0]]
    rows, columns = quick_jit(lambda x: (below_largest(x, -1), below_largest(x.T, 0)))(x)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(columns, np.transpose(expected))


def test_the_largest_counts_as_constant():
    x = jnp.array([1.0, 3.0, INF])
    for row in (x, x[:2]):
        tangent = jnp.arange(1.0, 1 + row.size)
        forward = quick_jit(lambda x, dx: jax.jvp(lambda x: below_largest(x, 0), (x,), (dx,))[1])
        np.testing.assert_array_equal(forward(row, tangent), tangent)


def test_a_value_with_the_derivative_of_another():
    def f(x):
        return with_derivative_of(x**2, 10 * x)

    value, tangent = jax.jvp(f, (jnp.float32(3.0),), (jnp.float32(2.0),))
    assert (value, tangent) == (30, 12)
    assert jax.grad(f)(3.0) == 6
