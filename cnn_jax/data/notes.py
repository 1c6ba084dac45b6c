"""Notes for the user, one line each, on data that load but look like a mistake."""

import warnings
from collections.abc import Iterable, Sequence

import numpy as np

FLAT = 16  # an image whose values differ by less is nearly of one value
_SHARE = 0.01  # the share of such images that is worth a note
_SHOWN = 5  # class names in a note

Split = tuple[np.ndarray, np.ndarray]


class DataWarning(UserWarning):
    """A note on data; the message is one line."""


def warn(notes: Iterable[str]) -> None:
    """Gives each note as a DataWarning, attributed to the caller's caller."""
    for note in notes:
        warnings.warn(note, DataWarning, stacklevel=3)


def describe_hold_out(origin: str, held_out: int, count: int, fraction: float, seed: int) -> str:
    """Notes that training examples are held out because there is no test part."""
    return (
        f"{origin}: there is no test part, so {held_out:,} of the {count:,} examples are held out "
        f"as one, chosen at random from each class (a fraction of {fraction:g}, seed {seed})"
    )


def find_oddities(train: Split, test: Split, class_names: Sequence[str], origin: str) -> list[str]:
    """Returns a note, beginning with `origin`, on each thing that looks like a mistake.

    `train` and `test` are images uint8 [n, H, W, C] and labels [n].
    """
    found = [*_labels(train[1], test[1], class_names), *_shape(train[0]), *_values(train[0])]
    return [f"{origin}: {line}" for line in found]


def _labels(train: np.ndarray, test: np.ndarray, class_names: Sequence[str]) -> list[str]:
    counts, tested = (
        np.bincount(labels.astype(np.int64), minlength=len(class_names)) for labels in (train, test)
    )
    found = []
    if not counts[0] and not tested[0]:
        found.append(
            f"no label is 0, so that class {class_names[0]!r} has no example; labels count from 0, "
            "so subtract 1 if yours count from 1"
        )
    strange = np.flatnonzero((counts == 0) & (tested > 0))
    if len(strange):
        found.append(
            f"{_name(strange, class_names)} in the test part but not in the training part, so "
            "that no network can learn it"
        )
    unused = np.flatnonzero((counts == 0) & (tested == 0))
    unused = unused[unused > 0]
    if len(unused):
        found.append(f"{_name(unused, class_names)} in neither part")
    return found


def _name(labels: np.ndarray, class_names: Sequence[str]) -> str:
    names = ", ".join(repr(class_names[label]) for label in labels[:_SHOWN])
    more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    return f"classes {names}{more} occur" if len(labels) > 1 else f"class {names} occurs"


def _shape(images: np.ndarray) -> list[str]:
    _, height, width, channels = images.shape
    if height <= 4 < min(width, channels):
        return [
            f"images of shape {list(images.shape)} are read as {height} pixels high and {width} "
            f"wide, with {channels} channels; if the channels come first, save "
            "images.transpose(0, 2, 3, 1)"
        ]
    if height == width == channels > 4:
        return [
            f"images of shape {list(images.shape)} are read as {height} pixels high and {width} "
            f"wide, with {channels} channels; if they are volumes, as in MedMNIST3D, no network "
            "here convolves over their depth"
        ]
    if channels == 1 and width <= 4 < height:
        return [
            f"images of shape {list(images.shape)} are read as gray, {height} pixels high and "
            f"{width} wide; if {width} is the number of channels, reshape them to [n, height, "
            f"width, {width}]"
        ]
    return []


def _values(images: np.ndarray) -> list[str]:
    axes = (1, 2, 3)
    low, high = images.min(axes), images.max(axes)
    if int(high.max()) - int(low.min()) < FLAT:
        return [
            f"all training images have values between {low.min()} and {high.max()} only, nearly "
            "black or of one value, where 0 to 255 are expected; check how they were converted"
        ]
    flat = int((high - low < FLAT).sum())
    if flat >= _SHARE * len(images):
        return [
            f"{flat:,} of the {len(images):,} training images are nearly of one value, as if empty"
        ]
    return []
