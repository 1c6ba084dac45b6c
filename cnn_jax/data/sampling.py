"""Which examples, in which order: epochs, batches, held-out parts, subsets.

Every draw is a function of its arguments alone, on every platform and NumPy version. NumPy promises
that for the raw 64-bit stream of its bit generators only, so permutations are made by sorting raw
draws of Philox, whose 128-bit key holds (seed, epoch): different pairs are different streams.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from cnn_jax.data.dataset import AnyDataset, Dataset, select
from cnn_jax.errors import DataError

D = TypeVar("D", bound=AnyDataset)

# The purpose of a stream, in the top word of the counter.
EPOCH, SUBSET, SHAPES, CROPS = range(4)


def stream(seed: int, index: int, purpose: int) -> np.random.Philox:
    """The raw random stream that belongs to (seed, index, purpose) and to nothing else."""
    for name, value in (("seed", seed), ("index", index)):
        if not 0 <= value < 1 << 64:
            raise DataError(f"{name} must lie in 0 … 2**64 - 1, got {value}.")
    return np.random.Philox(
        key=np.array([seed, index], np.uint64), counter=np.array([0, 0, 0, purpose], np.uint64)
    )


def permutation(n: int, seed: int, index: int, purpose: int) -> np.ndarray:
    """A random permutation of 0 … n-1, int32 `[n]`."""
    # A stable sort, as even a tie of 64-bit draws must have one order.
    draws = stream(seed, index, purpose).random_raw(n)
    return np.argsort(draws, kind="stable").astype(np.int32)


def uniform(generator: np.random.Philox, shape: tuple[int, ...]) -> np.ndarray:
    """Float64 numbers in [0, 1): the upper 53 bits of the generator's next draws."""
    draws = generator.random_raw(math.prod(shape))
    return ((draws >> np.uint64(11)) * 2.0**-53).reshape(shape)


def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """A permutation of 0 … n-1, int32 `[n]`, that depends on (seed, epoch) alone."""
    return permutation(n, seed, epoch, EPOCH)


def batches(order: np.ndarray, batch_size: int, drop_last: bool) -> tuple[np.ndarray, np.ndarray]:
    """Cuts `order` into batches of equal shape.

    A last batch that is not full is either left out or padded with index 0 at weight 0, so that
    weighted sums over all batches count every example of `order` exactly once.

    >>> batches(np.array([4, 2, 3]), batch_size=2, drop_last=False)
    (array([[4, 2],
           [3, 0]], dtype=int32), array([[1., 1.],
           [1., 0.]], dtype=float32))

    Returns:
      indices int32 `[steps, batch_size]` and weights float32 `[steps, batch_size]`.

    Raises:
      ValueError: no batch would be left.
    """
    n = len(order)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    steps = n // batch_size if drop_last else -(-n // batch_size)
    if steps == 0:
        raise ValueError(
            f"batch_size {batch_size} is larger than the {n} examples, so drop_last leaves no "
            "batch; take a smaller batch_size or keep the last batch."
            if n
            else "there are no examples to make batches of."
        )
    size = steps * batch_size
    indices = np.zeros(size, np.int32)
    weights = np.zeros(size, np.float32)
    kept = min(n, size)
    indices[:kept] = order[:kept]
    weights[:kept] = 1.0
    return indices.reshape(steps, batch_size), weights.reshape(steps, batch_size)


def stratified(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Sorted indices of `n` examples, each class in its proportion.

    Each class's examples are put in random order, the j-th of m at (j + 1/2) / m, and the first n
    of all are taken (the Sainte-Laguë rule). So a smaller choice is part of a larger one.
    """
    order = permutation(len(labels), seed, 0, SUBSET)
    shuffled = labels[order]
    position = np.empty(len(labels))
    for label in np.unique(labels):
        (members,) = np.nonzero(shuffled == label)
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(order[np.argsort(position, kind="stable")[:n]])


def subset(dataset: D, n_train: int, seed: int) -> D:
    """Keeps `n_train` training examples, each class in its proportion; the test part stays.

    With the same seed a smaller subset is part of every larger one.

    Raises:
      DataError: there are not that many training examples.
    """
    n = len(dataset.train_labels)
    if not 1 <= n_train <= n:
        raise DataError(f"a subset needs between 1 and {n} training examples, got {n_train}.")
    keep = stratified(dataset.train_labels, n_train, seed)
    said = f"{n_train} of {n} training examples, seed {seed}"
    return _with_parts(dataset, select(dataset.train, keep), dataset.test, said)


def _with_parts(dataset: D, train: Any, test: Any, said: str, **changes: Any) -> D:
    """The data set with other parts, which `select` made of its own; `said` is what was done."""
    parts = {"train": train, "test": test}
    if isinstance(dataset, Dataset):
        parts = {"train_images": train.images, "train_labels": train.labels}
        parts |= {"test_images": test.images, "test_labels": test.labels}
    provenance = f"{dataset.provenance}; {said}"
    made: Any = dataset._replace(**parts, **changes, provenance=provenance)
    return made


def choose_classes(dataset: D, classes: Sequence[int]) -> D:
    """Keeps the examples of some classes, whose labels become their places in `classes`.

    Raises:
      DataError: there are not two different ones, one isn't there, or a part has no example left.
    """
    known, given = len(dataset.class_names), f"dataset.classes={','.join(map(str, classes))}"
    if len(set(classes)) < max(2, len(classes)):
        raise DataError(f"{given} must be at least two classes, each once.")
    for number in classes:
        if not 0 <= number < known:
            raise DataError(
                f"{given}: the data set has no class {number}; its {known} classes are numbered 0 "
                f"to {known - 1}."
            )
    new = np.full(known, -1, np.int32)
    new[list(classes)] = np.arange(len(classes))
    chosen = []
    for name, part in (("training", dataset.train), ("test", dataset.test)):
        labels = new[part.labels]
        (kept,) = np.nonzero(labels >= 0)
        if not len(kept):
            raise DataError(f"{given}: no {name} example is of these classes; choose others.")
        chosen.append(select(part, kept, labels[kept]))
    names = tuple(dataset.class_names[number] for number in classes)
    said = f"{len(classes)} of {known} classes"
    return _with_parts(dataset, chosen[0], chosen[1], said, class_names=names)


def holdout_mask(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Chooses round(n · fraction) examples, each class in its proportion: bool `[n]`.

    Raises:
      DataError: the fraction leaves nothing to train on or nothing to test.
    """
    n = len(labels)
    n_held_out = round(n * fraction) if 0.0 < fraction < 1.0 else 0
    if not 0 < n_held_out < n:
        raise DataError(
            f"holding out a fraction {fraction} of {n} training examples leaves one part empty; "
            "choose a fraction between 0 and 1 that leaves both."
        )
    mask = np.zeros(n, bool)
    mask[stratified(labels, n_held_out, seed)] = True
    return mask


def split(dataset: D, holdout_fraction: float, seed: int) -> D:
    """Puts a held-out part of the training set, each class in its proportion, in the test's place.

    Hyperparameters are chosen on such a split.

    Raises:
      DataError: the fraction leaves nothing to train on or nothing to test.
    """
    held_out = holdout_mask(dataset.train_labels, holdout_fraction, seed)
    train, test = (select(dataset.train, np.flatnonzero(kept)) for kept in (~held_out, held_out))
    said = (
        f"{held_out.sum()} of {len(held_out)} training examples held out as the test part, seed "
        f"{seed}"
    )
    return _with_parts(dataset, train, test, said)
