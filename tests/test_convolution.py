"""Convolution: the worked numbers of the literature by row (C1 to C16), properties, and errors.

Every test that takes `path` runs on both forms of the operation (see `cnn_jax.ops.platform`).
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from cnn_jax import ops
from cnn_jax.ops import convolution
from cnn_jax.ops.cpu import convolution as cpu_convolution
from cnn_jax.ops.cpu.convolution import Options
from cnn_jax.ops.platform import forced
from tests import reference
from tests.networks import quick_jit

INPUT_5X5 = [[1, 2, 0, 3, 1], [0, 1, 2, 3, 1], [1, 2, 1, 0, 0], [5, 2, 3, 1, 1], [2, 1, 0, 1, 1]]
KERNEL_3X3 = [[1, 2, 1], [0, 1, 0], [2, 1, 0]]


@pytest.fixture(params=["cpu", "gpu"])
def path(request):
    with forced(request.param):
        yield request.param


def image(rows):
    """[H, W] as one image of one channel, [1, H, W, 1]."""
    return jnp.array(np.asarray(rows, np.float32)[None, :, :, None])


def taps(rows):
    """[kh, kw] as a kernel from one channel to one, [kh, kw, 1, 1]."""
    return jnp.array(np.asarray(rows, np.float32)[:, :, None, None])


def normal(seed, *shape):
    return jnp.array(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def integers(seed, *shape):
    """Small integers as float32: every sum of products is exact, and so are the comparisons."""
    return jnp.array(np.random.default_rng(seed).integers(-3, 4, size=shape), jnp.float32)


def compiled(function):
    """The function compiled as a whole, from there to NumPy: the fewest programs for a test."""

    def run(*arrays, **options):
        results = quick_jit(partial(function, **options))(*arrays)
        return jax.tree.map(np.asarray, results)

    return run


conv, true_conv = compiled(ops.conv), compiled(ops.true_conv)


def pads_of(padding, axes):
    return [(padding, padding)] * axes


# The worked examples


def test_C1_cross_correlation(path):
    x, kernel = image(np.arange(9).reshape(3, 3)), taps([[0, 1], [2, 3]])
    np.testing.assert_array_equal(conv(x, kernel)[0, :, :, 0], [[19, 25], [37, 43]])


def test_C1_gradients_by_hand(path):
    x, kernel = image(np.arange(9).reshape(3, 3)), taps([[0, 1], [2, 3]])
    dx, dkernel = compiled(jax.grad(lambda *a: ops.conv(*a).sum(), argnums=(0, 1)))(x, kernel)
    # dx: how much kernel weight touches each pixel; dkernel: the sum of the pixels a tap sees.
    np.testing.assert_array_equal(dx[0, :, :, 0], [[0, 1, 1], [2, 6, 4], [2, 5, 3]])
    np.testing.assert_array_equal(dkernel[:, :, 0, 0], [[8, 12], [20, 24]])


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 9), *[st.integers(1, 4)] * 2, *[st.integers(0, 3)] * 2)
def test_C2_true_convolution_is_scipys(seed, kh, kw, extra_h, extra_w):
    x, kernel = integers(seed, kh + extra_h, kw + extra_w), integers(seed + 1, kh, kw)
    expected = scipy.signal.convolve2d(x, kernel, "valid")
    y = true_conv(image(x), taps(kernel))[0, :, :, 0]
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_C2_true_convolution_sums_channels_and_takes_options(path):
    x, kernel = integers(0, 2, 6, 7, 3), integers(1, 3, 2, 3, 4)
    y = true_conv(x, kernel, padding=1)
    expected = sum(
        np.stack(
            [
                [
                    scipy.signal.convolve2d(image, k, "full")
                    for k in np.moveaxis(kernel[:, :, c], -1, 0)
                ]
                for image in np.pad(x[..., c], ((0, 0), (1, 1), (1, 1)))
            ]
        )[:, :, 2:-2, 1:-1]
        for c in range(3)
    )
    np.testing.assert_array_equal(y, np.moveaxis(expected, 1, -1))


def test_C3_edges(path):
    x = jnp.ones((6, 8)).at[:, 2:6].set(0)
    row = taps([[1, -1]])
    column = row.reshape(2, 1, 1, 1)
    expected = np.zeros((6, 7))
    expected[:, 1], expected[:, 5] = 1, -1
    np.testing.assert_array_equal(conv(image(x), row)[0, :, :, 0], expected)
    np.testing.assert_array_equal(conv(image(x.T), row)[0, :, :, 0], np.zeros((8, 5)))
    np.testing.assert_array_equal(conv(image(x.T), column)[0, :, :, 0], expected.T)
    diagonal = conv(image(jnp.eye(8)), row)[0, :, :, 0]
    np.testing.assert_array_equal(diagonal, np.eye(8, 7) - np.eye(8, 7, -1))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[10, 12, 12], [18, 16, 16], [13, 9, 3]]),
        ({"strides": 2}, [[10, 12], [13, 3]]),
        (
            {"padding": 1},
            [
                [1, 3, 4, 10, 8],
                [5, 10, 12, 12, 6],
                [7, 18, 16, 16, 8],
                [11, 13, 9, 3, 4],
                [14, 13, 9, 7, 4],
            ],
        ),
    ],
)
def test_C5_strides_and_padding(path, options, expected):
    y = conv(image(INPUT_5X5), taps(KERNEL_3X3), **options)
    np.testing.assert_array_equal(y[0, :, :, 0], expected)


@pytest.mark.parametrize(
    ("size", "kernel", "strides", "padding", "expected"),
    [
        ((8, 8), (3, 3), 1, 1, (8, 8)),
        ((8, 8), (5, 3), 1, (2, 1), (8, 8)),
        ((8, 8), (3, 3), 2, 1, (4, 4)),
        ((8, 8), (3, 5), (3, 4), (0, 1), (2, 2)),
        ((8, 8), (3, 5), (2, 3), (1, 2), (4, 3)),
        ((8, 8), (3, 5), (1, 2), (2, 3), (10, 5)),
        ((100, 100), (3, 3), 1, 2, (102, 102)),
    ],
)
def test_C6_output_sizes(path, size, kernel, strides, padding, expected):
    channels = 3 if size == (100, 100) else 1
    convolve = partial(ops.conv, strides=strides, padding=padding)
    x, k = jnp.zeros((1, *size, channels)), jnp.zeros((*kernel, channels, 1))
    assert jax.eval_shape(convolve, x, k).shape == (1, *expected, 1)
    steps, pads = (v if isinstance(v, tuple) else (v, v) for v in (strides, padding))
    assert tuple(map(ops.output_size, size, kernel, steps, pads)) == expected


def test_C6_ten_convolutions_shrink_240_to_200():
    x = jax.ShapeDtypeStruct((1, 240, 240, 1), jnp.float32)
    size = 240
    for _ in range(10):
        x = jax.eval_shape(ops.conv, x, jnp.zeros((5, 5, 1, 1)))
        size = ops.output_size(size, 5)
    assert x.shape == (1, 200, 200, 1)
    assert size == 200


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_C6_output_size_is_the_real_size(data):
    n, k, s, d = (data.draw(st.integers(1, top)) for top in (20, 5, 4, 3))
    pads = (data.draw(st.integers(0, 6)), data.draw(st.integers(0, 6)))
    shapes = jnp.zeros((1, n, 1)), jnp.zeros((k, 1, 1))
    convolve = partial(ops.conv, strides=s, padding=(pads,), dilation=d)
    if n + sum(pads) < d * (k - 1) + 1:
        with pytest.raises(ValueError, match="take a smaller kernel"):
            ops.output_size(n, k, s, pads, d)
        with pytest.raises(ValueError, match="take a smaller kernel"):
            jax.eval_shape(convolve, *shapes)
    else:
        size = ops.output_size(n, k, s, pads, d)
        assert jax.eval_shape(convolve, *shapes).shape == (1, size, 1)
        assert reference.output_sizes([n], [k], [s], [pads], [d]) == [size]


def test_C7_channels(path):
    x = jnp.stack([jnp.arange(9.0).reshape(3, 3), jnp.arange(1.0, 10).reshape(3, 3)], -1)[None]
    kernel = jnp.array([[[0, 1], [2, 3]], [[1, 2], [3, 4]]], jnp.float32)  # [C_in, kh, kw]
    stacked = jnp.stack([kernel, kernel + 1, kernel + 2])  # [C_out, C_in, kh, kw]
    y = conv(x, stacked.transpose(2, 3, 1, 0))[0]
    np.testing.assert_array_equal(y[:, :, 0], [[56, 72], [104, 120]])
    np.testing.assert_array_equal(y[:, :, 1], [[76, 100], [148, 172]])
    np.testing.assert_array_equal(y[:, :, 2], [[96, 128], [192, 224]])


@pytest.mark.parametrize("strides", [1, 2])
def test_C8_one_by_one_is_a_dense_layer(path, strides):
    x, kernel = normal(0, 2, 5, 6, 3), normal(1, 1, 1, 3, 2)
    y = conv(x, kernel, strides=strides)
    expected = x[:, ::strides, ::strides] @ kernel[0, 0]
    np.testing.assert_allclose(y, expected, atol=1e-6)


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_C9_patches_and_a_matrix_product(data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    axes, groups = draw(1, 3), draw(1, 2)
    window = [draw(1, 3) for _ in range(axes)]
    options = {
        "strides": [draw(1, 2) for _ in window],
        "dilation": [draw(1, 2) for _ in window],
        "padding": [(draw(0, 2), draw(0, 2)) for _ in window],
        "padding_mode": data.draw(st.sampled_from(list(convolution.PADDING_MODES))),
        "groups": groups,
    }
    x = integers(0, 2, *[2 * (k - 1) + draw(3, 4) for k in window], 2 * groups)
    kernel = integers(1, *window, 2, 3 * groups)
    both = jax.jit(lambda *a: (ops.conv_by_patches(*a, **options), ops.conv(*a, **options)))
    by_patches, y = both(x, kernel)
    np.testing.assert_array_equal(by_patches, y)


def test_C9_patches_are_what_the_kernel_sees():
    rows = ops.patches(image(np.arange(9).reshape(3, 3)), 2)
    assert rows.shape == (1, 2, 2, 4, 1)
    np.testing.assert_array_equal(
        rows.reshape(4, 4), [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]]
    )
    np.testing.assert_array_equal(np.array(rows).reshape(4, 4) @ np.arange(4), [19, 25, 37, 43])


@settings(max_examples=5, deadline=None)
@given(st.data())
def test_C10_composed_kernel_equals_stacking(data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    axes = draw(1, 2)
    window1, window2, strides = ([draw(1, 3) for _ in range(axes)] for _ in range(3))
    kernel1, kernel2 = integers(0, *window1, 2, 3), integers(1, *window2, 3, 2)
    size = [k1 + s * (k2 - 1) for k1, k2, s in zip(window1, window2, strides, strict=True)]
    x = integers(2, 1, *[n + 4 for n in size], 2)

    @jax.jit
    def both(x, kernel1, kernel2):
        composed = ops.compose_kernels(kernel1, kernel2, strides=strides)
        assert composed.shape == (*size, 2, 2)
        stacked = ops.conv(ops.conv(x, kernel1, strides=strides), kernel2, strides=2)
        return stacked, ops.conv(x, composed, strides=[2 * s for s in strides])

    stacked, once = both(x, kernel1, kernel2)
    np.testing.assert_array_equal(once, stacked)


def test_C10_two_3x3_are_one_5x5_and_the_converse_fails():
    assert ops.compose_kernels(jnp.ones((3, 3, 1, 1)), jnp.ones((3, 3, 1, 1))).shape[:2] == (5, 5)
    # A column after a row is an outer product, of rank one; the identity has rank two.
    column, row = normal(0, 2, 1, 1, 1), normal(1, 1, 2, 1, 1)
    composed = ops.compose_kernels(row, column)[:, :, 0, 0]
    np.testing.assert_allclose(composed, column[:, 0, 0] @ row[0, :, 0].T, rtol=1e-6)
    assert abs(np.linalg.det(composed)) < 1e-6
    assert np.linalg.det(np.eye(2)) == 1


def test_C11_bias(path):
    x, bias = normal(0, 2, 4, 5, 3), normal(1, 3)
    np.testing.assert_array_equal(ops.add_bias(x, bias), x + bias[None, None, None])
    g = integers(2, 2, 4, 5, 3)
    dx, dbias = jax.vjp(ops.add_bias, x, bias)[1](g)
    np.testing.assert_array_equal(dx, g)
    np.testing.assert_array_equal(dbias, g.sum((0, 1, 2)))
    np.testing.assert_array_equal(ops.add_bias(x[0, 0, 0], bias), x[0, 0, 0] + bias)


def test_C11_padding_can_be_written_in_five_ways(path):
    x, kernel = integers(0, 1, 6, 7, 2), integers(1, 3, 3, 2, 2)
    for padding in (1, (1, 1), ((1, 1), (1, 1)), [np.int64(1), 1], "SAME"):
        y = conv(x, kernel, padding=padding)
        np.testing.assert_array_equal(y, reference.conv(x, kernel, (1, 1), pads_of(1, 2), (1, 1)))
    np.testing.assert_array_equal(conv(x, kernel, padding="VALID"), conv(x, kernel))


@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_C11_same_padding_gives_the_size_over_the_stride(path, strides, dilation):
    x, kernel = integers(0, 1, 9, 8, 2), integers(1, 4, 3, 2, 2)
    y = conv(x, kernel, strides=strides, dilation=dilation, padding="SAME")
    assert y.shape[1:3] == (-(-9 // strides), -(-8 // strides))
    expected = jax.lax.conv_general_dilated(
        x,
        kernel,
        (strides,) * 2,
        "SAME",
        rhs_dilation=(dilation,) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("mode", convolution.PADDING_MODES)
def test_C11_padding_modes_by_hand(path, mode):
    x = jnp.arange(1.0, 5).reshape(1, 4, 1)
    padded = {
        "zeros": [0, 0, 1, 2, 3, 4, 0, 0, 0],
        "reflect": [3, 2, 1, 2, 3, 4, 3, 2, 1],
        "replicate": [1, 1, 1, 2, 3, 4, 4, 4, 4],
        "circular": [3, 4, 1, 2, 3, 4, 1, 2, 3],
    }[mode]
    y = conv(x, jnp.ones((1, 1, 1)), padding=((2, 3),), padding_mode=mode)
    np.testing.assert_array_equal(y.ravel(), padded)


def test_C11_depthwise_keeps_channels_apart(path):
    x, kernel = integers(0, 2, 5, 6, 3), integers(1, 3, 3, 1, 6)
    y = conv(x, kernel, groups=3, padding=1)
    for channel in range(3):
        alone = conv(
            x[..., channel : channel + 1], kernel[..., 2 * channel : 2 * channel + 2], padding=1
        )
        np.testing.assert_array_equal(y[..., 2 * channel : 2 * channel + 2], alone)


def test_C11_bfloat16_sums_in_float32(path):
    x, kernel = jnp.ones((1, 600, 1), jnp.bfloat16), jnp.ones((600, 1, 1), jnp.bfloat16)
    y = conv(x.at[0, 0, 0].set(1.5), kernel, preferred_element_type=jnp.float32)
    assert y.dtype == jnp.float32
    assert y.item() == 600.5  # bfloat16 holds 600, not 601; a bfloat16 sum would stop at 256
    narrow = conv(x, kernel)
    assert narrow.dtype == jnp.bfloat16
    assert narrow.item() == 600
    for preferred in (None, jnp.float32):
        convolve = partial(ops.conv, preferred_element_type=preferred)
        total = lambda *a, f=convolve: f(*a).sum().astype(jnp.float32)  # noqa: E731
        grads = compiled(jax.grad(total, (0, 1)))(x, kernel)
        assert [g.dtype for g in grads] == [jnp.bfloat16] * 2
        np.testing.assert_array_equal(grads[0].astype(jnp.float32), np.ones((1, 600, 1)))


def test_integers_too(path):
    x, kernel = jnp.arange(9).reshape(1, 3, 3, 1), jnp.arange(4).reshape(2, 2, 1, 1)
    y = ops.conv(x, kernel)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y[0, :, :, 0], [[19, 25], [37, 43]])


@pytest.mark.parametrize("order", range(6))
def test_C14_derivatives_of_polynomials_are_exact(order):
    kernel = ops.derivative_kernel(order)
    assert kernel.shape == (order + 1, 1, 1)
    powers = np.arange(8) ** np.arange(order + 1)[:, None]  # [degree, point]
    y = conv(jnp.array(powers, jnp.float32)[:, :, None], kernel)
    expected = np.zeros(y.shape)
    expected[order] = math.factorial(order)
    np.testing.assert_array_equal(y, expected)


def test_C14_no_smaller_kernel_differentiates():
    # d taps that send 1, x, ..., x^(d-1) to 0 solve a Vandermonde system: only zeros do.
    for order in range(1, 7):
        powers = np.vander(np.arange(order), increasing=True).T
        assert np.linalg.matrix_rank(powers) == order


def test_C14_second_derivative():
    np.testing.assert_array_equal(ops.second_derivative_kernel().ravel(), [-1, 2, -1])
    squares = jnp.arange(9.0).reshape(1, -1, 1) ** 2
    y = conv(squares, ops.second_derivative_kernel())
    np.testing.assert_array_equal(y, np.full(y.shape, -2))


def test_C14_box_blurs_and_integrates():
    line = jnp.arange(1.0, 19.0, 2.0).reshape(1, -1, 1)
    np.testing.assert_array_equal(conv(line, ops.box_kernel(4, mean=False)).ravel()[:2], [16, 24])
    np.testing.assert_allclose(conv(line, ops.box_kernel(3)), line[:, 1:-1], rtol=1e-6)
    cubes = jnp.arange(12.0).reshape(1, -1, 1) ** 3
    differences = conv(cubes, ops.derivative_kernel(1))
    integral = conv(differences, ops.box_kernel(5, mean=False))
    np.testing.assert_array_equal(integral, cubes[:, 5:] - cubes[:, :-5])
    np.testing.assert_array_equal(
        ops.compose_kernels(ops.derivative_kernel(1), ops.box_kernel(5, mean=False)).ravel(),
        [-1, 0, 0, 0, 0, 1],
    )
    assert ops.box_kernel(2, 3).shape == (2, 3, 1, 1)


def test_C16_cost():
    kernel, bias = np.zeros((3, 3, 3, 10)), np.zeros(10)
    assert kernel.size + bias.size == 280

    def flops(channels, features):  # as the compiler counts them: 2 for each multiply-add
        shapes = jnp.zeros((2, 8, 8, channels)), jnp.zeros((3, 3, channels, features))
        with forced("gpu"):
            return jax.jit(ops.conv).lower(*shapes).compile().cost_analysis()["flops"]

    assert flops(4, 6) == 2 * (2 * 6 * 6 * 6) * (3 * 3 * 4)
    assert flops(8, 12) == 4 * flops(4, 6)


# Gradients and transformations

CASES = {
    "plain": ((2, 5, 6, 8), (3, 3, 8, 4), {"padding": 1}),
    "strided": ((2, 6, 5, 8), (2, 3, 8, 4), {"strides": (2, 3), "padding": ((1, 0), (2, 1))}),
    "dilated": ((2, 6, 7, 3), (2, 3, 3, 4), {"dilation": 2}),
    "grouped": ((2, 5, 6, 4), (3, 2, 2, 6), {"groups": 2, "strides": (1, 2)}),
    "depthwise": ((2, 5, 6, 3), (3, 3, 1, 6), {"groups": 3, "padding": 1}),
    "one channel": ((2, 5, 9, 1), (3, 3, 1, 4), {"padding": 1}),
    "three channels, strided": ((2, 5, 9, 3), (3, 4, 3, 2), {"strides": 2, "padding": "SAME"}),
    "one pixel": ((2, 4, 5, 3), (1, 1, 3, 4), {}),
    "one pixel, strided": ((2, 4, 5, 3), (1, 1, 3, 4), {"strides": 2}),
    "one pixel, padded": ((2, 4, 5, 3), (1, 1, 3, 4), {"padding": 1}),
    "reflected": ((2, 5, 6, 2), (3, 3, 2, 4), {"padding": 2, "padding_mode": "reflect"}),
    "1-D": ((2, 9, 3), (4, 3, 2), {"strides": 2, "padding": 1}),
    "3-D": ((2, 4, 5, 4, 2), (2, 3, 2, 2, 3), {"strides": (2, 1, 1), "padding": 1}),
}


def make(name):
    x_shape, kernel_shape, options = CASES[name]
    return integers(0, *x_shape), integers(1, *kernel_shape), partial(ops.conv, **options)


def all_but_few_are_slow(*few):
    return [name if name in few else pytest.param(name, marks=pytest.mark.slow) for name in CASES]


@pytest.mark.parametrize("name", all_but_few_are_slow("grouped", "three channels, strided"))
def test_gradients_are_finite_differences(path, name):
    x, kernel, convolve = make(name)
    with jax.enable_x64(True):
        arguments = np.array(x, np.float64) / 4, np.array(kernel, np.float64) / 4
        check_grads(jax.jit(convolve), arguments, order=1, modes=["fwd", "rev"])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_second_derivatives_are_finite_differences(path, name):
    x, kernel, convolve = make(name)
    with jax.enable_x64(True):
        arguments = np.array(x, np.float64) / 4, np.array(kernel, np.float64) / 4
        check_grads(convolve, arguments, order=2, modes=["fwd", "rev"])


def test_bias_gradients_are_finite_differences(path):
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
        check_grads(jax.jit(ops.add_bias), (x, x[0, 0, 0]), 1, ["fwd", "rev"])


def pull_back(convolve, x, kernel, g):
    y, vjp = jax.vjp(convolve, x, kernel)
    return y, *vjp(g)


@pytest.mark.parametrize("name", all_but_few_are_slow("grouped", "three channels, strided"))
def test_both_paths_agree_under_transformations(name):
    """jit, a loop, checkpointing, vmap over images, kernels or both, and a gradient's gradient."""
    x, kernel, convolve = make(name)
    xs, kernels = jnp.stack([x, 2 * x - 1]), jnp.stack([kernel, 1 - kernel])
    g = integers(4, *jax.eval_shape(convolve, x, kernel).shape)

    def everything(x, kernel, xs, kernels, g):
        gradients = partial(pull_back, convolve, g=g)

        def norm(x, kernel):
            return sum(jnp.vdot(d, d) for d in pull_back(convolve, x, kernel, g)[1:])

        return {
            "checkpoint": pull_back(jax.checkpoint(convolve), x, kernel, g),
            "scan": jax.lax.scan(lambda c, k: (c, gradients(x, k)), 0, kernels)[1],
            "vmap over images": jax.vmap(lambda x: gradients(x, kernel))(xs),
            "vmap over kernels": jax.vmap(lambda k: gradients(x, k))(kernels),
            "vmap over both": jax.vmap(gradients)(xs, kernels),
            "gradient of vmap": jax.grad(
                lambda k: jnp.vdot(jax.vmap(convolve)(xs, k), jnp.stack([g, -g]))
            )(kernels),
            "gradient of gradient": jax.grad(norm, (0, 1))(x, kernel),
        }

    results = {}
    for platform in ("cpu", "gpu"):
        with forced(platform):  # a new function each: jit would remember the first one's trace
            results[platform] = jax.jit(lambda *a: everything(*a))(x, kernel, xs, kernels, g)
    jax.tree.map(np.testing.assert_array_equal, results["cpu"], results["gpu"])
    got = results["cpu"]
    jax.tree.map(np.testing.assert_array_equal, got["scan"], got["vmap over kernels"])
    for transformed in ("vmap over images", "vmap over both", "scan"):
        jax.tree.map(
            lambda a, b: np.testing.assert_array_equal(a[0], b), got[transformed], got["checkpoint"]
        )


def test_only_what_is_asked_for_is_computed():
    """The first layer's input gradient would cost as much as the layer, and nobody wants it."""

    def count(argnums, channels):
        x, kernel = jnp.zeros((2, 8, 8, channels)), jnp.zeros((3, 3, channels, 4))
        with forced("cpu"):
            grad = jax.jit(jax.value_and_grad(lambda *a: ops.conv(*a).sum(), argnums))
            return grad.lower(x, kernel).as_text().count("stablehlo.convolution")

    # With the value's own.
    assert [count(argnums, 16) for argnums in (1, 0, (0, 1))] == [2, 2, 3]
    # To few channels the gradient is a product of matrices, of one channel the value too.
    assert [count(argnums, 2) for argnums in (1, 0, (0, 1))] == [2, 1, 2]
    assert [count(argnums, 1) for argnums in (1, 0, (0, 1))] == [1, 0, 1]


@pytest.mark.parametrize(
    ("sizes", "kernel", "padding", "blocks"),
    [
        ((7, 7), (2, 2), [(0, 0), (0, 0)], True),
        ((1, 25), (1, 3), [(0, 0), (1, 1)], True),
        ((6, 11), (3, 5), [(2, 0), (0, 4)], True),
        ((2, 9), (3, 12), [(1, 1), (0, 4)], True),  # a window wider than the picture
        ((6, 300), (5, 5), [(0, 0), (0, 0)], False),  # too many blocks to write out
        ((12, 12), (9, 9), [(0, 0), (0, 0)], False),  # too much memory
        ((6, 17), (3, 1), [(0, 0), (0, 0)], False),
        ((17,), (4,), [(3, 1)], False),
        ((3, 4, 9), (2, 3, 2), [(1, 1), (0, 2), (0, 0)], False),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_few_channels_by_blocks_are_the_convolution(sizes, kernel, padding, blocks, channels):
    """Values and both gradients, to the bit, as all numbers are small integers."""
    x, k = integers(0, 2, *sizes, channels), integers(1, *kernel, channels, 2)
    options = Options((1,) * len(sizes), tuple(padding), (1,) * len(sizes), 1)
    assert cpu_convolution._goes_by_blocks(x, k, options) == blocks
    outputs = [n + sum(p) - m + 1 for n, m, p in zip(sizes, kernel, padding, strict=True)]
    g = integers(2, 2, *outputs, 2)

    def everything(x, k, g):
        y, transpose = jax.vjp(lambda *a: ops.conv(*a, padding=padding), x, k)
        return y, transpose(g)

    results = {}
    for platform in ("cpu", "gpu"):
        with forced(platform):
            results[platform] = quick_jit(lambda *a: everything(*a))(x, k, g)
    jax.tree.map(np.testing.assert_array_equal, results["cpu"], results["gpu"])


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("channels", [1, 3, 16])
def test_no_images_make_no_images(channels, strides):
    x, kernel = jnp.zeros((0, 8, 8, channels)), jnp.ones((3, 3, channels, 2))
    convolve = partial(ops.conv, strides=strides, padding=1)

    def value_and_gradients(x, kernel):
        y, transpose = jax.vjp(lambda *a: ops.add_bias(convolve(*a), jnp.ones(2)), x, kernel)
        return y, *transpose(y)

    with forced("cpu"):
        y, dx, dkernel = compiled(value_and_gradients)(x, kernel)
    assert y.shape == (0, 8 // strides, 8 // strides, 2)
    assert dx.shape == x.shape
    np.testing.assert_array_equal(dkernel, jnp.zeros_like(kernel))


# Properties


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 99), st.floats(-2, 2, width=16), st.sampled_from(["cpu", "gpu"]))
def test_conv_is_linear_in_each_argument(seed, scale, platform):
    x, z = integers(seed, 1, 6, 7, 2), integers(seed + 1, 1, 6, 7, 2)
    kernel, other = integers(seed + 2, 3, 2, 2, 3), integers(seed + 3, 3, 2, 2, 3)
    with forced(platform):
        np.testing.assert_allclose(
            conv(x + scale * z, kernel),
            conv(x, kernel) + scale * conv(z, kernel),
            atol=1e-4,
        )
        np.testing.assert_allclose(
            conv(x, kernel + scale * other),
            conv(x, kernel) + scale * conv(x, other),
            atol=1e-4,
        )


@settings(max_examples=8, deadline=None)
@given(st.integers(-9, 9), st.integers(-9, 9), st.sampled_from(["cpu", "gpu"]))
def test_conv_commutes_with_translation(down, right, platform):
    x, kernel = integers(0, 2, 6, 7, 2), integers(1, 3, 3, 2, 3)
    shift = partial(np.roll, shift=(down, right), axis=(1, 2))
    with forced(platform):
        convolve = partial(conv, padding=1, padding_mode="circular")
        np.testing.assert_array_equal(convolve(shift(x), kernel), shift(convolve(x, kernel)))


# Errors

X, K = (2, 8, 8, 4), (3, 3, 4, 6)


@pytest.mark.parametrize(
    ("x", "kernel", "options", "message"),
    [
        ((8, 4), (3, 4, 6), {}, "one, two or three spatial axes"),
        ((2, 8, 8, 4), (3, 4, 6), {}, r"kernel must be \[\*spatial, C_in/groups, C_out\]"),
        (X, (3, 3, 3, 6), {}, "x has 4 channels, in 1 group"),
        (X, K, {"groups": 2}, r"in 2 group\(s\) of 2, but the kernel"),
        (X, (3, 3, 1, 6), {"groups": 4}, "groups must be a positive integer that divides"),
        (X, K, {"groups": 0}, "groups must be a positive integer"),
        ((2, 8, 8, 0), (3, 3, 0, 6), {}, "has no channels"),
        (X, (9, 3, 4, 6), {}, "spans 9 pixels on spatial axis 0 .* take a smaller kernel"),
        (X, K, {"dilation": 4}, "spans 9 pixels"),
        (X, (0, 3, 4, 6), {}, "(kernel size|window) must be an integer of at least 1"),
        ((2, 0, 8, 4), K, {"padding": 3}, "input size must be an integer of at least 1"),
        (X, K, {"strides": 0}, "strides must be an integer of at least 1"),
        (X, K, {"strides": (1, -1)}, "strides must be"),
        (X, K, {"strides": (1, 1, 1)}, "one for each of 2 spatial axes"),
        (X, K, {"strides": 1.5}, "strides must be an integer"),
        (X, K, {"dilation": "2"}, "dilation must be an integer"),
        (X, K, {"padding": -1}, "padding must be 'SAME', 'VALID'"),
        (X, K, {"padding": ((1, 1),)}, "padding must be"),
        (X, K, {"padding": ((1, 1, 1), (1, 1, 1))}, "padding must be"),
        (X, K, {"padding": 0.5}, "padding must be"),
        (X, K, {"padding": "same"}, "padding='same' is unknown; choose 'SAME', 'VALID'"),
        (X, K, {"padding_mode": "mirror"}, "choose one of zeros, reflect, replicate, circular"),
        (X, K, {"padding": 8, "padding_mode": "reflect"}, "can add at most 7 pixels to the 8"),
        (X, K, {"padding": 9, "padding_mode": "circular"}, "can add at most 8 pixels"),
    ],
)
def test_errors(x, kernel, options, message):
    x, kernel = jnp.zeros(x), jnp.zeros(kernel)
    for function in (ops.conv, ops.conv_by_patches):
        with pytest.raises(ValueError, match=message) as error:
            function(x, kernel, **options)
        assert str(error.value).count("\n") == 0


def test_errors_of_the_others():
    x = jnp.zeros(X)
    with pytest.raises(ValueError, match="one dtype, got float32 and bfloat16; cast one"):
        ops.conv(x, jnp.zeros(K, jnp.bfloat16))
    with pytest.raises(ValueError, match="one number per channel"):
        ops.add_bias(x, jnp.zeros(1))
    with pytest.raises(ValueError, match="to compose must be"):
        ops.compose_kernels(jnp.zeros(K), jnp.zeros(K))
    with pytest.raises(ValueError, match="at least 0, got -1"):
        ops.derivative_kernel(-1)
    with pytest.raises(ValueError, match="1, 2 or 3 sizes of at least 1"):
        ops.box_kernel(0)
    with pytest.raises(ValueError, match="stride"):
        ops.output_size(8, 3, stride=0)
    with pytest.raises(ValueError, match="window must be"):
        ops.patches(x, (2, 2, 2))
