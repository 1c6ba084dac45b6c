"""RegNet, without squeeze and excitation (RegNetX), and AnyNet.

Radosavovic, Kosaraju, Girshick, He and Dollár, "Designing network design spaces", 2020: of the
networks with a free width and depth for each stage (AnyNet), those whose widths follow a line. The
form is torchvision's, and that of "Dive into Deep Learning", section 8.8.
"""

from collections.abc import Sequence
from functools import partial

from flax import linen as nn
from jax import Array

from cnn_jax import layers
from cnn_jax.models.network import Activation, BiasInit, DType, KernelInit, Network
from cnn_jax.models.resnet import Block, Convolution
from cnn_jax.ops import ArgumentError

REGNETX_3_2GF = ((2, 96), (6, 192), (15, 432), (2, 1008))


class RegNet(Network):
    """A stem, stages of residual blocks, global average pooling, classes.

    A block's branch is a 1×1, a 3×3 and a 1×1 convolution of the same channels, the 3×3 in groups
    of `group_width` channels; the first block of a stage halves the picture. RegNetX-3.2GF on
    224×224: 112×112×32; after each stage 56×56×96, 28×28×192, 14×14×432, 7×7×1008; 1008; classes.
    `stages` are (blocks, channels); `bias` gives biases to the convolutions, `class_kernel_init`
    draws the weights of the last layer.

    Raises:
      ArgumentError: an option's value can't work.
    """

    stages: Sequence[tuple[int, int]] = REGNETX_3_2GF
    group_width: int = 48
    bias: bool = False
    activation: Activation = "relu"
    classes: int = 1000
    kernel_init: KernelInit = "he_normal_fan_out"
    class_kernel_init: KernelInit = "normal_0.01"
    bias_init: BiasInit = "zeros"
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(channels % self.group_width for _, channels in self.stages):
            raise ArgumentError(
                f"group_width={self.group_width} must divide the channels of all stages, which are "
                f"{', '.join(str(channels) for _, channels in self.stages)}."
            )

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv = partial(layers.bind(layers.Conv, self), use_bias=self.bias)
        activate = layers.activation(self.activation)

        x = conv(32, 3, strides=2, padding=1)(x)
        x = activate(layers.BatchNorm()(x, train))
        for stage, (blocks, channels) in enumerate(self.stages, 1):
            for number in range(1, blocks + 1):
                branch = (
                    Convolution(channels, 1),
                    Convolution(channels, 3, 2 if number == 1 else 1, channels // self.group_width),
                    Convolution(channels, 1),
                )
                name = f"stage{stage}_block{number}"
                x = Block(branch, conv, activate, name=name)(x, train)
        x = layers.GlobalAvgPool()(x)
        dense = layers.bind(layers.Dense, self)
        return dense(self.classes, kernel_init=self.class_kernel_init)(x).astype("float32")
