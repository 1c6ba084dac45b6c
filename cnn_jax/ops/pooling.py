"""Pooling in one, two and three dimensions; each channel by itself.

All functions map `[N, *spatial, C]` to `[N, *output sizes, C]` in x's dtype (means and norms of
integers: float32). Options are as in `ops.conv`; strides default to the window. Padding holds
nothing that could win or weigh. Output sizes are ⌊(n + before + after − dilation·(window − 1) −
1)/stride⌋ + 1. With ceil_mode they are rounded up, but a last window has to start inside the input
or the padding before it (PyTorch's rule). Every window must contain an element of the input. What
can't work raises ArgumentError.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from cnn_jax.ops.arguments import boolean, is_concrete, is_number
from cnn_jax.ops.convolution import patches
from cnn_jax.ops.cpu.pooling import (
    Axes,
    Axis,
    cpu_max_pool,
    cpu_spatial_sum,
    cpu_sum_pool,
    lowest,
)
from cnn_jax.ops.errors import ArgumentError
from cnn_jax.ops.numerics import below_largest, to_float, with_derivative_of
from cnn_jax.ops.platform import on_cpu
from cnn_jax.ops.windows import Padding, Size, pairs, per_axis


def max_pool(
    x: Array,
    window: Size,
    *,
    strides: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Array:
    """The largest element of each window; of integers too. NaN counts as larger than all.

    The gradient goes to one element of each window: the first of the largest in row-major order,
    as PyTorch and XLA have it.
    """
    x = jnp.asarray(x)
    return _max_pool(x, _axes(x, window, strides, padding, dilation, ceil_mode))


def min_pool(
    x: Array,
    window: Size,
    *,
    strides: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Array:
    """The smallest element of each window: −max(−x), with the options and ties of `max_pool`."""
    x = jnp.asarray(x)
    axes = _axes(x, window, strides, padding, dilation, ceil_mode)
    if jnp.issubdtype(x.dtype, jnp.integer):
        return ~_max_pool(~x, axes)  # ~x reverses the order of all integers; −x may overflow
    return -_max_pool(-x, axes)


def avg_pool(
    x: Array,
    window: Size,
    *,
    strides: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """The mean of each window.

    With count_include_pad the padding counts as zeros (not what hangs over it in ceil_mode);
    without, the mean is over the elements of the input alone.
    """
    x = jnp.asarray(x)
    axes = _axes(x, window, strides, padding, dilation, ceil_mode)
    x, dtype = to_float(x)
    padding_counts = boolean("count_include_pad", count_include_pad)
    count = np.ones(())
    for axis in axes:
        counted = axis.inside()
        if padding_counts:
            counted = axis.positions() < axis.size + axis.after
        count = np.multiply.outer(count, counted.sum(1))
    return (_sum_pool(x, axes) / count.astype(x.dtype)[None, ..., None]).astype(dtype)


def lp_pool(
    x: Array,
    window: Size,
    p: ArrayLike,
    *,
    strides: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Array:
    """The p-norm of each window, (Σ |x|^p)^(1/p), for a number p > 0, possibly traced.

    A window of zeros has gradient 0; one with k infinite elements is ∞, with the derivatives 0 for
    finite elements and k^(1/p − 1) for infinite ones.
    """
    x = jnp.asarray(x)
    axes = _axes(x, window, strides, padding, dilation, ceil_mode)
    if not is_number(p) or (is_concrete(p) and not 0 < np.asarray(p) < math.inf):
        raise ArgumentError(f"p must be one positive number, got {p!r}; p = ∞ is max_pool of |x|.")
    x, dtype = to_float(x)
    p = jnp.asarray(p).astype(x.dtype)
    taps = jnp.abs(_patches(x, axes))
    power_of_two = _to_middle(taps)
    taps = taps * power_of_two
    scale = lax.stop_gradient(taps.max(-2, keepdims=True))  # so that no power overflows
    infinite = jnp.isinf(scale)
    taps = with_derivative_of(taps, jnp.where(infinite, jnp.isinf(taps).astype(taps.dtype), taps))
    scale = jnp.where(infinite, 1, scale)
    taps = taps / jnp.where(scale == 0, 1, scale)
    # The power and the root are kept from 0, where their derivatives may be infinite.
    powers = jnp.where(taps == 0, 0, jnp.where(taps == 0, 1, taps) ** p)
    total = powers.sum(-2, keepdims=True)
    norm = scale * jnp.where(total == 0, 0, jnp.where(total == 0, 1, total) ** (1 / p))
    norm = norm / power_of_two + jnp.where(infinite, jnp.inf, 0).astype(norm.dtype)
    return norm.squeeze(-2).astype(dtype)


def _to_middle(taps: Array) -> Array:
    """A factor for each window that keeps its largest tap from the ends of the dtype's range.

    There 1/x and products with gradients would be subnormal, which processors may round to 0.
    """
    half = jnp.finfo(taps.dtype).maxexp // 2
    largest = lax.stop_gradient(taps.max(-2, keepdims=True))
    factor = jnp.where(largest < 2.0**-half, 2.0**half, 1.0)
    factor = jnp.where((largest > 2.0**half) & jnp.isfinite(largest), 2.0**-half, factor)
    return factor.astype(taps.dtype)


def softmax_pool(
    x: Array,
    window: Size,
    *,
    strides: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Array:
    """The mean of each window weighted by its softmax, Σ x exp(x) / Σ exp(x).

    An element of −∞ has no weight beside finite ones; a window with ∞ gives ∞, one of −∞ alone −∞.
    """
    x = jnp.asarray(x)
    axes = _axes(x, window, strides, padding, dilation, ceil_mode)
    x, dtype = to_float(x)
    taps = _patches(x, axes)
    inside = np.array([True])
    for i, axis in enumerate(axes):  # [*outputs, taps]
        inside = inside[..., None, :, None] & axis.inside()[:, None, :]
        inside = inside.reshape(*(a.outputs for a in axes[: i + 1]), -1)
    inside = inside[None, ..., None]
    scores = jnp.where(inside, taps, -jnp.inf)
    # With the differences d from the largest m the mean is m + Σ d exp(d) / Σ exp(d).
    largest = lax.stop_gradient(scores.max(-2))
    differences = below_largest(scores, -2)
    weights = jnp.where(inside, jnp.exp(differences), 0)
    terms = weights * jnp.where(weights == 0, 0, differences)
    return (largest + terms.sum(-2) / weights.sum(-2)).astype(dtype)


def global_avg_pool(x: Array) -> Array:
    """The mean over all spatial axes, `[N, *spatial, C]` → `[N, C]` (Lin et al., 2013)."""
    x = jnp.asarray(x)
    check_rank(x)
    x, dtype = to_float(x)
    sizes = tuple(range(1, x.ndim - 1))
    total = cpu_spatial_sum(x) if on_cpu() else x.sum(sizes)
    return (total / math.prod(x.shape[1:-1])).astype(dtype)


def check_rank(x: Array) -> None:
    """ArgumentError unless x is `[N, *spatial, C]` with one, two or three spatial axes."""
    if x.ndim not in (3, 4, 5):
        raise ArgumentError(
            f"x must be [N, *spatial, C] with one, two or three spatial axes, got shape {x.shape}."
        )
    if 0 in x.shape[1:-1]:
        raise ArgumentError(f"x has an empty spatial axis; there is nothing to pool in {x.shape}.")
    if not (jnp.issubdtype(x.dtype, jnp.floating) or jnp.issubdtype(x.dtype, jnp.integer)):
        raise ArgumentError(
            f"pooling needs real numbers or integers, got {x.dtype}; convert x first."
        )


def _axes(
    x: Array, window: Size, strides: Size | None, padding: Padding, dilation: Size, ceil_mode: bool
) -> Axes:
    """Reads and checks the options."""
    check_rank(x)
    ceil_mode = boolean("ceil_mode", ceil_mode)
    rank = x.ndim - 2
    window = per_axis("window", window, rank, 1)
    strides = window if strides is None else per_axis("strides", strides, rank, 1)
    dilation = per_axis("dilation", dilation, rank, 1)
    spans = [d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True)]
    pads = pairs(padding, x.shape[1:-1], spans, strides)
    axes = []
    for i, (n, k, s, d, span, (before, after)) in enumerate(
        zip(x.shape[1:-1], window, strides, dilation, spans, pads, strict=True)
    ):
        outputs = (n + before + after - span + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (outputs - 1) * s >= n + before:
            outputs -= 1
        axis = Axis(n, outputs, k, s, d, before, after)
        if outputs < 1:
            raise ArgumentError(
                f"the window spans {span} pixels on spatial axis {i}, but the input has {n} and "
                f"{before + after} of padding; pad more or take a smaller window."
            )
        if not axis.inside().any(1).all():
            raise ArgumentError(
                f"padding {(before, after)} on spatial axis {i} leaves a window of {k} (dilation "
                f"{d}) without an element of the input; pad by at most half the window."
            )
        axes.append(axis)
    return tuple(axes)


def _patches(x: Array, axes: Axes) -> Array:
    """`[N, *outputs, taps, C]`, zeros for padding."""
    _, _, window, strides, dilation, before, _ = zip(*axes, strict=True)
    after = [max(axis.overhang, 0) for axis in axes]
    pads = tuple(zip(before, after, strict=True))
    return patches(x, window, strides=strides, padding=pads, dilation=dilation)


def _max_pool(x: Array, axes: Axes) -> Array:
    if _on_cpu_or_dilated(axes):
        return cpu_max_pool(x, axes)
    return _reduce_window(x, axes, lax.max, lowest(x.dtype))


def _sum_pool(x: Array, axes: Axes) -> Array:
    if _on_cpu_or_dilated(axes):
        return cpu_sum_pool(x, axes)
    return _reduce_window(x, axes, lax.add, np.zeros((), x.dtype))


def _on_cpu_or_dilated(axes: Axes) -> bool:
    return on_cpu() or any(axis.dilation > 1 for axis in axes)


def _reduce_window(x: Array, axes: Axes, function: Any, initial: np.ndarray) -> Array:
    window = (1, *(axis.window for axis in axes), 1)
    strides = (1, *(axis.stride for axis in axes), 1)
    pads = ((0, 0), *((axis.before, max(axis.overhang, 0)) for axis in axes), (0, 0))
    return lax.reduce_window(x, initial, function, window, strides, pads)
