"""The networks, by name. One file each; every one maps [N, H, W, C] to logits [N, classes]."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from flax import linen as nn

from cnn_jax import layers, ops
from cnn_jax.models.alexnet import AlexNet
from cnn_jax.models.cifar_quick import CifarQuick
from cnn_jax.models.googlenet import GoogLeNet
from cnn_jax.models.lenet import LeNet
from cnn_jax.models.mlp import MLP
from cnn_jax.models.nin import NiN
from cnn_jax.models.softmax import Softmax
from cnn_jax.models.vgg import VGG, VGG11, VGG13, VGG16, VGG19

MODELS: dict[str, Callable[..., nn.Module]] = {
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
    # As course notes shrink it for a CPU: one dense layer of 4096, no padding around the picture.
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
    "cifar_quick": CifarQuick,
    "cifar_quick_bn": partial(CifarQuick, norm="batch", activation="relu"),
}

# The options whose values are names, and the names.
CHOICES = {
    "activation": tuple(ops.ACTIVATIONS),
    "pool": tuple(layers.POOLS),
    "norm": layers.NORMS,
    "kernel_init": tuple(layers.KERNEL_INITIALIZERS),
    "bias_init": layers.BIAS_INITIALIZERS,
    "class_bias_init": layers.BIAS_INITIALIZERS,
    "dtype": ("float32", "bfloat16"),
}
# The options that have one entry for each of the same layers, and those with one for all instead.
TOGETHER = (("channels", "kernel_sizes", "paddings"), ("hidden", "dropout"))
ONE_FOR_ALL = ("kernel_sizes", "paddings")


def create(name: str, **options: Any) -> nn.Module:
    """Returns the network called `name`, with its own defaults where no option is given.

    Raises:
      ValueError: the name is not in MODELS, the network has no such option, or an option's value
        can't work.
    """
    if name not in MODELS:
        raise ValueError(f"model {name!r} is unknown; choose one of {', '.join(MODELS)}.")
    known = [p for p in inspect.signature(MODELS[name]).parameters if p not in ("parent", "name")]
    if wrong := sorted(set(options) - set(known)):
        raise ValueError(
            f"model {name!r} has no option {', '.join(wrong)}; it has {', '.join(known)}."
        )
    network = MODELS[name](**options)
    _check(name, {option: getattr(network, option) for option in known})
    return network


def _check(name: str, options: dict[str, Any]) -> None:
    """Says in one sentence what can't work."""
    for option, choices in CHOICES.items():
        if option in options and options[option] not in choices:
            raise ValueError(
                f"{option}={options[option]!r} is unknown; choose one of {', '.join(choices)}."
            )
    for group in TOGETHER:
        lengths = {option: len(options[option]) for option in group if option in options}
        counted = [n for option, n in lengths.items() if n != 1 or option not in ONE_FOR_ALL]
        if len(set(counted)) > 1:
            entries = ", ".join(f"{option} {length}" for option, length in lengths.items())
            either = " (or one for all)" if set(ONE_FOR_ALL) & set(lengths) else ""
            raise ValueError(
                f"model {name!r} needs as many entries in {' as in '.join(lengths)}{either}; they "
                f"have {entries}."
            )
    if "dropout" in options and "hidden" not in options and len(options["dropout"]) != 1:
        raise ValueError(
            f"model {name!r} has one dropout layer; dropout={options['dropout']!r} must have one "
            "rate."
        )
    if not all(0 <= rate <= 1 for rate in options.get("dropout", ())):
        raise ValueError(f"dropout={options['dropout']!r} must be probabilities, from 0 to 1.")
    if options.get("width", 1) <= 0:
        raise ValueError(f"width={options['width']!r} must be more than 0.")
    if options["classes"] < 1:
        raise ValueError(f"classes={options['classes']!r} must be at least 1.")
