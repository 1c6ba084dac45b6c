"""Softmax regression: one dense layer on the pixels ("Dive into Deep Learning", section 3.6)."""

from flax import linen as nn
from jax import Array

from cnn_jax import layers
from cnn_jax.models.network import BiasInit, DType, KernelInit, Network


class Softmax(Network):
    """Logits x W + b, 784 → 10 on Fashion-MNIST; initial weights N(0, 0.01²), biases 0."""

    classes: int = 10
    kernel_init: KernelInit = "normal_0.01"
    bias_init: BiasInit = "zeros"
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = layers.Flatten()(x)
        return layers.bind(layers.Dense, self)(self.classes)(x).astype("float32")
