"""Residual and dense networks in PyTorch, in the manner of `torch_networks`, which has their names.

The options of the networks here, where there are any, have the same names.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

Stages = Sequence[tuple[int, int]]  # (blocks, channels) of each
Branch = Sequence[tuple[int, int, int, int]]  # features, kernel size, stride, groups of each


def _conv(features: int, size: int, stride: int = 1, groups: int = 1, bias: bool = False) -> Any:
    return nn.LazyConv2d(features, size, stride, size // 2, groups=groups, bias=bias)


class _Shortcut(nn.Module):
    """What is added to a branch of another size than its input."""

    def __init__(self, kind: str, features: int, stride: int, bias: bool) -> None:
        super().__init__()
        self.stride, self.features = stride, features
        layers = [_conv(features, 1, stride, bias=bias)] if kind.startswith("project") else []
        self.layers = nn.Sequential(*layers, *[nn.LazyBatchNorm2d()] * (kind == "project"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(self.layers):
            return self.layers(x)
        more = self.features - x.shape[1]
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, more))


class _Block(nn.Module):
    def __init__(self, inputs: int, branch: Branch, shortcut: str, bias: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for convolution in branch:
            layers += [_conv(*convolution, bias=bias), nn.LazyBatchNorm2d(), nn.ReLU()]
        self.branch = nn.Sequential(*layers[:-1])
        features, stride = branch[-1][0], max(stride for _, _, stride, _ in branch)
        self.plain = shortcut == "none"
        changes = stride != 1 or features != inputs
        known = changes and not self.plain
        self.shortcut = _Shortcut(shortcut, features, stride, bias) if known else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.branch(x)
        return torch.relu(y if self.plain else y + self.shortcut(x))


class _PreactivatedBlock(nn.Module):
    def __init__(self, inputs: int, branch: Branch, shortcut: str, bias: bool) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.LazyBatchNorm2d(), nn.ReLU())
        layers: list[nn.Module] = []
        for convolution in branch:
            layers += [nn.LazyBatchNorm2d(), nn.ReLU(), _conv(*convolution, bias=bias)]
        self.branch = nn.Sequential(*layers[2:])
        features, stride = branch[-1][0], max(stride for _, _, stride, _ in branch)
        self.projects = (stride != 1 or features != inputs) and shortcut == "project"
        kind = "project_bare" if self.projects else shortcut
        changes = stride != 1 or features != inputs
        self.shortcut = _Shortcut(kind, features, stride, bias) if changes else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = self.before(x)
        y = self.branch(active)
        return y + self.shortcut(active if self.projects else x)


def _head(classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(classes)]


def _stem(features: int, bias: bool = False) -> list[nn.Module]:
    return [
        _conv(features, 7, 2, bias=bias),
        nn.LazyBatchNorm2d(),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]


def resnet(
    classes: int,
    stages: Stages,
    bottleneck: bool = False,
    groups: int = 1,
    group_width: int = 64,
    shortcut: str = "project",
    preactivation: bool = False,
    stem: str = "7x7",
    bias: bool = False,
    stem_features: int | None = None,
) -> nn.Module:
    """Returns a ResNet, a ResNeXt, a wide or a plain network."""
    inputs = stem_features or stages[0][1]
    first = _stem(inputs, bias)
    if stem == "3x3":
        first = [_conv(inputs, 3, bias=bias), *first[1:3]]
    if preactivation:  # the first block begins with what is left out here
        first = [first[0], *first[3:]]
    blocks = []
    for stage, (count, channels) in enumerate(stages):
        for number in range(count):
            stride = 2 if number == 0 and stage > 0 else 1
            branch = [(channels, 3, stride, 1), (channels, 3, 1, 1)]
            if bottleneck:
                inner = channels * groups * group_width // 64
                branch = [
                    (inner, 1, 1, 1), (inner, 3, stride, groups), (4 * channels, 1, 1, 1)
                ]  # fmt: skip
            kind = _PreactivatedBlock if preactivation else _Block
            blocks.append(kind(inputs, branch, shortcut, bias))
            inputs = branch[-1][0]
    last = [nn.LazyBatchNorm2d(), nn.ReLU()] if preactivation else []
    return nn.Sequential(*first, *blocks, *last, *_head(classes))


class _DenseLayer(nn.Module):
    def __init__(self, growth_rate: int, bottleneck: bool, bias: bool) -> None:
        super().__init__()
        layers = [nn.LazyBatchNorm2d(), nn.ReLU(), _conv(growth_rate, 3, bias=bias)]
        if bottleneck:
            first = [nn.LazyBatchNorm2d(), nn.ReLU(), _conv(4 * growth_rate, 1, bias=bias)]
            layers = [*first, *layers]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.layers(x)], dim=1)


def densenet(
    classes: int, blocks: Sequence[int], growth_rate: int = 32, bottleneck: bool = True,
    bias: bool = False,
) -> nn.Module:  # fmt: skip
    """Returns a DenseNet."""
    channels = 2 * growth_rate
    layers = _stem(channels, bias)
    for block, count in enumerate(blocks):
        if block > 0:
            channels //= 2
            layers += [nn.LazyBatchNorm2d(), nn.ReLU(), _conv(channels, 1, bias=bias)]
            layers.append(nn.AvgPool2d(2))
        layers += [_DenseLayer(growth_rate, bottleneck, bias) for _ in range(count)]
        channels += growth_rate * count
    return nn.Sequential(*layers, nn.LazyBatchNorm2d(), nn.ReLU(), *_head(classes))


def regnet(classes: int, stages: Stages, group_width: int, bias: bool = False) -> nn.Module:
    """Returns a RegNetX or an AnyNet."""
    layers = [_conv(32, 3, 2, bias=bias), nn.LazyBatchNorm2d(), nn.ReLU()]
    inputs = 32
    for count, channels in stages:
        for number in range(count):
            stride = 2 if number == 0 else 1
            grouped = (channels, 3, stride, channels // group_width)
            branch = [(channels, 1, 1, 1), grouped, (channels, 1, 1, 1)]
            layers.append(_Block(inputs, branch, "project", bias))
            inputs = channels
    return nn.Sequential(*layers, *_head(classes))
