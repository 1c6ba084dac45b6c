"""An index of the records in files, made once and kept beside them."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import files, text
from cnn_jax.data import notes, npz, pictures
from cnn_jax.errors import DataError

Arrays = dict[str, np.ndarray]


def identify(found: Sequence[Path], root: Path, times: bool = True) -> str:
    """Returns a SHA-256 of the names and sizes of files below `root`, and of when they changed.

    Raises:
      DataError: the system refuses.
    """
    digest = hashlib.sha256()
    for file in found:
        try:
            status = os.stat(file)
        except OSError as error:
            raise pictures.cannot_read(file, error) from error
        name = os.path.relpath(file, root)
        changed = status.st_mtime_ns if times else 0
        digest.update(os.fsencode(f"{name}\0{status.st_size} {changed}\0"))
    return digest.hexdigest()


def load(file: Path, identity: str, make: Callable[[], Arrays]) -> Arrays:
    """Returns the arrays kept in `file` for this identity, or makes them and keeps them there.

    Where the system refuses to keep them, a warning says so.
    """
    kept = _read(file, identity)
    if kept is not None:
        return kept
    made: dict[str, Any] = make()
    try:
        with files.replacing(file) as stream:
            np.savez(stream, identity=np.frombuffer(bytes.fromhex(identity), np.uint8), **made)
    except OSError as error:
        notes.warn(
            [
                f"{text.one_line(str(file))} is not kept ({files.say_reason(error)}); the records "
                "are indexed again next time"
            ]
        )
    return made


def _read(file: Path, identity: str) -> Arrays | None:
    """What is kept; None if there is nothing, or if it is of other files or damaged."""
    try:
        with files.open_regular(file) as stream:
            archive = npz.Archive(stream)
            arrays = archive.read(archive.names, str(file))
    except (OSError, ValueError, DataError):
        return None
    known = arrays.pop("identity", None)
    if known is None or known.tobytes().hex() != identity:
        return None
    return arrays
