"""Pooling: the worked numbers of the literature by row (C12, C13), gradients, properties, errors.

Every test that takes `path` runs on both forms of the operation (see `cnn_jax.ops.platform`).
Random combinations of options are in `test_pooling_grid.py`.
"""

import math
from functools import cache, partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_jax import ops
from cnn_jax.ops.cpu import pooling as cpu_pooling
from cnn_jax.ops.platform import forced
from tests import reference
from tests.test_pooling_grid import run_onnx, value_and_gradient

INPUT_5X5 = [[1, 2, 0, 3, 1], [0, 1, 2, 3, 1], [1, 2, 1, 0, 0], [5, 2, 3, 1, 1], [2, 1, 0, 1, 1]]
POOLS = {
    "max": ops.max_pool,
    "min": ops.min_pool,
    "avg": ops.avg_pool,
    "lp": partial(ops.lp_pool, p=3),
    "softmax": ops.softmax_pool,
}
FORMS = [("max", "cpu"), ("max", "gpu"), ("avg", "cpu"), ("avg", "gpu")]
FORMS += [
    (name, "cpu") for name in ("min", "lp", "softmax")
]  # these build on max and avg, or have one


@pytest.fixture(params=["cpu", "gpu"])
def path(request):
    with forced(request.param):
        yield request.param


def image(rows, dtype=jnp.float32):
    """[H, W] as one image of one channel, [1, H, W, 1]."""
    return jnp.array(np.asarray(rows)[None, :, :, None], dtype)


def up_to(n, *shape):
    return image(np.arange(n).reshape(shape))


def distinct(seed, *shape, step=0.1):
    """Numbers around 0 in random order, at least `step` from each other and step / 2 from 0."""
    n = math.prod(shape)
    numbers = np.random.default_rng(seed).permutation(n) - n // 2 + 0.5
    return jnp.array(step * numbers.reshape(shape), jnp.float32)


def run(pool, x, *window, **options):
    """pool(x, *window, **options) compiled as a whole: the fewest programs for a test."""
    return np.asarray(jax.jit(lambda x: pool(x, *window, **options))(x))


def gradient(pool, x, g=None):
    """Gradient of sum(g · pool(x)), as [H, W] of the only image and channel."""
    g = jnp.ones(jax.eval_shape(pool, x).shape) if g is None else image(g)
    return value_and_gradient(pool, x, g)[1][0, :, :, 0]


# The worked examples


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int32])
@pytest.mark.parametrize(
    ("rows", "window", "options", "expected"),
    [
        (np.arange(9).reshape(3, 3), 2, {"strides": 1}, [[4, 5], [7, 8]]),
        (np.arange(16).reshape(4, 4), 3, {}, [[10]]),
        (np.arange(16).reshape(4, 4), 3, {"padding": 1, "strides": 2}, [[5, 7], [13, 15]]),
        (
            np.arange(16).reshape(4, 4),
            (2, 3),
            {"strides": (2, 3), "padding": (0, 1)},
            [[5, 7], [13, 15]],
        ),
        (INPUT_5X5, 3, {"ceil_mode": False}, [[2]]),
        (INPUT_5X5, 3, {"ceil_mode": True}, [[2, 3], [5, 1]]),
    ],
)
def test_C12_max(path, rows, window, options, expected, dtype):
    y = run(ops.max_pool, image(rows, dtype), window=window, **options)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y[0, :, :, 0], expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int32])
def test_C12_average(path, dtype):
    y = run(ops.avg_pool, image(np.arange(9).reshape(3, 3), dtype), window=2, strides=1)
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y[0, :, :, 0], [[2, 3], [5, 6]])


def test_C12_channels_are_independent(path):
    x = up_to(16, 4, 4)
    x = jnp.concatenate([x, x + 1], -1)
    y = run(ops.max_pool, x, window=3, padding=1, strides=2)
    np.testing.assert_array_equal(y[0, :, :, 0], [[5, 7], [13, 15]])
    np.testing.assert_array_equal(y[0, :, :, 1], [[6, 8], [14, 16]])


@pytest.mark.parametrize(("name", "platform"), FORMS)
def test_C12_strides_default_to_the_window(name, platform):
    x = distinct(0, 2, 7, 8, 3)
    with forced(platform):
        y = run(POOLS[name], x, window=(2, 3))
        assert y.shape == (2, 3, 2, 3)
        np.testing.assert_array_equal(y, run(POOLS[name], x, window=(2, 3), strides=(2, 3)))


def test_C12_padding_counts_or_not(path):
    x = jnp.ones((1, 4, 4, 1))
    counted = run(ops.avg_pool, x, 3, strides=2, padding=1, count_include_pad=True)[0, :, :, 0]
    np.testing.assert_allclose(counted, np.array([[4, 6], [6, 9]]) / 9, rtol=1e-6)
    alone = run(ops.avg_pool, x, 3, strides=2, padding=1, count_include_pad=False)
    np.testing.assert_allclose(alone, 1, rtol=1e-6)
    # What hangs over the padding in ceil_mode is never counted: the last window holds 1, 0 of 3.
    x = jnp.ones((1, 3, 1))
    hanging = run(ops.avg_pool, x, 3, strides=3, padding=1, ceil_mode=True)
    np.testing.assert_allclose(hanging[0, :, 0], [2 / 3, 1 / 2], rtol=1e-6)


def test_C12_last_window_of_ceil_mode_starts_inside(path):
    # Of 3, with stride 2 and windows of 1, the second starts at 2; a third would start at 4.
    x = jnp.arange(3.0).reshape(1, 3, 1)
    np.testing.assert_array_equal(
        run(ops.max_pool, x, 1, strides=2, ceil_mode=True)[0, :, 0], [0, 2]
    )
    # Starting in the padding after the input is not enough: a third window of 2 would.
    y = run(ops.max_pool, x, 2, strides=2, padding=1, ceil_mode=True)
    np.testing.assert_array_equal(y[0, :, 0], [0, 2])
    y = run(ops.max_pool, jnp.arange(4.0).reshape(1, 4, 1), 2, strides=3, padding=1, ceil_mode=True)
    np.testing.assert_array_equal(y[0, :, 0], [0, 3])


def test_C12_same_and_valid(path):
    x = up_to(25, 5, 5)
    same = run(ops.max_pool, x, 2, strides=2, padding="SAME")[0, :, :, 0]
    np.testing.assert_array_equal(same, [[6, 8, 9], [16, 18, 19], [21, 23, 24]])
    valid = run(ops.max_pool, x, 2, strides=2, padding="VALID")[0, :, :, 0]
    np.testing.assert_array_equal(valid, [[6, 8], [16, 18]])
    pairs = run(ops.max_pool, x, 2, strides=2, padding=((1, 0), (0, 1)))[0, :, :, 0]
    np.testing.assert_array_equal(pairs, [[1, 3, 4], [11, 13, 14], [21, 23, 24]])


def test_C12_gradients_by_hand(path):
    pool = partial(ops.max_pool, window=3, ceil_mode=True)
    # Windows: the upper left's first 2 is at (0, 1), the upper right's 3 at (0, 3), 5, and 1.
    expected = np.zeros((5, 5))
    expected[0, 1], expected[0, 3], expected[3, 0], expected[3, 3] = 1, 2, 3, 4
    dx = gradient(pool, image(INPUT_5X5), [[1, 2], [3, 4]])
    np.testing.assert_array_equal(dx, expected)
    # Overlapping windows add up: 4 is in all four of 0 … 8's, and 8 wins one.
    dx = gradient(partial(ops.max_pool, window=2, strides=1), up_to(9, 3, 3), [[1, 2], [3, 4]])
    np.testing.assert_array_equal(dx, [[0, 0, 0], [0, 1, 2], [0, 3, 4]])
    dx = gradient(partial(ops.avg_pool, window=2, strides=1), up_to(9, 3, 3), [[4, 8], [12, 16]])
    np.testing.assert_array_equal(dx, [[1, 3, 2], [4, 10, 6], [3, 7, 4]])


def test_C13_min_is_minus_max_of_minus(path):
    x = distinct(1, 2, 7, 7, 3)
    options = {"window": 3, "strides": 2, "padding": 1, "ceil_mode": True}
    np.testing.assert_array_equal(
        run(ops.min_pool, x, **options), -run(ops.max_pool, -x, **options)
    )
    expected, dx = reference.pool(
        x, reference.smallest, (3, 3), (2, 2), [(1, 1)] * 2, (1, 1), ceil_mode=True
    )
    g = distinct(2, *expected.shape)
    y, got = value_and_gradient(partial(ops.min_pool, **options), x, g)
    np.testing.assert_allclose(y, expected)
    np.testing.assert_allclose(got, dx(g), atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8, jnp.int32])
def test_C13_extreme_integers(path, dtype):
    low, high = jnp.iinfo(dtype).min, jnp.iinfo(dtype).max
    x = jnp.array([low, high, low, low, high, high], dtype).reshape(1, 6, 1)
    np.testing.assert_array_equal(run(ops.min_pool, x, 2)[0, :, 0], [low, low, high])
    np.testing.assert_array_equal(run(ops.max_pool, x, 2)[0, :, 0], [high, low, high])
    padded = run(ops.min_pool, x, 3, strides=2, padding=1)[0, :, 0]
    np.testing.assert_array_equal(padded, [low, low, low])
    padded = run(ops.max_pool, x[:, 2:4], 3, strides=2, padding=1)[0, :, 0]
    np.testing.assert_array_equal(padded, [low])


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 5, 4, 3), (2, 3, 5, 4, 3)])
def test_C13_global_average(path, shape):
    x = distinct(3, *shape)
    y, dx = value_and_gradient(ops.global_avg_pool, x, jnp.ones((2, 3)))
    np.testing.assert_allclose(y, np.asarray(x, float).mean(tuple(range(1, x.ndim - 1))), atol=1e-5)
    np.testing.assert_allclose(dx, 1 / math.prod(shape[1:-1]), rtol=1e-6)
    onnx = run_onnx("GlobalAveragePool", np.moveaxis(np.asarray(x), -1, 1), {})
    np.testing.assert_allclose(y, onnx.reshape(y.shape), atol=1e-5)
    whole = run(ops.avg_pool, x, window=shape[1:-1])
    np.testing.assert_allclose(y, whole.reshape(y.shape), atol=1e-5)


def test_C13_softmax_weighted():
    x = jnp.array([0.0, math.log(3.0), 5.0, 5.0]).reshape(1, 4, 1)
    # Weights 1/4 and 3/4; then 1/2 and 1/2.
    expected = [0.75 * math.log(3.0), 5.0]
    np.testing.assert_allclose(run(ops.softmax_pool, x, window=2)[0, :, 0], expected, rtol=1e-6)
    # Nothing weighs in from the padding, and scores of 1000 do not overflow.
    y = run(ops.softmax_pool, 1000 * x, window=2, padding=1)[0, :, 0]
    np.testing.assert_allclose(y, [0.0, 5000.0, 5000.0], rtol=1e-6)
    y = run(ops.softmax_pool, -1000 * x - 1, window=2, padding=1)[0, :, 0]
    np.testing.assert_allclose(y, [-1.0, -1000 * math.log(3) - 1, -5001.0], rtol=1e-6)


def test_C13_lp():
    x = jnp.array([3.0, -4.0, 0.0, 0.0, 1e20, 1e20]).reshape(1, 6, 1)
    norms = {
        1.0: [7.0, 0.0, 2e20],
        2.0: [5.0, 0.0, math.sqrt(2) * 1e20],  # though the square overflows
        3.0: [91 ** (1 / 3), 0.0, 2 ** (1 / 3) * 1e20],
        0.5: [(math.sqrt(3) + 2) ** 2, 0.0, 4e20],
        200.0: [4.0, 0.0, 2**0.005 * 1e20],
    }
    pool = jax.jit(lambda x, p: ops.lp_pool(x, 2, p))  # p may be traced
    for p, expected in norms.items():
        np.testing.assert_allclose(pool(x, p)[0, :, 0], expected, rtol=1e-5)
        np.testing.assert_allclose(run(ops.lp_pool, x, 2, p)[0, :, 0], expected, rtol=1e-5)
    # The derivative is sign(x) (|x| / norm)^(p − 1), and 0 in a window of zeros.
    dx = gradient(partial(ops.lp_pool, window=(1, 2), p=2), x[:, None])
    np.testing.assert_allclose(dx, [[0.6, -0.8, 0, 0, *[math.sqrt(0.5)] * 2]], rtol=1e-5)
    # With respect to p, of (3^p + 4^p)^(1/p) at 2: 5 (9 log 3 + 16 log 4) / 50 − 5 log(25) / 4.
    dp = jax.jit(jax.grad(lambda p: ops.lp_pool(x[:, :4], 2, p).sum()))(2.0)
    expected = (9 * math.log(3) + 16 * math.log(4)) / 10 - 5 / 4 * math.log(25)
    np.testing.assert_allclose(dp, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "window", "options"),
    [
        ((2, 9, 3), 3, {}),
        ((2, 6, 8, 3), (2, 3), {"strides": (1, 2), "padding": (1, 1), "dilation": (2, 1)}),
        ((1, 4, 5, 4, 2), 2, {"padding": ((0, 1), (1, 0), (0, 0))}),
        ((1, 7, 7, 2), 3, {"strides": 2, "padding": "SAME"}),
    ],
)
def test_C13_average_as_a_convolution(path, shape, window, options):
    x = distinct(5, *shape)
    average = partial(ops.avg_pool, window=window, **options)
    g = distinct(6, *jax.eval_shape(average, x).shape)
    y, dx = value_and_gradient(average, x, g)
    as_conv = partial(ops.avg_pool_as_conv, window=window, **options)
    y_conv, dx_conv = value_and_gradient(as_conv, x, g)
    np.testing.assert_allclose(y, y_conv, atol=1e-5)
    np.testing.assert_allclose(dx, dx_conv, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "window", "options"),
    [
        ((2, 9, 3), 3, {}),
        ((2, 6, 8, 3), (2, 3), {"strides": (1, 2), "dilation": (2, 1)}),
        ((1, 4, 5, 4, 2), 2, {}),
    ],
)
def test_C13_max_by_relu(path, shape, window, options):
    x = jnp.array(np.random.default_rng(7).integers(-2, 3, shape), jnp.float32)  # many ties
    largest = partial(ops.max_pool, window=window, **options)
    g = jnp.round(distinct(8, *jax.eval_shape(largest, x).shape, step=1))
    y, dx = value_and_gradient(largest, x, g)
    y_relu, dx_relu = value_and_gradient(
        partial(ops.max_pool_by_relu, window=window, **options), x, g
    )
    np.testing.assert_array_equal(y, y_relu)
    np.testing.assert_array_equal(dx, dx_relu)


# Ties, padding, dilation, special numbers


def test_a_tie_goes_to_the_first_in_row_major_order(path):
    x = image([[1, 3, 0, 0], [3, 3, 0, 0]])
    dx = gradient(partial(ops.max_pool, window=2), x)
    np.testing.assert_array_equal(dx, [[0, 1, 1, 0], [0, 0, 0, 0]])
    dx = gradient(partial(ops.min_pool, window=2), x)
    np.testing.assert_array_equal(dx, [[1, 0, 1, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize("window", [(2, 3), (5, 6), (19, 2), (2, 19)])
def test_ties_in_small_and_large_windows(path, window):
    """All taps written out, one axis after the other, and windows gathered along one axis."""
    assert cpu_pooling.MOST_TAPS == 16  # which is what makes these windows small or large
    x = np.random.default_rng(9).integers(0, 2, (1, 24, 25, 2)).astype(np.float32)
    expected, expected_dx = reference.pool(
        x, reference.largest, window, (2, 2), [(0, 0)] * 2, (1, 1)
    )
    g = np.arange(1.0, 1 + expected.size, dtype=np.float32).reshape(expected.shape)
    y, dx = value_and_gradient(partial(ops.max_pool, window=window, strides=2), x, g)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(dx, expected_dx(g))


@pytest.mark.parametrize("shape", [(1, 300, 2), (1, 40, 40, 1)])
def test_a_window_over_the_whole_input(path, shape):
    """Hundreds of taps would take minutes to compile, if they were written out."""
    x, spatial = distinct(10, *shape), tuple(range(1, len(shape) - 1))
    expected = np.asarray(x).max(spatial, keepdims=True)
    largest = partial(ops.max_pool, window=shape[1:-1])
    y, dx = value_and_gradient(largest, x, jnp.ones(expected.shape))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(dx, np.asarray(x) == expected)
    y = run(ops.avg_pool, x, shape[1:-1])
    np.testing.assert_allclose(y, np.asarray(x, float).mean(spatial, keepdims=True), atol=1e-4)


def test_padding_never_wins(path):
    x = -up_to(9, 3, 3) - 1
    y = run(ops.max_pool, x, 3, strides=2, padding=1)[0, :, :, 0]
    np.testing.assert_array_equal(y, [[-1, -2], [-4, -5]])
    dx = gradient(partial(ops.max_pool, window=3, strides=2, padding=1), x)
    np.testing.assert_array_equal(dx, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])


def test_windows_of_minus_infinity():
    """Even there the gradient stays in the input (on CPUs; elsewhere it may fall on padding)."""
    x = jnp.full((1, 3, 3, 1), -jnp.inf)
    pool = partial(ops.max_pool, window=3, strides=2, padding=1)
    with forced("cpu"):
        np.testing.assert_array_equal(pool(x), jnp.full((1, 2, 2, 1), -jnp.inf))
        np.testing.assert_array_equal(gradient(pool, x), [[1, 1, 0], [1, 1, 0], [0, 0, 0]])


def test_dilated_gradient_by_hand(path):
    # A window sees columns (0, 2), (1, 3), (2, 4) of each row pair (0, 2).
    x = image([[5, 1, 2, 9, 4], [99, 99, 99, 99, 99], [3, 1, 7, 1, 0]])
    pool = partial(ops.max_pool, window=2, strides=1, dilation=2)
    np.testing.assert_array_equal(run(pool, x)[0, :, :, 0], [[7, 9, 7]])
    dx = gradient(pool, x, [[1, 2, 3]])
    np.testing.assert_array_equal(dx, [[0, 0, 0, 2, 0], [0, 0, 0, 0, 0], [0, 0, 4, 0, 0]])
    average = partial(ops.avg_pool, window=2, strides=1, dilation=2)
    np.testing.assert_array_equal(run(average, x)[0, :, :, 0], [[4.25, 3.0, 3.25]])
    dx = gradient(average, x, [[4, 8, 12]])
    np.testing.assert_array_equal(dx, [[1, 2, 4, 2, 3], [0, 0, 0, 0, 0], [1, 2, 4, 2, 3]])


@pytest.mark.parametrize(("name", "platform"), FORMS)
def test_nan_shows_in_its_windows_only(name, platform):
    with jax.debug_nans(False), forced(platform):
        x = distinct(11, 1, 4, 6, 1).at[0, 1, 2, 0].set(jnp.nan)
        y = np.asarray(run(POOLS[name], x, window=2))
    assert np.argwhere(np.isnan(y)).tolist() == [[0, 0, 1, 0]]


def test_nan_gets_the_gradient():
    with forced("cpu"), jax.debug_nans(False):
        x = up_to(9, 3, 3).at[0, 1, 1, 0].set(jnp.nan)
        dx = gradient(partial(ops.max_pool, window=2, strides=1), x)
        long = gradient(partial(ops.max_pool, window=(1, 20)), jnp.tile(x, (1, 1, 8, 1)))
    np.testing.assert_array_equal(dx, [[0, 0, 0], [0, 4, 0], [0, 0, 0]])
    np.testing.assert_array_equal(long[1], np.arange(24) == 1)


# Derivatives and transformations


@pytest.mark.parametrize(
    ("name", "platform", "shape", "options"),
    [
        ("max", "cpu", (1, 6, 5, 2), {"window": 3, "strides": 2, "padding": 1}),
        ("max", "gpu", (1, 6, 5, 2), {"window": 3, "strides": 2, "padding": 1}),
        ("max", "cpu", (1, 9, 3), {"window": 2, "strides": 3, "dilation": 2}),
        ("max", "cpu", (1, 25, 3), {"window": 19, "strides": 2, "padding": 1}),
        ("avg", "cpu", (1, 6, 5, 2), {"window": 3, "strides": 2, "padding": 1}),
        ("avg", "gpu", (1, 6, 5, 2), {"window": 3, "strides": 2, "padding": 1}),
        ("lp", "cpu", (1, 9, 3), {"window": 3, "strides": 2, "padding": 1}),
        ("softmax", "cpu", (1, 9, 3), {"window": 3, "strides": 2, "padding": 1}),
    ],
)
def test_derivatives_by_finite_differences(name, platform, shape, options):
    """Both modes, and both of their compositions; the square makes second derivatives nonzero."""
    x = distinct(12, *shape)
    u, v = distinct(13, *shape), distinct(14, *shape)
    u, v = u / jnp.abs(u).max(), v / jnp.abs(v).max()  # eps · u is too short to change a winner

    def f(x):
        with forced(platform):
            return (POOLS[name](x, **options) ** 2).sum()

    @jax.jit
    def derivatives(x):
        forward = jax.jvp(f, (x,), (u,))[1]
        dx, second = jax.jvp(jax.grad(f), (x,), (u,))
        second_reverse = jax.grad(lambda x: jnp.vdot(jax.grad(f)(x), u))(x)
        return forward, dx, second, second_reverse

    eps = 2e-2
    (f_up, dx_up), (f_down, dx_down) = (
        jax.jit(jax.value_and_grad(f))(x + e * u) for e in (eps, -eps)
    )
    forward, dx, second, second_reverse = derivatives(x)
    scale = jnp.abs(dx).sum()
    np.testing.assert_allclose(forward, (f_up - f_down) / (2 * eps), atol=1e-3 * scale)
    np.testing.assert_allclose(jnp.vdot(dx, u), forward, rtol=1e-3, atol=1e-5 * scale)
    expected = jnp.vdot((dx_up - dx_down) / (2 * eps), v)
    scale = jnp.abs(second).sum()
    np.testing.assert_allclose(jnp.vdot(second, v), expected, atol=5e-3 * scale)
    np.testing.assert_allclose(second, second_reverse, atol=1e-4 * scale)


@pytest.mark.parametrize(("name", "platform"), FORMS)
def test_vmap_jit_and_scan(name, platform):
    x = distinct(13, 3, 2, 9, 2, step=0.05)
    pool = partial(POOLS[name], window=3, strides=2, padding=1)

    def step(x):
        return jax.grad(lambda x: (pool(x) ** 2).sum())(x)

    with forced(platform):
        expected = jnp.stack([*map(jax.jit(step), x)])
        np.testing.assert_allclose(jax.jit(jax.vmap(step))(x), expected, rtol=1e-4, atol=1e-5)
        scan = jax.jit(lambda x: jax.lax.scan(lambda carry, xi: (carry, step(xi)), 0, x)[1])
        scanned = scan(x)
        np.testing.assert_allclose(scanned, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "platform"), FORMS)
def test_bfloat16_is_kept_but_sums_are_float32(name, platform):
    x = distinct(14, 2, 9, 2).astype(jnp.bfloat16)
    pool = partial(POOLS[name], window=3, strides=2, padding=1)
    with forced(platform):
        exact = jax.jit(pool)(x.astype(jnp.float32)).astype(jnp.bfloat16)
        y, dx = value_and_gradient(pool, x, jnp.ones_like(exact))
    assert y.dtype == dx.dtype == jnp.bfloat16
    # As good as rounding once at the end.
    np.testing.assert_array_equal(y.astype(jnp.float32), exact.astype(jnp.float32))


def test_bfloat16_global_average_of_many(path):
    x = jnp.full((1, 64, 64, 1), 1.0, jnp.bfloat16)  # a bfloat16 counter would stop at 256
    y = run(ops.global_avg_pool, x)
    assert y.dtype == jnp.bfloat16
    assert y.item() == 1.0
    assert run(ops.avg_pool, x, 64).item() == 1.0


def test_each_platform_gets_its_form():
    x = jnp.zeros((1, 8, 8, 1))

    def text(pool, platform):
        with forced(platform):
            return jax.jit(jax.grad(lambda x: pool(x, 2).sum())).lower(x).as_text()

    assert "select_and_scatter" not in text(ops.max_pool, "cpu")
    assert "select_and_scatter" in text(ops.max_pool, "gpu")
    assert "reduce_window" not in text(ops.avg_pool, "cpu")
    assert "reduce_window" in text(ops.avg_pool, "gpu")


def test_reverse_mode_remembers_one_byte_for_each_window():
    x = distinct(15, 4, 16, 16, 8)
    with forced("cpu"):
        _, vjp = jax.vjp(lambda x: ops.max_pool(x, 2), x)
    residuals = [leaf for leaf in jax.tree.leaves(vjp) if leaf.size > 1]
    assert [(leaf.dtype, leaf.size) for leaf in residuals] == [(jnp.int8, x.size // 4)]


# Properties


CASES = [
    ((2, 7, 3), {"window": 3, "strides": 2, "padding": 1}),
    ((2, 6, 5, 2), {"window": (3, 2), "ceil_mode": True}),
    ((2, 6, 5, 2), {"window": 2, "strides": 1, "dilation": 2}),
]


@cache
def all_pools(case):
    """One compiled function x → the results of all poolings, and of their kin."""
    options = CASES[case][1]

    def pools(x):
        results = {name: pool(x, **options) for name, pool in POOLS.items()}
        results["avg"] = ops.avg_pool(x, **options, count_include_pad=False)
        results["lp1"] = ops.lp_pool(x, p=1, **options)
        results["max |x|"] = ops.max_pool(abs(x), **options)
        return results

    return jax.jit(pools)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(range(len(CASES))), st.integers(0, 10**6), st.integers(-64, 64))
def test_properties(case, seed, c):
    rng = np.random.default_rng(seed)
    x, other = rng.integers(-8, 9, (2, *CASES[case][0])).astype(np.float32)
    pools, eps = all_pools(case), 1e-5
    y = pools(x)
    # Shifting x shifts the result.
    shifted = pools(x + c)
    for name in ("max", "min", "avg", "softmax"):
        np.testing.assert_allclose(shifted[name], y[name] + c, atol=1e-4)
    # Between the smallest and the largest, the softmax nearer to the largest.
    order = [y["min"], y["avg"], y["softmax"], y["max"]]
    assert all((a <= b + eps).all() for a, b in pairwise(order))
    # The larger p, the smaller the norm, down to the largest absolute value.
    order = [y["max |x|"], y["lp"], y["lp1"]]
    assert all((a <= b * (1 + eps)).all() for a, b in pairwise(order))
    # Scaling x scales the result, a minus sign swaps largest and smallest.
    for name, scaled in pools(-2 * x).items():
        factor = 2 if name in ("lp", "lp1", "max |x|") else -2
        opposite = {"max": "min", "min": "max"}.get(name, name)
        if name != "softmax":
            np.testing.assert_allclose(scaled, factor * y[opposite], rtol=1e-4, atol=1e-5)
    # A larger x has no smaller result.
    larger = pools(x + abs(other))
    assert all((larger[name] >= y[name] - eps).all() for name in ("max", "min", "avg"))
    # Images and channels keep to themselves.
    swapped = pools(x[::-1, ..., ::-1])
    for name in y:
        np.testing.assert_array_equal(swapped[name][::-1, ..., ::-1], y[name])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 5))
def test_same_makes_the_size_n_over_stride_rounded_up(n, window, stride):
    if n < (-(-n // stride) - 1) * stride + 1:
        return
    x = jax.ShapeDtypeStruct((1, n, 1), jnp.float32)
    pool = partial(ops.max_pool, window=window, strides=stride, padding="SAME")
    assert jax.eval_shape(pool, x).shape == (1, -(-n // stride), 1)


# Errors


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((8, 8), {"window": 2}, r"x must be \[N, \*spatial, C\].* got shape \(8, 8\)"),
        ((1, 1, 8, 8, 8, 1), {"window": 2}, "one, two or three spatial axes"),
        ((1, 8, 8, 1), {"window": (2, 2, 2)}, "window must be an integer.*each of 2 spatial"),
        ((1, 8, 8, 1), {"window": 0}, "window must be .* at least 1.* got 0"),
        ((1, 8, 8, 1), {"window": 2.5}, "window must be an integer.* got 2.5"),
        ((1, 8, 8, 1), {"window": 2, "strides": 0}, "strides must be .* at least 1"),
        ((1, 8, 8, 1), {"window": 2, "dilation": (1, 0)}, "dilation must be .* at least 1"),
        ((1, 8, 8, 1), {"window": 2, "padding": -1}, "padding must be .* at least 0.* got -1"),
        ((1, 8, 8, 1), {"window": 2, "padding": "FULL"}, "padding='FULL' is unknown"),
        ((1, 8, 8, 1), {"window": 9}, "spans 9 pixels on spatial axis 0, but the input has 8"),
        ((1, 8, 8, 1), {"window": 5, "dilation": 2}, "spans 9 pixels.*pad more or take a smaller"),
        ((1, 0, 8, 1), {"window": 1}, "an empty spatial axis"),
        ((1, 8, 8, 1), {"window": 2, "padding": 2}, r"padding \(2, 2\) .* half the window"),
        ((1, 1, 1, 1), {"window": 2, "dilation": 2, "padding": 1}, "without an element"),
    ],
)
@pytest.mark.parametrize("name", POOLS)
def test_what_cannot_work_says_so(name, shape, options, message):
    with pytest.raises(ValueError, match=message) as error:
        jax.eval_shape(partial(POOLS[name], **options), jax.ShapeDtypeStruct(shape, jnp.float32))
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [jnp.bool_, jnp.complex64])
def test_what_has_no_order_is_refused(dtype):
    x = jnp.zeros((1, 4, 4, 1), dtype)
    for pool in (*POOLS.values(), ops.avg_pool_as_conv):
        with pytest.raises(ValueError, match=r"real numbers or integers.*convert x first"):
            pool(x, window=2)
    with pytest.raises(ValueError, match="real numbers or integers"):
        ops.global_avg_pool(x)


@pytest.mark.parametrize("p", [0, -1, math.inf, math.nan, [1, 2]])
def test_p_is_one_positive_number(p):
    with pytest.raises(ValueError, match="p must be one positive number"):
        ops.lp_pool(jnp.zeros((1, 4, 4, 1)), 2, p)
