"""The data set, and the checks that every source of one passes."""

import hashlib
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from cnn_jax.errors import DataError

ImageShape: TypeAlias = tuple[int, int, int]  # H, W, C


class Stream(Protocol):
    """A part of a data set, whose n images are read when they are needed."""

    @property
    def labels(self) -> np.ndarray:
        """The classes, int32 `[n]`, indices into the class names."""

    @property
    def image_shape(self) -> ImageShape:
        """The shape [H, W, C] of every image."""

    def __len__(self) -> int:
        """Returns n."""

    def read(self, indices: np.ndarray, epoch: int | None) -> np.ndarray:
        """Returns the images at `indices` [k], uint8 `[k, H, W, C]`; several threads may call it.

        They depend on the index and the epoch of training alone, which is None in evaluation.

        Raises:
          DataError: one can't be read.
        """


class ArrayStream:
    """A part of a data set in memory."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    @property
    def image_shape(self) -> ImageShape:
        """The shape [H, W, C] of every image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: np.ndarray, epoch: int | None) -> np.ndarray:
        """Returns a copy of the images at `indices`, the same ones in every epoch."""
        return self.images[indices]


class SelectedStream:
    """Some examples of a part, which may have other labels; each is read as it is there."""

    def __init__(self, part: Stream, indices: np.ndarray, labels: np.ndarray) -> None:
        self._part, self._indices, self.labels = part, indices, labels

    @property
    def image_shape(self) -> ImageShape:
        """The shape [H, W, C] of every image."""
        return self._part.image_shape

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: np.ndarray, epoch: int | None) -> np.ndarray:
        """Returns the images at `indices` of the chosen ones."""
        return self._part.read(self._indices[indices], epoch)


class Dataset(NamedTuple):
    """A labelled image set in memory, in its canonical order."""

    train_images: np.ndarray  # uint8 [n, H, W, C]
    train_labels: np.ndarray  # int32 [n], indices into class_names
    test_images: np.ndarray  # uint8 [m, H, W, C]
    test_labels: np.ndarray  # int32 [m]
    class_names: tuple[str, ...]
    provenance: str  # in one line, what the data are, where they were read, and the fingerprint
    # SHA-256 of the arrays, the same for every source; parts made by `split` or `subset` keep it.
    fingerprint: str = ""

    @property
    def train(self) -> Stream:
        """The training part."""
        return ArrayStream(self.train_images, self.train_labels)

    @property
    def test(self) -> Stream:
        """The test part."""
        return ArrayStream(self.test_images, self.test_labels)

    @property
    def image_shape(self) -> ImageShape:
        """The shape [H, W, C] of every image."""
        return self.train.image_shape


class StreamedDataset(NamedTuple):
    """A labelled image set that is read as it is needed, in its canonical order."""

    train: Stream
    test: Stream
    class_names: tuple[str, ...]
    provenance: str  # as of Dataset
    fingerprint: str  # SHA-256 of what identifies the files, the same for every part of them

    @property
    def train_labels(self) -> np.ndarray:
        """Those of the training part, int32 `[n]`."""
        return self.train.labels

    @property
    def test_labels(self) -> np.ndarray:
        """Those of the test part, int32 `[m]`."""
        return self.test.labels

    @property
    def image_shape(self) -> ImageShape:
        """The shape [H, W, C] of every image."""
        return self.train.image_shape


AnyDataset: TypeAlias = Dataset | StreamedDataset


def select(part: Stream, indices: np.ndarray, labels: np.ndarray | None = None) -> Stream:
    """Returns the examples of a part at some indices, with other labels than theirs if given.

    Those of a part in memory are copied.
    """
    labels = part.labels[indices] if labels is None else labels
    if isinstance(part, ArrayStream):
        return ArrayStream(part.images[indices], labels)
    # A stream that replaces damaged pictures then does so by chosen ones.
    take = getattr(part, "take", None)
    selected: Stream = take(indices, labels) if take else SelectedStream(part, indices, labels)
    return selected


def check_split(part: str, images: np.ndarray, labels: np.ndarray, origin: str) -> None:
    """Raises DataError unless images and labels of the part 'train' or 'test' are well formed."""
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(
            f"{origin}: {part}_images must be uint8 [n, height, width, channels] with values 0 to "
            f"255, but they are {images.dtype} {list(images.shape)}; {_advise_images(images)}."
        )
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{origin}: {part}_labels must be whole numbers [n], one per image, but they are "
            f"{labels.dtype} {list(labels.shape)}; {_advise_labels(labels)}."
        )
    if len(images) != len(labels):
        raise DataError(
            f"{origin}: {part} has {len(images)} images but {len(labels)} labels; give one label "
            "per image."
        )
    if 0 in images.shape:
        raise DataError(
            f"{origin}: {part}_images are empty, shape {list(images.shape)}; give some."
        )


def _advise_images(images: np.ndarray) -> str:
    """What to do with images that aren't uint8 [n, H, W, C]."""
    if images.ndim not in (3, 4):
        return "reshape them to [n, height, width, channels]"
    if images.dtype == bool:
        return "save images.astype(np.uint8) * 255"
    if images.dtype.kind not in "iuf" or not images.size:
        return "convert them"
    low, high = images.min(), images.max()
    if images.dtype.kind == "f" and low >= 0 and high <= 1:
        return "their values are 0 to 1, so save np.rint(images * 255).astype(np.uint8)"
    if low >= 0 and high <= 255:
        rounded = "np.rint(images)" if images.dtype.kind == "f" else "images"
        return f"their values are {low:g} to {high:g}, so save {rounded}.astype(np.uint8)"
    return f"their values are {low:g} to {high:g}, so scale them to 0 to 255 first"


def _advise_labels(labels: np.ndarray) -> str:
    """What to do with labels that aren't integers [n]."""
    if labels.ndim == 2 and labels.dtype.kind in "biuf" and ((labels != 0).sum(1) != 1).any():
        return "an image has one class here, and rows that mark none or several can't be learned"
    if labels.ndim == 2 and labels.dtype.kind in "biuf":
        return "if each row marks one class, save labels.argmax(1)"
    if labels.ndim == 1 and labels.dtype.kind in "US":
        return (
            "save names, labels = np.unique(labels, return_inverse=True), the names as class_names"
        )
    if labels.ndim == 1 and labels.dtype.kind in "bf":
        return "save labels.astype(np.int64)"
    return "convert them"


def make_dataset(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    class_names: tuple[str, ...],
    origin: str,
) -> Dataset:
    """Makes a data set of (images, labels) pairs; `origin` says what it is and from where.

    Raises:
      DataError: types, shapes or labels do not fit together.
    """
    check_parts(train, test, class_names, origin)
    arrays = (train[0], train[1].astype(np.int32), test[0], test[1].astype(np.int32))
    digest = fingerprint(*arrays)
    provenance = f"{origin}; arrays sha256 {digest[:16]}"
    return Dataset(*arrays, tuple(class_names), provenance, digest)


def check_parts(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    class_names: tuple[str, ...],
    origin: str,
) -> None:
    """Raises DataError if images, labels and class names don't fit together."""
    for part, (images, labels) in (("train", train), ("test", test)):
        check_split(part, images, labels, origin)
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(class_names):
            raise DataError(
                f"{origin}: {part}_labels run from {low} to {high}, but {len(class_names)} "
                f"classes need labels 0 to {len(class_names) - 1}; correct the labels."
            )
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(
            f"{origin}: training images are {list(train[0].shape[1:])} but test images are "
            f"{list(test[0].shape[1:])} (height, width, channels); make them equal."
        )


def fingerprint(*arrays: np.ndarray) -> str:
    """SHA-256 (hexadecimal) of the types, shapes and values of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array)
    return digest.hexdigest()
