"""The networks, by name. One file each; every one maps [N, H, W, C] to logits [N, classes]."""

import inspect
from functools import partial
from typing import Any

from flax import linen as nn

from cnn_jax.models.lenet import LeNet
from cnn_jax.models.mlp import MLP
from cnn_jax.models.softmax import Softmax

MODELS = {
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
}


def create(name: str, **options: Any) -> nn.Module:
    """Returns the network called `name`, with its own defaults where no option is given.

    Raises:
      ValueError: the name is not in MODELS, or the network has no such option.
    """
    if name not in MODELS:
        raise ValueError(f"model {name!r} is unknown; choose one of {', '.join(MODELS)}.")
    known = [p for p in inspect.signature(MODELS[name]).parameters if p not in ("parent", "name")]
    if wrong := sorted(set(options) - set(known)):
        raise ValueError(
            f"model {name!r} has no option {', '.join(wrong)}; it has {', '.join(known)}."
        )
    return MODELS[name](**options)
