"""Network in network.

Lin, Chen and Yan, "Network in network", 2013, in the form of "Dive into Deep Learning", section
8.3: AlexNet's window sizes, with 1×1 convolutions in every block and global average pooling
in place of dense layers. Unlike the paper: dropout once, before the last block.

With the book's initialization (Xavier weights, PyTorch's biases), 3 to 7 of the 10 class maps are
negative everywhere at the start; after their ReLU they get no gradient, and runs stay at chance.
So weights are He et al.'s (2015) and all class maps start with bias 1. (Batch normalization
cancels it, but keeps maps alive by itself.)
"""

from collections.abc import Sequence

from flax import linen as nn
from jax import Array

from cnn_jax import layers
from cnn_jax.models.network import Activation, BiasInit, DType, KernelInit, Network, Norm
from cnn_jax.options import BELOW_ONE, option


class NiN(Network):
    """Four blocks of a k×k and two 1×1 convolutions, max pooling between; a map for each class.

    On 224×224, the blocks and their poolings: 54×54×96, 26; 26×26×256, 12; 12×12×384, 5; 5×5 times
    classes; classes. `dropout` has one rate. `norm='batch'` normalizes after every convolution.
    """

    width: float = 1.0
    dropout: Sequence[float] = option((0.5,), BELOW_ONE)
    activation: Activation = "relu"
    norm: Norm = "none"
    classes: int = 10
    kernel_init: KernelInit = "he_normal"
    bias_init: BiasInit = "zeros"
    class_bias_init: BiasInit = "ones"
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv = layers.bind(layers.Conv, self)
        activate = layers.activation(self.activation)
        c1, c2, c3 = (layers.scaled(channels, self.width) for channels in (96, 256, 384))

        def block(
            x: Array, features: int, size: int, strides: int, padding: int, **last: str
        ) -> Array:
            for layer in (
                conv(features, size, strides=strides, padding=padding),
                conv(features, 1),
                conv(features, 1, **last),
            ):
                x = activate(layers.normalize(self.norm, layer(x), train))
            return x

        x = block(x, c1, 11, strides=4, padding=0)
        x = layers.MaxPool(3, strides=2)(x)
        x = block(x, c2, 5, strides=1, padding=2)
        x = layers.MaxPool(3, strides=2)(x)
        x = block(x, c3, 3, strides=1, padding=1)
        x = layers.MaxPool(3, strides=2)(x)
        x = layers.Dropout(self.dropout[0])(x, train)
        class_maps = {"bias_init": self.class_bias_init}
        x = block(x, self.classes, 3, strides=1, padding=1, **class_maps)
        return layers.GlobalAvgPool()(x).astype("float32")
