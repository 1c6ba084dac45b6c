"""Where a window goes: its size, strides, padding and dilation, read and checked."""

import operator
from collections.abc import Sequence
from typing import NamedTuple

Size = int | Sequence[int]
Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]


class Geometry(NamedTuple):
    """Where a window goes: one entry for each spatial axis."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    output: tuple[int, ...]


def geometry(
    sizes: Sequence[int], window: Sequence[int], strides: Size, padding: Padding, dilation: Size
) -> Geometry:
    """Reads the options of a window on an input of spatial `sizes`.

    Raises:
      ValueError: an option out of range, or a window that doesn't fit the padded input.
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
            raise ValueError(
                f"the kernel spans {span} pixels on spatial axis {axis} (size {window[axis]}, "
                f"dilation {dilation[axis]}), but the input has {n} and {sum(p)} of padding; "
                "pad more or take a smaller kernel."
            )
        output.append((n + sum(p) - span) // s + 1)
    return Geometry(strides, pads, dilation, tuple(output))


def per_axis(name: str, value: Size, axes: int, least: int) -> tuple[int, ...]:
    """`value` as one integer of at least `least` for each of `axes` axes."""
    try:
        values = (operator.index(value),) * axes  # type: ignore[arg-type]
    except TypeError:
        try:
            values = tuple(operator.index(v) for v in value)  # type: ignore[union-attr]
        except TypeError:
            values = ()
    if len(values) != axes or min(values) < least:
        raise ValueError(
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
            raise ValueError(
                f"padding={padding!r} is unknown; choose 'SAME', 'VALID' or numbers of pixels."
            )
        totals = [
            max(0, (-(-n // s) - 1) * s + span - n)
            for n, span, s in zip(sizes, spans, strides, strict=True)
        ]
        return tuple((total // 2, total - total // 2) for total in totals)
    entries = list(padding) if isinstance(padding, Sequence) else [padding] * axes
    found: list[tuple[int, int]] = []
    for entry in entries:
        try:
            before, after = entry if isinstance(entry, Sequence) else (entry, entry)
            found.append((operator.index(before), operator.index(after)))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            found.append((-1, -1))
    if len(found) != axes or min(map(min, found)) < 0:
        raise ValueError(
            "padding must be 'SAME', 'VALID', a number of at least 0, or for each of "
            f"{axes} spatial axes such a number or a pair (before, after), got {padding!r}."
        )
    return tuple(found)
