"""Flax modules over `cnn_jax.ops`: they own parameters and state, the arithmetic is in ops.

Everything that has parameters, or that changes the spatial shape, is a module, so that tables and
figures can observe a network layer by layer; activations are plain functions (`activation`).
Parameters are float32 and are cast to the layer's `dtype` to compute. Initializers are named by the
keys of `KERNEL_INITIALIZERS` and `BIAS_INITIALIZERS`.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from cnn_jax import ops
from cnn_jax.ops import platform
from cnn_jax.ops.arguments import integer, is_concrete, is_number
from cnn_jax.ops.windows import per_axis

Size = int | Sequence[int]

_observer: ContextVar[Callable[[str, Array], Array | None] | None] = ContextVar(
    "observer", default=None
)

KERNEL_INITIALIZERS = {
    "xavier_uniform": nn.initializers.xavier_uniform(),  # Glorot and Bengio, 2010
    "xavier_normal": nn.initializers.xavier_normal(),
    "he_uniform": nn.initializers.he_uniform(),  # He et al., 2015
    "he_normal": nn.initializers.he_normal(),
    # As he_normal, but it keeps the variance of gradients; torchvision's choice for ResNets.
    "he_normal_fan_out": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    "lecun_uniform": nn.initializers.lecun_uniform(),
    "lecun_normal": nn.initializers.lecun_normal(),
    "normal_0.01": nn.initializers.normal(0.01),  # N(0, 0.01²), as AlexNet and the linear models
    "orthogonal": nn.initializers.orthogonal(),
    # U(±1/√fan_in), PyTorch's default: uniform with variance 1/(3 fan_in)
    "torch": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
}
BIAS_INITIALIZERS = ("zeros", "ones", "torch")  # torch: U(±1/√fan_in), PyTorch's default


def kernel_initializer(name: str) -> jax.nn.initializers.Initializer:
    """Returns the initializer called `name`; fans are those of a kernel [*window, C_in, C_out]."""
    if name not in KERNEL_INITIALIZERS:
        raise ops.ArgumentError(
            f"kernel_init={name!r} is unknown; choose one of {', '.join(KERNEL_INITIALIZERS)}."
        )
    return KERNEL_INITIALIZERS[name]


def bias_initializer(name: str, fan_in: int) -> Callable[..., Array]:
    """Returns the bias initializer called `name` for a layer whose outputs sum `fan_in` inputs."""
    if name == "zeros":
        return nn.initializers.zeros
    if name == "ones":
        return nn.initializers.ones
    if name == "torch":
        bound = 1 / math.sqrt(fan_in)
        return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
            key, shape, dtype, -bound, bound
        )
    raise ops.ArgumentError(
        f"bias_init={name!r} is unknown; choose one of {', '.join(BIAS_INITIALIZERS)}."
    )


class Conv(nn.Module):
    """Convolution (cross-correlation), [N, *spatial, C_in] → [N, *spatial', features].

    An integer `kernel_size` gives a window with that many pixels along each spatial axis; the
    other options are those of `ops.conv`.
    """

    features: int
    kernel_size: Size
    strides: Size = 1
    padding: str | Size | Sequence[tuple[int, int]] = 0
    dilation: Size = 1
    groups: int = 1
    padding_mode: str = "zeros"
    use_bias: bool = True
    kernel_init: str = "xavier_uniform"
    bias_init: str = "zeros"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        spatial, channels = x.ndim - 2, x.shape[-1]
        features = integer("Conv's number of features", self.features, 1)
        groups = integer("Conv's number of groups", self.groups, 1)
        if channels % groups or features % groups:
            raise ops.ArgumentError(
                f"Conv: {channels} input and {features} output channels can't be split into "
                f"{groups} groups; both must be multiples of it."
            )
        window = per_axis("kernel size", self.kernel_size, spatial, 1)
        shape = (*window, channels // groups, features)
        kernel = self.param("kernel", kernel_initializer(self.kernel_init), shape, jnp.float32)
        y = ops.conv(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            groups=groups,
            padding_mode=self.padding_mode,
        )
        if not self.use_bias:
            return y
        fan_in = math.prod(shape[:-1])
        initializer = bias_initializer(self.bias_init, fan_in)
        bias = self.param("bias", initializer, (features,), jnp.float32)
        return ops.add_bias(y, bias.astype(self.dtype))


class Dense(nn.Module):
    """Fully connected layer, x W + b: [..., inputs] → [..., features]."""

    features: int
    use_bias: bool = True
    kernel_init: str = "xavier_uniform"
    bias_init: str = "zeros"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (x.shape[-1], integer("Dense's number of features", self.features, 1))
        kernel = self.param("kernel", kernel_initializer(self.kernel_init), shape, jnp.float32)
        y = ops.dense(x.astype(self.dtype), kernel.astype(self.dtype))
        if not self.use_bias:
            return y
        initializer = bias_initializer(self.bias_init, shape[0])
        bias = self.param("bias", initializer, shape[1:], jnp.float32)
        return ops.add_bias(y, bias.astype(self.dtype))


class BatchNorm(nn.Module):
    """Batch normalization over all axes but the last (Ioffe and Szegedy, 2015).

    Training uses the batch's mean and (biased) variance and moves the running averages to
    `momentum` × old + (1 − momentum) × new, the new variance unbiased, as the paper and PyTorch
    have it; evaluation uses the averages. Statistics are float32, and the whole batch's when jit
    shards it over a mesh; under pmap each replica has its own. A `mask` [N] of ones and zeros
    leaves padding examples out; a batch without examples leaves the averages as they are.
    `initial_scale` is what every channel is multiplied by at the start.

    With `group`, so many images, one after the other, are normalized by statistics of their own
    ("ghost" batches; Hoffer et al., 2017), whose means move the averages. Devices that hold whole
    groups needn't wait for each other, and compute what one alone would.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    initial_scale: float = 1.0
    group: int | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False, mask: Array | None = None) -> Array:
        channels, pixels = x.shape[-1], math.prod(x.shape[1:-1])
        initializer = nn.initializers.constant(self.initial_scale)
        scale = self.param("scale", initializer, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        flat = x.astype(jnp.float32).reshape(x.shape[0], pixels, channels)
        if train and self.group is not None:
            mean, var, unbiased, examples = _group_statistics(
                flat, _weights(mask, flat), self.group
            )
            if not self.is_initializing():
                seen = examples.sum()
                share = (examples / jnp.maximum(seen, 1.0))[:, None]
                keep = jnp.where(seen > 0, self.momentum, 1.0)
                rest = jnp.where(seen > 0, 1 - self.momentum, 0.0)
                running_mean.value = keep * running_mean.value + rest * (share * mean).sum(0)
                running_var.value = keep * running_var.value + rest * (share * unbiased).sum(0)
            var = jnp.where(examples[:, None] > 0, var, 1.0)
            grouped = flat.reshape(len(mean), self.group, pixels, channels)
            factor = scale[None] * lax.rsqrt(var + self.epsilon)
            y = (grouped - mean[:, None, None]) * factor[:, None, None] + bias[None, None, None]
            return y.reshape(x.shape).astype(x.dtype)
        if train:
            weights = _weights(mask, flat)
            examples = weights.sum()
            count = jnp.maximum(examples, 1.0)
            mean = _weighted_channel_sum(weights, flat) / count
            centered = flat - mean[None, None]
            var = _weighted_channel_sum(weights, centered * centered) / count
            if not self.is_initializing():
                unbiased = var * count * (1.0 / jnp.maximum(count - 1.0, 1.0))
                keep = jnp.where(examples > 0, self.momentum, 1.0)
                rest = jnp.where(examples > 0, 1 - self.momentum, 0.0)
                running_mean.value = keep * running_mean.value + rest * mean
                running_var.value = keep * running_var.value + rest * unbiased
            # Padding alone has no variance; divided by its root it would grow from layer to layer.
            var = jnp.where(examples > 0, var, 1.0)
        else:
            mean, var = running_mean.value, running_var.value
            centered = flat - mean[None, None]
        y = centered * (scale * lax.rsqrt(var + self.epsilon))[None, None] + bias[None, None]
        return y.reshape(x.shape).astype(x.dtype)


def _weights(mask: Array | None, x: Array) -> Array:
    """The weight of each pixel of x [N, P, C], `[N, P]` in float32."""
    if mask is not None and jnp.shape(mask) != x.shape[:1]:
        raise ops.ArgumentError(
            f"the mask must have one number for each of {x.shape[0]} examples, got shape "
            f"{jnp.shape(mask)}."
        )
    weights = (
        jnp.ones(x.shape[:1], jnp.float32)
        if mask is None
        else jnp.asarray(mask).astype(jnp.float32)
    )
    return jnp.broadcast_to(weights[:, None], x.shape[:2])


def _weighted_channel_sum(weights: Array, x: Array) -> Array:
    """Σ over images and pixels of weights [N, P] × x [N, P, C] → [C]."""
    # Accelerators would round the factors of a dot product, which is the faster form on a CPU.
    if platform.on_cpu():
        return lax.dot_general(weights, x, (((1,), (1,)), ((0,), (0,)))).sum(0)
    return (weights[..., None] * x).sum((0, 1))


def _group_statistics(x: Array, weights: Array, size: int) -> tuple[Array, Array, Array, Array]:
    """Of every `size` images of x [N, P, C]: mean, variance, unbiased variance, pixels that count.

    They are [G, C], the last [G]; the weights are [N, P].
    """
    if len(x) % size:
        raise ops.ArgumentError(
            f"a batch of {len(x)} images can't be normalized in groups of {size}; choose a "
            f"multiple of {size}."
        )

    def sum_groups(values: Array) -> Array:
        weighted = (weights[..., None] * values).sum(1)
        return weighted.reshape(-1, size, values.shape[-1]).sum(1)

    examples = weights.reshape(-1, size * weights.shape[1]).sum(1)
    count = jnp.maximum(examples, 1.0)[:, None]
    mean = sum_groups(x) / count
    centered = x - jnp.repeat(mean, size, 0)[:, None]
    var = sum_groups(centered * centered) / count
    return mean, var, var * count * (1.0 / jnp.maximum(count - 1.0, 1.0)), examples


class Dropout(nn.Module):
    """Inverted dropout: while training, zero with probability `rate`, else × 1/(1 − rate).

    It uses the rng stream 'dropout', unless the rate is known to be 0.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        known = is_number(self.rate) and is_concrete(self.rate)
        if not train or (known and self.rate == 0):
            return x
        return ops.dropout(self.make_rng("dropout"), x, self.rate)


def _read_options(layer: nn.Module) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(layer)} - {"parent", "name"}
    return {name: getattr(layer, name) for name in names}


class MaxPool(nn.Module):
    """Max pooling, [N, *spatial, C] → [N, *spatial', C], with the options of `ops.max_pool`."""

    window: Size
    strides: Size | None = None
    padding: Size = 0
    dilation: Size = 1
    ceil_mode: bool = False

    def __call__(self, x: Array) -> Array:
        return ops.max_pool(x, **_read_options(self))


class AvgPool(nn.Module):
    """Average pooling, [N, *spatial, C] → [N, *spatial', C]; the options of `ops.avg_pool`."""

    window: Size
    strides: Size | None = None
    padding: Size = 0
    dilation: Size = 1
    ceil_mode: bool = False
    count_include_pad: bool = True

    def __call__(self, x: Array) -> Array:
        return ops.avg_pool(x, **_read_options(self))


class GlobalAvgPool(nn.Module):
    """Mean over all pixels, [N, *spatial, C] → [N, C]."""

    def __call__(self, x: Array) -> Array:
        return ops.global_avg_pool(x)


class Flatten(nn.Module):
    """[N, *spatial, C] → [N, pixels × C], the channels varying fastest."""

    def __call__(self, x: Array) -> Array:
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def activation(name: str) -> Callable[[Array], Array]:
    """Returns the activation called `name`, a key of `ops.ACTIVATIONS`.

    Raises:
      ArgumentError: there is none of this name.
    """
    if name not in ops.ACTIVATIONS:
        raise ops.ArgumentError(
            f"activation={name!r} is unknown; choose one of {', '.join(ops.ACTIVATIONS)}."
        )

    def activate(x: Array) -> Array:
        y = ops.ACTIVATIONS[name](x)
        if (observe := _observer.get()) is not None:
            replaced = observe(name, y)
            y = y if replaced is None else replaced
        return y

    return activate


@contextlib.contextmanager
def observing_activations(observe: Callable[[str, Array], Array | None]) -> Iterator[None]:
    """Calls `observe` with the name and the output of every activation computed or traced.

    An array that it returns takes the output's place.
    """
    token = _observer.set(observe)
    try:
        yield
    finally:
        _observer.reset(token)


POOLS = {"max": MaxPool, "avg": AvgPool}
# Batch normalization over the whole batch, or over so many images each.
NORMS = ("none", "batch", *(f"ghost:{size}" for size in (8, 16, 32, 64, 128)))


def bind(layer: type[nn.Module], network: Any) -> Callable[..., nn.Module]:
    """Returns `layer` with the initializers and the dtype of `network` filled in."""
    return partial(
        layer,
        kernel_init=network.kernel_init,
        bias_init=network.bias_init,
        dtype=network.dtype,
    )


def normalize(norm: str, x: Array, train: bool) -> Array:
    """Applies the normalization called `norm`, one of `NORMS`, within a compact method."""
    if norm == "none":
        return x
    if norm == "batch":
        return BatchNorm()(x, train)
    if norm in NORMS:
        return BatchNorm(group=group_size(norm))(x, train)
    raise ops.ArgumentError(f"norm={norm!r} is unknown; choose one of {', '.join(NORMS)}.")


def group_size(norm: str | None) -> int | None:
    """Returns how many images a normalization takes its statistics of; None: any number.

    >>> group_size("ghost:32")
    32
    """
    return int(norm.partition(":")[2]) if norm and ":" in norm else None


def count_parameters(params: Any) -> int:
    """Returns the number of parameters in a tree of arrays, or of their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def repeat_for_layers(values: Sequence[int], count: int) -> Sequence[int]:
    """Returns one value for each of `count` layers: `values`, or its only one repeated.

    Raises:
      ArgumentError: there are neither one nor `count`.
    """
    if len(values) not in (1, count):
        raise ops.ArgumentError(
            f"{values!r} must have {count} entries, one for each layer, or one."
        )
    return tuple(values) * count if len(values) == 1 else values


def scaled(channels: int, width: float) -> int:
    """Returns `channels` times `width`, rounded to a whole number of at least one.

    Raises:
      ArgumentError: `channels` is no positive integer, `width` no positive, finite number.
    """
    if not is_number(width) or not 0 < width < math.inf:
        raise ops.ArgumentError(f"width={width!r} must be more than 0, a finite number.")
    channels = integer("the number of channels", channels, 1)
    return max(1, round(channels * width))
