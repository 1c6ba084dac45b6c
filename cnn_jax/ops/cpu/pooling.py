"""Sums and maxima over windows in a form that XLA's CPU backend runs fast.

XLA:CPU is slow at `lax.reduce_window`, above all at the gradient of its maximum
(experiments/reports/cpu_operations.md). Here a sum or maximum is taken over strided slices of the
input, one for each tap of the window, and for the gradient each window remembers in one byte which
tap was the largest. Everything is a composition of lax operations: jvp, vjp, vmap, higher
derivatives, checkpointing and dilation work.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

MOST_TAPS = 16  # to write out; XLA takes minutes to compile hundreds


class Axis(NamedTuple):
    """The windows along one spatial axis."""

    size: int  # of the input
    outputs: int  # number of windows
    window: int = 1
    stride: int = 1
    dilation: int = 1
    before: int = 0  # padding
    after: int = 0

    @property
    def overhang(self) -> int:
        """How far beyond the input the last window reaches; negative if it ends before."""
        last = (self.outputs - 1) * self.stride + (self.window - 1) * self.dilation
        return last + 1 - self.before - self.size

    def positions(self) -> np.ndarray:
        """Where each window's taps lie, `[outputs, window]`; the input is 0 … size − 1."""
        starts = np.arange(self.outputs) * self.stride - self.before
        return starts[:, None] + np.arange(self.window) * self.dilation

    def inside(self) -> np.ndarray:
        """Which taps are elements of the input, `[outputs, window]`; the others are padding."""
        return (self.positions() >= 0) & (self.positions() < self.size)


Axes = tuple[Axis, ...]


def cpu_sum_pool(x: Array, axes: Axes) -> Array:
    """The sum of each window, `[N, *sizes, C]` → `[N, *outputs, C]`."""
    if _tile(axes):
        return _tiles(x, axes).sum(_within_tiles(axes))
    return _pool(x, axes, _sum_of_taps, _sum_of_long_windows)


def cpu_max_pool(x: Array, axes: Axes) -> Array:
    """The largest element of each window; its gradient goes to the first of the largest."""
    if _tile(axes):
        return _max_of_tiles(x, axes)
    return _pool(x, axes, _max_of_taps, _max_of_long_windows)


def cpu_spatial_sum(x: Array) -> Array:
    """`[N, *sizes, C]` → `[N, C]` as a matrix product, which is faster than XLA:CPU's sum."""
    x = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
    return lax.dot_general(jnp.ones_like(x[..., 0]), x, (((1,), (1,)), ((0,), (0,))))


def lowest(dtype: Any) -> np.ndarray:
    """What never wins: −∞ or the smallest integer."""
    floating = jnp.issubdtype(dtype, jnp.floating)
    return np.array(-np.inf if floating else jnp.iinfo(dtype).min, dtype)


def _pool(
    x: Array,
    axes: Axes,
    of_taps: Callable[[Array, Axes], Array],
    of_long_windows: Callable[[Array, Axis, int], Array],
) -> Array:
    """Pools all axes at once, or, if there are too many taps, one after the other, the last first.

    In either order the first of the largest elements in row-major order wins.
    """
    if math.prod(axis.window for axis in axes) <= MOST_TAPS:
        return of_taps(x, axes)
    for i in reversed(range(len(axes))):
        if axes[i].window <= MOST_TAPS:
            idle = [Axis(n, n) for n in x.shape[1:-1]]
            x = of_taps(x, (*idle[:i], axes[i], *idle[i + 1 :]))
        else:
            x = of_long_windows(x, axes[i], i + 1)
    return x


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _sum_of_taps(x: Array, axes: Axes) -> Array:
    return functools.reduce(jnp.add, _taps(x, axes, np.zeros((), x.dtype)))


@_sum_of_taps.defjvp
def _sum_of_taps_jvp(
    axes: Axes, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    return _sum_of_taps(*primals, axes), _sum_of_tangents(*tangents, None, axes)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max_of_taps(x: Array, axes: Axes) -> Array:
    return functools.reduce(jnp.maximum, _taps(x, axes, lowest(x.dtype)))


@_max_of_taps.defjvp
def _max_of_taps_jvp(
    axes: Axes, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    taps = _taps(*primals, axes, lowest(primals[0].dtype))
    largest = functools.reduce(jnp.maximum, taps)
    winner = jnp.full(largest.shape, -1, jnp.int8)
    for q, tap in reversed(list(enumerate(_each_tap(axes)))):
        wins = (taps[q] == largest) | (taps[q] != taps[q])  # only NaN differs from itself
        for i, (t, axis) in enumerate(zip(tap, axes, strict=True)):
            inside = axis.inside()[:, t]
            if not inside.all():  # padding never wins, not even where all else is -inf
                wins &= lax.broadcast_in_dim(inside, wins.shape, (i + 1,))
        winner = jnp.where(wins, jnp.asarray(q, winner.dtype), winner)
    return largest, _sum_of_tangents(*tangents, winner, axes)


@partial(jax.checkpoint, prevent_cse=False, static_argnums=(2,))  # keeps winner, not comparisons
def _sum_of_tangents(x: Array, winner: Array | None, axes: Axes) -> Array:
    """Each window's sum, or only its winner: made for its transpose, which reverse mode runs.

    x is split into phases, the elements stride·m + phase, of which tap t reads the phase
    t·dilation % stride, shifted by t·dilation // stride; and the terms are padded before they are
    added. Transposed, the terms are slices of one padded array and the split is a concatenation,
    which XLA:CPU fuses; strided slices would become arrays of x's size full of zeros.
    """
    zero = jnp.zeros((), x.dtype)
    blocks = [max(-(-(a.size + a.before) // a.stride), a.outputs) for a in axes]
    reach = [(a.window - 1) * a.dilation // a.stride for a in axes]
    if winner is not None:
        excess = [m - a.outputs for m, a in zip(blocks, axes, strict=True)]
        winner = _pad(winner, jnp.asarray(-1, winner.dtype), reach, excess)
    phases = _phases(x, axes, blocks)
    total = zero
    for q, tap in enumerate(_each_tap(axes)):
        shift, phase = zip(
            *(divmod(t * a.dilation, a.stride) for t, a in zip(tap, axes, strict=True)), strict=True
        )
        before = [r - s for r, s in zip(reach, shift, strict=True)]
        term = phases[phase]
        if winner is not None:
            term = jnp.where(_slice(winner, before, blocks) == q, term, zero)
        total = total + _pad(term, zero, before, shift)
    return _slice(total, reach, [a.outputs for a in axes])


def _phases(x: Array, axes: Axes, blocks: Sequence[int]) -> dict[tuple[int, ...], Array]:
    """Every stride-th element of x with its padding, `[N, *blocks, C]` for each phase read."""
    after = [m * a.stride - a.size - a.before for m, a in zip(blocks, axes, strict=True)]
    whole = _pad(x, jnp.zeros((), x.dtype), [a.before for a in axes], after)
    parts: dict[tuple[int, ...], Array] = {(): whole}
    for i, (m, a) in enumerate(zip(blocks, axes, strict=True)):
        read = min(a.stride, (a.window - 1) * a.dilation + 1)
        sizes = [1] * read + [a.stride - read] * (read < a.stride)
        split: dict[tuple[int, ...], Array] = {}
        for phase, part in parts.items():
            part = part.reshape(*part.shape[: i + 1], m, a.stride, *part.shape[i + 2 :])
            for r, elements in enumerate(lax.split(part, sizes, axis=i + 2)[:read]):
                split[*phase, r] = elements.squeeze(i + 2)
        parts = split
    return parts


def _tile(axes: Axes) -> bool:
    """Whether the windows lie side by side, without padding, and have few taps."""
    side_by_side = all(
        (a.stride, a.dilation, a.before) == (a.window, 1, 0) and a.overhang <= 0 for a in axes
    )
    return side_by_side and math.prod(a.window for a in axes) <= MOST_TAPS


def _tiles(x: Array, axes: Axes) -> Array:
    """`[N, *sizes, C]` → `[N, outputs, window, outputs, window, …, C]`, without the unread rest."""
    x = lax.slice(
        x, (0,) * x.ndim, (x.shape[0], *(a.outputs * a.window for a in axes), x.shape[-1])
    )
    split = [size for a in axes for size in (a.outputs, a.window)]
    return x.reshape(x.shape[0], *split, x.shape[-1])


def _within_tiles(axes: Axes) -> tuple[int, ...]:
    return tuple(range(2, 2 * len(axes) + 1, 2))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max_of_tiles(x: Array, axes: Axes) -> Array:
    return functools.reduce(jnp.maximum, _taps_of_tiles(x, axes))


def _taps_of_tiles(x: Array, axes: Axes) -> list[Array]:
    tiles = _tiles(x, axes)
    return [
        tiles[(slice(None), *(part for t in tap for part in (slice(None), t)))]
        for tap in _each_tap(axes)
    ]


@_max_of_tiles.defjvp
def _max_of_tiles_jvp(
    axes: Axes, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    """The winner's tangent: a sum of masked tiles, whose transpose is a masked broadcast."""
    taps = _taps_of_tiles(*primals, axes)
    largest = functools.reduce(jnp.maximum, taps)
    winner = jnp.full(largest.shape, -1, jnp.int8)
    for q, tap in reversed(list(enumerate(taps))):
        wins = (tap == largest) | (tap != tap)  # only NaN differs from itself
        winner = jnp.where(wins, jnp.int8(q), winner)
    return largest, _sum_of_winners(*tangents, winner, axes)


@partial(jax.checkpoint, prevent_cse=False, static_argnums=(2,))  # keeps winner, not the mask
def _sum_of_winners(x: Array, winner: Array, axes: Axes) -> Array:
    within = _within_tiles(axes)
    shape = [1] * (2 * len(axes) + 2)
    for i, a in zip(within, axes, strict=True):
        shape[i] = a.window
    # Computed: XLA:CPU would load a constant number by number.
    number = lax.iota(jnp.int8, math.prod(a.window for a in axes)).reshape(shape)
    mask = jnp.expand_dims(winner, within) == number
    tiles = _tiles(x, axes)
    return jnp.where(mask, tiles, jnp.zeros((), x.dtype)).sum(within)


def _sum_of_long_windows(x: Array, axis: Axis, at: int) -> Array:
    return _windows(x, axis, at, np.zeros((), x.dtype)).sum(at + 1)


def _max_of_long_windows(x: Array, axis: Axis, at: int) -> Array:
    taps = _windows(x, axis, at, lowest(x.dtype))
    wins = (taps == taps.max(at + 1, keepdims=True)) | (taps != taps)
    wins &= lax.broadcast_in_dim(axis.inside(), taps.shape, (at, at + 1))
    first = lax.argmax(wins, at + 1, jnp.int32)
    position = lax.broadcasted_iota(jnp.int32, taps.shape, at + 1)
    return jnp.where(position == jnp.expand_dims(first, at + 1), taps, 0).sum(at + 1)


def _windows(x: Array, axis: Axis, at: int, fill: np.ndarray) -> Array:
    """`[..., size, ...]` → `[..., outputs, window, ...]` at axis `at` of x."""
    pads = [(0, 0, 0)] * x.ndim
    pads[at] = (axis.before, axis.overhang, 0)
    x = lax.pad(x, jnp.asarray(fill), pads)
    if (axis.stride, axis.dilation) == (axis.window, 1):
        return x.reshape(*x.shape[:at], axis.outputs, axis.window, *x.shape[at + 1 :])
    return x.take(axis.positions() + axis.before, at)


def _taps(x: Array, axes: Axes, fill: np.ndarray) -> list[Array]:
    """Every window's first element, every window's second, … in row-major order."""
    x = _pad(x, jnp.asarray(fill), [a.before for a in axes], [a.overhang for a in axes])
    outputs, strides = [a.outputs for a in axes], [a.stride for a in axes]
    return [
        _slice(x, [t * a.dilation for t, a in zip(tap, axes, strict=True)], outputs, strides)
        for tap in _each_tap(axes)
    ]


def _each_tap(axes: Axes) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(a.window) for a in axes))


def _pad(x: Array, fill: Array, before: Sequence[int], after: Sequence[int]) -> Array:
    """Pads the spatial axes; a negative number crops."""
    pads = [(b, a, 0) for b, a in zip(before, after, strict=True)]
    return lax.pad(x, fill, [(0, 0, 0), *pads, (0, 0, 0)])


def _slice(
    x: Array, start: Sequence[int], size: Sequence[int], strides: Sequence[int] | None = None
) -> Array:
    """`size` elements from `start` on of each spatial axis, every stride-th."""
    strides = strides or [1] * len(size)
    stop = [i + (n - 1) * s + 1 for i, n, s in zip(start, size, strides, strict=True)]
    return lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1))
