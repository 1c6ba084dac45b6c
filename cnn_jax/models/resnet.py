"""ResNet.

He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2015: table 1, and section
4.2 for small pictures. Options: the order of layers of "Identity mappings in deep residual
networks", 2016, and the groups of Xie et al., "Aggregated residual transformations for deep neural
networks", 2017. Unlike the paper, a bottleneck halves the picture in its 3×3 convolution, as
torchvision's does, whose initial weights these are too.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from cnn_jax import layers
from cnn_jax.models.network import Activation, BiasInit, DType, KernelInit, Network
from cnn_jax.ops import ArgumentError

# Table 1: the blocks of each stage and their channels, those within a bottleneck.
RESNET18 = ((2, 64), (2, 128), (2, 256), (2, 512))
RESNET34 = ((3, 64), (4, 128), (6, 256), (3, 512))
RESNET50 = RESNET34
RESNET101 = ((3, 64), (4, 128), (23, 256), (3, 512))
RESNET152 = ((3, 64), (8, 128), (36, 256), (3, 512))

# What is added to a branch of another size than its input, which is added as it is otherwise:
# its 1×1 convolution, batch-normalized (B in the paper) or bare, or the input's every second pixel
# with channels of zeros (A). 'none' adds nothing anywhere: a plain network.
Shortcut = Literal["project", "project_bare", "pad", "none"]
# 7×7 convolution of stride 2 and 3×3 max pooling of stride 2, or a 3×3 convolution.
Stem = Literal["7x7", "3x3"]


def small(depth: int) -> tuple[tuple[int, int], ...]:
    """Returns the stages of section 4.2 with `depth` = 6n + 2 layers that have weights."""
    return tuple(((depth - 2) // 6, channels) for channels in (16, 32, 64))


class Convolution(NamedTuple):
    """One convolution of a block's branch."""

    features: int
    size: int
    stride: int = 1
    groups: int = 1


class Block(nn.Module):
    """Activation of x + branch(x): [N, H, W, C] → [N, ⌈H/stride⌉, ⌈W/stride⌉, features].

    The branch has batch normalization after each of its convolutions, and activations between.
    `zero_init` starts the last scale at 0, the block as its shortcut (Goyal et al., 2017).
    """

    branch: Sequence[Convolution]
    conv: Callable[..., nn.Module]
    activate: Callable[[Array], Array]
    shortcut: str = "project"
    zero_init: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        *hidden, last = self.branch
        y = x
        for convolution in hidden:
            y = self.activate(layers.BatchNorm()(convolve(self.conv, convolution, y), train))
        scale = 0.0 if self.zero_init else 1.0
        y = layers.BatchNorm(initial_scale=scale)(convolve(self.conv, last, y), train)
        return self.activate(add(self.shortcut, x, y, stride(self.branch), self.conv, train))


class PreactivatedBlock(nn.Module):
    """x + branch(x), batch normalization and activation before each convolution of the branch.

    A projection takes what the first of them leaves, and isn't normalized again.
    """

    branch: Sequence[Convolution]
    conv: Callable[..., nn.Module]
    activate: Callable[[Array], Array]
    shortcut: str = "project"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        y = active = self.activate(layers.BatchNorm()(x, train))
        for number, convolution in enumerate(self.branch):
            if number > 0:
                y = self.activate(layers.BatchNorm()(y, train))
            y = convolve(self.conv, convolution, y)
        if self.shortcut == "project" and changes_size(x, y, stride(self.branch)):
            return add("project_bare", active, y, stride(self.branch), self.conv, train)
        return add(self.shortcut, x, y, stride(self.branch), self.conv, train)


def convolve(conv: Callable[..., nn.Module], convolution: Convolution, x: Array) -> Array:
    """Applies one convolution of a branch; it keeps the size of the picture but for its stride."""
    features, size, strides, groups = convolution
    return conv(features, size, strides=strides, padding=size // 2, groups=groups)(x)


def stride(branch: Sequence[Convolution]) -> int:
    """Returns by how much a branch shrinks the picture."""
    return max(convolution.stride for convolution in branch)


def changes_size(x: Array, y: Array, stride: int) -> bool:
    """Whether a branch's output y has other channels than its input x, or its stride isn't 1."""
    return stride != 1 or x.shape[-1] != y.shape[-1]


def add(
    shortcut: str, x: Array, y: Array, stride: int, conv: Callable[..., nn.Module], train: bool
) -> Array:
    """Returns the branch's output y with its input x added, as `shortcut` says."""
    if shortcut == "none":
        return y
    if changes_size(x, y, stride):
        if shortcut == "pad":
            more = y.shape[-1] - x.shape[-1]
            x = jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (0, more)))
        else:
            x = conv(y.shape[-1], 1, strides=stride, name="projection")(x)
        if shortcut == "project":
            x = layers.BatchNorm(name="projection_norm")(x, train)
    return x + y


class ResNet(Network):
    """A stem, stages of residual blocks of two 3×3 convolutions, global average pooling, classes.

    ResNet-18 on 224×224: 112×112×64, pool 56; after each stage 56×56×64, 28×28×128, 14×14×256,
    7×7×512; 512; classes. All stages but the first halve the picture. With `bottleneck` a block is
    1×1, 3×3 and 1×1 convolutions, the last with four times the stage's channels; its 3×3
    convolution has `groups` groups of `group_width` channels for every 64 of the stage's. `bias`
    gives biases to the convolutions, `class_kernel_init` draws the weights of the last layer.

    Raises:
      ArgumentError: an option's value can't work; groups without `bottleneck`; `zero_init` with
        `preactivation`, or of a network without shortcuts, neither of which could learn.
    """

    stages: Sequence[tuple[int, int]] = RESNET18
    bottleneck: bool = False
    groups: int = 1
    group_width: int = 64
    shortcut: Shortcut = "project"
    preactivation: bool = False
    zero_init: bool = False
    stem: Stem = "7x7"
    bias: bool = False
    width: float = 1.0
    activation: Activation = "relu"
    classes: int = 1000
    kernel_init: KernelInit = "he_normal_fan_out"
    class_kernel_init: KernelInit = "torch"
    bias_init: BiasInit = "torch"
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, value in (("preactivation", True), ("shortcut", "none")):
            if self.zero_init and getattr(self, option) == value:
                raise ArgumentError(
                    f"zero_init=True can't work with {option}={value!r}, where nothing but zeros "
                    "would leave a branch and no gradient would enter it."
                )
        for option, usual in (("groups", 1), ("group_width", 64)):
            if not self.bottleneck and (value := getattr(self, option)) != usual:
                raise ArgumentError(f"{option}={value} needs bottleneck=True, which has groups.")

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv = partial(layers.bind(layers.Conv, self), use_bias=self.bias)
        activate = layers.activation(self.activation)
        kind: Any = (
            PreactivatedBlock if self.preactivation else partial(Block, zero_init=self.zero_init)
        )

        channels = layers.scaled(self.stages[0][1], self.width)
        if self.stem == "7x7":
            x = conv(channels, 7, strides=2, padding=3)(x)
        else:
            x = conv(channels, 3, padding=1)(x)
        if not self.preactivation:
            x = activate(layers.BatchNorm()(x, train))
        if self.stem == "7x7":
            x = layers.MaxPool(3, strides=2, padding=1)(x)
        for stage, (blocks, channels) in enumerate(self.stages, 1):
            for number in range(1, blocks + 1):
                branch = self._branch(channels, stride=2 if number == 1 and stage > 1 else 1)
                name = f"stage{stage}_block{number}"
                x = kind(branch, conv, activate, self.shortcut, name=name)(x, train)
        if self.preactivation:
            x = activate(layers.BatchNorm()(x, train))
        x = layers.GlobalAvgPool()(x)
        dense = layers.bind(layers.Dense, self)
        return dense(self.classes, kernel_init=self.class_kernel_init)(x).astype("float32")

    def _branch(self, channels: int, stride: int) -> tuple[Convolution, ...]:
        """The convolutions of a block."""
        outer = layers.scaled(channels, self.width)
        if not self.bottleneck:
            return Convolution(outer, 3, stride), Convolution(outer, 3)
        inner = layers.scaled(channels * self.groups * self.group_width, self.width / 64)
        return (
            Convolution(inner, 1),
            Convolution(inner, 3, stride, self.groups),
            Convolution(4 * outer, 1),
        )
