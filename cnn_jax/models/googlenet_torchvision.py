"""GoogLeNet in torchvision's form.

Szegedy et al., "Going deeper with convolutions", 2014, as torchvision took it over from TensorFlow:
with batch normalization instead of biases, 3×3 where the paper has 5×5 convolutions, and poolings
that round the size up. Its public weights take pictures normalized by mean 0.5 and deviation 0.5,
which is what torchvision's `transform_input` makes of them.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from cnn_jax import layers
from cnn_jax.models.googlenet import INCEPTION, Inception
from cnn_jax.models.network import Activation, BiasInit, DType, KernelInit, Network
from cnn_jax.options import BELOW_ONE, option


class Auxiliary(nn.Module):
    """A classifier on a hidden layer: [N, H, W, C] → [N, classes].

    Average pooling to 4×4, 1×1 convolution, dense layer, dropout 0.7, logits.
    """

    unit: Callable[..., Array]
    dense: Callable[..., nn.Module]
    activate: Callable[[Array], Array]
    hidden: int
    classes: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = pool_to(pool_to(x, 4, axis=1), 4, axis=2)
        x = layers.Flatten()(self.unit(x, 128, 1))
        x = self.activate(self.dense(self.hidden)(x))
        x = layers.Dropout(0.7)(x, train)
        return self.dense(self.classes)(x).astype("float32")


def pool_to(x: Array, size: int, axis: int) -> Array:
    """Averages along an axis to `size` pixels, by windows that cover it and overlap if they must.

    Window i is from ⌊i·n/size⌋ to ⌈(i+1)·n/size⌉, as PyTorch's AdaptiveAvgPool2d has it.
    """
    n = x.shape[axis]
    windows = [(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
    means = [jnp.take(x, jnp.arange(*window), axis).mean(axis) for window in windows]
    return jnp.stack(means, axis)


class GoogLeNetTorchvision(Network):
    """A stem, nine Inception blocks, global average pooling, a dense layer.

    On 224×224: 112×112×64, pool 56, 56×56×192, pool 28, 28×28×480, pool 14, 14×14×832, pool 7,
    7×7×1024; 1024; classes. `dropout` has one rate, before the last layer. `auxiliary` is that of
    `GoogLeNet`.
    """

    width: float = 1.0
    dropout: Sequence[float] = option((0.2,), BELOW_ONE)
    auxiliary: bool = False
    activation: Activation = "relu"
    classes: int = 1000
    kernel_init: KernelInit = "normal_0.01"
    bias_init: BiasInit = "zeros"
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv = partial(layers.bind(layers.Conv, self), use_bias=False)
        dense = layers.bind(layers.Dense, self)
        activate = layers.activation(self.activation)

        def unit(x: Array, features: int, size: int, strides: int = 1, padding: int = 0) -> Array:
            features = layers.scaled(features, self.width)
            x = conv(features, size, strides=strides, padding=padding)(x)
            return activate(layers.BatchNorm(epsilon=1e-3)(x, train))

        def inception(x: Array, block: str) -> Array:
            return Inception(INCEPTION[block], unit, large=3, name=f"inception_{block}")(x)

        def classify(x: Array, block: str) -> None:
            if self.auxiliary and (train or self.is_initializing()):
                hidden = layers.scaled(1024, self.width)
                head = Auxiliary(
                    unit, dense, activate, hidden, self.classes, name=f"auxiliary_{block}"
                )
                logits = head(x, train)
                if not self.is_initializing():
                    self.sow("auxiliary", block, logits)

        def halve(x: Array, window: int = 3) -> Array:
            return layers.MaxPool(window, strides=2, ceil_mode=True)(x)

        x = halve(unit(x, 64, 7, strides=2, padding=3))
        x = halve(unit(unit(x, 64, 1), 192, 3, padding=1))
        x = halve(inception(inception(x, "3a"), "3b"))
        x = inception(x, "4a")
        classify(x, "4a")
        x = inception(inception(inception(x, "4b"), "4c"), "4d")
        classify(x, "4d")
        x = halve(inception(x, "4e"), 2)
        x = inception(inception(x, "5a"), "5b")
        x = layers.GlobalAvgPool()(x)
        x = layers.Dropout(self.dropout[0])(x, train)
        return dense(self.classes)(x).astype("float32")
