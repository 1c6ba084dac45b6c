"""Follows a network's operations from the image to the logits: fields, costs, what is trained.

JAX writes every function down as a jaxpr, its list of primitive operations. `Reader` goes through
one and keeps for each array what `Value` says; marks, put there by `mark`, tell it where a layer
begins and ends. There is a rule for each kind of operation that looks at several positions:
windows, matrix products, reductions, and what moves an image. Everything else is taken to work
position by position, as activation functions and sums do. Where the rules don't suffice, fields
become unknown, or the hull of all positions.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


class ReceptiveField(NamedTuple):
    """Along one axis, unit i sees input pixels start + stride·i … start + stride·i + size − 1."""

    size: int = 1
    stride: int = 1
    start: int = 0

    def through(
        self, kernel: int, stride: int = 1, dilation: int = 1, padding: int = 0
    ) -> "ReceptiveField":
        """The field of a window over units that have this field; `padding` is that before them."""
        return ReceptiveField(
            self.size + dilation * (kernel - 1) * self.stride,
            self.stride * stride,
            self.start - padding * self.stride,
        )


@dataclass(frozen=True)
class Value:
    """What is known of an array, of shape [1, *grid, ...] while its units have positions."""

    seen: bool  # depends on the image
    trained: bool  # depends on parameters
    fields: tuple[ReceptiveField, ...] | None = None  # what its units see, if known
    grid: tuple[int, ...] | None = None  # how many positions there are, if the units have any

    def unknown(self) -> "Value":
        """The same, with fields unknown."""
        return replace(self, fields=None, grid=None)

    def hull(self) -> "Value":
        """A unit that sees the units at all positions."""
        if self.fields is None or self.grid is None:
            return self
        fields = (
            ReceptiveField(f.size + (n - 1) * f.stride, 0, f.start)
            for f, n in zip(self.fields, self.grid, strict=True)
        )
        return replace(self, fields=tuple(fields), grid=None)

    def has_layout(self, shape: Sequence[int]) -> bool:
        """Whether an array of this shape has the positions on the axes after the first."""
        return self.grid is not None and tuple(shape[1 : 1 + len(self.grid)]) == self.grid

    def axes_of_positions(self, shape: Sequence[int]) -> set[int]:
        """The axes along which positions differ: if not as in `has_layout`, all but the first."""
        if not self.seen or self.grid is None:
            return set()
        return set(range(1, 1 + len(self.grid) if self.has_layout(shape) else len(shape)))


CONSTANT = Value(seen=False, trained=False)


def join(values: Sequence[Value]) -> Value:
    """A unit that sees one unit, at the same position, of each of several arrays."""
    trained = any(value.trained for value in values)
    seen = [value for value in values if value.seen]
    if not seen or any(value.fields is None for value in seen):
        return Value(bool(seen), trained)
    grids = {value.grid for value in seen}
    strides = {tuple(field.stride for field in value.fields or ()) for value in seen}
    if len(grids) > 1 or len(strides) > 1:
        seen = [value.hull() for value in seen]  # some see everything, or positions don't match
    fields = []
    for axis in zip(*(value.fields or () for value in seen), strict=True):
        start = min(f.start for f in axis)
        stop = max(f.start + f.size for f in axis)
        fields.append(ReceptiveField(stop - start, axis[0].stride, start))
    positions = grids - {None}
    return Value(True, trained, tuple(fields), positions.pop() if len(positions) == 1 else None)


_MARK = "cnn_jax.inspection.dataflow"


def mark(x: Array, layer: int, side: str) -> Array:
    """Returns x, marked as what enters (side 'in') or leaves ('out') the layer of this number."""
    return checkpoint_name(x, f"{_MARK}:{layer}:{side}")


# Primitives that look at other positions in ways that aren't followed.
_MIXING = {
    *("cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "fft", "rev", "sort", "top_k"),
    *("dynamic_slice", "dynamic_update_slice", "gather", "scatter", "scatter-add"),
    *("cond", "scan", "select_and_gather_add", "select_and_scatter", "while"),
}


class Reader:
    """Reads a jaxpr; the results are by a layer's number, those outside layers under None.

    Marks of layers that aren't in `layers` are ignored.
    """

    def __init__(self, layers: set[int]):
        self.layers = layers
        self.entering: dict[int | None, Value] = {}
        self.leaving: dict[int | None, Value] = {}
        self.multiply_adds: dict[int | None, int] = {}
        self.backward_multiply_adds: dict[int | None, int] = {}
        self.primitives: dict[int | None, set[str]] = {}
        self._layer: int | None = None  # that being read

    def read(self, closed: ClosedJaxpr, arguments: Sequence[Value]) -> list[Value]:
        """Returns the values of the results, given those of the arguments."""
        known: dict[Any, Value] = dict.fromkeys(closed.jaxpr.constvars, CONSTANT)
        known.update(zip(closed.jaxpr.invars, arguments, strict=True))

        def look_up(variables: Sequence[Any]) -> list[Value]:
            return [CONSTANT if isinstance(v, Literal) else known[v] for v in variables]

        for equation in closed.jaxpr.eqns:
            results = self._step(equation, look_up(equation.invars))
            known.update(zip(equation.outvars, results, strict=True))
        return look_up(closed.jaxpr.outvars)

    def _step(self, equation: Any, values: list[Value]) -> list[Value]:
        name = equation.primitive.name
        inner = _inner(equation.params, len(values))
        if inner is not None and name not in _MIXING:
            return self.read(inner, values)
        if name == "name":
            self._read_mark(equation.params["name"], values[0])
        else:
            self.primitives.setdefault(self._layer, set()).add(name)
        if name in ("conv_general_dilated", "dot_general"):
            self._count(equation, values)
        rule = _RULES.get(name, _mixing if name in _MIXING else _elementwise)
        if name.startswith("reduce_window"):
            rule = _pooling
        elif name.startswith(("reduce_", "arg")) and "axes" in equation.params:
            rule = _reduction
        shapes = [getattr(v.aval, "shape", ()) for v in equation.invars]
        value = join(values)
        if value.seen:
            out = equation.outvars[0].aval.shape
            value = replace(rule(equation.params, values, shapes, out), trained=value.trained)
        return [value] * len(equation.outvars)

    def _read_mark(self, text: str, value: Value) -> None:
        name, _, rest = text.partition(":")
        if name != _MARK:
            return
        number, side = rest.split(":")
        layer = int(number)
        if layer not in self.layers:
            return
        if side == "in":
            self._layer, self.entering[layer] = layer, value
        else:
            self._layer, self.leaving[layer] = None, value

    def _count(self, equation: Any, values: Sequence[Value]) -> None:
        left, right = (v.aval.shape for v in equation.invars)
        numbers = equation.params["dimension_numbers"]
        if equation.primitive.name == "dot_general":
            terms = math.prod(left[axis] for axis in numbers[0][0])
        else:
            terms = math.prod(right) // right[numbers.rhs_spec[0]]
        products = math.prod(equation.outvars[0].aval.shape) * terms
        # The gradient of each factor is a sum of as many products.
        gradients = products * sum(value.trained for value in values)
        layer = self._layer
        self.multiply_adds[layer] = self.multiply_adds.get(layer, 0) + products
        self.backward_multiply_adds[layer] = self.backward_multiply_adds.get(layer, 0) + gradients


# The rules: (parameters, values, shapes of the operands, shape of the result) → value.

Shape = tuple[int, ...]


def _convolution(params: Any, values: list[Value], shapes: list[Shape], out: Shape) -> Value:
    (x, kernel), (shape, kernel_shape) = values, shapes
    numbers = params["dimension_numbers"]
    last = len(shape) - 1
    channels_last = numbers.lhs_spec == numbers.out_spec == (0, last, *range(1, last))
    if kernel.seen or not channels_last or any(d != 1 for d in params["lhs_dilation"]):
        return join(values).unknown()
    window = [kernel_shape[axis] for axis in numbers.rhs_spec[2:]]
    strides, dilation = params["window_strides"], params["rhs_dilation"]
    return _windows(x, shape, out, window, strides, dilation, params["padding"])


def _pooling(params: Any, values: list[Value], shapes: list[Shape], out: Shape) -> Value:
    window, strides = params["window_dimensions"], params["window_strides"]
    dilation, padding = params["window_dilation"], params["padding"]
    x = values[0]
    if window[0] != 1 or window[-1] != 1 or any(d != 1 for d in params["base_dilation"]):
        return x.unknown()
    spatial = (option[1:-1] for option in (window, strides, dilation, padding))
    return _windows(x, shapes[0], out, *spatial)


def _windows(
    x: Value,
    shape: Shape,
    out: Shape,
    window: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> Value:
    """Windows over the spatial axes of [1, *spatial, C]."""
    if x.fields is None or x.grid != shape[1:-1]:
        return x.unknown()
    options = zip(x.fields, window, strides, dilation, padding, strict=True)
    fields = tuple(field.through(k, s, d, before) for field, k, s, d, (before, _) in options)
    return replace(x, fields=fields, grid=out[1:-1])


def _product(params: Any, values: list[Value], shapes: list[Shape], out: Shape) -> Value:
    contracted = params["dimension_numbers"][0]
    both = all(value.seen for value in values)
    summed = []
    for value, shape, axes in zip(values, shapes, contracted, strict=True):
        mixes = both or value.axes_of_positions(shape) & set(axes)
        summed.append(value.hull() if mixes else value)
    return join(summed)


def _reduction(params: Any, values: list[Value], shapes: list[Shape], out: Shape) -> Value:
    x = join(values)
    return x.hull() if x.axes_of_positions(shapes[0]) & set(params["axes"]) else x


def _slice(params: Any, values: list[Value], shapes: list[Shape], out: Shape) -> Value:
    starts = params["start_indices"]
    return _moved(values[0], shapes[0], out, starts, params["strides"] or (1,) * len(starts))


def _pad(params: Any, values: list[Value], shapes: list[Shape], out: Shape) -> Value:
    starts = [-low for low, _, _ in params["padding_config"]]
    if any(interior for _, _, interior in params["padding_config"]):
        return values[0].unknown()
    return _moved(values[0], shapes[0], out, starts, (1,) * len(starts))


def _concatenation(params: Any, values: list[Value], shapes: list[Shape], out: Shape) -> Value:
    axis = params["dimension"]
    sizes = [shape[axis] for shape in shapes]
    longest = sizes.index(max(sizes))
    x, shape = values[longest], shapes[longest]
    if not x.has_layout(shape) or axis not in x.axes_of_positions(shape):
        return join(values)
    # Along a spatial axis: the longest piece is the image, the others are its padding.
    starts = [0] * len(shape)
    starts[axis] = -sum(sizes[:longest])
    return _moved(x, shape, out, starts, (1,) * len(starts))


def _moved(
    x: Value, shape: Shape, out: Shape, starts: Sequence[int], strides: Sequence[int]
) -> Value:
    """The result holds at position i what was at position start + stride · i."""
    if x.fields is None or not x.has_layout(shape):
        return x.unknown()
    spatial = slice(1, 1 + len(x.fields))
    fields = tuple(
        ReceptiveField(f.size, f.stride * stride, f.start + f.stride * start)
        for f, start, stride in zip(x.fields, starts[spatial], strides[spatial], strict=True)
    )
    return replace(x, fields=fields, grid=out[spatial])


def _transposition(params: Any, values: list[Value], shapes: list[Shape], out: Shape) -> Value:
    x, order = values[0], params["permutation"]
    moves = any(order[axis] != axis for axis in x.axes_of_positions(shapes[0]))
    return x.unknown() if moves else x


def _mixing(params: Any, values: list[Value], shapes: list[Shape], out: Shape) -> Value:
    return join(values).unknown()


def _elementwise(params: Any, values: list[Value], shapes: list[Shape], out: Shape) -> Value:
    return join(values)


_RULES: dict[str, Callable[[Any, list[Value], list[Shape], Shape], Value]] = {
    "conv_general_dilated": _convolution,
    "dot_general": _product,
    "slice": _slice,
    "pad": _pad,
    "concatenate": _concatenation,
    "transpose": _transposition,
}


def _inner(params: dict[str, Any], arguments: int) -> ClosedJaxpr | None:
    """The jaxpr that a call (of a jitted function, a custom derivative, …) stands for."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = params.get(key)
        if isinstance(inner, Jaxpr):
            inner = ClosedJaxpr(inner, ())
        if isinstance(inner, ClosedJaxpr) and len(inner.jaxpr.invars) == arguments:
            return inner
    return None
