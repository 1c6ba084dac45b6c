"""Wide residual networks.

Zagoruyko and Komodakis, "Wide residual networks", 2016, for small pictures: WRN-n-k has the three
stages of He et al. (2016), preactivated, with n − 4 convolutions and k times their channels.
"""

from collections.abc import Callable, Sequence
from functools import partial

from flax import linen as nn
from jax import Array

from cnn_jax import layers
from cnn_jax.models.network import Activation, BiasInit, DType, KernelInit, Network
from cnn_jax.models.resnet import add, changes_size
from cnn_jax.options import BELOW_ONE, option


def wide(depth: int, times: int) -> tuple[tuple[int, int], ...]:
    """Returns the stages of WRN-`depth`-`times`."""
    return tuple(((depth - 4) // 6, times * channels) for channels in (16, 32, 64))


class WideBlock(nn.Module):
    """x + two 3×3 convolutions, with dropout between: [N, H, W, C] → [N, H/stride, …, features]."""

    features: int
    stride: int
    dropout: float
    conv: Callable[..., nn.Module]
    activate: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        active = self.activate(layers.BatchNorm()(x, train))
        y = self.conv(self.features, 3, strides=self.stride, padding=1)(active)
        y = self.activate(layers.BatchNorm()(y, train))
        y = layers.Dropout(self.dropout)(y, train)
        y = self.conv(self.features, 3, padding=1)(y)
        projected = changes_size(x, y, self.stride)
        return add("project_bare", active if projected else x, y, self.stride, self.conv, train)


class WideResNet(Network):
    """A 3×3 convolution, three stages of wide blocks, global average pooling, classes.

    WRN-16-4 on 32×32: 32×32×16; after each stage 32×32×64, 16×16×128, 8×8×256; 256; classes.
    `stages` are (blocks, channels); `dropout` has one rate, that within the blocks.
    """

    stages: Sequence[tuple[int, int]] = wide(16, 4)
    width: float = 1.0
    dropout: Sequence[float] = option((0.0,), BELOW_ONE)
    activation: Activation = "relu"
    classes: int = 10
    kernel_init: KernelInit = "he_normal"
    bias_init: BiasInit = "zeros"
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv = partial(layers.bind(layers.Conv, self), use_bias=False)
        activate = layers.activation(self.activation)

        x = conv(layers.scaled(16, self.width), 3, padding=1)(x)
        for stage, (blocks, channels) in enumerate(self.stages, 1):
            features = layers.scaled(channels, self.width)
            for number in range(1, blocks + 1):
                stride = 2 if number == 1 and stage > 1 else 1
                name = f"stage{stage}_block{number}"
                block = WideBlock(features, stride, self.dropout[0], conv, activate, name=name)
                x = block(x, train)
        x = activate(layers.BatchNorm()(x, train))
        x = layers.GlobalAvgPool()(x)
        return layers.bind(layers.Dense, self)(self.classes)(x).astype("float32")
