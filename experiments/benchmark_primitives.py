"""Measures the operations that training is made of, so that a slow network is traced to its row.

python -m experiments.benchmark_primitives --models=lenet_max,cifar_quick --against=torch

For every different convolution and pooling of the networks, at the sizes of experiments.benchmark:
the forward pass, and the gradients with respect to kernel and input, each compiled by itself and
called on arrays in memory. Contenders run in turn, round after round, in one process; a figure is
the median over the rounds: milliseconds, and for convolutions the multiply–adds of the definition
per second. 'plain' is the form used on accelerators: lax.conv_general_dilated with its own
gradients, and reduce_window. (Outside of loops: inside a loop, as in training, XLA:CPU runs the
plain gradients 20 to 100 times slower.)
"""

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from cnn_jax import layers, models, ops, programs
from experiments import benchmark, launch


class Operation(NamedTuple):
    """A convolution or pooling, as a network applies it."""

    kind: str  # 'Conv', 'MaxPool' or 'AvgPool'
    shape: tuple[int, ...]  # of the input, [N, H, W, C]
    window: tuple[int, ...]
    features: int  # of a convolution; 0 for pooling
    strides: Any
    padding: Any

    def __str__(self) -> str:
        size = "×".join(map(str, self.window))
        what = f"{self.kind} {size}" + (f" → {self.features}" if self.features else "")
        options = (
            f", stride {self.strides}" if self.strides not in (1, None, self.window[0]) else ""
        )
        options += f", padding {self.padding}" if self.padding not in (0, ((0, 0), (0, 0))) else ""
        return f"{what}{options} on {'×'.join(map(str, self.shape))}"


def main() -> int:
    names = benchmark.read_models()
    if benchmark.DTYPE.value != "float32":
        return launch.fail("single operations are measured in float32 only; leave --dtype out.")
    rounds, against = benchmark.ROUNDS.value, benchmark.AGAINST.value
    found = dict.fromkeys(
        op for name in names for op in operations(name, benchmark.choose_case(name))
    )
    contenders = ["cnn_jax", "plain"] + (["torch"] if against else [])
    head = "".join(f"{name + ', ms':>13}" for name in contenders)
    print(f"{'operation':<62} {'part':<7}{head}{'GMAC/s':>9}")
    rows = []
    for operation in found:
        for part in ("forward", "kernel", "input"):
            first = operation.features and operation.shape[-1] <= 3  # nobody needs its input's
            if (part == "kernel" and not operation.features) or (part == "input" and first):
                continue
            row = measure(operation, part, contenders, rounds)
            rows.append(row)
            times = "".join(f"{row['milliseconds'][name]:>13.2f}" for name in contenders)
            rate = row["multiply_adds"] / row["milliseconds"]["cnn_jax"] / 1e6
            shown = f"{rate:>9.1f}" if operation.features else f"{'–':>9}"
            print(f"{operation!s:<62} {part:<7}{times}{shown}", flush=True)
    if output := benchmark.OUTPUT.value:
        benchmark.write_rows(output, rows)
    return 0


def operations(name: str, case: benchmark.Case) -> list[Operation]:
    """Returns the convolutions and poolings of a network, in the order of their application."""
    network = models.create(name, **case.options)
    found: list[Operation] = []

    def observe(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if context.method_name == "__call__":
            shape = tuple(args[0].shape) if args else ()
            if isinstance(layer, layers.Conv):
                window = _pair(layer.kernel_size)
                found.append(
                    Operation("Conv", shape, window, layer.features, layer.strides, layer.padding)
                )
            elif isinstance(layer, layers.MaxPool | layers.AvgPool):
                kind, window = type(layer).__name__, _pair(layer.window)
                found.append(Operation(kind, shape, window, 0, layer.strides, layer.padding))
        return call(*args, **kwargs)

    x = jax.ShapeDtypeStruct((case.batch_size, *case.shape), jnp.float32)
    with nn.intercept_methods(observe):
        jax.eval_shape(lambda x: network.init(jax.random.key(0), x), x)
    return found


def _pair(size: Any) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)


def measure(
    operation: Operation, part: str, contenders: Sequence[str], rounds: int
) -> dict[str, Any]:
    """Returns the median milliseconds of each contender, measured in turn."""
    calls = {name: CONTENDERS[name](operation, part) for name in contenders}
    counts = {}
    for name, call in calls.items():
        call(1)
        counts[name] = max(1, round(benchmark.SECONDS.value / 4 / max(call(1), 1e-5)))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(call(counts[name]) / counts[name] * 1e3)
    pixels = math.prod(jax.eval_shape(_function(operation), *_shapes(operation)).shape[:-1])
    inputs = operation.shape[-1] * math.prod(operation.window)
    return {
        "operation": str(operation),
        "part": part,
        "multiply_adds": pixels * inputs * operation.features,
        "milliseconds": {name: statistics.median(times[name]) for name in contenders},
        "range": {name: [min(times[name]), max(times[name])] for name in contenders},
    }


def _shapes(operation: Operation) -> list[jax.ShapeDtypeStruct]:
    shapes = [operation.shape]
    if operation.features:
        shapes.append((*operation.window, operation.shape[-1], operation.features))
    return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]


def _function(operation: Operation) -> Callable[..., Array]:
    """Returns the operation as a function of its input, and of its kernel if it has one."""
    if operation.features:
        options = {"strides": operation.strides, "padding": operation.padding}
        return lambda x, kernel: ops.conv(x, kernel, **options)
    pool = {"MaxPool": ops.max_pool, "AvgPool": ops.avg_pool}[operation.kind]
    window, strides, padding = operation.window, operation.strides, operation.padding
    return lambda x: pool(x, window, strides=strides, padding=padding)


def _arrays(operation: Operation) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape.shape, np.float32) for shape in _shapes(operation)]


def _cotangent(operation: Operation) -> np.ndarray:
    shape = jax.eval_shape(_function(operation), *_shapes(operation)).shape
    return np.random.default_rng(1).standard_normal(shape, np.float32)


def jax_call(operation: Operation, part: str, platform: str) -> Callable[[int], float]:
    """Returns what times a number of calls of this package's form for a platform."""
    function = _function(operation)
    arrays = [jnp.asarray(array) for array in _arrays(operation)]

    def backward(which: int, *arrays_and_g: Array) -> Array:
        *arrays, g = arrays_and_g

        def of_one(x: Array) -> Array:
            return function(*arrays[:which], x, *arrays[which + 1 :])

        (gradient,) = jax.vjp(of_one, arrays[which])[1](g)
        return gradient

    with ops.platform.forced(platform):
        body: Callable[..., Array] = function
        if part != "forward":
            body = functools.partial(backward, int(part == "kernel"))
            arrays.append(jnp.asarray(_cotangent(operation)))
        compiled = jax.jit(body).lower(*arrays).compile(programs.compiler_options())

    def call(count: int) -> None:
        for _ in range(count):
            y = compiled(*arrays)
        jax.block_until_ready(y)

    return lambda count: benchmark.time_call(lambda: call(count))


def torch_call(operation: Operation, part: str) -> Callable[[int], float]:
    """The same in PyTorch, with its own layout [N, C, H, W]."""
    import torch
    from torch.nn import functional

    from experiments import torch_networks

    device = torch_networks.find_device()
    x, *kernel = (torch.from_numpy(array).to(device) for array in _arrays(operation))
    x = x.permute(0, 3, 1, 2).contiguous()
    padding = operation.padding
    if not isinstance(padding, int):
        padding = tuple(before for before, _ in padding)
    strides = operation.strides or operation.window
    if kernel:
        weight = kernel[0].permute(3, 2, 0, 1).contiguous()
        weight.requires_grad_(part == "kernel")

        def forward() -> Any:
            return functional.conv2d(x, weight, stride=strides, padding=padding)
    else:
        pool: Any = functional.max_pool2d if operation.kind == "MaxPool" else functional.avg_pool2d

        def forward() -> Any:
            return pool(x, operation.window, strides, padding)

    x.requires_grad_(part == "input")
    wanted = weight if part == "kernel" else x
    y = forward()
    g = torch.from_numpy(_cotangent(operation)).to(device).permute(0, 3, 1, 2).contiguous()

    def call(count: int) -> None:
        for _ in range(count):
            if part == "forward":
                forward()
            else:  # the forward pass is in the graph already
                torch.autograd.grad(y, wanted, g, retain_graph=True)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return lambda count: benchmark.time_call(lambda: call(count))


CONTENDERS: dict[str, Callable[[Operation, str], Callable[[int], float]]] = {
    "cnn_jax": lambda operation, part: jax_call(operation, part, jax.default_backend()),
    "plain": lambda operation, part: jax_call(operation, part, "gpu"),
    "torch": torch_call,
}

if __name__ == "__main__":
    launch.run(main)
