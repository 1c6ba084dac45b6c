"""What a plan needs to know of a data set that needn't be here: shapes and counts, no pixels."""

import inspect
import re
from typing import NamedTuple

import numpy as np

from cnn_jax import config, data, experiment, text
from cnn_jax.data.published import DATASETS
from cnn_jax.errors import UserError


class Facts(NamedTuple):
    """The shape [H, W, C] of the images as they are kept, the classes, and how many examples."""

    image_shape: tuple[int, ...]
    classes: int
    train: int
    test: int
    origin: str  # where these numbers come from


# Sets that can't be loaded here, by the last part of their path.
LARGE = {
    "imagenet": Facts((256, 256, 3), 1000, 1_281_167, 50_000, "ILSVRC 2012 at 256×256"),
}
FORM = "height,width,channels,classes,training examples,test examples"


def read_facts(given: str) -> Facts:
    """Reads '256,256,3,1000,1281167,50000'.

    Raises:
      UserError: it isn't that.
    """
    numbers = given.replace("_", "").split(",")
    if len(numbers) != 6 or not all(re.fullmatch("[1-9][0-9]{0,11}", n) for n in numbers):
        raise UserError(
            f"--data={text.one_line(given)} must be {FORM}, as in "
            "--data=256,256,3,1000,1281167,50000."
        )
    height, width, channels, classes, train, test = map(int, numbers)
    return Facts((height, width, channels), classes, train, test, "as given")


def stand_in(
    settings: config.DatasetConfig, given: Facts | None = None
) -> tuple[data.Dataset, str]:
    """Returns a data set of the right shapes, without memory, and where its numbers are from.

    `given` is what the user says of it. Published sets and generated ones are known, others are
    loaded.

    Raises:
      DataError: it is none of these, and not here.
    """
    facts = given or _find(settings.name)
    if facts is None:
        dataset = experiment.load_dataset(settings, keep=False)
        if isinstance(dataset, data.Dataset):
            return dataset, "as loaded"
        sizes = len(dataset.train_labels), len(dataset.test_labels)
        loaded = Facts(dataset.image_shape, len(dataset.class_names), *sizes, "as loaded")
        return _blank(loaded), loaded.origin
    train, test, classes = facts.train, facts.test, facts.classes
    if settings.classes:
        train = train * len(settings.classes) // classes
        test = max(1, test * len(settings.classes) // classes)
        classes = len(settings.classes)
    if settings.holdout:
        test = max(1, round(train * settings.holdout))
        train -= test
    if settings.train_examples:
        if settings.train_examples > train:
            raise config.ConfigError(
                f"config.dataset.train_examples={settings.train_examples} are more than the "
                f"{train:,} that there are."
            )
        train = settings.train_examples
    return _blank(facts._replace(train=train, test=test, classes=classes)), facts.origin


def _find(name: str) -> Facts | None:
    """What is known of a data set without loading it."""
    kind, options = data.parse_name(name)
    if kind in DATASETS:
        info = DATASETS[kind]
        count = len(info.class_names)
        return Facts(info.image_shape, count, info.train_size, info.test_size, "as published")
    if kind == "synthetic":
        defaults = {k: p.default for k, p in inspect.signature(data.synthetic).parameters.items()}
        chosen = {**defaults, **options}
        shape = (chosen["size"], chosen["size"], chosen["channels"])
        return Facts(shape, chosen["classes"], chosen["train"], chosen["test"], "as generated")
    short = kind.rstrip("/").rpartition("/")[2].lower()
    if short in LARGE:
        facts = LARGE[short]
        side = options.get("size")
        if side:
            origin = f"ILSVRC 2012 at {side}×{side}"
            facts = facts._replace(image_shape=(side, side, 3), origin=origin)
        return facts
    return None


def _blank(facts: Facts) -> data.Dataset:
    """Zeros that are kept once."""

    def zeros(dtype: type, *shape: int) -> np.ndarray:
        return np.broadcast_to(np.zeros((), dtype), shape)

    return data.Dataset(
        zeros(np.uint8, facts.train, *facts.image_shape),
        zeros(np.int32, facts.train),
        zeros(np.uint8, facts.test, *facts.image_shape),
        zeros(np.int32, facts.test),
        tuple(map(str, range(facts.classes))),
        facts.origin,
    )
