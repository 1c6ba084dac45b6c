"""Prepared records: tars or raw pixels with an index, and `records.json`, which says what they are.

`<part>-00000.tar` (or `.raw`) and so on have the records, `<part>.index.npy` where each lies.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np

from cnn_jax import files, schema
from cnn_jax.data import names, pictures
from cnn_jax.data.streams.raw import RawSource
from cnn_jax.data.streams.source import Parts, Source, choose_test_part, show
from cnn_jax.data.streams.tars import INDEX, TarSource
from cnn_jax.errors import DataError

ABOUT = "records.json"
VERSION = 1
MAX_INDEX = 1 << 32  # bytes
# 'jpeg': pictures as they are. 'jpeg_short_side': JPEGs with a short side of `size`. 'raw': uint8
# [size, size, 3].
Format = Literal["jpeg", "jpeg_short_side", "raw"]


class Shard(TypedDict):
    """A file of records."""

    file: str
    examples: int
    bytes: int
    sha256: str


class Part(TypedDict):
    """A part of a data set."""

    shards: list[Shard]
    index_sha256: str


class About(TypedDict):
    """What records.json holds."""

    version: int
    format: Format
    size: int  # 0 for 'jpeg'
    class_names: list[str]  # in the order of their labels
    parts: dict[str, Part]
    source: str  # what they were made of, in one line
    identity: str  # SHA-256 of what they were made of, and how
    skipped: list[str]  # the names of damaged files that were left out


def index_file(path: Path, part: str) -> Path:
    """Returns the file of a part's index, INDEX [n]."""
    return path / f"{part}.index.npy"


def recognize(path: Path) -> bool:
    """Whether a path is a folder of prepared records."""
    return (path / ABOUT).exists()


def read_about(path: Path) -> About:
    """Returns what the folder `path` says of its records.

    Raises:
      DataError: it is of another version.
      RunDirectoryError: it can't be read.
    """
    about: About = schema.read_json(path / ABOUT, About)
    if about["version"] != VERSION:
        raise DataError(
            f"{show(path / ABOUT)} is of version {about['version']}, and this is for {VERSION}; "
            "prepare the records again, or use the version that made them."
        )
    return about


def open_parts(path: Path) -> Parts:
    """Opens prepared records.

    Raises:
      DataError: a file is missing, or of another length than when it was made.
      RunDirectoryError: records.json can't be read.
    """
    about = read_about(path)
    tested = choose_test_part(path, about["parts"])
    class_names = names.clean(about["class_names"], show(path))
    test = _open_part(path, about, tested, len(class_names)) if tested else None
    train = _open_part(path, about, "train", len(class_names))
    origin = f"{about['format']} records in {show(path)}"
    return Parts(train, test, class_names, origin, tested or "")


def _open_part(path: Path, about: About, name: str, classes: int) -> Source:
    part = about["parts"][name]
    found = [path / Path(shard["file"]).name for shard in part["shards"]]
    sizes = np.array([_check_length(f, s) for f, s in zip(found, part["shards"], strict=True)])
    index = _read_index(index_file(path, name), part["index_sha256"])
    counts = [shard["examples"] for shard in part["shards"]]
    fits = len(index) == sum(counts) > 0 and index["file"].max() < len(found)
    fits = fits and 0 <= index["label"].min() <= index["label"].max() < classes
    if fits:
        ends = index["offset"].astype(np.int64) + index["size"]
        fits = bool((ends <= sizes[index["file"]]).all())
    if not fits:
        raise DataError(f"{show(path)}: the index of {name} doesn't fit its records; {_ADVICE}.")
    digest = hashlib.sha256(json.dumps([about["format"], part]).encode()).hexdigest()
    if about["format"] != "raw":
        return TarSource(found, index, digest)
    size = about["size"]
    if any(s["bytes"] != s["examples"] * size * size * 3 for s in part["shards"]):
        raise DataError(f"{show(path)}: its records aren't of the size {size}; {_ADVICE}.")
    return RawSource(found, counts, np.ascontiguousarray(index["label"]), size, digest)


_ADVICE = "put the original files back, or prepare the records again"


def _check_length(file: Path, shard: Shard) -> int:
    """The length of a shard, if it is what it should be."""
    try:
        length = file.stat().st_size
    except OSError as error:
        raise pictures.cannot_read(file, error) from error
    if length != shard["bytes"]:
        raise DataError(
            f"{show(file)} has {length:,} bytes where {shard['bytes']:,} were prepared; {_ADVICE}."
        )
    return length


def _read_index(file: Path, digest: str) -> np.ndarray:
    try:
        content = files.read_bytes(file, MAX_INDEX)
    except OSError as error:
        raise pictures.cannot_read(file, error) from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise DataError(f"{show(file)} isn't the index that was prepared; {_ADVICE}.")
    try:
        index: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
    except ValueError:
        index = np.empty(0)
    if index.dtype != INDEX or index.ndim != 1:
        raise DataError(f"{show(file)} is no index of records; {_ADVICE}.")
    return index
