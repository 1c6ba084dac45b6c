"""AlexNet with torchvision's channels.

Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014: one tower with
fewer channels in the first layers than AlexNet has on two GPUs, without response normalization.
Its public weights fit pictures of 224×224; torchvision's pooling to 6×6 does nothing there.
"""

from collections.abc import Sequence

from flax import linen as nn
from jax import Array

from cnn_jax import layers
from cnn_jax.models.network import Activation, BiasInit, DType, KernelInit, Network
from cnn_jax.options import BELOW_ONE, option

# Channels, kernel size, stride and padding of each convolution, and whether a pooling follows it.
CONVOLUTIONS = (
    (64, 11, 4, 2, True),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, True),
)


class AlexNetTorchvision(Network):
    """Five convolutions, then dense layers with dropout before each but the last.

    On 224×224: 55×55×64, pool 27, 27×27×192, pool 13, 13×13×384, 13×13×256 twice, pool 6, 9216,
    4096, 4096, classes. `dropout` has one rate for each layer of `hidden`, for what enters it.
    """

    width: float = 1.0
    hidden: Sequence[int] = (4096, 4096)
    dropout: Sequence[float] = option((0.5, 0.5), BELOW_ONE)
    activation: Activation = "relu"
    classes: int = 1000
    kernel_init: KernelInit = "torch"
    bias_init: BiasInit = "torch"
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv = layers.bind(layers.Conv, self)
        dense = layers.bind(layers.Dense, self)
        activate = layers.activation(self.activation)

        for channels, size, stride, padding, pooled in CONVOLUTIONS:
            channels = layers.scaled(channels, self.width)
            x = activate(conv(channels, size, strides=stride, padding=padding)(x))
            if pooled:
                x = layers.MaxPool(3, strides=2)(x)
        x = layers.Flatten()(x)
        for features, rate in zip(self.hidden, self.dropout, strict=True):
            x = layers.Dropout(rate)(x, train)
            x = activate(dense(features)(x))
        return dense(self.classes)(x).astype("float32")
