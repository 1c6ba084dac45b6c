"""Decoded arrays kept beside their sources, so that a second start only reads one file.

The file is an uncompressed .npz, whose members carry CRC-32 sums: a damaged cache is noticed and
rebuilt. It remembers size and time of the files it was made from; a source that has changed since
makes it stale, one that is gone does not.
"""

import functools
import json
import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cnn_jax.data.dataset import ARRAY_FILE_ERRORS, Dataset, fingerprint

Snapshot = dict[Path, list[int] | None]

MAX_BYTES = 4 << 30  # a larger set is decoded each time rather than doubled on disk
_FORMAT = 1  # raise when the meaning of a cached file changes
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def _stat(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def read(path: Path) -> Dataset | None:
    """The data set cached at `path`, or None when there is none, it is stale or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            if about["format"] != _FORMAT:
                return None
            folder = path.parent.resolve()
            for source, status in about["sources"].items():
                if _stat(folder / source) not in (None, status):
                    return None
            arrays = {name: file[name] for name in _ARRAYS}
        digest = fingerprint(*arrays.values())
    except FileNotFoundError:
        return None
    except ARRAY_FILE_ERRORS as error:
        logging.warning("%s is unreadable (%s); it is made again from its sources", path, error)
        return None
    return Dataset(
        **arrays,
        class_names=tuple(about["class_names"]),
        provenance=about["provenance"],
        fingerprint=digest,
    )


def snapshot(files: Iterable[Path]) -> Snapshot:
    """Size and time of each file; taken before decoding, so that no later change goes unnoticed."""
    return {file: _stat(file) for file in files}


def write(path: Path, dataset: Dataset, sources: Snapshot) -> None:
    """Keeps `dataset`, made from the files `sources`, at `path`; atomic, so runs may share it.

    A folder that cannot be written costs only the time of decoding again.
    """
    arrays = {name: getattr(dataset, name) for name in _ARRAYS}
    if sum(array.nbytes for array in arrays.values()) > MAX_BYTES:
        return
    # The way to a source as the system walks it, in which '..' leads to the target of a link.
    resolved = functools.cache(os.path.realpath)
    ways = {
        os.path.relpath(os.path.join(resolved(file.parent), file.name), resolved(path.parent)): stat
        for file, stat in sources.items()
    }
    about = {
        "format": _FORMAT,
        "sources": ways,
        "class_names": dataset.class_names,
        "provenance": dataset.provenance,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            try:
                np.savez(file, about=np.array(json.dumps(about)), **arrays)
                file.close()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        logging.warning("%s is not kept (%s); decoding is repeated next time", path, error)
