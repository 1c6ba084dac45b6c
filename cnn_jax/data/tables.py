"""A user's own data set as a table of numbers (CSV): a label and pixels, as Kaggle has MNIST."""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from cnn_jax import files, text
from cnn_jax.data import memory, notes
from cnn_jax.data.arrays import number_classes, split_off
from cnn_jax.data.dataset import Dataset, make_dataset
from cnn_jax.data.pictures import cannot_read
from cnn_jax.errors import DataError, DataNotFoundError

LABELS = ("label", "labels", "class", "target", "y")  # what the column of labels may be called
_MAX_LINE = 1 << 24  # bytes
_ROWS = 4096  # converted at a time


class Table(NamedTuple):
    """The images uint8 [n, H, H, 1] of a file, and its labels [n] if there are any."""

    images: np.ndarray
    labels: np.ndarray | None


def load_csv(path: str | Path, *, holdout: float | None = None, seed: int = 0) -> Dataset:
    """Reads a table with a row for each image: its label and its gray pixels, row by row.

    The first line may name the columns. `test.csv` beside `train.csv` (or any name with 'test' in
    the place of 'train') is the test part if it has labels; without one a part is held out.

    Args:
      path: the file.
      holdout: the fraction of each class that is held out; None is HOLDOUT, with a warning.
      seed: of the choice of the held-out part.

    Raises:
      DataError: one sentence that names the file and says what to do.
    """
    dataset, said = decode(Path(path), holdout=holdout, seed=seed)
    notes.warn(said)
    return dataset


def find_test(path: Path) -> Path:
    """Where the test part of a table would be; `path` itself if its name has no 'train' in it."""
    before, train, after = path.name.rpartition("train")
    return path.with_name(f"{before}test{after}") if train else path


def decode(path: Path, *, holdout: float | None = None, seed: int = 0) -> tuple[Dataset, list[str]]:
    """As `load_csv`; returns notes for the user too."""
    origin = named = f"table {_show(path)}"
    train = read_table(path)
    if train.labels is None:
        raise DataError(
            f"{_show(path)} has no labels (as Kaggle's test.csv), so that nothing can be learned "
            "or tested by it; give the file that has a column 'label', train.csv."
        )
    parts, said = [(train.images, train.labels)], []
    tested = find_test(path)
    if tested != path and tested.exists():
        test = read_table(tested)
        if test.labels is None:
            said = [
                f"{origin}: {tested.name} has no labels (as Kaggle's test.csv) and isn't used; a "
                "part of the labelled images is held out in its place"
            ]
        else:
            parts.append((test.images, test.labels))
    class_names = number_classes([labels for _, labels in parts], origin)
    if len(parts) == 1:
        first, second, origin, more = split_off(*parts[0], holdout, seed, origin)
        said += more
    else:
        first, second = parts
        origin += f", tested on {tested.name}"
        if holdout is not None:
            said.append(f"{named}: holdout={holdout} has no effect, as there is a test part")
    dataset = make_dataset(first, second, class_names, origin)
    return dataset, said + notes.find_oddities(dataset[:2], dataset[2:4], class_names, named)


def read_table(path: Path) -> Table:
    """Reads a file.

    Raises:
      DataError: it isn't a table of whole numbers, or can't be read.
    """
    try:
        with files.open_regular(path) as file:
            return _read(file, path)
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{_show(path)} does not exist; check the path.") from error
    except OSError as error:
        raise cannot_read(path, error) from error


def _read(file: BinaryIO, path: Path) -> Table:
    size = file.seek(0, 2)
    file.seek(0)
    memory.check_fits(size, _show(path), "give fewer rows")  # a pixel takes two bytes or more
    lines = _read_lines(file, path)
    head = next(lines, "")
    fields = [field.strip().strip('"').lower() for field in head.split(",")]
    named = not all(field.lstrip("-").isdigit() for field in fields)
    if named:
        label = next((fields.index(name) for name in LABELS if name in fields), None)
    else:
        lines = itertools.chain([head], lines)
        label = 0 if _side(len(fields) - 1) else None
    side = _side(len(fields) - (label is not None))
    if side is None:
        raise DataError(
            f"{_show(path)} has {len(fields)} columns, where a label and the pixels of a square "
            "gray image are expected, 785 for 28x28; give other images as an .npz."
        )
    images, labels = [], []
    while chunk := list(itertools.islice(lines, _ROWS)):
        values = _convert(chunk, len(fields), path)
        if label is not None:
            labels.append(values[:, label])
            values = np.delete(values, label, 1)
        if values.min() < 0 or values.max() > 255:
            raise DataError(
                f"{_show(path)} has pixels from {values.min()} to {values.max()}, where 0 to 255 "
                "are expected; scale them."
            )
        images.append(values.astype(np.uint8).reshape(-1, side, side, 1))
    if not images:
        raise DataError(f"{_show(path)} has no row of numbers; check what was saved.")
    return Table(np.concatenate(images), np.concatenate(labels) if labels else None)


def _side(pixels: int) -> int | None:
    """The side of a square image of so many pixels, None if there is none."""
    side = math.isqrt(max(pixels, 0))
    return side if side * side == pixels and side > 1 else None


def _read_lines(file: BinaryIO, path: Path) -> Iterator[str]:
    """The lines that aren't empty."""
    while line := file.readline(_MAX_LINE):
        if len(line) == _MAX_LINE:
            raise DataError(f"{_show(path)} has a line of {_MAX_LINE:,} bytes; it is no table.")
        if line.strip():
            yield line.decode("utf-8-sig", "replace").strip()


def _convert(lines: Sequence[str], columns: int, path: Path) -> np.ndarray:
    """Whole numbers [n, columns]."""
    try:
        values = np.loadtxt(lines, np.int64, delimiter=",", comments=None, quotechar='"', ndmin=2)
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"{_show(path)} is not a table of whole numbers ({text.one_line(str(error))}); save it "
            "anew, or give the images as an .npz."
        ) from error
    if values.shape[1] != columns:
        raise DataError(
            f"{_show(path)} has rows of {values.shape[1]} numbers and {columns} columns; save it "
            "anew."
        )
    return values


def _show(path: Path) -> str:
    return text.one_line(str(path))
