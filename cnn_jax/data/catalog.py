"""The data sets known by name, and `load`, which loads any data set."""

import hashlib
import inspect
import json
import os
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnn_jax import text
from cnn_jax.data import cache, folders, memory, notes
from cnn_jax.data.arrays import load_npz
from cnn_jax.data.dataset import Dataset, check_parts
from cnn_jax.data.mini import load_mini
from cnn_jax.data.originals import DATASETS, DEFAULT_DATA_DIR, load_published
from cnn_jax.data.pictures import cannot_read
from cnn_jax.data.shapes import synthetic
from cnn_jax.errors import DataError

# Data sets that a function of their options makes, beside the published ones. A name's options are
# the function's arguments: `synthetic:size=32` calls `synthetic(size=32)`.
SOURCES: dict[str, Callable[..., Dataset]] = {
    "fashion_mnist_mini": load_mini,
    "synthetic": synthetic,
}


def parse_name(name: str) -> tuple[str, dict[str, Any]]:
    """Splits `NAME` or `NAME:key=value,…` into the name and its options; looks up no path.

    >>> parse_name("synthetic:size=32,channels=3")
    ('synthetic', {'size': 32, 'channels': 3})

    Raises:
      DataError: a name or an option is unknown, or a value is of the wrong type.
    """
    kind, colon, tail = name.rpartition(":")
    if not colon or "=" not in tail:
        kind, tail = name, ""
    is_path = "/" in kind or kind.endswith(".npz") or kind in (".", "..", "~")
    names = (*DATASETS, *SOURCES)
    if not is_path and kind not in names:
        near = text.find_nearest(kind, names)
        raise DataError(
            f"there is no data set {kind!r}"
            + (f" (did you mean {near!r}?)" if near else "")
            + f"; choose from {', '.join(names)}, or give a path with a / to your own."
        )
    allowed = _read_options(kind) if kind in SOURCES or is_path else {}
    options: dict[str, Any] = {}
    for item in tail.split(",") if tail else ():
        key, _, value = item.partition("=")
        if key not in allowed:
            raise DataError(
                f"data set {kind!r} has no option {key!r}; "
                + (f"it has {', '.join(allowed)}." if allowed else "it has none.")
            )
        try:
            options[key] = allowed[key](value)
        except ValueError:
            raise DataError(
                f"option {key!r} of data set {kind!r} must be "
                f"{'a number' if allowed[key] is float else 'a whole number'}, got {value!r}."
            ) from None
    return kind, options


def _read_options(kind: str) -> dict[str, type]:
    """The options of a name or path, each with its type, int or float."""
    load = SOURCES.get(kind) or (load_npz if kind.endswith(".npz") else folders.decode)
    hints = typing.get_type_hints(load)
    numbers = {name: set(typing.get_args(hints[name])) | {hints[name]} for name in hints}
    return {
        name: float if float in numbers[name] else int
        for name in inspect.signature(load).parameters
        if numbers.get(name, set()) & {int, float}
    }


def load(name: str, data_dir: str | Path | None = None, keep: bool = True) -> Dataset:
    """Loads a data set as uint8 arrays in its canonical order.

    `name` is one of

    - `fashion_mnist`, `mnist`, `cifar10`: looked for in `data_dir` as decoded arrays, as a set
      prepared by TFDS and as the original archives, in this order. The canonical order is that of
      the original files. Nothing is downloaded; `python -m experiments.prepare_data` does that.
    - `fashion_mnist_mini`: 2,000 + 1,000 images of Fashion-MNIST that come with the package.
    - `synthetic`, with options as in `synthetic:size=32,channels=3,train=512`: see `synthetic`.
    - the path of a folder of class folders, or of an .npz: see `load_folder` and `load_npz`, with
      options as in `pictures/flowers:size=64,holdout=0.1`.

    What loads but looks like a mistake is a DataWarning.

    Args:
      name: the data set.
      data_dir: where published sets and decoded arrays are kept; None is `./data`.
      keep: write decoded arrays there. False where `data_dir` isn't the user's own choice, as in
        the record of somebody else's run; then nothing is written.

    Raises:
      DataError: one sentence that names the file and says what to do.
    """
    kind, options = parse_name(name)
    folder = _expand(DEFAULT_DATA_DIR if data_dir is None else data_dir)
    try:
        if kind in DATASETS:
            return load_published(kind, folder, keep)
        if kind in SOURCES:
            dataset = SOURCES[kind](**options)
            if not isinstance(dataset, Dataset):
                raise DataError(f"data.SOURCES[{kind!r}] must return a data.Dataset.")
            check_parts(dataset[:2], dataset[2:4], dataset.class_names, kind)
            return dataset
        path = _expand(kind)
        if path.suffix == ".npz":
            return load_npz(path, **options)
        dataset, said = _load_pictures(path, folder, options, keep)
    except MemoryError as error:
        raise memory.too_large(text.one_line(name)) from error
    except OSError as error:
        raise cannot_read(error.filename or name, error) from error
    notes.warn(said)
    return dataset


def _expand(path: str | Path) -> Path:
    """The path with the home folder for '~'."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(
            f"{text.one_line(str(path))}: there is no such home folder; write the whole path."
        ) from error


def _load_pictures(path: Path, data_dir: Path, options: dict[str, Any], keep: bool) -> cache.Kept:
    """Loads a folder of pictures, kept decoded like the published sets."""
    if os.path.isdir(path):
        own = path.resolve()
        identity = json.dumps([str(own), sorted(options.items())])
        digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
        cached = data_dir / "cache" / f"{own.name[:50]}-{digest}.npz"
        if (kept := cache.read(cached)) is not None:
            return kept
    found = folders.scan(path)
    dataset, said = folders.decode(path, found, **options)
    kept = cache.Kept(dataset, tuple(said))
    if keep:
        cache.write(cached, kept, found.sources)
    return kept
