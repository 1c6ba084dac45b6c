"""Convolution in one, two and three dimensions.

As in every deep-learning library, `conv` slides the kernel without flipping it (a
cross-correlation); `definitions.true_conv` is the convolution of mathematics.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cnn_jax.ops.arguments import as_integer
from cnn_jax.ops.cpu.convolution import Options, cpu_add_bias, cpu_conv, lax_conv
from cnn_jax.ops.errors import ArgumentError
from cnn_jax.ops.platform import on_cpu
from cnn_jax.ops.windows import Padding, Size, geometry, per_axis

PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def conv(
    x: Array,
    kernel: Array,
    *,
    strides: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    preferred_element_type: Any = None,
) -> Array:
    """Slides `kernel` over `x`: y[n, i, o] = Σ over u, c of x[n, s·i + d·u − p, c] kernel[u, c, o].

    Args:
      x: `[N, *spatial, C_in]` with one, two or three spatial axes.
      kernel: `[*spatial, C_in/groups, C_out]`, of x's dtype.
      strides: step between neighboring outputs; one number, or one per spatial axis.
      padding: pixels added on both sides; a number, one per spatial axis, a pair (before, after)
        per spatial axis, 'VALID' (none), or 'SAME' (for output size ⌈n/s⌉, an odd pixel at the
        end).
      dilation: distance between neighboring kernel taps; one number, or one per spatial axis.
      groups: number of groups of channels that are convolved separately; `groups=C_in` with a
        kernel `[*spatial, 1, m·C_in]` is a depthwise convolution.
      padding_mode: what the added pixels hold: 'zeros', 'reflect' (mirrored, the edge not
        repeated), 'replicate' (the edge's value) or 'circular' (the opposite side's).
      preferred_element_type: dtype of the result and of the sums; None means x's own.

    Returns:
      `[N, *output sizes, C_out]`; see `output_size`.

    Raises:
      ArgumentError: a shape or option that can't work.
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    groups = check_shapes(x, kernel, groups)
    g = geometry(x.shape[1:-1], kernel.shape[:-2], strides, padding, dilation)
    pads = g.padding
    if padding_mode != "zeros":
        x, pads = _pad(x, pads, padding_mode), ((0, 0),) * len(pads)
    options = Options(g.strides, pads, g.dilation, groups)
    if not on_cpu() or not jnp.issubdtype(x.dtype, jnp.floating):
        return lax_conv(x, kernel, options, preferred_element_type=preferred_element_type)
    # XLA:CPU computes bfloat16 convolutions in float32 anyway; here the gradients sum in it too.
    result = jnp.dtype(preferred_element_type or x.dtype)
    sums = max(x.dtype, result, jnp.dtype(jnp.float32), key=lambda dtype: dtype.itemsize)
    return cpu_conv(x.astype(sums), kernel.astype(sums), options).astype(result)


def add_bias(x: Array, bias: Array) -> Array:
    """`[..., C]` + `[C]`.

    Raises:
      ArgumentError: the bias doesn't have one number per channel.
    """
    if bias.shape != x.shape[-1:]:
        raise ArgumentError(
            f"bias must have shape {x.shape[-1:]}, one number per channel of x {x.shape}, "
            f"got {bias.shape}."
        )
    if on_cpu():
        return cpu_add_bias(x, bias)
    sums = np.promote_types(bias.dtype, np.float32)  # of the gradient
    return x + lax.broadcast_in_dim(bias.astype(sums), x.shape, (x.ndim - 1,)).astype(bias.dtype)


def output_size(
    n: int, k: int, stride: int = 1, padding: int | tuple[int, int] = 0, dilation: int = 1
) -> int:
    """Size of a convolution's output along one axis: ⌊(n + 2p − d(k−1) − 1)/s⌋ + 1.

    `n` and `k` are the sizes of the input and of the kernel; the other options are those of `conv`.

    Raises:
      ArgumentError: a number out of range, or a kernel that doesn't fit the padded input.
    """
    per_axis("stride", stride, 1, 1)
    if np.ndim(padding) == 1:
        padding = (padding,)  # type: ignore[assignment]
    return geometry((n,), (k,), stride, padding, dilation).output[0]


def patches(
    x: Array,
    window: Size,
    *,
    strides: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    padding_mode: str = "zeros",
) -> Array:
    """Cuts out what a kernel of size `window` sees at each position ("im2col").

    `[N, *spatial, C]` → `[N, *output sizes, prod(window), C]`, taps in row-major order; the options
    are those of `conv`.

    Raises:
      ArgumentError: a shape or option that can't work.
    """
    x = jnp.asarray(x)
    _check_rank(x)
    window = per_axis("window", window, x.ndim - 2, 1)
    g = geometry(x.shape[1:-1], window, strides, padding, dilation)
    x = _pad(x, g.padding, padding_mode)
    taps = []
    for offsets in itertools.product(*map(range, window)):
        first = [u * d for u, d in zip(offsets, g.dilation, strict=True)]
        last = [i + (m - 1) * s for i, m, s in zip(first, g.output, g.strides, strict=True)]
        stop = [i + 1 for i in last]
        taps.append(
            lax.slice(x, (0, *first, 0), (x.shape[0], *stop, x.shape[-1]), (1, *g.strides, 1))
        )
    return jnp.stack(taps, -2)


def _pad(x: Array, pads: Sequence[tuple[int, int]], mode: str) -> Array:
    """Pads the spatial axes, each mode at most as far as PyTorch allows."""
    if mode not in PADDING_MODES:
        raise ArgumentError(
            f"padding_mode={mode!r} is unknown; choose one of {', '.join(PADDING_MODES)}."
        )
    for axis, (n, pair) in enumerate(zip(x.shape[1:-1], pads, strict=True)):
        reach = {"reflect": n - 1, "circular": n}.get(mode, max(pair))
        if max(pair) > reach:
            raise ArgumentError(
                f"padding_mode={mode!r} can add at most {reach} pixels to the {n} of spatial axis "
                f"{axis}, got {pair}."
            )
    if not any(map(any, pads)):
        return x
    return jnp.pad(x, ((0, 0), *pads, (0, 0)), PADDING_MODES[mode])


def _check_rank(x: Array) -> None:
    if x.ndim not in (3, 4, 5):
        raise ArgumentError(
            f"x must be [N, *spatial, C] with one, two or three spatial axes, got shape {x.shape}."
        )


def check_shapes(x: Array, kernel: Array, groups: int) -> int:
    """Returns the number of groups; ArgumentError if the shapes of a convolution can't work."""
    _check_rank(x)
    if kernel.ndim != x.ndim:
        raise ArgumentError(
            f"kernel must be [*spatial, C_in/groups, C_out] with the {x.ndim - 2} spatial axes of "
            f"x {x.shape}, got shape {kernel.shape}."
        )
    if x.dtype != kernel.dtype:
        raise ArgumentError(
            f"x and kernel must have one dtype, got {x.dtype} and {kernel.dtype}; cast one of them."
        )
    channels, (per_group, features) = x.shape[-1], kernel.shape[-2:]
    if channels == 0:
        raise ArgumentError(f"x {x.shape} has no channels; its last axis must be at least 1.")
    try:
        count = as_integer(groups)
    except TypeError:
        count = 0
    if count < 1 or channels % count or features % count:
        raise ArgumentError(
            f"groups must be a positive integer that divides the {channels} channels of x and the "
            f"{features} of the kernel, got {groups!r}."
        )
    if per_group * count != channels:
        raise ArgumentError(
            f"x has {channels} channels, in {count} group(s) of {channels // count}, but the "
            f"kernel {kernel.shape} takes {per_group}; its second last axis must be C_in/groups."
        )
    return count
