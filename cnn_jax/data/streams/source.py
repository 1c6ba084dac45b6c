"""Where the bytes of a part of a data set come from, each example by its index.

Sources keep Grain's protocol of random access, `__len__` and `__getitem__`, can be pickled, and may
be read by several threads. They hold no picture, and at most 100 bytes for each in their index.
"""

import abc
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnn_jax import files, text
from cnn_jax.data import pictures
from cnn_jax.data.arrays import PARTS, VALIDATION
from cnn_jax.data.streams import decoding
from cnn_jax.errors import DataError

TESTS = ("test", *VALIDATION)  # what a test part may be called, in the order of preference


class Source(abc.ABC):
    """Labelled examples of one part of a data set, in a fixed order."""

    labels: np.ndarray  # int32 [n], indices into the names of the classes
    fingerprint: str  # SHA-256 of what tells these examples from others

    def __len__(self) -> int:
        return len(self.labels)

    @abc.abstractmethod
    def __getitem__(self, index: int) -> tuple[bytes, int]:
        """Returns the bytes and the label of an example; raises DataError if they can't be read."""

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """Returns what an example is called, in one line."""

    def pixels(self, index: int, channels: int) -> np.ndarray:
        """Returns an example's picture, uint8 [height, width, channels].

        Raises:
          PictureError: it is damaged.
        """
        return decoding.decode(self[index][0], self.name(index), channels)

    def digest(self, start: int, stop: int) -> str:
        """Returns a SHA-256 of what tells the examples start … stop − 1 from others."""
        return hashlib.sha256(f"{self.fingerprint} {start} {stop}".encode()).hexdigest()


class Parts(NamedTuple):
    """The parts of a data set as they were found."""

    train: Source
    test: Source | None  # None: a part is to be held out
    class_names: tuple[str, ...]
    origin: str  # in one line, what they are and where
    tested_on: str = "test"  # what the test part is called there


class Names:
    """Names of many files, as bytes one after the other."""

    def __init__(self, names: Iterable[bytes]) -> None:
        listed = list(names)
        self._text = b"".join(listed)
        lengths = np.fromiter(map(len, listed), np.int64, len(listed))
        self._ends = np.cumsum(lengths)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(self._text[start : self._ends[index]])


def show(path: Path | str) -> str:
    """Returns a path in one line."""
    return text.one_line(str(path))


def find_part(name: str) -> str | None:
    """Returns the part that a file or folder says it is, by a word in its name; else None.

    >>> find_part("ILSVRC2012_img_val"), find_part("train-00001"), find_part("trains")
    ('val', 'train', None)
    """
    words = re.split(r"[^a-z]+", name.lower())
    return next((part for part in PARTS if part in words), None)


def choose_test_part(path: Path, parts: Iterable[str]) -> str | None:
    """Returns which of the parts found in `path` is the test part, None if there is none.

    Raises:
      DataError: there is no training part, or two could be the test part.
    """
    found = list(parts)
    if "train" not in found:
        raise DataError(f"{show(path)} has no part called train; add it, or call it so.")
    others = [part for part in TESTS if part in found]
    if "test" not in found and len(others) > 1:
        raise DataError(
            f"{show(path)} has the parts {others[0]} and {others[1]}, either of which could be the "
            "test part; call one of them test."
        )
    return others[0] if others else None


def read_file(path: Path) -> bytes:
    """Returns the bytes of a picture file; raises DataError if the system refuses."""
    try:
        return files.read_bytes(path, pictures.MAX_FILE)
    except OSError as error:
        raise pictures.cannot_read(path, error) from error


def read_range(path: Path, offset: int, size: int) -> bytes:
    """Returns `size` bytes of a file; raises DataError if they aren't there any more."""
    try:
        with files.open_regular(path) as file:
            content = os.pread(file.fileno(), size, offset)
    except OSError as error:
        raise pictures.cannot_read(path, error) from error
    if len(content) < size:
        raise DataError(
            f"{show(path)} is shorter than it was when it was indexed; put the whole file back, or "
            "prepare the records again."
        )
    return content
