"""Files of prepared records, each made at once, with its piece of the index beside it."""

import contextlib
import hashlib
import io
import json
import re
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from cnn_jax import files
from cnn_jax.data.streams import cropping, kept_index
from cnn_jax.data.streams.raw import RawSource
from cnn_jax.data.streams.records import VERSION, Format, Shard
from cnn_jax.data.streams.settings import StreamConfig
from cnn_jax.data.streams.source import Parts, Source
from cnn_jax.data.streams.tars import BLOCK, INDEX
from cnn_jax.errors import DataError, PictureError

SHARD = 2048  # examples in a file
QUALITY = 95  # of JPEGs that are made

Report = Callable[[int, int], None]  # (examples done, of how many); by one thread at a time


class Plan(NamedTuple):
    """What is made of the parts of a data set."""

    parts: Parts
    output: Path
    format: Format
    size: int
    skip_damaged: bool

    def identity(self, source: Source, start: int, stop: int) -> str:
        """Returns a SHA-256 of what is made of some examples of a source."""
        classes = list(self.parts.class_names)
        described = [VERSION, self.format, self.size, QUALITY, classes, source.digest(start, stop)]
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()


class Piece(NamedTuple):
    """A file of records and its part of the index, in which `file` is 0."""

    shard: Shard
    rows: np.ndarray  # INDEX [examples]
    damaged: list[str]  # names of files that were left out


class DamagedError(DataError):
    """Files that can't be read, by name."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(", ".join(names))
        self.names = names


class _StoppedError(Exception):
    """Another thread has failed, or a person wants to stop."""


class Count:
    """Counts examples from several threads, and stops them."""

    def __init__(self, total: int, report: Report) -> None:
        self._total, self._report = total, report
        self._done, self._lock, self._stopped = 0, threading.Lock(), False

    def add(self, count: int) -> None:
        """Counts examples; raises _StoppedError after `stop`."""
        if self._stopped:
            raise _StoppedError
        with self._lock:
            self._done += count
            self._report(self._done, self._total)

    def stop(self) -> None:
        """Makes threads end at the next example."""
        self._stopped = True


def list_starts(source: Source) -> range:
    """Returns where the examples of each file begin."""
    return range(0, len(source), SHARD)


def load_piece(plan: Plan, name: str, source: Source, start: int, count: Count) -> Piece:
    """Makes the file of the examples from `start` on, unless it is there.

    Raises:
      DamagedError: some can't be read, and aren't to be left out.
    """
    stop = min(start + SHARD, len(source))
    stem = f"{name}-{start // SHARD:05d}"
    identity = plan.identity(source, start, stop)
    made = False

    def make() -> kept_index.Arrays:
        nonlocal made
        made = True
        piece = _make_piece(plan, stem, source, range(start, stop), count)
        about = json.dumps([piece.shard, piece.damaged]).encode()
        rows = piece.rows.view(np.uint8).reshape(-1)
        return {"about": np.frombuffer(about, np.uint8), "rows": rows}

    kept = plan.output / f"{stem}.npz"
    while True:
        arrays = kept_index.load(kept, identity, make)
        shard, damaged = json.loads(arrays["about"].tobytes())
        file = plan.output / shard["file"]
        if made or (file.is_file() and file.stat().st_size == shard["bytes"]):
            break
        kept.unlink()  # its records are gone
    if damaged and not plan.skip_damaged:
        raise DamagedError(damaged)
    if not made:
        count.add(stop - start)
    return Piece(shard, arrays["rows"].view(INDEX).reshape(-1), damaged)


class _Hashed:
    """A file that is written from the start on, and hashed."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.sha256, self.size = stream, hashlib.sha256(), 0

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        self.size += len(content)
        return self._stream.write(content)

    def tell(self) -> int:
        return self.size


def _make_piece(plan: Plan, stem: str, source: Source, indices: range, count: Count) -> Piece:
    """Writes a file of records.

    Raises:
      DamagedError: some can't be read, and aren't to be left out.
    """
    raw = plan.format == "raw"
    file = plan.output / f"{stem}.{'raw' if raw else 'tar'}"
    with files.writing(file), files.replacing(file) as stream:
        hashed: Any = _Hashed(stream)
        with (
            contextlib.nullcontext()
            if raw
            else tarfile.open(fileobj=hashed, mode="w", format=tarfile.USTAR_FORMAT) as tar
        ):
            rows, damaged = _write_records(plan, source, indices, count, hashed, tar)
        if damaged and not plan.skip_damaged:
            raise DamagedError(damaged)
    shard: Shard = {
        "file": file.name,
        "examples": len(rows),
        "bytes": hashed.size,
        "sha256": hashed.sha256.hexdigest(),
    }
    return Piece(shard, np.array(rows, INDEX), damaged)


def _write_records(
    plan: Plan,
    source: Source,
    indices: range,
    count: Count,
    hashed: _Hashed,
    tar: tarfile.TarFile | None,
) -> tuple[list[tuple[int, int, int, int]], list[str]]:
    """Writes to a tar or as they are; returns rows of the index and the names of damaged files."""
    rows: list[tuple[int, int, int, int]] = []
    damaged: list[str] = []
    for index in indices:
        label = int(source.labels[index])
        count.add(1)
        try:
            content, suffix = convert(source, index, plan.format, plan.size)
        except PictureError:
            damaged.append(source.name(index))
            continue
        rows.append((0, hashed.tell() + (BLOCK if tar else 0), len(content), label))
        if tar:
            name = _name_member(plan.parts.class_names[label], source.stem(index), suffix)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        else:
            hashed.write(content)
    return rows, damaged


def _name_member(class_name: str, stem: str, suffix: str) -> str:
    """What a record is called in its tar: its class and its file, in letters of ASCII."""
    folder, name = (re.sub(r"[^\w.-]", "_", one, flags=re.ASCII) for one in (class_name, stem))
    return f"{folder[:30].lstrip('.') or '_'}/{name[-50:].lstrip('.') or '_'}.{suffix}"


def convert(source: Source, index: int, form: Format, size: int) -> tuple[bytes, str]:
    """Returns the bytes of a record and the suffix of its name.

    Raises:
      PictureError: the picture is damaged.
    """
    image = source.pixels(index, 3)
    if form == "raw":
        settings = StreamConfig(size=size, short_side=size)
        return np.ascontiguousarray(cropping.crop(image, settings)).tobytes(), "raw"
    stream = io.BytesIO()
    if form == "jpeg_short_side":
        scaled = cropping.scale_to_short_side(image.shape[0], image.shape[1], size)
        resized = cropping.resize_by_pillow(image, scaled)
        Image.fromarray(resized).save(stream, "JPEG", quality=QUALITY)
        return stream.getvalue(), "jpg"
    if isinstance(source, RawSource):  # which has no files
        Image.fromarray(image).save(stream, "PNG")
        return stream.getvalue(), "png"
    content, _ = source[index]
    kinds = {b"\xff\xd8": "jpg", b"\x89P": "png", b"GI": "gif", b"BM": "bmp", b"RI": "webp"}
    return content, kinds.get(content[:2], "img")
