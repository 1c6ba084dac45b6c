"""What a run's figures are drawn from: its network, its test set, and images chosen of that."""

import functools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cnn_jax import checkpoints, data, records, text
from cnn_jax.data import sampling
from cnn_jax.inspection import trained_network

SEED = 0  # of the choice of images
CLASSES = 2  # whose feature maps are drawn if none are named


class Evaluated:
    """A run's network, its test set and what it makes of it; each computed when first needed."""

    def __init__(self, run: pathlib.Path, checkpoint: checkpoints.Which = "last") -> None:
        self.run, self.checkpoint = run, checkpoint

    @functools.cached_property
    def network(self) -> trained_network.Trained:
        """The network."""
        return trained_network.load(self.run, self.checkpoint)

    @functools.cached_property
    def dataset(self) -> data.AnyDataset:
        """Its data set; raises what `trained_network.load_data` raises."""
        return trained_network.load_data(self.run, self.network.config.dataset)

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """Those of the classes, for the test images: [N, classes]."""
        return self.network.probabilities(self.dataset.test)

    @property
    def guesses(self) -> np.ndarray:
        """The likeliest classes, [N]."""
        return self.probabilities.argmax(1)

    @property
    def name(self) -> str:
        """The network and the data set."""
        settings = records.read_config(self.run)
        return f"{settings.model.name} on {data.short_name(settings.dataset.name)}"

    @property
    def title(self) -> str:
        """The same with the accuracy."""
        accuracy = (self.guesses == self.dataset.test_labels).mean()
        return f"{self.name}, accuracy {accuracy:.4f}"


class Chosen(NamedTuple):
    """An image whose feature maps are drawn."""

    name: str
    image: np.ndarray  # uint8 [H, W, C]
    truth: str | None = None  # its class, if that is known


def sample_over_classes(labels: np.ndarray, count: int, seed: int = SEED) -> np.ndarray:
    """Returns the indices of `count` examples at random, all classes as often as each other.

    With fewer examples than classes the classes are random too, each at most once.
    """
    order = sampling.permutation(len(labels), seed, 0, sampling.SUBSET)
    rank = np.empty(len(order), int)  # the how many-th of its class it is
    for label in np.unique(labels):
        (places,) = np.nonzero(labels[order] == label)
        rank[places] = np.arange(len(places))
    return order[np.argsort(rank, kind="stable")[:count]]


def choose_images(evaluated: Evaluated, classes: Sequence[str] = ()) -> list[Chosen]:
    """Returns a random test image of each of some classes, by default of CLASSES random ones.

    The same run has the same ones each time.

    Raises:
      DataError: there is no such class, or no image of it.
    """
    names, dataset = evaluated.network.class_names, evaluated.dataset
    labels = dataset.test_labels

    def read(index: int) -> np.ndarray:
        return dataset.test.read(np.array([index]), None)[0]

    if not classes:
        sample = sample_over_classes(labels, CLASSES)
        return [Chosen(names[labels[i]], read(i), names[labels[i]]) for i in sample]
    chosen = []
    for name in classes:
        label = data.match_class(name, names)
        if label is None:
            raise data.DataError(f"{name!r} is not a class of the run: {text.list_some(names)}.")
        found = np.flatnonzero(labels == label)
        if not len(found):
            raise data.DataError(f"the test set has no image of {names[label]}; give an --image.")
        first = found[sample_over_classes(labels[found], 1)[0]]
        chosen.append(Chosen(name, read(first), names[label]))
    return chosen


def read_images(evaluated: Evaluated, paths: Sequence[str]) -> list[Chosen]:
    """Returns the images of files, brought to the run's [H, W, C], by the names of the files.

    Raises:
      DataError: one can't be read.
    """
    network = evaluated.network
    height, width, channels = network.image_shape
    return [
        Chosen(file.stem, data.decode_picture(file, channels, (height, width), network.fit))
        for file in map(pathlib.Path, paths)
    ]
