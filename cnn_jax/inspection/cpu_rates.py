"""What this CPU reaches in products of several sizes, in memory and in starting kernels, measured.

It takes a few seconds. Convolutions of few channels reach a small part of what those of many do,
so the rate is looked up by the size of the product.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import ops, programs
from cnn_jax.inspection.program_text import Moved
from cnn_jax.inspection.roofline import Product, Range, Times

# (image side, channels in, channels out, window) of the convolutions that are timed.
CONVOLUTIONS = (
    (28, 1, 6, 5),
    (32, 3, 16, 3),
    (32, 16, 16, 3),
    (16, 32, 32, 3),
    (16, 64, 64, 3),
    (8, 128, 128, 3),
    (8, 256, 256, 3),
)
DENSE = ((400, 120), (1024, 1024))
IMAGES = 32
SPREAD = 1.25  # the factor by which a rate may be off, either way


class Rates(NamedTuple):
    """What was measured: (√(inputs × outputs), FLOP/s) of products, and bytes/s of memory."""

    convolutions: tuple[tuple[float, float], ...]
    dense: tuple[tuple[float, float], ...]
    bandwidth: float
    kernel: float  # seconds


def measure() -> Rates:
    """Returns the rates of this CPU, with the threads that JAX has."""
    convolutions = []
    for side, channels, features, window in CONVOLUTIONS:
        x, kernel = _ones(IMAGES, side, side, channels), _ones(window, window, channels, features)
        seconds = _time(jax.grad(_convolve, argnums=(0, 1)), x, kernel)
        flops = 6 * IMAGES * side**2 * window**2 * channels * features
        size = math.sqrt(window**2 * channels * features)
        convolutions.append((size, flops / seconds))
    dense = []
    for inputs, features in DENSE:
        x, kernel = _ones(8 * IMAGES, inputs), _ones(inputs, features)
        seconds = _time(jax.grad(_multiply, argnums=(0, 1)), x, kernel)
        dense.append((math.sqrt(inputs * features), 6 * 8 * IMAGES * inputs * features / seconds))
    large = _ones(1 << 22)
    streamed = 3 * large.nbytes / _time(lambda x, y: x * 2 + y, large, large)
    return Rates(tuple(sorted(convolutions)), tuple(dense), streamed, _time_kernel())


def times(rates: Rates, images: float, products: Sequence[Product], moved: Moved) -> Times:
    """Returns the times of a step on this CPU; arguments as `roofline.accelerator_times`."""
    seconds = images * sum(
        (product.forward_flops + product.backward_flops) / rate(rates, product)
        for product in products
    )

    def around(value: float) -> Range:
        return value / SPREAD, value * SPREAD

    return Times(
        around(seconds),
        around(moved.bytes / rates.bandwidth),
        around(moved.kernels * rates.kernel),
        (0.0, 0.0),
    )


def rate(rates: Rates, product: Product) -> float:
    """Returns the FLOP/s of a product, between those of the measured sizes."""
    measured = rates.dense if product.is_dense else rates.convolutions
    sizes, values = zip(*measured, strict=True)
    size = math.sqrt(product.inputs * product.outputs)
    return float(np.exp(np.interp(np.log(size), np.log(sizes), np.log(values))))


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.sum(ops.conv(x, kernel, padding="SAME") ** 2)


def _multiply(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.sum(ops.dense(x, kernel) ** 2)


def _ones(*shape: int) -> jax.Array:
    return jnp.ones(shape, jnp.float32)


def _time(function: Callable[..., Any], *arguments: jax.Array) -> float:
    """The median of seconds of a call, compiled as the training program is."""
    compiled = jax.jit(function, compiler_options=programs.compiler_options("cpu"))
    return _median(lambda: jax.block_until_ready(compiled(*arguments)))


def _time_kernel() -> float:
    """Seconds to start one kernel, of many small ones that can't be fused."""
    count = 200

    @jax.jit
    def chain(x: jax.Array) -> jax.Array:
        for _ in range(count):
            x = jax.lax.optimization_barrier(x + 1)
        return x

    return _median(lambda: jax.block_until_ready(chain(jnp.float32(0)))) / count


def _median(call: Callable[[], Any], least: float = 0.1) -> float:
    call()
    spent: list[float] = []
    while len(spent) < 5 or sum(spent) < least:
        begin = time.perf_counter()
        call()
        spent.append(time.perf_counter() - begin)
    return statistics.median(spent)
