"""The names that torchvision's and timm's state dicts have for the layers of the networks here.

`PUBLIC` has, for each library, a function for each family of networks, from a layer's path
('stage1_block2', 'Conv_0') to its name there, 'layer1.1.conv1'. Where timm has none of its own its
names are torchvision's.
"""

import re
from collections.abc import Callable
from typing import Any

from flax import linen as nn

from cnn_jax.models.alexnet_torchvision import AlexNetTorchvision
from cnn_jax.models.densenet import DenseNet
from cnn_jax.models.googlenet_torchvision import GoogLeNetTorchvision
from cnn_jax.models.regnet import RegNet
from cnn_jax.models.resnet import ResNet
from cnn_jax.models.vgg import VGG

Path = tuple[str, ...]
Rule = Callable[[Any, Path], str | None]

# Classifiers that only training uses: public weights have them, a network here need not.
AUXILIARY = ("aux1.", "aux2.")


def _resnet(network: Any, path: Path) -> str | None:
    has_form = (network.shortcut, network.stem) == ("project", "7x7")
    if not has_form or network.preactivation or network.bias:
        return None
    outside = {"Conv_0": "conv1", "BatchNorm_0": "bn1", "Dense_0": "fc"}
    if len(path) == 1:
        return outside[path[0]]
    stage, block = _numbers(path[0])
    shortcut = {"projection": "downsample.0", "projection_norm": "downsample.1"}
    layer = shortcut.get(path[1]) or _count_from_one(path[1])
    return f"layer{stage}.{block - 1}.{layer}"


def _densenet(network: Any, path: Path) -> str | None:
    if not network.bottleneck or network.bias:
        return None
    outside = {
        "Conv_0": "features.conv0",
        "BatchNorm_0": "features.norm0",
        "BatchNorm_1": "features.norm5",
        "Dense_0": "classifier",
    }
    if len(path) == 1:
        return outside[path[0]]
    if path[0].startswith("transition"):
        return f"features.{path[0]}.{'conv' if path[1] == 'Conv_0' else 'norm'}"
    block, layer = _numbers(path[0])
    name = _count_from_one(path[1]).replace("bn", "norm")
    return f"features.denseblock{block}.denselayer{layer}.{name}"


def _regnet(network: Any, path: Path) -> str | None:
    if network.bias:
        return None
    outside = {"Conv_0": "stem.0", "BatchNorm_0": "stem.1", "Dense_0": "fc"}
    if len(path) == 1:
        return outside[path[0]]
    stage, block = _numbers(path[0])
    inside = {"projection": "proj.0", "projection_norm": "proj.1"}
    for number, letter in enumerate("abc"):
        inside |= {f"Conv_{number}": f"f.{letter}.0", f"BatchNorm_{number}": f"f.{letter}.1"}
    return f"trunk_output.block{stage}.block{stage}-{block - 1}.{inside[path[1]]}"


def _alexnet(network: Any, path: Path) -> str | None:
    kind, number = path[0].split("_")
    if kind == "Conv":
        return f"features.{(0, 3, 6, 8, 10)[int(number)]}"
    return f"classifier.{(1, 4, 6)[int(number)]}" if len(network.hidden) == 2 else None


def _vgg(network: Any, path: Path) -> str | None:
    kind, number = path[0].split("_")
    if kind == "Dense":
        return f"classifier.{(0, 3, 6)[int(number)]}" if len(network.hidden) == 2 else None
    has_norm = network.norm != "none"
    names, position = [], 0
    for convolutions, _ in network.arch:
        for _ in range(convolutions):
            names.append(position + (kind == "BatchNorm"))
            position += 3 if has_norm else 2  # with the activation
        position += 1  # the pooling
    return f"features.{names[int(number)]}"


def _timm_vgg(network: Any, path: Path) -> str | None:
    name = _vgg(network, path)
    dense = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2"}
    return {**dense, "classifier.6": "head.fc"}.get(name or "", name)


def _timm_regnet(network: Any, path: Path) -> str | None:
    if network.bias:
        return None
    outside = {"Conv_0": "stem.conv", "BatchNorm_0": "stem.bn", "Dense_0": "head.fc"}
    if len(path) == 1:
        return outside[path[0]]
    stage, block = _numbers(path[0])
    inside = {"projection": "downsample.conv", "projection_norm": "downsample.bn"}
    for number in range(3):
        inside[f"Conv_{number}"] = f"conv{number + 1}.conv"
        inside[f"BatchNorm_{number}"] = f"conv{number + 1}.bn"
    return f"s{stage}.b{block}.{inside[path[1]]}"


def _googlenet(network: Any, path: Path) -> str | None:
    kind, number = path[-1].split("_")
    layer = {"Conv": "conv", "BatchNorm": "bn"}.get(kind, "")
    if len(path) == 1:
        return f"conv{int(number) + 1}.{layer}" if layer else "fc"
    block = path[0].partition("_")[2]
    if path[0].startswith("auxiliary"):
        part = f"conv.{layer}" if layer else f"fc{int(number) + 1}"
        return f"{dict(zip(('4a', '4d'), AUXILIARY, strict=True))[block]}{part}"
    branches = ("branch1", "branch2.0", "branch2.1", "branch3.0", "branch3.1", "branch4.1")
    return f"inception{block}.{branches[int(number)]}.{layer}"


def _numbers(text: str) -> tuple[int, ...]:
    """'stage1_block2' → (1, 2)."""
    return tuple(map(int, re.findall(r"\d+", text)))


def _count_from_one(layer: str) -> str:
    """'Conv_0' → 'conv1', 'BatchNorm_1' → 'bn2'."""
    kind, number = layer.split("_")
    return f"{'conv' if kind == 'Conv' else 'bn'}{int(number) + 1}"


PUBLIC: dict[str, dict[type[nn.Module], Rule]] = {
    "torchvision": {
        ResNet: _resnet,
        DenseNet: _densenet,
        RegNet: _regnet,
        AlexNetTorchvision: _alexnet,
        VGG: _vgg,
        GoogLeNetTorchvision: _googlenet,
    },
    "timm": {RegNet: _timm_regnet, VGG: _timm_vgg},
}
