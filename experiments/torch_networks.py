"""The networks in PyTorch, as course notes write them, and their training, for the benchmarks.

Only the benchmarks import this, and only where PyTorch is installed.
"""

import functools
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from cnn_jax.errors import UserError
from experiments.torch_residual import densenet, regnet, resnet


def build(name: str, classes: int = 10, **options: Any) -> nn.Module:
    """Returns the network called `name`, initialized lazily by the first batch [N, C, H, W].

    The options are those of its function here.

    Raises:
      UserError: there is no PyTorch form of it here.
    """
    if name not in NETWORKS:
        raise UserError(
            f"there is no PyTorch form of {name!r} to compare with; there is of "
            f"{', '.join(NETWORKS)}."
        )
    return NETWORKS[name](classes, **options)


def _relu(*layers: nn.Module) -> list[nn.Module]:
    """The layers, each followed by a ReLU."""
    return [module for layer in layers for module in (layer, nn.ReLU())]


def _dense(units: int, dropout: float = 0.5) -> list[nn.Module]:
    return [*_relu(nn.LazyLinear(units)), nn.Dropout(dropout)]


def _softmax(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


def _mlp(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(256), nn.ReLU(), nn.Linear(256, classes))


def _mlp_dropout(classes: int) -> nn.Module:
    hidden = [*_dense(256, 0.2), *_dense(256, 0.5)]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, classes))


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
        *_relu(nn.LazyConv2d(96, 11, 4)),
        nn.MaxPool2d(3, 2),
        *_relu(nn.Conv2d(96, 256, 5, padding=2)),
        nn.MaxPool2d(3, 2),
        *_relu(nn.Conv2d(256, 384, 3, padding=1)),
        *_relu(nn.Conv2d(384, 384, 3, padding=1)),
        *_relu(nn.Conv2d(384, 256, 3, padding=1)),
        nn.MaxPool2d(3, 2),
        nn.Flatten(),
        *_dense(4096),
        *_dense(4096),
        nn.Linear(4096, classes),
    )


def _vgg11(classes: int, width: float = 1.0) -> nn.Module:
    layers: list[nn.Module] = []
    for convolutions, channels in ((1, 64), (1, 128), (2, 256), (2, 512), (2, 512)):
        for _ in range(convolutions):
            layers += _relu(nn.LazyConv2d(round(channels * width), 3, padding=1))
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(
        *layers, nn.Flatten(), *_dense(4096), *_dense(4096), nn.LazyLinear(classes)
    )


def _nin(classes: int) -> nn.Module:
    def block(channels: int, size: int, stride: int, padding: int) -> list[nn.Module]:
        convolutions = [nn.LazyConv2d(channels, size, stride, padding)]
        convolutions += [nn.LazyConv2d(channels, 1), nn.LazyConv2d(channels, 1)]
        return _relu(*convolutions)

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


def _plain_unit(channels: int, size: int, stride: int = 1, padding: int = 0) -> list[nn.Module]:
    return _relu(nn.LazyConv2d(channels, size, stride, padding))


def _normed_unit(channels: int, size: int, stride: int = 1, padding: int = 0) -> list[nn.Module]:
    convolution = nn.LazyConv2d(channels, size, stride, padding, bias=False)
    return [convolution, nn.LazyBatchNorm2d(eps=1e-3), nn.ReLU()]


class _Inception(nn.Module):
    def __init__(
        self,
        c1: int,
        c2: tuple[int, int],
        c3: tuple[int, int],
        c4: int,
        unit: Callable[..., list[nn.Module]] = _plain_unit,
        large: int = 5,
    ) -> None:
        super().__init__()
        pool = nn.MaxPool2d(3, 1, 1)
        self.paths = nn.ModuleList(
            [
                nn.Sequential(*unit(c1, 1)),
                nn.Sequential(*unit(c2[0], 1), *unit(c2[1], 3, padding=1)),
                nn.Sequential(*unit(c3[0], 1), *unit(c3[1], large, padding=large // 2)),
                nn.Sequential(pool, *unit(c4, 1)),
            ]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([path(x) for path in self.paths], dim=1)


def _googlenet(classes: int, torchvision: bool = False) -> nn.Module:
    unit = _normed_unit if torchvision else _plain_unit
    block = functools.partial(_Inception, unit=unit, large=3 if torchvision else 5)

    def halve(last: bool = False) -> nn.Module:
        if torchvision:
            return nn.MaxPool2d(2 if last else 3, 2, ceil_mode=True)
        return nn.MaxPool2d(3, 2, 1)

    return nn.Sequential(
        *unit(64, 7, 2, 3),
        halve(),
        *unit(64, 1),
        *unit(192, 3, padding=1),
        halve(),
        block(64, (96, 128), (16, 32), 32),
        block(128, (128, 192), (32, 96), 64),
        halve(),
        block(192, (96, 208), (16, 48), 64),
        block(160, (112, 224), (24, 64), 64),
        block(128, (128, 256), (24, 64), 64),
        block(112, (144, 288), (32, 64), 64),
        block(256, (160, 320), (32, 128), 128),
        halve(last=True),
        block(256, (160, 320), (32, 128), 128),
        block(384, (192, 384), (48, 128), 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        *[nn.Dropout(0.2)] * torchvision,
        nn.LazyLinear(classes),
    )


def _alexnet_torchvision(
    classes: int, width: float = 1.0, hidden: tuple[int, int] = (4096, 4096)
) -> nn.Module:
    layers: list[nn.Module] = []
    for channels, size, stride, padding, pooled in (
        (64, 11, 4, 2, True),
        (192, 5, 1, 2, True),
        (384, 3, 1, 1, False),
        (256, 3, 1, 1, False),
        (256, 3, 1, 1, True),
    ):
        layers += _relu(nn.LazyConv2d(round(channels * width), size, stride, padding))
        layers += [nn.MaxPool2d(3, 2)] * pooled
    dense = [layer for units in hidden for layer in (nn.Dropout(), *_relu(nn.LazyLinear(units)))]
    return nn.Sequential(*layers, nn.Flatten(), *dense, nn.LazyLinear(classes))


_small = functools.partial(resnet, shortcut="pad", stem="3x3")
_wide = functools.partial(resnet, preactivation=True, stem="3x3", stem_features=16)

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "softmax": _softmax,
    "mlp": _mlp,
    "mlp_dropout": _mlp_dropout,
    "lenet": _lenet,
    "lenet_max": functools.partial(_lenet, pool=nn.MaxPool2d),
    "cifar_quick": _cifar_quick,
    "alexnet": _alexnet,
    "vgg11": _vgg11,
    "nin": _nin,
    "googlenet": _googlenet,
    "resnet18": functools.partial(resnet, stages=((2, 64), (2, 128), (2, 256), (2, 512))),
    "resnet34": functools.partial(resnet, stages=((3, 64), (4, 128), (6, 256), (3, 512))),
    **{
        f"resnet{depth}": functools.partial(
            resnet, stages=((3, 64), (second, 128), (third, 256), (3, 512)), bottleneck=True
        )
        for depth, second, third in ((50, 4, 6), (101, 4, 23), (152, 8, 36))
    },
    "resnext50_32x4d": functools.partial(
        resnet,
        stages=((3, 64), (4, 128), (6, 256), (3, 512)),
        bottleneck=True,
        groups=32,
        group_width=4,
    ),
    "resnet18_book": functools.partial(
        resnet,
        stages=((2, 64), (2, 128), (2, 256), (2, 512)),
        shortcut="project_bare",
        bias=True,
    ),
    **{
        f"resnet{6 * blocks + 2}": functools.partial(
            _small, stages=((blocks, 16), (blocks, 32), (blocks, 64))
        )
        for blocks in (3, 5, 7, 9, 18)
    },
    "plain20": functools.partial(_small, stages=((3, 16), (3, 32), (3, 64)), shortcut="none"),
    "wrn16_4": functools.partial(_wide, stages=((2, 64), (2, 128), (2, 256))),
    "wrn28_10": functools.partial(_wide, stages=((4, 160), (4, 320), (4, 640))),
    "densenet121": functools.partial(densenet, blocks=(6, 12, 24, 16)),
    "densenet_book": functools.partial(densenet, blocks=(4, 4, 4, 4), bottleneck=False, bias=True),
    "regnetx_3_2gf": functools.partial(
        regnet, stages=((2, 96), (6, 192), (15, 432), (2, 1008)), group_width=48
    ),
    "regnetx32_book": functools.partial(
        regnet, stages=((4, 32), (6, 80)), group_width=16, bias=True
    ),
    "alexnet_torchvision": _alexnet_torchvision,
    "googlenet_torchvision": functools.partial(_googlenet, torchvision=True),
}


def find_device() -> torch.device:
    """Returns the GPU if there is one and JAX computes on it, too, or else the CPU."""
    import jax  # here, as experiments.benchmark_startup measures a start of PyTorch without it

    cuda = torch.cuda.is_available() and jax.default_backend() != "cpu"
    return torch.device("cuda" if cuda else "cpu")


def make_loop(
    network: Any,
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    dtype: str,
    channels_last: bool = False,
    compiled: bool = False,
) -> tuple[Callable[[int], float], Callable[[], float], Callable[[], float]]:
    """Returns what times a number of training steps, an epoch, and an evaluation, in seconds.

    The whole data set, uint8 images [n, H, W, C], is one float32 tensor [n, C, H, W] on the device;
    `dtype` is float32, or bfloat16 for PyTorch's autocast.
    """
    device = find_device()
    cuda = device.type == "cuda"
    torch.set_num_threads(os.cpu_count() or 1)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).to(device)
    y = torch.from_numpy(labels).long().to(device)
    if cuda:
        torch.set_float32_matmul_precision("high")  # TF32
    lower = torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")
    network = network.to(device)
    network(x[:1])
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, network = x.contiguous(memory_format=layout), network.to(memory_format=layout)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    loss_function = torch.nn.CrossEntropyLoss()
    if compiled:
        torch.compiler.reset()  # or networks measured before count against its limit of programs
    forward = torch.compile(network) if compiled else network
    network.train()

    def step(rows: Any) -> tuple[Any, Any]:
        optimizer.zero_grad()
        with lower:
            logits = forward(x[rows])
            loss = loss_function(logits, y[rows])
        loss.backward()
        optimizer.step()
        return loss.detach(), (logits.detach().argmax(1) == y[rows]).sum()

    fixed = torch.randperm(len(x), device=device).split(batch_size)

    def run_steps(count: int) -> float:
        begin = time.perf_counter()
        for i in range(count):
            step(fixed[i % len(fixed)])
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    def epoch() -> float:
        begin = time.perf_counter()
        total = [step(rows) for rows in torch.randperm(len(x), device=device).split(batch_size)]
        sum(float(loss) for loss, _ in total)
        sum(int(correct) for _, correct in total)
        return time.perf_counter() - begin

    def evaluate() -> float:
        begin = time.perf_counter()
        network.eval()
        with torch.no_grad(), lower:
            logits = [forward(x[rows]) for rows in fixed]
            sum(float(loss_function(z, y[rows])) for z, rows in zip(logits, fixed, strict=True))
            sum(int((z.argmax(1) == y[rows]).sum()) for z, rows in zip(logits, fixed, strict=True))
        network.train()
        return time.perf_counter() - begin

    return run_steps, epoch, evaluate
