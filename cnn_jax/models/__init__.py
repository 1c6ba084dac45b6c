"""The networks by name, one file each; all map [N, H, W, C] to logits [N, classes]."""

import inspect
from functools import partial
from typing import Any

from cnn_jax.models.alexnet import AlexNet
from cnn_jax.models.alexnet_torchvision import AlexNetTorchvision
from cnn_jax.models.cifar_quick import CifarQuick
from cnn_jax.models.densenet import DenseNet
from cnn_jax.models.googlenet import GoogLeNet
from cnn_jax.models.googlenet_torchvision import GoogLeNetTorchvision
from cnn_jax.models.lenet import LeNet
from cnn_jax.models.mlp import MLP
from cnn_jax.models.network import Network
from cnn_jax.models.nin import NiN
from cnn_jax.models.registry import ModelConfig, Networks, read_options
from cnn_jax.models.regnet import RegNet
from cnn_jax.models.resnet import (
    RESNET18,
    RESNET34,
    RESNET50,
    RESNET101,
    RESNET152,
    ResNet,
    small,
)
from cnn_jax.models.softmax import Softmax
from cnn_jax.models.vgg import VGG, VGG11, VGG13, VGG16, VGG19
from cnn_jax.models.wide_resnet import WideResNet, wide
from cnn_jax.ops import ArgumentError
from cnn_jax.options import read_choices

_XAVIER: Any = {"kernel_init": "xavier_uniform", "class_kernel_init": "xavier_uniform"}
# He et al.'s networks for small pictures; the plain ones lack the shortcuts.
_SMALL = partial(
    ResNet,
    shortcut="pad",
    stem="3x3",
    classes=10,
    kernel_init="he_normal",
    class_kernel_init="he_normal",
    bias_init="zeros",
)
_PLAIN = partial(_SMALL, shortcut="none")
SMALL_DEPTHS = (20, 32, 44, 56, 110)

MODELS = Networks(
    {
        "softmax": Softmax,
        "mlp": MLP,
        "mlp_dropout": partial(MLP, hidden=(256, 256), dropout=(0.2, 0.5)),
        "lenet": LeNet,
        "lenet_max": partial(LeNet, pool="max"),
        "lenet_improved": partial(
            LeNet,
            channels=(6, 10, 16),
            kernel_sizes=(3, 3, 3),
            paddings=(2, 0, 0),
            hidden=(120, 84, 20),
            activation="relu",
        ),
        "lenet_bn": partial(LeNet, norm="batch"),
        "alexnet": AlexNet,
        # As course notes shrink it for a CPU: one dense layer of 4096, no padding of the image.
        "alexnet_notes": partial(AlexNet, paddings=(0, 2, 1, 1, 1), hidden=(4096,), dropout=(0.5,)),
        "alexnet_bn": partial(AlexNet, norm="batch"),
        "vgg11": partial(VGG, arch=VGG11),
        "vgg13": partial(VGG, arch=VGG13),
        "vgg16": partial(VGG, arch=VGG16),
        "vgg19": partial(VGG, arch=VGG19),
        "vgg11_bn": partial(VGG, arch=VGG11, norm="batch"),
        "vgg13_bn": partial(VGG, arch=VGG13, norm="batch"),
        "vgg16_bn": partial(VGG, arch=VGG16, norm="batch"),
        "vgg19_bn": partial(VGG, arch=VGG19, norm="batch"),
        "nin": NiN,
        "nin_bn": partial(NiN, norm="batch"),
        "googlenet": GoogLeNet,
        "googlenet_bn": partial(GoogLeNet, norm="batch"),
        "resnet18": partial(ResNet, stages=RESNET18),
        "resnet34": partial(ResNet, stages=RESNET34),
        "resnet50": partial(ResNet, stages=RESNET50, bottleneck=True),
        "resnet101": partial(ResNet, stages=RESNET101, bottleneck=True),
        "resnet152": partial(ResNet, stages=RESNET152, bottleneck=True),
        # 32 groups of 4 channels in the first stage.
        "resnext50_32x4d": partial(
            ResNet, stages=RESNET50, bottleneck=True, groups=32, group_width=4
        ),
        # As "Dive into Deep Learning", section 8.6, has it.
        "resnet18_book": partial(ResNet, shortcut="project_bare", bias=True, classes=10, **_XAVIER),
        **{f"resnet{depth}": partial(_SMALL, stages=small(depth)) for depth in SMALL_DEPTHS},
        **{f"plain{depth}": partial(_PLAIN, stages=small(depth)) for depth in SMALL_DEPTHS},
        "wrn16_4": partial(WideResNet, stages=wide(16, 4)),
        "wrn28_10": partial(WideResNet, stages=wide(28, 10)),
        "densenet121": DenseNet,
        # As "Dive into Deep Learning", sections 8.7 and 8.8, has them.
        "densenet_book": partial(
            DenseNet, blocks=(4, 4, 4, 4), bottleneck=False, bias=True, classes=10, **_XAVIER
        ),
        "regnetx_3_2gf": RegNet,
        "regnetx32_book": partial(
            RegNet, stages=((4, 32), (6, 80)), group_width=16, bias=True, classes=10, **_XAVIER
        ),
        "alexnet_torchvision": AlexNetTorchvision,
        "googlenet_torchvision": GoogLeNetTorchvision,
        "cifar_quick": CifarQuick,
        "cifar_quick_bn": partial(CifarQuick, norm="batch", activation="relu"),
    }
)


def create(name: str, **options: Any) -> Network:
    """Returns the network called `name`, with its own defaults where no option is given.

    Raises:
      ArgumentError: the name is not in MODELS, the network has no such option, or an option's value
        can't work.
    """
    if name not in MODELS:
        raise ArgumentError(f"model {name!r} is unknown; choose one of {', '.join(MODELS)}.")
    known = [p for p in inspect.signature(MODELS[name]).parameters if p not in ("parent", "name")]
    if wrong := sorted(set(options) - set(known)):
        raise ArgumentError(
            f"model {name!r} has no option {', '.join(wrong)}; it has {', '.join(known)}."
        )
    for option, field in read_options(MODELS[name]).items():
        choices = read_choices(field.type)
        if choices and option in options and options[option] not in choices:
            raise ArgumentError(
                f"{option}={options[option]!r} is unknown; choose one of "
                f"{', '.join(map(str, choices))}."
            )
    return MODELS[name](**options)
