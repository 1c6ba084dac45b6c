"""The CIFAR-10 'quick' network.

Krizhevsky's cuda-convnet layers and Caffe's `cifar10_quick`, as introductions to PyTorch write it:
without activations, so that only the max poolings are not linear; `activation='relu'` adds ReLU
where Caffe has it. Unlike Caffe: 2×2 instead of overlapping 3×3 poolings, all of them max, and an
activation after the first dense layer too.
"""

from collections.abc import Sequence

from flax import linen as nn
from jax import Array

from cnn_jax import layers
from cnn_jax.models.network import Activation, BiasInit, DType, KernelInit, Network, Norm


class CifarQuick(Network):
    """5×5 convolution, activation and 2×2 max pooling, three times; then dense layers.

    On 32×32×3: 32×32×32, 16×16×32, 16×16×32, 8×8×32, 8×8×64, 4×4×64, 1024, 64, 10. Initial kernels
    and biases are PyTorch's. `norm='batch'` normalizes after every convolution.
    """

    channels: Sequence[int] = (32, 32, 64)
    hidden: Sequence[int] = (64,)
    activation: Activation = "identity"
    norm: Norm = "none"
    classes: int = 10
    kernel_init: KernelInit = "torch"
    bias_init: BiasInit = "torch"
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv = layers.bind(layers.Conv, self)
        dense = layers.bind(layers.Dense, self)
        activate = layers.activation(self.activation)

        for features in self.channels:
            x = conv(features, 5, padding=2)(x)
            x = activate(layers.normalize(self.norm, x, train))
            x = layers.MaxPool(2)(x)
        x = layers.Flatten()(x)
        for features in self.hidden:
            x = activate(dense(features)(x))
        return dense(self.classes)(x).astype("float32")
