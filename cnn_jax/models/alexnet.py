"""AlexNet.

Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural
networks", 2012, in the form of "Dive into Deep Learning", section 8.1. Unlike the paper: one tower
instead of one per GPU (so no grouped convolutions), no local response normalization (VGG found no
use for it), and Xavier instead of N(0, 0.01²) weights.
"""

from collections.abc import Sequence

from flax import linen as nn
from jax import Array

from cnn_jax import layers
from cnn_jax.models.network import Activation, BiasInit, DType, KernelInit, Network, Norm
from cnn_jax.options import BELOW_ONE, option

# Channels, kernel size and stride of each convolution, and whether a max pooling follows it.
CONVOLUTIONS = (
    (96, 11, 4, True),
    (256, 5, 1, True),
    (384, 3, 1, False),
    (384, 3, 1, False),
    (256, 3, 1, True),
)


class AlexNet(Network):
    """Five convolutions, then dense layers with dropout.

    On 224×224: 54×54×96, pool 26, 26×26×256, pool 12, 12×12×384 twice, 12×12×256, pool 5, 6400,
    4096, 4096, classes. `paddings` has one entry for each convolution or one for all, `dropout` one
    rate for each layer of `hidden`. `norm='batch'` normalizes after every convolution.
    """

    width: float = 1.0
    paddings: Sequence[int] = (1, 2, 1, 1, 1)
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

        paddings = layers.repeat_for_layers(self.paddings, len(CONVOLUTIONS))
        for (channels, size, stride, pooled), padding in zip(CONVOLUTIONS, paddings, strict=True):
            channels = layers.scaled(channels, self.width)
            x = conv(channels, size, strides=stride, padding=padding)(x)
            x = activate(layers.normalize(self.norm, x, train))
            if pooled:
                x = layers.MaxPool(3, strides=2)(x)
        x = layers.Flatten()(x)
        for features, rate in zip(self.hidden, self.dropout, strict=True):
            x = activate(dense(features)(x))
            x = layers.Dropout(rate)(x, train)
        return dense(self.classes)(x).astype("float32")
