"""The networks in PyTorch, as course notes write them: what `experiments.benchmark` compares with.

Only the benchmark imports this, and only where PyTorch is installed.
"""

from typing import Any

import torch
from torch import nn

from cnn_jax.errors import UserError


def build(name: str, width: float = 1.0, classes: int = 10) -> nn.Module:
    """Returns the network called `name`, initialized lazily by the first batch [N, C, H, W].

    `width` multiplies the channels of VGG's convolutions; the other networks have no such option.

    Raises:
      UserError: there is no PyTorch form of it here.
    """
    if name not in NETWORKS:
        raise UserError(
            f"there is no PyTorch form of {name!r} to compare with; there is of "
            f"{', '.join(NETWORKS)}."
        )
    return _vgg11(classes, width) if name == "vgg11" else NETWORKS[name](classes)


def _softmax(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


def _mlp(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(256), nn.ReLU(), nn.Linear(256, classes))


def _mlp_dropout(classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.LazyLinear(256),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(256, classes),
    )


def _lenet(classes: int, pool: Any = nn.AvgPool2d) -> nn.Module:
    return nn.Sequential(
        nn.LazyConv2d(6, 5, padding=2),
        nn.Sigmoid(),
        pool(2),
        nn.Conv2d(6, 16, 5),
        nn.Sigmoid(),
        pool(2),
        nn.Flatten(),
        nn.LazyLinear(120),
        nn.Sigmoid(),
        nn.Linear(120, 84),
        nn.Sigmoid(),
        nn.Linear(84, classes),
    )


def _lenet_max(classes: int) -> nn.Module:
    return _lenet(classes, nn.MaxPool2d)


def _cifar_quick(classes: int) -> nn.Module:
    return nn.Sequential(
        nn.LazyConv2d(32, 5, padding=2),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 5, padding=2),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.LazyLinear(64),
        nn.Linear(64, classes),
    )


def _alexnet(classes: int) -> nn.Module:
    return nn.Sequential(
        nn.LazyConv2d(96, 11, 4),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(96, 256, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Flatten(),
        nn.LazyLinear(4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, classes),
    )


def _vgg11(classes: int, width: float = 1.0) -> nn.Module:
    layers: list[nn.Module] = []
    for convolutions, channels in ((1, 64), (1, 128), (2, 256), (2, 512), (2, 512)):
        for _ in range(convolutions):
            layers += [nn.LazyConv2d(round(channels * width), 3, padding=1), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    for _ in range(2):
        layers += [nn.LazyLinear(4096), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.LazyLinear(classes))


def _nin(classes: int) -> nn.Module:
    def block(channels: int, size: int, stride: int, padding: int) -> list[nn.Module]:
        return [
            nn.LazyConv2d(channels, size, stride, padding),
            nn.ReLU(),
            nn.LazyConv2d(channels, 1),
            nn.ReLU(),
            nn.LazyConv2d(channels, 1),
            nn.ReLU(),
        ]

    return nn.Sequential(
        *block(96, 11, 4, 0),
        nn.MaxPool2d(3, 2),
        *block(256, 5, 1, 2),
        nn.MaxPool2d(3, 2),
        *block(384, 3, 1, 1),
        nn.MaxPool2d(3, 2),
        nn.Dropout(0.5),
        *block(classes, 3, 1, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class _Inception(nn.Module):
    def __init__(self, c1: int, c2: tuple[int, int], c3: tuple[int, int], c4: int) -> None:
        super().__init__()

        def conv(channels: int, size: int, padding: int = 0) -> list[nn.Module]:
            return [nn.LazyConv2d(channels, size, padding=padding), nn.ReLU()]

        self.paths = nn.ModuleList(
            [
                nn.Sequential(*conv(c1, 1)),
                nn.Sequential(*conv(c2[0], 1), *conv(c2[1], 3, 1)),
                nn.Sequential(*conv(c3[0], 1), *conv(c3[1], 5, 2)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), *conv(c4, 1)),
            ]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([path(x) for path in self.paths], dim=1)


def _googlenet(classes: int) -> nn.Module:
    pool = (3, 2, 1)
    return nn.Sequential(
        nn.LazyConv2d(64, 7, 2, 3),
        nn.ReLU(),
        nn.MaxPool2d(*pool),
        nn.LazyConv2d(64, 1),
        nn.ReLU(),
        nn.LazyConv2d(192, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(*pool),
        _Inception(64, (96, 128), (16, 32), 32),
        _Inception(128, (128, 192), (32, 96), 64),
        nn.MaxPool2d(*pool),
        _Inception(192, (96, 208), (16, 48), 64),
        _Inception(160, (112, 224), (24, 64), 64),
        _Inception(128, (128, 256), (24, 64), 64),
        _Inception(112, (144, 288), (32, 64), 64),
        _Inception(256, (160, 320), (32, 128), 128),
        nn.MaxPool2d(*pool),
        _Inception(256, (160, 320), (32, 128), 128),
        _Inception(384, (192, 384), (48, 128), 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LazyLinear(classes),
    )


NETWORKS = {
    "softmax": _softmax,
    "mlp": _mlp,
    "mlp_dropout": _mlp_dropout,
    "lenet": _lenet,
    "lenet_max": _lenet_max,
    "cifar_quick": _cifar_quick,
    "alexnet": _alexnet,
    "vgg11": _vgg11,
    "nin": _nin,
    "googlenet": _googlenet,
}
