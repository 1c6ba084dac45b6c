"""Pooling in one, two and three dimensions; every channel by itself.

All functions take x [N, *spatial, C] and a window, and return [N, *spatial', C] in x's dtype.
window, strides, padding and dilation are one number for all spatial axes or one per axis; strides
default to the window, so that windows tile the input. padding may also be a pair (before, after)
for each axis, 'VALID' (none) or 'SAME' (output size ⌈n/stride⌉, the odd one out at the end).
Padding adds to a window nothing that could win or weigh: -inf for the maximum, 0 for sums.

Output sizes are ⌊(n + before + after - dilation (window - 1) - 1) / stride⌋ + 1. ceil_mode rounds
up instead, so that a last window may hang over the end, but only if it starts inside the input or
the padding before it (PyTorch's rule). Every window must contain at least one input element;
padding by at most half the window (without dilation) always satisfies that.

Raises ValueError, in one sentence, for whatever can't work.
"""

import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

Size = int | Sequence[int]
Padding = str | Size | Sequence[tuple[int, int]]


class Axis(NamedTuple):
    """The windows along one spatial axis."""

    size: int  # of the input
    window: int
    stride: int
    dilation: int
    before: int  # padding asked for
    after: int
    outputs: int

    @property
    def reach(self) -> int:
        """Padding after the input that the last window reads; negative if it ends before."""
        last = (self.outputs - 1) * self.stride + self.dilation * (self.window - 1)
        return last + 1 - self.before - self.size

    def positions(self) -> np.ndarray:
        """Input position of each window's taps, [outputs, window]; padding lies outside [0, size)."""
        starts = np.arange(self.outputs) * self.stride - self.before
        return starts[:, None] + np.arange(self.window) * self.dilation


def max_pool(
    x: Array,
    window: Size,
    *,
    strides: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Array:
    """The largest element of each window; integers too, and NaN counts as the largest.

    The gradient goes to one element of each window: the first of the largest, in row-major order,
    as in PyTorch.
    """
    axes = _axes(x, window, strides, padding, dilation, ceil_mode)
    return _max_pool(x, axes)


def _max_pool(x: Array, axes: tuple[Axis, ...]) -> Array:
    lowest = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    return _windows(x, axes, lowest).max(_window_axes(axes))


def min_pool(
    x: Array,
    window: Size,
    *,
    strides: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Array:
    """The smallest element of each window: -max(-x), with `max_pool`'s options and ties."""
    axes = _axes(x, window, strides, padding, dilation, ceil_mode)
    if jnp.issubdtype(x.dtype, jnp.integer):
        return ~_max_pool(~x, axes)  # reverses the order of all integers; -x would overflow
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
    """The mean of each window; integers give float32.

    With count_include_pad, padding counts as zeros in the mean (what hangs over because of
    ceil_mode never does); without, the mean is over the input elements of the window alone.
    """
    axes = _axes(x, window, strides, padding, dilation, ceil_mode)
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.dtype(jnp.float32)
    x = x.astype(jnp.promote_types(dtype, jnp.float32))
    total = _windows(x, axes, 0).sum(_window_axes(axes))
    return (total / _counts(axes, count_include_pad, total.dtype)).astype(dtype)


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
    """The p-norm of each window, (Σ |x|^p)^(1/p): p = 1 sums, p → ∞ approaches the maximum.

    A window of zeros has gradient 0.
    """
    axes = _axes(x, window, strides, padding, dilation, ceil_mode)
    taps = jnp.abs(_windows(x, axes, 0))
    largest = taps.max(_window_axes(axes), keepdims=True)
    scale = lax.stop_gradient(jnp.where(largest > 0, largest, 1))
    total = ((taps / scale) ** p).sum(_window_axes(axes), keepdims=True)
    norm = jnp.where(largest > 0, total, 1) ** (1 / p) * scale
    return jnp.where(largest > 0, norm, 0).squeeze(_window_axes(axes))


def softmax_pool(
    x: Array,
    window: Size,
    *,
    strides: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Array:
    """The mean of each window weighted by its softmax, Σ x exp(x) / Σ exp(x): between mean and max."""
    axes = _axes(x, window, strides, padding, dilation, ceil_mode)
    taps = _windows(x, axes, -jnp.inf)
    weights = jax.nn.softmax(taps, _window_axes(axes))
    return (weights * jnp.where(taps == -jnp.inf, 0, taps)).sum(_window_axes(axes))


def global_avg_pool(x: Array) -> Array:
    """The mean over all spatial axes, [N, *spatial, C] → [N, C] (Lin et al., 2013)."""
    return x.mean(range(1, x.ndim - 1))


def _per_axis(name: str, value: Size, rank: int, least: int) -> tuple[int, ...]:
    """value as one integer >= least for each of rank axes."""
    try:
        values = tuple(map(operator.index, value))  # type: ignore[arg-type]
    except TypeError:
        try:
            values = (operator.index(value),) * rank  # type: ignore[arg-type]
        except TypeError:
            values = ()
    if len(values) != rank or min(values) < least:
        raise ValueError(
            f"{name}={value!r} must be one integer >= {least}, or one for each of x's {rank} "
            "spatial axes."
        )
    return values


def _axes(
    x: Array, window: Size, strides: Size | None, padding: Padding, dilation: Size, ceil_mode: bool
) -> tuple[Axis, ...]:
    """Checks the options and says where the windows lie along each spatial axis."""
    rank = x.ndim - 2
    if not 1 <= rank <= 3:
        raise ValueError(
            f"x must be [N, *spatial, C] with 1 to 3 spatial axes, not of shape {x.shape}."
        )
    window = _per_axis("window", window, rank, 1)
    strides = window if strides is None else _per_axis("strides", strides, rank, 1)
    dilation = _per_axis("dilation", dilation, rank, 1)
    sizes = x.shape[1:-1]
    extents = [d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True)]
    pairs: Sequence[tuple[int, int]]
    if padding == "SAME":
        excess = [
            max(0, (-(-n // s) - 1) * s + e - n)
            for n, s, e in zip(sizes, strides, extents, strict=True)
        ]
        pairs = [(e // 2, e - e // 2) for e in excess]
    elif padding == "VALID":
        pairs = [(0, 0)] * rank
    else:
        try:
            pairs = [_per_axis("padding", p, 2, 0) for p in padding]  # type: ignore
        except TypeError:
            pairs = [(p, p) for p in _per_axis("padding", padding, rank, 0)]  # type: ignore
    axes = []
    for i, (n, k, s, d, e, (lo, hi)) in enumerate(
        zip(sizes, window, strides, dilation, extents, pairs, strict=True)
    ):
        outputs = (n + lo + hi - e + (s - 1) * ceil_mode) // s + 1
        if ceil_mode and (outputs - 1) * s >= n + lo:
            outputs -= 1
        axis = Axis(n, k, s, d, lo, hi, outputs)
        inside = (axis.positions() >= 0) & (axis.positions() < n) if outputs > 0 else None
        if inside is None:
            raise ValueError(
                f"a window spanning {e} does not fit spatial axis {i} of x, of size {n} "
                f"padded by {(lo, hi)}."
            )
        if not inside.any(1).all():
            raise ValueError(
                f"padding {(lo, hi)} leaves a window of spatial axis {i} without any input element: "
                f"pad at most by half the window."
            )
        axes.append(axis)
    return tuple(axes)


def _window_axes(axes: tuple[Axis, ...]) -> tuple[int, ...]:
    return tuple(range(2, 2 * len(axes) + 2, 2))


def _windows(x: Array, axes: tuple[Axis, ...], fill: ArrayLike) -> Array:
    """[N, *spatial, C] → [N, outputs, window, outputs, window, ..., C]; padding holds `fill`."""
    fill = jnp.asarray(fill, x.dtype)
    for i, axis in enumerate(axes):
        at = 2 * i + 1
        pads = [(0, 0, 0)] * x.ndim
        pads[at] = (axis.before, axis.reach, 0)
        x = lax.pad(x, fill, pads)
        if axis.stride == axis.window and axis.dilation == 1:  # windows tile the axis
            x = x.reshape(*x.shape[:at], axis.outputs, axis.window, *x.shape[at + 1 :])
            continue
        stop = (axis.outputs - 1) * axis.stride + 1
        taps = [
            lax.slice_in_dim(x, t, t + stop, axis.stride, at)
            for t in range(0, axis.window * axis.dilation, axis.dilation)
        ]
        x = jnp.stack(taps, at + 1)
    return x


def _counts(axes: tuple[Axis, ...], count_include_pad: bool, dtype: jnp.dtype) -> Array:
    """How many elements the mean of each window is over, [1, *outputs, 1]."""
    counts = np.ones(())
    for axis in axes:
        low, high = (-axis.before, axis.after) if count_include_pad else (0, 0)
        at = axis.positions()
        counts = np.multiply.outer(counts, ((at >= low) & (at < axis.size + high)).sum(1))
    return jnp.asarray(counts[None, ..., None], dtype)
