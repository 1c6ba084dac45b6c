"""LeNet and its family.

LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998,
in the form of "Dive into Deep Learning", section 6.6: the original's trainable subsampling, sparse
connection table and Gaussian output layer are a plain average pooling, full connections and a
dense layer.
"""

from collections.abc import Sequence

from flax import linen as nn
from jax import Array

from cnn_jax import layers
from cnn_jax.models.network import Activation, BiasInit, DType, KernelInit, Network, Norm, Pool


class LeNet(Network):
    """Convolution, activation and 2×2 pooling, repeated; then dense layers.

    With the defaults, on 28×28×1: 28×28×6, 14×14×6, 10×10×16, 5×5×16, 400, 120, 84, 10.
    `kernel_sizes` and `paddings` have one entry for each convolution or one for all.
    `norm='batch'` normalizes before every hidden activation.
    """

    channels: Sequence[int] = (6, 16)
    kernel_sizes: Sequence[int] = (5, 5)
    paddings: Sequence[int] = (2, 0)
    hidden: Sequence[int] = (120, 84)
    activation: Activation = "sigmoid"
    pool: Pool = "avg"
    norm: Norm = "none"
    classes: int = 10
    kernel_init: KernelInit = "xavier_uniform"
    bias_init: BiasInit = "zeros"
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv = layers.bind(layers.Conv, self)
        dense = layers.bind(layers.Dense, self)
        pool = layers.POOLS[self.pool]
        activate = layers.activation(self.activation)

        sizes, paddings = (
            layers.repeat_for_layers(values, len(self.channels))
            for values in (self.kernel_sizes, self.paddings)
        )
        for features, size, padding in zip(self.channels, sizes, paddings, strict=True):
            x = conv(features, size, padding=padding)(x)
            x = layers.normalize(self.norm, x, train)
            x = pool(2)(activate(x))
        x = layers.Flatten()(x)
        for features in self.hidden:
            x = dense(features)(x)
            x = layers.normalize(self.norm, x, train)
            x = activate(x)
        return dense(self.classes)(x).astype("float32")
