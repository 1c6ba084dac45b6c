"""Convolution by both forms beside loops in float64, and which form is taken where; all small.

Quick: it judges the mutants of the modules. What the literature says is in `test_convolution.py`.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import ops
from cnn_jax.ops.cpu import convolution as cpu_convolution
from cnn_jax.ops.cpu.convolution import Options
from cnn_jax.ops.platform import forced
from cnn_jax.ops.windows import geometry
from tests import reference
from tests.networks import quick_jit

# Input, kernel, options. On a CPU with one to three channels some outputs are computed at once.
CASES = {
    "plain": ((2, 4, 5, 8), (3, 2, 8, 3), {"padding": ((1, 0), (0, 1))}),
    "strided": ((1, 6, 7, 9), (2, 3, 9, 2), {"strides": (2, 3), "padding": ((1, 0), (2, 1))}),
    "dilated": ((2, 6, 7, 3), (2, 3, 3, 2), {"dilation": (1, 2)}),
    "grouped": ((2, 5, 6, 4), (3, 2, 2, 6), {"groups": 2, "strides": (1, 2)}),
    "depthwise": ((1, 4, 5, 3), (2, 3, 1, 6), {"groups": 3, "padding": 1}),
    "blocks": ((2, 5, 11, 1), (3, 4, 1, 2), {"padding": ((2, 1), (1, 0))}),
    "blocks of three": ((1, 4, 18, 3), (2, 3, 3, 2), {}),
    "blocks of the gradient": ((1, 6, 9, 4), (2, 5, 4, 2), {"padding": ((0, 1), (2, 2))}),
    "folded": ((1, 4, 21, 2), (2, 3, 2, 2), {"strides": (1, 2), "padding": ((0, 0), (1, 2))}),
    "folded, uneven": ((1, 17, 1), (4, 1, 3), {"strides": 3, "padding": ((2, 0),)}),
    "one pixel": ((2, 3, 4, 3), (1, 1, 3, 4), {}),
    "one pixel, strided": ((2, 5, 4, 3), (1, 1, 3, 4), {"strides": (2, 3)}),
    "one pixel, padded": ((1, 2, 3, 3), (1, 1, 3, 4), {"padding": ((1, 0), (0, 0))}),
    "one pixel, grouped": ((1, 2, 3, 4), (1, 1, 2, 2), {"groups": 2}),
    "reflected": ((1, 4, 5, 2), (2, 3, 2, 3), {"padding": 2, "padding_mode": "reflect"}),
    "three axes": ((1, 3, 4, 5, 2), (2, 1, 2, 2, 3), {"strides": (2, 1, 1), "padding": 1}),
}


def integers(seed, *shape):
    """Small integers as float32: every sum of products is exact, in any order."""
    return jnp.array(np.random.default_rng(seed).integers(-3, 4, size=shape), jnp.float32)


def expected_of(name):
    """The arguments and what value and gradients are, by loops."""
    x_shape, kernel_shape, options = CASES[name]
    x, kernel = integers(0, *x_shape), integers(1, *kernel_shape)
    chosen = [options.get(o, plain) for o, plain in (("strides", 1), ("padding", 0))]
    g = geometry(x_shape[1:-1], kernel_shape[:-2], *chosen, options.get("dilation", 1))
    geometry_ = g.strides, g.padding, g.dilation
    more = options.get("groups", 1), options.get("padding_mode", "zeros")
    y = reference.conv(x, kernel, *geometry_, *more)
    cotangent = integers(2, *y.shape)
    gradients = reference.conv_gradients(x, kernel, cotangent, *geometry_, *more)
    return x, kernel, cotangent, (y, *gradients)


def results(convolve, x, kernel, g):
    y, vjp = jax.vjp(convolve, x, kernel)
    dy = jax.jvp(convolve, (x, kernel), (x, 2 * kernel))[1]
    return (y, *vjp(g)), dy


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_on_a_cpu(name):
    x, kernel, g, expected = expected_of(name)
    convolve = partial(ops.conv, **CASES[name][2])
    with forced("cpu"):
        got, dy = quick_jit(partial(results, convolve))(x, kernel, g)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(dy, 3 * expected[0])  # it is linear in both


@pytest.mark.parametrize("name", ["plain", "grouped", "dilated", "reflected", "folded, uneven"])
def test_values_and_gradients_elsewhere(name):
    x, kernel, g, expected = expected_of(name)
    options = CASES[name][2]

    @quick_jit
    def everything(x, kernel, g):
        by_patches = ops.conv_by_patches(x, kernel, **options)
        flipped = jnp.flip(kernel, range(kernel.ndim - 2))
        true = ops.true_conv(x, flipped, **options)
        return results(partial(ops.conv, **options), x, kernel, g)[0], (by_patches, true)

    with forced("gpu"):
        got, others = everything(x, kernel, g)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    for a in others:
        np.testing.assert_array_equal(a, expected[0])


@pytest.mark.parametrize("name", ["plain", "blocks", "one pixel"])
def test_the_gradient_of_one_argument_alone(name):
    x, kernel, g, (_, dx, dkernel) = expected_of(name)
    convolve = partial(ops.conv, **CASES[name][2])

    @quick_jit
    def alone(x, kernel, g):
        of_x = jax.vjp(lambda x: convolve(x, kernel), x)[1](g)[0]
        return of_x, jax.vjp(lambda kernel: convolve(x, kernel), kernel)[1](g)[0]

    with forced("cpu"):
        of_x, of_kernel = alone(x, kernel, g)
    np.testing.assert_array_equal(of_x, dx)
    np.testing.assert_array_equal(of_kernel, dkernel)


def test_plain_options_are_what_is_not_given():
    x, kernel = integers(0, 1, 4, 5, 2), integers(1, 2, 3, 2, 3)
    expected = reference.conv(x, kernel, (1, 1), [(0, 0)] * 2, (1, 1))

    @quick_jit
    def everything(x, kernel):
        taken = ops.patches(x, (2, 3))
        flipped = jnp.flip(kernel, (0, 1))
        values = ops.conv(x, kernel), ops.conv_by_patches(x, kernel)
        return taken, (*values, ops.true_conv(x, flipped))

    taken, values = everything(x, kernel)
    for y in values:
        np.testing.assert_array_equal(y, expected)
    assert taken.shape == (1, 3, 3, 6, 2)
    for i, j, u, v in itertools.product(range(3), range(3), range(2), range(3)):
        np.testing.assert_array_equal(taken[0, i, j, 3 * u + v], x[0, i + u, j + v])
    assert ops.output_size(9, 3) == 7
    assert ops.output_size(9, 3, 2, 1, 3) == 3
    assert ops.output_size(9, 3, 1, (0, 2)) == 9


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_dtypes_of_values_and_sums(platform):
    """Of 300 ones and a half: bfloat16 itself would stop at 256."""
    x = jnp.ones((1, 300, 1, 1), jnp.bfloat16).at[0, 0, 0, 0].set(1.5)
    kernel, bias = jnp.ones((1, 1, 1, 1), jnp.bfloat16), jnp.ones(1, jnp.bfloat16)

    @quick_jit
    def everything(x, kernel, bias):
        long = x.reshape(300, 1, 1, 1)
        wide = partial(ops.conv, preferred_element_type=jnp.float32)
        by_kernel = jax.vjp(partial(ops.conv, x), kernel)[1](jnp.ones_like(x))[0]
        by_bias = jax.vjp(partial(ops.add_bias, x), bias)[1](x)[0]
        kept, widened = ops.conv(x, long), wide(x, long)
        sums = kept.ravel(), widened.ravel(), by_kernel.ravel(), by_bias
        return sums, ops.add_bias(x, bias).ravel()

    with forced(platform):
        sums, biased = everything(x, kernel, bias)
    dtypes = [jnp.bfloat16, jnp.float32, *[jnp.bfloat16] * 2]
    assert [y.dtype for y in sums] == dtypes
    assert [float(y[0]) for y in sums] == [302, 301.25, 300, 300]  # rounded once, to even
    assert biased.dtype == jnp.bfloat16
    assert [float(y) for y in biased[:2]] == [2.5, 2]


def test_integers_stay_integers():
    x, kernel = jnp.arange(4).reshape(1, 4, 1), jnp.array([1, 10]).reshape(2, 1, 1)
    for platform in ("cpu", "gpu"):
        with forced(platform):
            y = ops.conv(x, kernel)
        assert y.dtype == x.dtype
        assert y.ravel().tolist() == [10, 21, 32]


def test_composed_kernels_and_those_of_calculus():
    first, second = integers(0, 2, 3, 2, 3), integers(1, 3, 2, 3, 2)
    x = integers(2, 1, 9, 9, 2)

    @quick_jit
    def both(first, second):
        plain = ops.compose_kernels(first, second)
        return ops.compose_kernels(first, second, strides=(2, 1)), plain

    composed, plain = both(first, second)
    assert composed.shape == (6, 4, 2, 2)
    stacked = reference.conv(
        reference.conv(x, first, (2, 1), [(0, 0)] * 2, (1, 1)), second, (1, 1), [(0, 0)] * 2, (1, 1)
    )
    once = reference.conv(x, composed, (2, 1), [(0, 0)] * 2, (1, 1))
    np.testing.assert_array_equal(once, stacked)
    assert plain.shape == (4, 4, 2, 2)
    for order, taps in enumerate(([1], [-1, 1], [1, -2, 1], [-1, 3, -3, 1])):
        kernel = ops.derivative_kernel(order)
        assert (kernel.shape, kernel.dtype) == ((order + 1, 1, 1), jnp.float32)
        np.testing.assert_array_equal(kernel.ravel(), taps)
    np.testing.assert_array_equal(ops.second_derivative_kernel().ravel(), [-1, 2, -1])
    for window in ((2,), (1, 3), (2, 1, 4)):
        kernel = ops.box_kernel(*window)
        assert (kernel.shape, kernel.dtype) == ((*window, 1, 1), jnp.float32)
        np.testing.assert_array_equal(
            kernel, np.float32(1 / np.prod(window)) + np.zeros(kernel.shape)
        )
        np.testing.assert_array_equal(ops.box_kernel(*window, mean=False), np.ones(kernel.shape))


def test_how_far_padding_modes_reach():
    x, one = jnp.array([1.0, 2, 3]).reshape(1, 3, 1), jnp.ones((1, 1, 1))
    farthest = {
        "zeros": [0, 0, 0, 0, 1, 2, 3],
        "replicate": [1, 1, 1, 1, 1, 2, 3],
        "reflect": [3, 2, 1, 2, 3],
        "circular": [1, 2, 3, 1, 2, 3],
    }

    @quick_jit
    def everything(x):
        results = {}
        for mode, expected in farthest.items():
            options = {"padding": ((len(expected) - 3, 0),), "padding_mode": mode}
            results[mode] = ops.conv(x, one, **options), ops.patches(x, 1, **options)
        return results

    results = everything(x)
    for mode, expected in farthest.items():
        before = len(expected) - 3
        for y in results[mode]:
            assert y.ravel().tolist() == expected
        if mode in ("reflect", "circular"):
            message = f"padding_mode='{mode}' can add at most {before} pixels to the 3 of spatial "
            for pads in ((before + 1, 0), (0, before + 1)):
                with pytest.raises(ops.ArgumentError, match=message):
                    ops.conv(x, one, padding=(pads,), padding_mode=mode)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, k: ops.conv(x[0, 0], k), "one, two or three spatial axes, got shape"),
        (lambda x, k: ops.conv(x[:, None, None], k), "one, two or three spatial axes, got shape"),
        (lambda x, k: ops.patches(x[0, 0], 1), "one, two or three spatial axes, got shape"),
        (lambda x, k: ops.conv(x, k[0]), r"with the 2 spatial axes of x \(1, 4, 5, 4\), got shape"),
        (lambda x, k: ops.conv(x, k.astype(int)), "one dtype, got float32 and int32; cast one"),
        (lambda x, k: ops.conv(x[..., :0], k[:, :, :0]), "has no channels; its last axis must"),
        *[
            (lambda x, k, n=n: ops.conv(x, k, groups=n), "groups must be a positive integer that")
            for n in (0, -1, 3, 4, "1", 1.0, True)
        ],
        (lambda x, k: ops.conv_by_patches(x, k, groups=3), "groups must be a positive integer"),
        (
            lambda x, k: ops.conv(x, k, groups=2),
            r"4 channels, in 2 group\(s\) of 2, but the kernel",
        ),
        (
            lambda x, k: ops.conv(x, k[:, :, :3]),
            r"4 channels, in 1 group\(s\) of 4, but the kernel",
        ),
        (lambda x, k: ops.conv(x, k, padding_mode="mirror"), "choose one of zeros, reflect, rep"),
        (lambda x, k: ops.patches(x, 0), "window must be an integer of at least 1"),
        (lambda x, k: ops.compose_kernels(k, k), r"to compose must be .* got \(2, 2, 4, 6\) and"),
        (lambda x, k: ops.compose_kernels(k, k[0, :, :1]), "to compose must be"),
        (lambda x, k: ops.compose_kernels(k, k[0, :, :, 0:]), "to compose must be"),
        (
            lambda x, k: ops.compose_kernels(k[..., :4], k, strides=0),
            "strides must be an integer of at least 1",
        ),
        (lambda x, k: ops.add_bias(x, k[0, 0, 0]), r"bias must have shape \(4,\), one number per"),
        (lambda x, k: ops.output_size(8, 3, 0), "stride must be an integer of at least 1"),
        (lambda x, k: ops.derivative_kernel(-1), "order of a derivative must be .* at least 0"),
        (lambda x, k: ops.box_kernel(), "window must be 1, 2 or 3 sizes of at least 1"),
        (lambda x, k: ops.box_kernel(1, 1, 1, 1), "window must be 1, 2 or 3 sizes of at least 1"),
        (lambda x, k: ops.box_kernel(2, 0), "window must be 1, 2 or 3 sizes of at least 1"),
        (lambda x, k: ops.box_kernel(1.5), "window must be 1, 2 or 3 sizes of at least 1"),
    ],
)
def test_what_cannot_work_is_refused(call, message):
    with pytest.raises(ops.ArgumentError, match=message):
        call(jnp.ones((1, 4, 5, 4)), jnp.ones((2, 2, 4, 6)))


# Which form a CPU takes: for its speed alone, so that no value tells


@pytest.mark.parametrize(
    ("x", "kernel", "options", "channels", "expected"),
    [
        ((9, 1), (3, 1, 2), {}, 8, 8),
        ((9, 3), (3, 3, 2), {}, 8, 4),
        ((9, 4), (3, 4, 2), {}, 8, 2),
        ((9, 8), (3, 8, 2), {}, 8, 1),
        ((9, 7), (3, 7, 2), {}, 24, 4),
        ((5, 9, 1), (3, 3, 1, 2), {"strides": (1, 2)}, 8, 4),
        ((5, 9, 1), (3, 2, 1, 2), {"strides": (2, 1), "dilation": (2, 1)}, 8, 8),
        ((5, 9, 1), (3, 1, 1, 2), {}, 8, 1),
        ((5, 9, 1), (3, 3, 1, 2), {"dilation": (1, 2)}, 8, 1),
        ((5, 9, 2), (3, 3, 1, 2), {"groups": 2}, 8, 1),
    ],
)
def test_how_many_outputs_become_channels(x, kernel, options, channels, expected):
    axes = len(x) - 1
    plain = {"strides": (1,) * axes, "padding": ((0, 0),) * axes, "dilation": (1,) * axes}
    arrays = jnp.zeros((1, *x)), jnp.zeros(kernel)
    chosen = Options(**{**plain, "groups": 1, **options})
    assert cpu_convolution._fold_factor(*arrays, chosen, channels) == expected
    if channels == 8:
        assert cpu_convolution._fold_factor(*arrays, chosen) == expected


def test_which_convolutions_are_pointwise():
    one, wide = jnp.zeros((1, 1, 2, 2)), jnp.zeros((1, 2, 2, 2))
    plain = Options((2, 3), ((0, 0), (0, 0)), (2, 1), 1)
    padded, grouped = plain._replace(padding=((0, 0), (0, 1))), plain._replace(groups=2)
    calls = [(one, plain), (wide, plain), (one, padded), (one, grouped)]
    taken = [cpu_convolution._is_pointwise(*call) for call in calls]
    assert taken == [True, False, False, False]


@pytest.mark.parametrize(
    ("size", "kernel", "options", "expected"),
    [
        ((9, 48), (5, 2), {}, True),
        ((9, 49), (5, 2), {}, True),  # five rows of six blocks of eight
        ((9, 50), (5, 2), {}, False),
        ((9, 46), (5, 3), {"padding": ((9, 9), (2, 2))}, True),
        ((9, 47), (5, 3), {"padding": ((9, 9), (2, 2))}, False),
        ((9, 9), (4, 9), {}, True),  # of each pixel 4 · (8 + 9 − 1) / 8 = 8 copies
        ((9, 9), (4, 10), {"padding": ((0, 0), (1, 0))}, False),
        ((9, 9), (3, 1), {}, False),
        ((9, 9), (3, 2), {"strides": (2, 1)}, False),
        ((9, 9), (3, 2), {"dilation": (1, 2)}, False),
        ((9, 9), (3, 2), {"groups": 2}, False),
        ((9,), (3,), {}, False),
    ],
)
def test_which_convolutions_go_by_blocks(size, kernel, options, expected):
    axes = len(size)
    plain = {"strides": (1,) * axes, "padding": ((0, 0),) * axes, "dilation": (1,) * axes}
    chosen = Options(**{**plain, "groups": 1, **options})
    arrays = jnp.zeros((1, *size, 2)), jnp.zeros((*kernel, 2, 2))
    assert cpu_convolution._goes_by_blocks(*arrays, chosen) == expected


@pytest.mark.parametrize(
    ("x", "kernel", "products", "convolutions"),
    [
        ((1, 9, 9, 1), (3, 3, 1, 2), (1, 3), (0, 0)),  # the value, and with the input's gradient
        ((1, 9, 9, 3), (3, 3, 3, 2), (0, 2), (1, 1)),
        ((1, 9, 9, 4), (3, 3, 4, 2), (0, 0), (1, 2)),
        ((1, 9, 9, 8), (5, 3, 8, 2), (0, 0), (1, 2)),
        ((1, 9, 9, 8), (3, 5, 8, 2), (0, 2), (1, 1)),
        ((1, 9, 9, 9), (3, 5, 9, 2), (0, 0), (1, 2)),
        ((1, 9, 9, 9), (1, 1, 9, 2), (1, 2), (0, 0)),
    ],
)
def test_which_forms_few_channels_take(x, kernel, products, convolutions):
    arrays = jax.ShapeDtypeStruct(x, jnp.float32), jax.ShapeDtypeStruct(kernel, jnp.float32)

    def gradient(x, kernel):
        return jax.vjp(lambda x: ops.conv(x, kernel), x)[1](jnp.ones((1, *y.shape[1:])))

    with forced("cpu"):
        y = jax.eval_shape(lambda *a: ops.conv(*a), *arrays)
        texts = [str(jax.make_jaxpr(f)(*arrays)) for f in (lambda *a: ops.conv(*a), gradient)]
    assert tuple(text.count("conv_general_dilated[") for text in texts) == convolutions
    assert tuple(text.count("dot_general[") for text in texts) == products


def test_what_is_computed_once_is_a_product_with_the_identity():
    def has_product(function, *shapes):
        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        return "dot_general[" in str(jax.make_jaxpr(function)(*arrays))

    once = cpu_convolution._computed_once
    shapes = [(2, 3, 64), (2, 3, 65), (6, 4), (2, 3, 3, 4)]
    assert [has_product(once, shape) for shape in shapes] == [True, False, False, True]
    x = integers(0, 2, 3, 5)
    np.testing.assert_array_equal(once(x), x)
    add = cpu_convolution.cpu_add_bias
    cases = [(1, 8, 9, 63), (1, 8, 9, 64), (1, 2, 9, 63), (1, 8, 5, 8), (1, 8, 5, 7), (9, 9, 3)]
    taken = [has_product(add, shape, shape[-1:]) for shape in cases]
    assert taken == [False, False, False, False, True, False]


@pytest.mark.parametrize("shape", [(2, 4, 5, 3), (1, 2, 3, 2, 70), (4, 5), (3,)])
def test_biases(shape):
    x, bias, g = integers(0, *shape), integers(1, shape[-1]), integers(2, *shape)
    axes = tuple(range(len(shape) - 1))

    def everything(x, bias, g):
        y, vjp = jax.vjp(ops.add_bias, x, bias)
        alone = jax.vjp(lambda b: ops.add_bias(x, b), bias)[1](g)
        tangent = jax.jvp(lambda x: ops.add_bias(x, bias), (x,), (g,))[1]
        of_bias = jax.jvp(ops.add_bias, (x, bias), (g, 2 * bias))[1]
        return (y, *vjp(g), *alone, tangent, of_bias)

    x64, bias64, g64 = (np.asarray(a, float) for a in (x, bias, g))
    expected = [x64 + bias64, g64, g64.sum(axes), g64.sum(axes), g64, g64 + 2 * bias64]
    for platform in ("cpu", "gpu"):
        with forced(platform):
            got = quick_jit(lambda *a: everything(*a))(x, bias, g)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)
