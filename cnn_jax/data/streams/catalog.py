"""The kinds of sources of data that are read as they are needed, and `load`."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cnn_jax.data import notes, sampling
from cnn_jax.data.arrays import HOLDOUT
from cnn_jax.data.dataset import StreamedDataset
from cnn_jax.data.streams import array_records, cropping, folders, records, tars
from cnn_jax.data.streams.settings import StreamConfig
from cnn_jax.data.streams.source import Parts, show
from cnn_jax.data.streams.stream import Stream
from cnn_jax.errors import DataError, DataNotFoundError

if TYPE_CHECKING:
    from cnn_jax.data.settings import DatasetConfig


class Kind(NamedTuple):
    """A kind of source."""

    what: str  # as a sentence names it
    recognize: Callable[[Path], bool]  # whether an existing path is of this kind
    open_parts: Callable[[Path], Parts]


# The first that recognizes a path opens it.
SOURCES: dict[str, Kind] = {
    "records": Kind("prepared records", records.recognize, records.open_parts),
    "array_record": Kind("ArrayRecord files", array_records.recognize, array_records.open_parts),
    "tars": Kind("tars of pictures", tars.recognize, tars.open_parts),
    "folder": Kind("class folders", folders.recognize, folders.open_parts),
}


def find_kind(path: Path) -> str | None:
    """Returns the name in SOURCES of what a path holds, None if nothing is known of it."""
    if not path.exists():
        return None
    return next((name for name, kind in SOURCES.items() if kind.recognize(path)), None)


def open_parts(path: Path) -> Parts:
    """Opens the data set at a path, of whichever kind of SOURCES it is.

    Raises:
      DataError: it is of none, or one sentence that names the file and says what to do.
    """
    if not path.exists():
        raise DataNotFoundError(f"{show(path)} does not exist; check the path.")
    name = find_kind(path)
    if name is None:
        kinds = ", ".join(kind.what for kind in SOURCES.values())
        raise DataError(f"{show(path)} holds none of {kinds}; give a path that does.")
    return SOURCES[name].open_parts(path)


def is_streamed(settings: "DatasetConfig") -> bool:
    """Whether a data set is read from its files as it is needed.

    Class folders are with `feed='stream'` alone: they can be loaded as a whole too.
    """
    kind = find_kind(Path(os.path.expanduser(settings.name))) if "/" in settings.name else None
    return kind is not None and (kind != "folder" or settings.feed == "stream")


def load(settings: "DatasetConfig", seed: int = 0, threads: int = 1) -> StreamedDataset:
    """Opens the data set at the path `settings.name`; its images are read when they are needed.

    Where there is no test part, a fifth of the training part is held out, which a warning says.

    Args:
      settings: the configuration of the data.
      seed: of what is cut out in training.
      threads: how many read at a time in one call of `Stream.read`.

    Raises:
      DataError: one sentence that names the file or the option and says what to do.
      RunDirectoryError: the description of prepared records can't be read.
    """
    check(settings.stream)
    path = Path(os.path.expanduser(settings.name))
    before, colon, tail = settings.name.rpartition(":")
    if colon and "=" in tail and not path.exists():
        raise DataError(
            f"{show(before)} is read as it is needed, and takes no options as in :{show(tail)}; "
            "set config.dataset.stream.size and the others there instead."
        )
    parts = open_parts(path)
    sources = [parts.train, *([] if parts.test is None else [parts.test])]
    described = [list(parts.class_names), [source.fingerprint for source in sources]]
    digest = hashlib.sha256(json.dumps(described).encode()).hexdigest()
    origin = parts.origin
    train, *tests = (Stream(source, settings.stream, seed, threads) for source in sources)
    if tests:
        (test,) = tests
        origin += "" if parts.tested_on == "test" else f", tested on {parts.tested_on}"
    else:
        mask = sampling.holdout_mask(train.labels, HOLDOUT, 0)
        notes.warn([notes.describe_hold_out(origin, int(mask.sum()), len(mask), HOLDOUT, 0)])
        origin += f", {HOLDOUT} held out, seed 0"
        train, test = (train.take(np.flatnonzero(chosen)) for chosen in (~mask, mask))
    provenance = f"{origin}; files sha256 {digest[:16]}"
    return StreamedDataset(train, test, parts.class_names, provenance, digest)


def check(settings: StreamConfig) -> None:
    """Raises DataError if the options don't fit each other, or need what isn't installed."""
    if settings.short_side < settings.size:
        raise DataError(
            f"config.dataset.stream.short_side={settings.short_side} is less than config.dataset."
            f"stream.size={settings.size}, which is cut out of it; choose it as large at least."
        )
    if settings.resizer == "opencv":
        cropping.import_opencv()
