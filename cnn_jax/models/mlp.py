"""Multilayer perceptrons ("Dive into Deep Learning", sections 4.2 and 4.6)."""

from collections.abc import Sequence

from flax import linen as nn
from jax import Array

from cnn_jax import layers
from cnn_jax.models.network import Activation, BiasInit, DType, KernelInit, Network, Norm
from cnn_jax.options import BELOW_ONE, option


class MLP(Network):
    """Dense layers with an activation and dropout after each but the last.

    `dropout` has one rate for each hidden layer. Initial weights are N(0, 0.01²), biases 0.
    """

    hidden: Sequence[int] = (256,)
    dropout: Sequence[float] = option((0.0,), BELOW_ONE)
    activation: Activation = "relu"
    norm: Norm = "none"
    classes: int = 10
    kernel_init: KernelInit = "normal_0.01"
    bias_init: BiasInit = "zeros"
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dense = layers.bind(layers.Dense, self)
        activate = layers.activation(self.activation)
        x = layers.Flatten()(x)
        for features, rate in zip(self.hidden, self.dropout, strict=True):
            x = dense(features)(x)
            x = layers.normalize(self.norm, x, train)
            x = activate(x)
            x = layers.Dropout(rate)(x, train)
        return dense(self.classes)(x).astype("float32")
