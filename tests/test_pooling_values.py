"""Pooling by both forms beside loops in float64, at the ends of the range too; all small.

Quick: it judges the mutants of the modules. What the literature says is in `test_pooling.py`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import ops
from cnn_jax.ops.cpu import pooling as cpu_pooling
from cnn_jax.ops.cpu.pooling import Axis
from cnn_jax.ops.platform import forced
from tests import reference
from tests.networks import quick_jit

INF = np.inf
# Sizes, window, strides, pads, dilation, ceil_mode.
CASES = {
    "tiles": ((5, 7), (2, 3), (2, 3), ((0, 0), (0, 0)), (1, 1), False),
    "hanging": ((7, 5), (3, 2), (3, 2), ((0, 0), (0, 0)), (1, 1), True),
    "overlapping": ((5, 6), (3, 2), (2, 1), ((1, 0), (0, 1)), (1, 1), False),
    "padded, hanging": ((6, 4), (3, 3), (2, 3), ((1, 1), (0, 1)), (1, 1), True),
    "gaps": ((9, 8), (2, 2), (4, 3), ((1, 0), (0, 0)), (1, 1), False),
    "dilated": ((8, 7), (2, 3), (1, 2), ((0, 1), (1, 1)), (3, 2), False),
    "one axis": ((9,), (4,), (3,), ((2, 1),), (1,), True),
    "three axes": ((3, 4, 2), (2, 2, 1), (1, 2, 1), ((0, 0), (1, 0), (0, 0)), (1, 1, 1), False),
    "many taps": ((7, 19), (3, 17), (2, 1), ((1, 0), (0, 8)), (1, 1), False),
    "many taps that tile": ((4, 36), (2, 18), (2, 18), ((0, 0), (0, 0)), (1, 1), False),
    "many taps, dilated": ((36, 3), (17, 1), (2, 1), ((2, 0), (0, 0)), (2, 1), True),
}
SHIFTED = {"lp": partial(ops.lp_pool, p=3), "softmax": ops.softmax_pool}
POOLS = {"max": ops.max_pool, "min": ops.min_pool, "avg": ops.avg_pool, **SHIFTED}
MEANINGS = {
    "max": reference.largest,
    "min": reference.smallest,
    "avg": reference.mean,
    "alone": reference.mean,
    "lp": reference.norm(3),
    "softmax": reference.softmax_mean,
}


def options_of(name):
    _, window, strides, pads, dilation, ceil_mode = CASES[name]
    options = {"window": window, "padding": pads, "dilation": dilation, "ceil_mode": ceil_mode}
    return options if strides == window else {**options, "strides": strides}


def compare(name, pools, platform, tangents=True):
    sizes, window, strides, pads, dilation, ceil_mode = CASES[name]
    rng = np.random.default_rng(len(name))
    x = rng.integers(-3, 4, (2, *sizes, 2)).astype(np.float32)  # with ties, and exact sums
    arguments = window, strides, pads, dilation, ceil_mode
    expected = {p: reference.pool(x, MEANINGS[p], *arguments, p != "alone") for p in pools}
    g = rng.integers(-3, 4, next(iter(expected.values()))[0].shape).astype(np.float32)
    options = options_of(name)

    def everything(x, g):
        results = {}
        for p in pools:
            counted = {"count_include_pad": False} if p == "alone" else {}
            pool = partial(POOLS[p if p in POOLS else "avg"], **options, **counted)
            y, vjp = jax.vjp(pool, x)
            results[p] = y, *vjp(g), *([jax.jvp(pool, (x,), (x,))[1]] if tangents else [])
        return results

    with forced(platform):
        results = quick_jit(everything)(x, g)
    for p, (y, dx, *tangent) in results.items():
        value, gradient = expected[p]
        np.testing.assert_allclose(y, value, rtol=1e-5, atol=1e-5, err_msg=p)
        np.testing.assert_allclose(dx, gradient(g), rtol=1e-4, atol=1e-4, err_msg=p)
        for dy in tangent:  # along x, which is what shrinks or grows
            np.testing.assert_allclose(jnp.vdot(dy, g), jnp.vdot(dx, x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_on_a_cpu(name):
    compare(name, ["max", "avg"], "cpu")


@pytest.mark.parametrize("name", ["padded, hanging", "gaps"])
def test_values_and_gradients_elsewhere(name):
    compare(name, ["max", "avg", "alone"], "gpu", tangents=False)


@pytest.mark.parametrize("name", ["padded, hanging", "one axis"])
def test_what_is_made_of_patches_or_maxima(name):
    compare(name, ["lp", "softmax", "min", "alone"], "cpu", tangents=False)


def test_plain_options_are_what_is_not_given():
    x = jnp.array(np.random.default_rng(0).permutation(35).reshape(1, 5, 7, 1) - 17, jnp.float32)
    tiles = np.asarray(x)[:, :4, :6].reshape(1, 2, 2, 3, 2, 1).astype(float)
    weights = np.exp(tiles - tiles.max((2, 4), keepdims=True))
    expected = {
        "max": tiles.max((2, 4)),
        "min": tiles.min((2, 4)),
        "avg": tiles.mean((2, 4)),
        "lp": (abs(tiles) ** 3).sum((2, 4)) ** (1 / 3),
        "softmax": (tiles * weights).sum((2, 4)) / weights.sum((2, 4)),
    }

    def everything(x):
        kin = ops.avg_pool_as_conv(x, 2), ops.max_pool_by_relu(x, 2), ops.global_avg_pool(x)
        return {name: pool(x, 2) for name, pool in POOLS.items()}, kin

    for platform in ("cpu", "gpu"):
        with forced(platform):
            results, (as_conv, by_relu, whole) = quick_jit(lambda x: everything(x))(x)
        for name, y in results.items():
            np.testing.assert_allclose(y, expected[name], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(as_conv, expected["avg"], rtol=1e-5)
        np.testing.assert_allclose(by_relu, expected["max"], rtol=1e-5)
        np.testing.assert_allclose(whole, np.asarray(x).mean((1, 2)), rtol=1e-5)


def test_kin_take_options_too():
    x = jnp.array(np.random.default_rng(1).integers(-3, 4, (2, 7, 8, 2)), jnp.float32)
    options = {"strides": (2, 1), "dilation": (1, 2)}
    padding = {"padding": ((1, 0), (0, 2))}

    @quick_jit
    def everything(x):
        largest = ops.max_pool(x, (3, 2), **options), ops.max_pool_by_relu(x, (3, 2), **options)
        kin = ops.avg_pool, ops.avg_pool_as_conv
        means = [pool(x, (3, 2), **options, **padding) for pool in kin]
        return largest, means

    largest, means = everything(x)
    np.testing.assert_array_equal(*largest)
    np.testing.assert_allclose(*means, rtol=1e-5, atol=1e-6)


def test_integers():
    dtype, low, high = jnp.int8, -128, 127
    x = jnp.array([low, high, low, low, high, high], dtype).reshape(1, 6, 1)

    def everything(x):
        same = ops.max_pool(x, 2), ops.min_pool(x, 2)
        padded = ops.max_pool(x, 3, strides=2, padding=1), ops.min_pool(x, 3, strides=2, padding=1)
        float32 = ops.avg_pool(x, 2), ops.lp_pool(x, 2, 1), ops.softmax_pool(x, 2)
        wholes = ops.global_avg_pool(x), ops.avg_pool_as_conv(x, 2), ops.max_pool(x, 6)
        return (*same, *padded), (*float32, *wholes)

    numbers = np.asarray(x).ravel().astype(float)
    for platform in ("cpu", "gpu"):
        with forced(platform):
            same, others = quick_jit(lambda x: everything(x))(x)
        assert {y.dtype for y in same} == {jnp.dtype(dtype)}
        expected = [[high, low, high], [low, low, high], [high, high, high], [low, low, low]]
        assert [y.ravel().tolist() for y in same] == expected
        assert [y.dtype for y in others] == [*[jnp.float32] * 5, dtype]
        np.testing.assert_allclose(others[0].ravel(), numbers.reshape(3, 2).mean(1))
        np.testing.assert_allclose(others[1].ravel(), abs(numbers).reshape(3, 2).sum(1))
        np.testing.assert_allclose(others[2].ravel(), [high, low, high], atol=1e-5)
        np.testing.assert_allclose(others[3].ravel(), [numbers.mean()], rtol=1e-6)
        np.testing.assert_allclose(others[4].ravel(), numbers.reshape(3, 2).mean(1))


@pytest.mark.parametrize(
    ("pool", "rows", "expected", "slopes"),
    [
        (
            ops.softmax_pool,
            [(INF, 1), (-INF, 1), (-INF, -INF), (1e38, 1e38), (200, 0)],
            [INF, 1, -INF, 1e38, 200],
            [(1, 0), (0, 1), (0.5, 0.5), (0.5, 0.5), (1, 0)],
        ),
        (
            partial(ops.lp_pool, p=2),
            [(INF, 1), (1, -INF), (INF, INF), (3e38, 1), (0, 0), (3e-30, -4e-30), (3e30, 4e30)],
            [INF, INF, INF, 3e38, 0, 5e-30, 5e30],
            [(1, 0), (0, -1), (0.5**0.5,) * 2, (1, 0), (0, 0), (0.6, -0.8), (0.6, 0.8)],
        ),
        (
            partial(ops.lp_pool, p=0.5),
            [(0, 4), (1, 4), (2.0**-120, 0)],
            [4, 9, 2.0**-120],
            [(0, 1), (3, 1.5), (1, 0)],
        ),
        (ops.max_pool, [(-INF, 1), (INF, 1), (2, 2)], [1, INF, 2], [(0, 1), (1, 0), (1, 0)]),
        (ops.min_pool, [(-INF, 1), (INF, 1), (2, 2)], [-INF, 1, 2], [(1, 0), (0, 1), (1, 0)]),
    ],
)
def test_ends_of_the_range(pool, rows, expected, slopes):
    """NaN debugging is on."""
    x = jnp.array(rows, jnp.float32)[..., None]

    @quick_jit
    def both(x):
        y, vjp = jax.vjp(partial(pool, window=2), x)
        return y, vjp(jnp.ones_like(y))[0]

    y, dx = both(x)
    np.testing.assert_allclose(y.ravel(), expected, rtol=1e-5)
    np.testing.assert_allclose(dx[..., 0], slopes, rtol=1e-5)


def test_nan_wins_and_padding_never_does():
    """In tiles, in overlapping windows and in long ones; beside NaN, and beside −∞ alone."""
    x = np.array([[1, np.nan, 3, 2] * 5, [-INF] * 20], np.float32)[..., None]
    options = [(4, 4, 0), (3, 2, 1), (18, 1, 1)]  # window, strides, padding

    @quick_jit
    def everything(x):
        results = []
        for window, strides, padding in options:
            pool = partial(ops.max_pool, window=window, strides=strides, padding=padding)
            y, vjp = jax.vjp(pool, x)
            results.append((y[..., 0], vjp(jnp.ones_like(y))[0][..., 0]))
        return results

    with jax.debug_nans(False), forced("cpu"):
        results = jax.device_get(everything(x))
    i = np.arange(20)
    expected = [
        (i % 4 == 1, i % 4 == 0),
        (2 * (i % 4 == 1), (i % 2 == 1) * (i < 18) + (i == 0)),  # each NaN is in two windows
        (3 * (i == 1) + 2 * (i == 5), (i < 4) + 1 * (i == 0)),
    ]
    for (y, dx), slopes in zip(results, expected, strict=True):
        assert np.isnan(y[0]).all()
        assert (y[1] == -INF).all()
        np.testing.assert_array_equal(dx, np.stack(slopes))


def test_axes_by_hand():
    axis = Axis(size=7, outputs=3, window=2, stride=3, dilation=2, before=1, after=2)
    assert axis.positions().tolist() == [[-1, 1], [2, 4], [5, 7]]
    assert axis.inside().tolist() == [[False, True], [True, True], [True, False]]
    assert axis.overhang == 1
    assert Axis(5, 2, 2, 2).overhang == -1
    assert cpu_pooling._tile((Axis(5, 2, 2, 2), Axis(4, 2, 2, 2)))
    for other in (Axis(5, 2, 2, 1), Axis(5, 2, 2, 2, 2), Axis(5, 2, 2, 2, 1, 1), Axis(3, 2, 2, 2)):
        assert not cpu_pooling._tile((Axis(4, 2, 2, 2), other))
    assert cpu_pooling._tile((Axis(16, 1, 16, 16),))
    assert not cpu_pooling._tile((Axis(17, 1, 17, 17),))


def test_a_maximum_remembers_one_byte_for_each_window():
    x = jnp.zeros((2, 8, 8, 3))
    for options in ({}, {"strides": 2, "padding": ((0, 1), (0, 1))}):
        pool = jax.jit(partial(ops.max_pool, window=2, **options))
        with forced("cpu"):
            _, vjp = jax.vjp(pool, x)
            kept = [leaf for leaf in jax.tree.leaves(vjp) if leaf.size > 1]
            assert [(leaf.dtype, leaf.size) for leaf in kept] == [(jnp.int8, 2 * 16 * 3)]


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((8, 8), {}, r"one, two or three spatial axes, got shape \(8, 8\)"),
        ((1, 1, 8, 8, 8, 1), {}, "one, two or three spatial axes"),
        ((1, 0, 8, 1), {"window": 1}, "x has an empty spatial axis; there is nothing to pool in"),
        ((1, 8, 8, 1), {"window": 0}, "window must be an integer of at least 1"),
        ((1, 8, 8, 1), {"strides": 0}, "strides must be an integer of at least 1"),
        ((1, 8, 8, 1), {"dilation": 0}, "dilation must be an integer of at least 1"),
        ((1, 8, 8, 1), {"padding": -1}, "padding must be .* at least 0"),
        ((1, 8, 8, 1), {"window": 9}, "spans 9 pixels on spatial axis 0, but the input has 8 and"),
        ((1, 8, 8, 1), {"padding": 2}, r"padding \(2, 2\) on spatial axis 0 leaves a window of 2"),
        ((1, 8, 8, 1), {"ceil_mode": 2}, "ceil_mode must be True or False, got 2"),
    ],
)
def test_what_cannot_work_is_refused(shape, options, message):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    for pool in POOLS.values():
        with pytest.raises(ops.ArgumentError, match=message):
            jax.eval_shape(partial(pool, **{"window": 2, **options}), x)


def test_what_kin_refuse():
    x = jnp.ones((1, 4, 4, 1))
    for pool in (ops.avg_pool_as_conv, ops.max_pool_by_relu):
        for bad, message in (
            (x[0, 0], "one, two or three spatial axes"),
            (x[:, :0], "an empty spatial axis"),
            (x.astype(bool), "pooling needs real numbers or integers, got bool"),
        ):
            with pytest.raises(ops.ArgumentError, match=message):
                pool(bad, 2)
        with pytest.raises(ops.ArgumentError, match="window must be an integer of at least 1"):
            pool(x, 0)
    with pytest.raises(ops.ArgumentError, match="an empty spatial axis"):
        ops.global_avg_pool(x[:, :0])
    with pytest.raises(ops.ArgumentError, match="count_include_pad must be True or False, got 2"):
        ops.avg_pool(x, 2, count_include_pad=2)
    for p in (0, -1, INF, np.nan, None, [1], "2"):
        with pytest.raises(ops.ArgumentError, match="p must be one positive number"):
            ops.lp_pool(x, 2, p)
