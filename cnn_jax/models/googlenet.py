"""GoogLeNet.

Szegedy et al., "Going deeper with convolutions", 2014, table 1, in the form of "Dive into Deep
Learning", section 8.4. Unlike the paper: no local response normalization, He et al.'s weights (with
the book's Xavier weights, which halve the variance at each of 21 ReLUs, some runs stay at chance),
and no dropout by default (the paper has 0.4). Every convolution is followed by its activation.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from cnn_jax import layers
from cnn_jax.models.network import Activation, BiasInit, DType, KernelInit, Network, Norm
from cnn_jax.options import BELOW_ONE, option

# Table 1, by block: #1×1; #3×3 reduce, #3×3; #5×5 reduce, #5×5; pool projection.
INCEPTION = {
    "3a": (64, (96, 128), (16, 32), 32),
    "3b": (128, (128, 192), (32, 96), 64),
    "4a": (192, (96, 208), (16, 48), 64),
    "4b": (160, (112, 224), (24, 64), 64),
    "4c": (128, (128, 256), (24, 64), 64),
    "4d": (112, (144, 288), (32, 64), 64),
    "4e": (256, (160, 320), (32, 128), 128),
    "5a": (256, (160, 320), (32, 128), 128),
    "5b": (384, (192, 384), (48, 128), 128),
}


class Inception(nn.Module):
    """Four paths, concatenated along the channels: [N, H, W, C] → [N, H, W, c1+c2+c3+c4].

    `unit(x, features, size, padding=0)` is a convolution with its activation; `large` is the size
    of the largest one's window.
    """

    channels: tuple[int, tuple[int, int], tuple[int, int], int]
    unit: Callable[..., Array]
    large: int = 5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        unit = self.unit
        c1, (reduce2, c2), (reduce3, c3), c4 = self.channels
        path1 = unit(x, c1, 1)
        path2 = unit(unit(x, reduce2, 1), c2, 3, padding=1)
        path3 = unit(unit(x, reduce3, 1), c3, self.large, padding=self.large // 2)
        path4 = unit(layers.MaxPool(3, strides=1, padding=1)(x), c4, 1)
        return jnp.concatenate([path1, path2, path3, path4], axis=-1)


class Auxiliary(nn.Module):
    """A classifier on a hidden layer, to bring gradient there: [N, H, W, C] → [N, classes].

    5×5 average pooling of stride 3, 1×1 convolution, dense layer, dropout 0.7, logits. Feature maps
    smaller than 5×5, of images smaller than 65×65, are averaged whole.
    """

    unit: Callable[..., Array]
    dense: Callable[..., nn.Module]
    activate: Callable[[Array], Array]
    hidden: int
    classes: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        window = tuple(min(5, size) for size in x.shape[1:-1])
        x = layers.AvgPool(window, strides=3)(x)
        x = layers.Flatten()(self.unit(x, 128, 1))
        x = self.activate(self.dense(self.hidden)(x))
        x = layers.Dropout(0.7)(x, train)
        return self.dense(self.classes)(x).astype("float32")


class GoogLeNet(Network):
    """A stem (b1, b2), nine Inception blocks (b3, b4, b5), global average pooling, a dense layer.

    On 96×96, after b1 to b5: 24×24×64, 12×12×192, 6×6×480, 3×3×832, 1024; classes. `dropout` has
    one rate, before the last layer. `norm='batch'` normalizes after every convolution.

    With `auxiliary`, training adds two classifiers, on the outputs of 4a and 4d. Their logits
    [N, classes] are sown into the collection 'auxiliary': `apply(…, train=True,
    mutable=['auxiliary'])` returns them.
    """

    width: float = 1.0
    dropout: Sequence[float] = option((0.0,), BELOW_ONE)
    auxiliary: bool = False
    activation: Activation = "relu"
    norm: Norm = "none"
    classes: int = 10
    kernel_init: KernelInit = "he_normal"
    bias_init: BiasInit = "zeros"
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv = layers.bind(layers.Conv, self)
        dense = layers.bind(layers.Dense, self)
        activate = layers.activation(self.activation)

        def unit(x: Array, features: int, size: int, strides: int = 1, padding: int = 0) -> Array:
            features = layers.scaled(features, self.width)
            x = conv(features, size, strides=strides, padding=padding)(x)
            return activate(layers.normalize(self.norm, x, train))

        def inception(x: Array, block: str) -> Array:
            return Inception(INCEPTION[block], unit, name=f"inception_{block}")(x)

        def classify(x: Array, block: str) -> None:
            if self.auxiliary and (train or self.is_initializing()):
                hidden = layers.scaled(1024, self.width)
                head = Auxiliary(
                    unit, dense, activate, hidden, self.classes, name=f"auxiliary_{block}"
                )
                logits = head(x, train)
                if not self.is_initializing():
                    self.sow("auxiliary", block, logits)

        def halve(x: Array) -> Array:
            return layers.MaxPool(3, strides=2, padding=1)(x)

        x = halve(unit(x, 64, 7, strides=2, padding=3))
        x = halve(unit(unit(x, 64, 1), 192, 3, padding=1))
        x = halve(inception(inception(x, "3a"), "3b"))
        x = inception(x, "4a")
        classify(x, "4a")
        x = inception(inception(inception(x, "4b"), "4c"), "4d")
        classify(x, "4d")
        x = halve(inception(x, "4e"))
        x = inception(inception(x, "5a"), "5b")
        x = layers.GlobalAvgPool()(x)
        x = layers.Dropout(self.dropout[0])(x, train)
        return dense(self.classes)(x).astype("float32")
