"""Decoded arrays kept on disk, so that a second start reads one file only.

The file is an uncompressed .npz with the identities of its sources and with checksums. A source
that has changed makes it stale, one that is gone doesn't; a damaged file is made again.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from cnn_jax import files, text
from cnn_jax.data import notes, npz
from cnn_jax.data.dataset import Dataset, fingerprint

Snapshot = dict[Path, list[int] | None]

MAX_BYTES = 4 << 30  # a larger set is decoded each time rather than doubled on disk
_FORMAT = 2  # raise when the meaning of a cached file changes
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
_DIGEST = 64  # characters of a SHA-256


class Kept(NamedTuple):
    """A data set, and notes for the user about it."""

    dataset: Dataset
    notes: tuple[str, ...] = ()


def identify(status: os.stat_result) -> list[int]:
    """What tells a file from another one that took its place, or its content from a later one."""
    # Unlike the mtime, the ctime can't be set back.
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _identify(path: str) -> list[int] | None:
    try:
        return identify(os.stat(path))
    except OSError:
        return None


def snapshot(sources: Iterable[Path]) -> Snapshot:
    """The identity of each file, taken before reading so that no later change goes unnoticed."""
    return {file: _identify(str(file)) for file in sources}


def read(path: Path) -> Kept | None:
    """What is kept at `path`; None if there is nothing, or if it is stale or damaged."""
    try:
        with files.open_regular(path) as file:
            return _read(file, path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # libraries raise anything on damage
        reason = files.say_reason(error) if isinstance(error, OSError) else f"damaged: {error}"
        notes.warn(
            [
                f"{text.one_line(str(path))} can't be used ({text.one_line(reason)}); the data are "
                "read from their sources again"
            ]
        )
        return None


def _read(file: BinaryIO, path: Path) -> Kept | None:
    archive = npz.Archive(file)
    about = _read_about(archive)
    if about is None or about["format"] != _FORMAT:
        return None
    folder = os.path.realpath(path.parent)
    for source, known in about["sources"].items():
        if _identify(os.path.join(folder, source)) not in (None, known):
            return None
    arrays = archive.read(_ARRAYS, str(path))
    digest = fingerprint(*arrays.values())
    if digest != about["fingerprint"]:
        raise npz.DamagedError("its arrays are not those that were kept")
    dataset = Dataset(
        **arrays,
        class_names=tuple(about["class_names"]),
        provenance=about["provenance"],
        fingerprint=digest,
    )
    return Kept(dataset, tuple(about["notes"]))


def _read_about(archive: npz.Archive) -> dict[str, Any] | None:
    """What the file says about its arrays; None if it is of the first format."""
    content = archive.read(["about"], "it")["about"]
    if content.dtype.kind == "U":
        return None
    raw = content.tobytes()
    if hashlib.sha256(raw[_DIGEST:]).hexdigest().encode() != raw[:_DIGEST]:
        raise npz.DamagedError("what it says of its arrays isn't what was kept")
    about = json.loads(raw[_DIGEST:])
    if not isinstance(about, dict):
        raise npz.DamagedError("it says nothing of its arrays")
    return about


def write(path: Path, kept: Kept, sources: Snapshot) -> None:
    """Keeps a data set made from `sources` at `path`, atomically, so that runs may share it.

    If the system refuses, a warning says so.
    """
    dataset = kept.dataset
    arrays = {name: getattr(dataset, name) for name in _ARRAYS}
    if sum(array.nbytes for array in arrays.values()) > MAX_BYTES:
        return
    # Relative paths as the system resolves them, where '..' follows a link.
    resolved = functools.cache(os.path.realpath)
    folder = resolved(path.parent)
    ways = {
        os.path.relpath(os.path.join(resolved(file.parent), file.name), folder): known
        for file, known in sources.items()
    }
    about = {
        "format": _FORMAT,
        "sources": ways,
        "class_names": dataset.class_names,
        "provenance": dataset.provenance,
        "fingerprint": dataset.fingerprint,
        "notes": kept.notes,
    }
    raw = json.dumps(about).encode()
    raw = hashlib.sha256(raw).hexdigest().encode() + raw
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as file:
            np.savez(file, about=np.frombuffer(raw, np.uint8), **arrays)
    except OSError as error:
        notes.warn(
            [
                f"{text.one_line(str(path))} is not kept ({files.say_reason(error)}); the data are "
                "read from their sources next time too"
            ]
        )
