"""DenseNet.

Huang, Liu, van der Maaten and Weinberger, "Densely connected convolutional networks", 2017, table
1, as torchvision has it. Without bottlenecks it is the form of "Dive into Deep Learning", section
8.7.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from cnn_jax import layers
from cnn_jax.models.network import Activation, BiasInit, DType, KernelInit, Network


class DenseLayer(nn.Module):
    """Appends `growth_rate` new channels to the old: [N, H, W, C] → [N, H, W, C + growth_rate].

    `unit(x, features, size, padding)` is batch normalization, activation and convolution. A
    `bottleneck` is a 1×1 convolution to four times the new channels, before the 3×3.
    """

    growth_rate: int
    bottleneck: bool
    unit: Callable[..., Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = self.unit(x, 4 * self.growth_rate, 1) if self.bottleneck else x
        return jnp.concatenate([x, self.unit(y, self.growth_rate, 3, padding=1)], axis=-1)


class Transition(nn.Module):
    """Halves the channels and the picture: [N, H, W, C] → [N, H/2, W/2, C/2]."""

    unit: Callable[..., Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return layers.AvgPool(2)(self.unit(x, x.shape[-1] // 2, 1))


class DenseNet(Network):
    """A stem, blocks of dense layers with transitions between, global average pooling, classes.

    DenseNet-121 on 224×224: 112×112×64, pool 56; after each block 56×56×256, 28×28×512,
    14×14×1024, 7×7×1024; 1024; classes. `blocks` are the dense layers of each, the stem has twice
    `growth_rate` channels. `bias` gives biases to the convolutions, `class_kernel_init` draws the
    weights of the last layer.
    """

    blocks: Sequence[int] = (6, 12, 24, 16)
    growth_rate: int = 32
    bottleneck: bool = True
    bias: bool = False
    activation: Activation = "relu"
    classes: int = 1000
    kernel_init: KernelInit = "he_normal"
    class_kernel_init: KernelInit = "torch"
    bias_init: BiasInit = "zeros"
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv = partial(layers.bind(layers.Conv, self), use_bias=self.bias)
        activate = layers.activation(self.activation)

        def unit(x: Array, features: int, size: int, padding: int = 0) -> Array:
            x = activate(layers.BatchNorm()(x, train))
            return conv(features, size, padding=padding)(x)

        x = conv(2 * self.growth_rate, 7, strides=2, padding=3)(x)
        x = activate(layers.BatchNorm()(x, train))
        x = layers.MaxPool(3, strides=2, padding=1)(x)
        for block, count in enumerate(self.blocks, 1):
            if block > 1:
                x = Transition(unit, name=f"transition{block - 1}")(x)
            for number in range(1, count + 1):
                name = f"block{block}_layer{number}"
                x = DenseLayer(self.growth_rate, self.bottleneck, unit, name=name)(x)
        x = activate(layers.BatchNorm()(x, train))
        x = layers.GlobalAvgPool()(x)
        dense = layers.bind(layers.Dense, self)
        return dense(self.classes, kernel_init=self.class_kernel_init)(x).astype("float32")
