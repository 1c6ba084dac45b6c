"""What a network costs and what its units see: the layer table, and its numbers by hand.

`analyze(module, input_shape)` traces any Linen network, without computing anything, and follows
receptive fields, multiply-adds and parameters from the input to the output, operation by operation
(`dataflow` says how). A layer is a module that calls no other module; plain functions between
layers (activations, sums, concatenations, pooling) are followed too.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax import layers
from cnn_jax.inspection.dataflow import CONSTANT, Reader, ReceptiveField, Value, mark
from cnn_jax.layers import count_parameters
from cnn_jax.ops import ArgumentError
from cnn_jax.ops.arguments import as_integer, integer
from cnn_jax.ops.platform import forced
from cnn_jax.ops.windows import Padding, Size, geometry, per_axis


def receptive_field(layers: Sequence[Sequence[int]]) -> ReceptiveField:
    """The field of a stack of windows (kernel, stride, dilation, padding), the last three optional.

    Convolution and pooling alike; the padding is that before the first pixel. For instance two
    3×3 convolutions see what one 5×5 sees: receptive_field([(3,), (3,)]).size is 5.

    Raises:
      ArgumentError: a layer has none or more than four numbers, or one out of range.
    """
    field = ReceptiveField()
    for layer in layers:
        numbers = _integers(layer)
        if not 1 <= len(numbers) <= 4 or min(*numbers[:3], 1) < 1 or min(*numbers[3:], 0, 0) < 0:
            raise ArgumentError(
                f"a layer is (kernel, stride, dilation, padding), got {tuple(layer)}; the first "
                "three are at least 1, the padding at least 0."
            )
        field = field.through(*numbers)
    return field


def _integers(numbers: Sequence[int]) -> tuple[int, ...]:
    """Numbers as Python's ints; () if one of them is no integer."""
    try:
        return tuple(map(as_integer, numbers))
    except TypeError:
        return ()


class Cost(NamedTuple):
    """What one layer costs for one image; multiply-adds without those of the bias."""

    parameters: int
    multiply_adds: int
    kernel_gradient_multiply_adds: int
    input_gradient_multiply_adds: int
    input_bytes: int
    output_bytes: int


def conv_cost(
    input_shape: Sequence[int],
    features: int,
    kernel_size: Size,
    strides: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    use_bias: bool = True,
    dtype: str = "float32",
) -> Cost:
    """The cost of a convolution on one image [*spatial, C_in]; options as `layers.Conv`.

    Each of the outputs, and each weight's and each input's gradient, is a sum of products; all
    three are the same products in a different order: positions × window × C_in/groups × C_out.
    So doubling both numbers of channels makes four times the multiply-adds.

    Raises:
      ArgumentError: an option that can't work.
    """
    *sizes, channels = (integer("a size of the input", size, 1) for size in input_shape)
    window = per_axis("kernel size", kernel_size, len(sizes), 1)
    features = integer("the number of features", features, 1)
    groups = integer("the number of groups", groups, 1)
    if channels % groups or features % groups:
        raise ArgumentError(f"groups={groups} must divide {channels} and {features} channels.")
    positions = math.prod(geometry(sizes, window, strides, padding, dilation).output)
    weights = math.prod(window) * (channels // groups) * features
    itemsize = jnp.dtype(dtype).itemsize
    return Cost(
        weights + features * use_bias,
        *(positions * weights,) * 3,
        math.prod(sizes) * channels * itemsize,
        positions * features * itemsize,
    )


def dense_cost(inputs: int, features: int, use_bias: bool = True, dtype: str = "float32") -> Cost:
    """The cost of a fully connected layer for one example of `inputs` numbers.

    Raises:
      ArgumentError: a number that isn't a positive integer.
    """
    inputs, features = integer("inputs", inputs, 1), integer("features", features, 1)
    weights, itemsize = inputs * features, jnp.dtype(dtype).itemsize
    return Cost(
        weights + features * use_bias, *(weights,) * 3, inputs * itemsize, features * itemsize
    )


@dataclass(frozen=True)
class Layer:
    """One row of the table; all numbers are those of one image.

    Multiply-adds are those of convolutions and matrix products, products with padding zeros
    included; biases, activations, normalization and pooling don't count. The backward pass needs as
    many again for each operand that depends on parameters.

    A receptive field is the window of input pixels that can influence a unit: along an axis, the
    unit at position i sees start + stride · i to start + stride · i + size − 1. Padding counts as
    if the image went on. A unit without a position, as after a dense layer or a global mean, has
    stride 0 and the hull of the fields of all units that enter.

    Forward bytes: the layer's output, activation functions in place. Backward bytes: the gradients
    of its output and, where parameters lie upstream, of its input. One that only reshapes has 0.
    """

    name: str  # the module's path in the network, as in its parameters
    kind: str  # the module's class
    output_shape: tuple[int, ...]
    parameters: int  # 0 where a layer is called again
    multiply_adds: int
    backward_multiply_adds: int
    # For each spatial axis of the input; None where an operation can't be followed.
    receptive_field: tuple[int, ...] | None
    receptive_field_stride: tuple[int, ...] | None
    receptive_field_start: tuple[int, ...] | None
    forward_bytes: int
    backward_bytes: int


@dataclass(frozen=True)
class Analysis:
    """The table of a network and its totals."""

    input: tuple[int, ...]
    layers: tuple[Layer, ...]
    parameters: int
    multiply_adds: int
    backward_multiply_adds: int
    dense_parameters: int
    forward_bytes: int  # all layers' outputs
    inference_peak_bytes: int  # the largest input and output of one layer
    training_peak_bytes: int  # image, all outputs, and the largest backward_bytes


OTHER = "(other)"


def analyze(
    module: nn.Module,
    input_shape: Sequence[int],
    dtype: str = "float32",
    activations: bool = False,
) -> Analysis:
    """Returns the layer table of a network in evaluation, for one image [*spatial, C].

    The network is called as `module(x)`. With `activations`, those of `layers.activation` have rows
    of their own, 'Conv_0/relu', without bytes, as they are computed in place. A last row '(other)'
    has the parameters and multiply-adds that belong to no layer, or to parts that only training
    runs, if there are any.

    Raises:
      ArgumentError: what the network says of an input that doesn't suit it.
    """
    sizes = _integers(input_shape)
    if len(sizes) < 2 or min(sizes) < 1:
        raise ArgumentError(
            f"the input shape must be height,width,channels, all positive, got {input_shape}."
        )
    x = jax.ShapeDtypeStruct((1, *sizes), dtype)
    calls = _Calls()

    def apply(variables: Any, x: jax.Array) -> Any:
        with nn.intercept_methods(calls.observe):
            if not activations:
                return module.apply(variables, x)
            with layers.observing_activations(calls.observe_activation):
                return module.apply(variables, x)

    with forced("gpu"):  # the plain form of every operation
        variables = jax.eval_shape(module.init, jax.random.key(0), x)
        jaxpr, out = jax.make_jaxpr(apply, return_shape=True)(variables, x)
    arguments = [
        Value(seen=False, trained=path[0].key == "params")
        for path, _ in jax.tree_util.tree_leaves_with_path(variables)
    ]
    grid = sizes[:-1]
    image = Value(True, False, (ReceptiveField(),) * len(grid), grid)
    reader = Reader({call.number for call in calls.layers()})
    reader.read(jaxpr, [*arguments, image])
    return _table(calls, reader, variables.get("params", {}), x, out)


class _Call:
    """One call of a module, or of an activation, which has no parameters: `path` is None."""

    def __init__(self, number: int, name: str, path: tuple[str, ...] | None, kind: str, x: Any):
        self.number, self.name, self.path, self.kind = number, name, path, kind
        self.input_bytes, self.output, self.is_layer = _bytes(x), x, True
        self.within: _Call | None = None  # the module that calls an activation


class _Calls:
    """Observes the calls of all modules, in order, and marks what enters and leaves."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._open: list[_Call] = []

    def observe(
        self,
        call_next: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        if context.method_name != "__call__" or not args or not _is_array(args[0]):
            return call_next(*args, **kwargs)
        path, kind = context.module.path, type(context.module).__name__
        call = _Call(len(self._calls), "/".join(path) or kind, path, kind, args[0])
        self._calls.append(call)
        if self._open:
            self._open[-1].is_layer = False
        self._open.append(call)
        y = call_next(mark(args[0], call.number, "in"), *args[1:], **kwargs)
        self._open.pop()
        if not _is_array(y):
            return y
        call.output = y
        return mark(y, call.number, "out")

    def observe_activation(self, kind: str, y: Any) -> None:
        """Takes an activation's output [N, ...] as that of a layer; the identity is none."""
        if kind == "identity":
            return
        weighted = [call for call in self._calls if call.kind in ("Conv", "Dense")]
        name = "/".join([*(call.name for call in weighted[-1:]), kind])
        call = _Call(len(self._calls), name, None, kind, y)
        call.within = self._open[-1] if self._open else None
        self._calls.append(call)
        mark(y, call.number, "out")

    def layers(self) -> list[_Call]:
        """The calls of modules that called no other, and of activations between them."""
        within = ((call, call.within) for call in self._calls if call.is_layer)
        return [call for call, module in within if module is None or not module.is_layer]


def _table(calls: _Calls, reader: Reader, params: Any, x: Any, out: Any) -> Analysis:
    counted: set[tuple[str, ...]] = set()
    rows, peak, dense = [], _bytes(x), 0
    for call in calls.layers():
        parameters = 0
        if call.path is not None and call.path not in counted:
            own = functools.reduce(lambda tree, name: tree.get(name, {}), call.path, params)
            parameters = count_parameters(own)
            counted.add(call.path)
        dense += parameters * ("Dense" in call.kind)
        is_view = call.path is None or reader.primitives.get(call.number) == {"reshape"}
        output_bytes = 0 if is_view else _bytes(call.output)
        peak = max(peak, call.input_bytes + output_bytes)
        fields = reader.leaving.get(call.number, CONSTANT).fields
        needs_gradient = reader.entering.get(call.number, CONSTANT).trained
        rows.append(
            Layer(
                name=call.name,
                kind=call.kind,
                output_shape=tuple(call.output.shape[1:]),
                parameters=parameters,
                multiply_adds=reader.multiply_adds.get(call.number, 0),
                backward_multiply_adds=reader.backward_multiply_adds.get(call.number, 0),
                receptive_field=tuple(f.size for f in fields) if fields else None,
                receptive_field_stride=tuple(f.stride for f in fields) if fields else None,
                receptive_field_start=tuple(f.start for f in fields) if fields else None,
                forward_bytes=output_bytes,
                backward_bytes=output_bytes + call.input_bytes * (needs_gradient and not is_view),
            )
        )
    elsewhere = count_parameters(params) - sum(row.parameters for row in rows)
    forward = reader.multiply_adds.get(None, 0)
    if elsewhere or forward:
        backward = reader.backward_multiply_adds.get(None, 0)
        shape = tuple(jax.tree_util.tree_leaves(out)[0].shape[1:])
        unknown = (None, None, None)
        rows.append(Layer(OTHER, "", shape, elsewhere, forward, backward, *unknown, 0, 0))
    kept = sum(row.forward_bytes for row in rows)
    return Analysis(
        input=tuple(x.shape[1:]),
        layers=tuple(rows),
        parameters=count_parameters(params),
        multiply_adds=sum(row.multiply_adds for row in rows),
        backward_multiply_adds=sum(row.backward_multiply_adds for row in rows),
        dense_parameters=dense,
        forward_bytes=kept,
        inference_peak_bytes=peak,
        training_peak_bytes=_bytes(x) + kept + max((r.backward_bytes for r in rows), default=0),
    )


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype")


def _bytes(x: Any) -> int:
    """Bytes of one example of a batch."""
    return math.prod(x.shape[1:]) * jnp.dtype(x.dtype).itemsize
