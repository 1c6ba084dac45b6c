"""Operations as mathematics writes them, to read and to test against, and kernels made by hand.

Each operation equals the fast form that it names, up to rounding.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from cnn_jax.ops.activations import check_scores
from cnn_jax.ops.arguments import as_integer, integer
from cnn_jax.ops.convolution import check_shapes, conv, patches
from cnn_jax.ops.errors import ArgumentError
from cnn_jax.ops.losses import check_labels, entry_of_label
from cnn_jax.ops.numerics import to_float
from cnn_jax.ops.pooling import check_rank
from cnn_jax.ops.windows import Padding, Size, per_axis


def true_conv(x: Array, kernel: Array, **options: Any) -> Array:
    """The convolution of mathematics: `conv` with the kernel flipped along every spatial axis.

    Without padding it equals `scipy.signal.convolve2d(x, kernel, 'valid')` of each channel, summed
    over the input channels. Shapes, options and errors are those of `conv`.
    """
    kernel = jnp.asarray(kernel)
    return conv(x, jnp.flip(kernel, range(kernel.ndim - 2)), **options)


def conv_by_patches(x: Array, kernel: Array, *, groups: int = 1, **options: Any) -> Array:
    """`conv` as a matrix product: a row for each position's patch, a column for each output.

    It needs prod(window) times the memory of x. Populations use it, as their members' products are
    one batched product. Shapes, options (without `preferred_element_type`) and errors are `conv`'s.
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    groups = check_shapes(x, kernel, groups)
    rows = patches(x, kernel.shape[:-2], **options)
    *positions, taps, channels = rows.shape
    features = kernel.shape[-1]
    rows = rows.reshape(math.prod(positions), taps, groups, channels // groups)
    columns = kernel.reshape(taps, kernel.shape[-2], groups, features // groups)
    return jnp.einsum("ptgc,tcgo->pgo", rows, columns).reshape(*positions, features)


def compose_kernels(kernel1: Array, kernel2: Array, *, strides: Size = 1) -> Array:
    """The one kernel that does what `kernel1` and then `kernel2` do, with nothing between them.

    Sizes k₁ and k₂, and strides s of the first, give size k₁ + s(k₂ − 1) and s times the second's
    strides. Most kernels of that size are no composition: a 2×1 after a 1×2 kernel of one channel
    always has rank one, which [[1, 0], [0, 1]] hasn't.

    Args:
      kernel1: `[*spatial, C_in, C_mid]`, applied first, without padding.
      kernel2: `[*spatial, C_mid, C_out]`, without padding.
      strides: of the first convolution.

    Returns:
      `[*spatial, C_in, C_out]`.

    Raises:
      ArgumentError: the ranks differ, or kernel1 doesn't make the channels that kernel2 takes.
    """
    kernel1, kernel2 = jnp.asarray(kernel1), jnp.asarray(kernel2)
    if kernel1.ndim != kernel2.ndim or kernel1.shape[-1] != kernel2.shape[-2]:
        raise ArgumentError(
            "kernels to compose must be [*spatial, C_in, C_mid] and [*spatial, C_mid, C_out], "
            f"got {kernel1.shape} and {kernel2.shape}."
        )
    strides = per_axis("strides", strides, kernel1.ndim - 2, 1)
    full = [s * (k - 1) for s, k in zip(strides, kernel2.shape, strict=False)]
    images = jnp.moveaxis(kernel1, -2, 0)  # what an impulse in each input channel leaves, reversed
    return jnp.moveaxis(true_conv(images, kernel2, padding=full, dilation=strides), 0, -2)


def derivative_kernel(order: int) -> Array:
    """The smallest kernel of the `order`-th derivative, `[order + 1, 1, 1]`: forward differences.

    The taps are (−1)^(d−j) · (d choose j); `[-1, 1]`, `[1, -2, 1]`, `[-1, 3, -3, 1]`, … On samples
    of a polynomial of degree `order` with leading coefficient a the result is exactly order! · a,
    of a lower degree exactly 0. No smaller kernel can do it: the only one of d taps for which the
    powers 1, x, …, x^(d−1) vanish is zero.

    Raises:
      ArgumentError: a negative order.
    """
    order = integer("the order of a derivative", order, 0)
    taps = [(-1) ** (order - j) * math.comb(order, j) for j in range(order + 1)]
    return jnp.array(taps, jnp.float32).reshape(-1, 1, 1)


def second_derivative_kernel() -> Array:
    """[−1, 2, −1] as `[3, 1, 1]`: minus the second derivative, positive on a ridge."""
    return -derivative_kernel(2)


def box_kernel(*window: int, mean: bool = True) -> Array:
    """A kernel `[*window, 1, 1]` of equal taps: 1/prod(window) blurs, 1 (`mean=False`) integrates.

    The mean of an odd window leaves a linear function unchanged. The sum undoes the difference
    [-1, 1]: of f(x+1) − f(x) it makes f(x+k) − f(x).

    Raises:
      ArgumentError: a size below 1, or not one, two or three of them.
    """
    try:
        sizes = [as_integer(size) for size in window]
    except TypeError:
        sizes = []
    if len(sizes) not in (1, 2, 3) or min(sizes) < 1:
        raise ArgumentError(f"window must be 1, 2 or 3 sizes of at least 1, got {window}.")
    return jnp.full((*sizes, 1, 1), 1 / math.prod(sizes) if mean else 1.0, jnp.float32)


def avg_pool_as_conv(
    x: Array,
    window: Size,
    *,
    strides: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
) -> Array:
    """`avg_pool`, padding counted, as the convolution it is: 1/prod(window) in every tap.

    One group per channel keeps the channels apart.
    """
    x = jnp.asarray(x)
    check_rank(x)
    x, dtype = to_float(x)
    window = per_axis("window", window, x.ndim - 2, 1)
    kernel = jnp.full((*window, 1, x.shape[-1]), 1 / math.prod(window), x.dtype)
    strides = window if strides is None else strides
    options: Any = {"strides": strides, "padding": padding, "dilation": dilation}
    return conv(x, kernel, groups=x.shape[-1], **options).astype(dtype)


def max_pool_by_relu(
    x: Array, window: Size, *, strides: Size | None = None, dilation: Size = 1
) -> Array:
    """`max_pool` without padding from additions and ReLU alone: max(a, b) = b + relu(a − b).

    Exact up to rounding, for finite numbers whose differences are finite. Since relu has gradient 0
    at 0, a tie goes to the first here too.
    """
    x = jnp.asarray(x)
    check_rank(x)
    window = per_axis("window", window, x.ndim - 2, 1)
    strides = window if strides is None else strides
    taps = jnp.moveaxis(patches(x, window, strides=strides, dilation=dilation), -2, 0)
    return functools.reduce(lambda b, a: b + jax.nn.relu(a - b), taps)


def softmax_by_definition(x: Array) -> Array:
    """exp(x_i) / sum_k exp(x_k), in three plain steps; overflows once x exceeds about 88."""
    x, dtype = check_scores(x)
    exponentials = jnp.exp(x)  # 1. every entry positive
    normalizers = exponentials.sum(-1, keepdims=True)  # 2. one per row
    return (exponentials / normalizers).astype(dtype)  # 3. rows sum to 1


def cross_entropy_by_definition(probabilities: Array, labels: Array) -> Array:
    """-log p_y for each example, from probabilities [N, classes] and integer labels [N] -> [N]."""
    probabilities, labels = check_labels("probabilities", probabilities, labels)
    probabilities, dtype = to_float(probabilities)
    return (-jnp.log(entry_of_label(probabilities, labels))).astype(dtype)
