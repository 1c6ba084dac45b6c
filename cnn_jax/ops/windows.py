"""The size, strides, padding and dilation of a window, read and checked."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from cnn_jax.ops.arguments import as_integer, entries
from cnn_jax.ops.errors import ArgumentError

Size = int | Sequence[int]
Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]


class Geometry(NamedTuple):
    """The positions of a window: one entry for each spatial axis."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    output: tuple[int, ...]


def geometry(
    sizes: Sequence[int], window: Sequence[int], strides: Size, padding: Padding, dilation: Size
) -> Geometry:
    """Reads the options of a window on an input of spatial `sizes`.

    Raises:
      ArgumentError: an option out of range, or a window that doesn't fit the padded input.
    """
    axes = len(sizes)
    sizes = per_axis("input size", sizes, axes, 1)
    window = per_axis("kernel size", window, axes, 1)
    strides = per_axis("strides", strides, axes, 1)
    dilation = per_axis("dilation", dilation, axes, 1)
    spans = [d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True)]
    pads = pairs(padding, sizes, spans, strides)
    output = []
    for axis, (n, span, s, p) in enumerate(zip(sizes, spans, strides, pads, strict=True)):
        if n + sum(p) < span:
            raise ArgumentError(
                f"the kernel spans {span} pixels on spatial axis {axis} (size {window[axis]}, "
                f"dilation {dilation[axis]}), but the input has {n} and {sum(p)} of padding; "
                "pad more or take a smaller kernel."
            )
        output.append((n + sum(p) - span) // s + 1)
    return Geometry(strides, pads, dilation, tuple(output))


def per_axis(name: str, value: Size, axes: int, least: int) -> tuple[int, ...]:
    """`value` as one integer of at least `least` for each of `axes` axes."""
    try:
        values = (as_integer(value),) * axes
    except TypeError:
        try:
            values = tuple(as_integer(v) for v in entries(value))
        except TypeError:
            values = ()
    if len(values) != axes or min(values) < least:
        raise ArgumentError(
            f"{name} must be an integer of at least {least}, or one for each of {axes} spatial "
            f"axes, got {value!r}."
        )
    return values


def pairs(
    padding: Padding, sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """`padding` as a pair (before, after) for each spatial axis."""
    axes = len(sizes)
    if isinstance(padding, str):
        if padding == "VALID":
            return ((0, 0),) * axes
        if padding != "SAME":
            raise ArgumentError(
                f"padding={padding!r} is unknown; choose 'SAME', 'VALID' or numbers of pixels."
            )
        totals = [
            max(0, (-(-n // s) - 1) * s + span - n)
            for n, span, s in zip(sizes, spans, strides, strict=True)
        ]
        return tuple((total // 2, total - total // 2) for total in totals)
    try:
        found = _read_pairs(padding, axes)
    except (TypeError, ValueError):
        found = ()
    if len(found) != axes or min(map(min, found)) < 0:
        raise ArgumentError(
            "padding must be 'SAME', 'VALID', a number of at least 0, or for each of "
            f"{axes} spatial axes such a number or a pair (before, after), got {padding!r}."
        )
    return found


def _read_pairs(padding: Any, axes: int) -> tuple[tuple[int, int], ...]:
    """A number for all axes, or a number or a pair for each; else a TypeError or ValueError."""
    try:
        pair = (as_integer(padding),) * 2
        return (pair,) * axes
    except TypeError:
        return tuple(_read_pair(entry) for entry in entries(padding))


def _read_pair(entry: Any) -> tuple[int, int]:
    try:
        return (as_integer(entry),) * 2
    except TypeError:
        before, after = entries(entry)
        return as_integer(before), as_integer(after)
