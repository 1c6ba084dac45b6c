"""VGG.

Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", 2014,
table 1, in the form of "Dive into Deep Learning", section 8.2. Unlike the paper: Xavier weights for
all depths, where the paper starts the deep networks from trained shallow ones.
"""

from collections.abc import Sequence

from flax import linen as nn
from jax import Array

from cnn_jax import layers
from cnn_jax.models.network import Activation, BiasInit, DType, KernelInit, Network, Norm
from cnn_jax.options import BELOW_ONE, option

# (convolutions, channels) of each block: columns A, B, D and E of table 1.
VGG11 = ((1, 64), (1, 128), (2, 256), (2, 512), (2, 512))
VGG13 = ((2, 64), (2, 128), (2, 256), (2, 512), (2, 512))
VGG16 = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
VGG19 = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))


class VGG(Network):
    """Blocks of 3×3 convolutions, each halving height and width; then dense layers with dropout.

    VGG-11 on 224×224, after each block: 112×112×64, 56×56×128, 28×28×256, 14×14×512, 7×7×512;
    25088, 4096, 4096, classes. The book has `width` 1/4. `dropout` has one rate for each layer of
    `hidden`. `norm='batch'` normalizes after every convolution.
    """

    arch: Sequence[tuple[int, int]] = VGG11
    width: float = 1.0
    hidden: Sequence[int] = (4096, 4096)
    dropout: Sequence[float] = option((0.5, 0.5), BELOW_ONE)
    activation: Activation = "relu"
    norm: Norm = "none"
    classes: int = 10
    kernel_init: KernelInit = "xavier_uniform"
    bias_init: BiasInit = "zeros"
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv = layers.bind(layers.Conv, self)
        dense = layers.bind(layers.Dense, self)
        activate = layers.activation(self.activation)

        for convolutions, channels in self.arch:
            for _ in range(convolutions):
                x = conv(layers.scaled(channels, self.width), 3, padding=1)(x)
                x = activate(layers.normalize(self.norm, x, train))
            x = layers.MaxPool(2)(x)
        x = layers.Flatten()(x)
        for features, rate in zip(self.hidden, self.dropout, strict=True):
            x = activate(dense(features)(x))
            x = layers.Dropout(rate)(x, train)
        return dense(self.classes)(x).astype("float32")
