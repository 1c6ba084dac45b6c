"""The networks that are measured, and the sizes they are measured at."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cnn_jax import config, data
from cnn_jax.experiment import Experiment, build


class Case(NamedTuple):
    """A network at the size it is measured at."""

    shape: tuple[int, int, int]  # of the images, [H, W, C]
    batch_size: int
    options: dict[str, Any] = {}  # noqa: RUF012, never changed


# Smoke sizes for the large networks: a CPU needs seconds for one step at full size.
CASES = {
    "softmax": Case((28, 28, 1), 256),
    "mlp": Case((28, 28, 1), 256),
    "mlp_dropout": Case((28, 28, 1), 256),
    "lenet": Case((28, 28, 1), 256),
    "lenet_max": Case((28, 28, 1), 256),
    "cifar_quick": Case((32, 32, 3), 64),
    "alexnet": Case((96, 96, 1), 16),
    "vgg11": Case((64, 64, 1), 128, {"width": 0.25}),
    "nin": Case((96, 96, 1), 32),
    "googlenet": Case((96, 96, 1), 32),
    "resnet18": Case((64, 64, 3), 16, {"stages": ((2, 16), (2, 32), (2, 64), (2, 128))}),
    "resnet34": Case((64, 64, 3), 16, {"stages": ((3, 16), (4, 32), (6, 64), (3, 128))}),
    "resnet50": Case((64, 64, 3), 16, {"stages": ((3, 16), (4, 32), (6, 64), (3, 128))}),
    "resnet101": Case((64, 64, 3), 16, {"stages": ((3, 16), (4, 32), (23, 64), (3, 128))}),
    "resnet152": Case((64, 64, 3), 16, {"stages": ((3, 16), (8, 32), (36, 64), (3, 128))}),
    "resnext50_32x4d": Case(
        (64, 64, 3), 16, {"stages": ((3, 16), (4, 32), (6, 64), (3, 128)), "groups": 8}
    ),
    "resnet18_book": Case((96, 96, 1), 16, {"stages": ((2, 16), (2, 32), (2, 64), (2, 128))}),
    **{f"resnet{depth}": Case((32, 32, 3), 32) for depth in (20, 32, 44, 56, 110)},
    "plain20": Case((32, 32, 3), 32),
    "wrn16_4": Case((32, 32, 3), 16, {"stages": ((2, 32), (2, 64), (2, 128))}),
    "wrn28_10": Case((32, 32, 3), 16, {"stages": ((4, 32), (4, 64), (4, 128))}),
    "densenet121": Case((64, 64, 3), 16, {"growth_rate": 8}),
    "densenet_book": Case((96, 96, 1), 16, {"growth_rate": 16}),
    "regnetx_3_2gf": Case(
        (64, 64, 3), 16, {"stages": ((2, 24), (6, 48), (15, 120), (2, 240)), "group_width": 24}
    ),
    "regnetx32_book": Case((96, 96, 1), 16),
    "alexnet_torchvision": Case((96, 96, 3), 16),
    "googlenet_torchvision": Case((96, 96, 3), 32),
}
FULL = {
    "alexnet": Case((224, 224, 1), 128),
    "vgg11": Case((224, 224, 1), 128),
    "nin": Case((224, 224, 1), 128),
    "googlenet": Case((96, 96, 1), 128),
    "resnet18": Case((224, 224, 3), 128),
    "resnet34": Case((224, 224, 3), 128),
    **{f"resnet{depth}": Case((224, 224, 3), 64) for depth in (50, 101, 152)},
    "resnext50_32x4d": Case((224, 224, 3), 64),
    "resnet18_book": Case((96, 96, 1), 256),
    **{f"resnet{depth}": Case((32, 32, 3), 128) for depth in (20, 32, 44, 56, 110)},
    "plain20": Case((32, 32, 3), 128),
    "wrn16_4": Case((32, 32, 3), 128),
    "wrn28_10": Case((32, 32, 3), 128),
    "densenet121": Case((224, 224, 3), 64),
    "densenet_book": Case((96, 96, 1), 256),
    "regnetx_3_2gf": Case((224, 224, 3), 64),
    "regnetx32_book": Case((96, 96, 1), 128),
    "alexnet_torchvision": Case((224, 224, 3), 128),
    "googlenet_torchvision": Case((224, 224, 3), 128),
}


def random_images(case: Case, batches: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns random uint8 images [batches × B, H, W, C] and labels below 10."""
    rng = np.random.default_rng(0)
    count = batches * case.batch_size
    images = rng.integers(0, 256, (count, *case.shape), np.uint8)
    return images, rng.integers(0, 10, count).astype(np.int32)


def make_settings(name: str, case: Case, values: Mapping[str, Any]) -> config.Config:
    """Returns a network's configuration with plain SGD and these values, by their paths.

    Raises:
      ConfigError: they can't work.
    """
    settings = config.Config(
        model=config.ModelConfig(name=name, **case.options),
        optimizer=config.OptimizerConfig(learning_rate=0.01),
        batch_size=case.batch_size,
        eval_batch_size=case.batch_size,
    )
    settings = config.resolve(config.with_values(settings, values))
    config.check(settings)
    return settings


def build_case(name: str, case: Case, values: Mapping[str, Any], batches: int) -> Experiment:
    """Returns what `make_settings` describes, ready to train on so many random batches."""
    settings = make_settings(name, case, values)
    images, labels = random_images(case, batches)
    dataset = data.Dataset(images, labels, images[:10], labels[:10], tuple("0123456789"), "random")
    return build(settings, dataset)
