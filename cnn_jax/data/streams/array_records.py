"""ArrayRecord files of tf.train.Example, as TFDS prepares sets; read without TFDS or TensorFlow.

The examples have the features `image`, the bytes of a picture file, and `label`, a whole number. A
file `label.labels.txt`, as TFDS writes it, or `labels.txt` has the names of the classes.
"""

import hashlib
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import files, text
from cnn_jax.data import names, pictures
from cnn_jax.data.streams import kept_index
from cnn_jax.data.streams.source import Parts, Source, choose_test_part, find_part, show
from cnn_jax.errors import DataError

MAX_NAMES = 1 << 24  # bytes of a file of class names


class ArrayRecordSource(Source):
    """Examples in ArrayRecord files."""

    def __init__(self, found: Sequence[Path], labels: np.ndarray, fingerprint: str) -> None:
        self._files, self.labels, self.fingerprint = tuple(found), labels, fingerprint
        self._records = open_records(found)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        example = parse_example(self._records[index], self.name(index))
        image = example.get("image")
        if not isinstance(image, bytes):
            raise DataError(
                f"{self.name(index)} has no bytes called image (it has "
                f"{text.list_some(sorted(example))}); write the picture's file there."
            )
        return image, int(self.labels[index])

    def name(self, index: int) -> str:
        """Returns the first file of the part, and the number of the record."""
        return f"{show(self._files[0])}: record {index} of its part"


def open_records(found: Sequence[Path]) -> Any:
    """Opens ArrayRecord files as one sequence of bytes.

    Raises:
      DataError: array_record isn't installed, or a file is damaged.
    """
    try:
        module = importlib.import_module("array_record.python.array_record_data_source")
    except ImportError as error:
        raise DataError(
            "ArrayRecord files need the package array_record, which isn't installed; run `pip "
            "install array_record`."
        ) from error
    try:
        return module.ArrayRecordDataSource([str(file) for file in found])
    except Exception as error:  # whatever fits the library
        raise DataError(
            f"{show(found[0])} and others can't be read as ArrayRecord files "
            f"({text.one_line(' '.join(str(error).split()))}); write them again."
        ) from error


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer by number: whole numbers and bytes."""
    at, end = 0, len(content)

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = content[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < end:
        tag = varint()
        kind = tag & 7
        if kind == 0:
            yield tag >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(kind) if kind != 2 else varint()
        if size is None or at + size > end:
            raise ValueError("no protocol buffer")
        yield tag >> 3, content[at : at + size]
        at += size


def parse_example(content: bytes, name: str) -> dict[str, bytes | int | None]:
    """Returns the first value of each feature of a tf.train.Example; floats are None.

    Raises:
      DataError: it is none.
    """
    try:
        found: dict[str, bytes | int | None] = {}
        for number, features in _fields(content):
            for _, entry in _fields(features) if number == 1 else ():
                parts = dict(_fields(entry))
                found[parts[1].decode()] = _first_value(parts.get(2, b""))
        return found
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{name} is no tf.train.Example; write one with the features image and label."
        ) from error


def _first_value(feature: bytes) -> bytes | int | None:
    for kind, values in _fields(feature):
        if kind == 1:
            return next((bytes(value) for _, value in _fields(values)), None)
        if kind == 3:
            for _, value in _fields(values):
                if isinstance(value, int):
                    return value
                return next(number for _, number in _fields(b"\x08" + value))
    return None


def recognize(path: Path) -> bool:
    """Whether a path is a folder with ArrayRecord files."""
    return path.is_dir() and bool(_list_files(path))


def _list_files(path: Path) -> list[Path]:
    return sorted(file for file in path.glob("*.array_record*") if file.is_file())


def open_parts(path: Path) -> Parts:
    """Opens a folder of ArrayRecord files; the labels are read once, and kept beside them.

    Raises:
      DataError: one sentence that names the file and says what to do.
    """
    found: dict[str, list[Path]] = {}
    for file in _list_files(path):
        if part := find_part(file.name):
            found.setdefault(part, []).append(file)
    tested = choose_test_part(path, found)
    class_names = _read_names(path)
    listed = [file for part in found.values() for file in part]
    identity = kept_index.identify(listed, path)

    def read_labels() -> kept_index.Arrays:
        return {name: _read_labels(part) for name, part in found.items()}

    same = kept_index.identify(listed, path, times=False)
    labels = kept_index.load(path / "labels.npz", identity, read_labels)
    sources = {}
    for name in filter(None, ("train", tested)):
        own = labels[name].astype(np.int32)
        if len(own) == 0 or not 0 <= own.min() <= own.max() < len(class_names):
            raise DataError(
                f"{show(path)}: the labels of {name} don't fit the {len(class_names)} classes that "
                "are named; mend the names or the labels."
            )
        digest = hashlib.sha256(f"{same} {name}".encode() + own.tobytes()).hexdigest()
        sources[name] = ArrayRecordSource(found[name], own, digest)
    origin = f"ArrayRecord files in {show(path)}"
    return Parts(sources["train"], sources.get(tested or ""), class_names, origin, tested or "")


def _read_names(path: Path) -> tuple[str, ...]:
    candidates = [path / "label.labels.txt", path / "labels.txt"]
    file = next((file for file in candidates if file.exists()), None)
    if file is None:
        raise DataError(
            f"{show(path)} has no label.labels.txt or labels.txt; write the names of the classes "
            "there, one in each line."
        )
    try:
        lines = files.read_bytes(file, MAX_NAMES).decode().splitlines()
    except OSError as error:
        raise pictures.cannot_read(file, error) from error
    except ValueError as error:
        raise DataError(f"{show(file)} is not in UTF-8; save it so.") from error
    return names.clean((line for line in lines if line.strip()), show(file))


def _read_labels(found: Sequence[Path]) -> np.ndarray:
    records = open_records(found)
    labels = np.empty(len(records), np.int32)
    for index in range(len(records)):
        name = f"{show(found[0])}: record {index} of its part"
        label = parse_example(records[index], name).get("label")
        if not isinstance(label, int) or label >= 2**31:
            raise DataError(f"{name} has no whole number called label; write it there.")
        labels[index] = label
    return labels
