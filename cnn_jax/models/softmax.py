"""Softmax regression: one dense layer on the pixels ("Dive into Deep Learning", section 3.6)."""

from flax import linen as nn
from jax import Array

from cnn_jax import layers
from cnn_jax.models.network import BiasInit, DType, KernelInit, Network


class Softmax(Network):
    """784 → 10 on Fashion-MNIST; weights N(0, 0.01²), biases 0.

    It returns logits, x W + b; the softmax belongs to the loss. (softmax(x W) + b, with the bias
    outside, is a known slip: its rows don't sum to 1.)
    """

    classes: int = 10
    kernel_init: KernelInit = "normal_0.01"
    bias_init: BiasInit = "zeros"
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """[N, H, W, C] → logits [N, classes]."""
        x = layers.Flatten()(x)
        return layers.bind(layers.Dense, self)(self.classes)(x).astype("float32")
