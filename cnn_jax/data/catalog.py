"""The data sets known by name, and `load`, which loads any data set."""

import hashlib
import inspect
import json
import os
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from cnn_jax import text
from cnn_jax.data import cache, folders, listing, memory, notes, tables
from cnn_jax.data.arrays import load_npz
from cnn_jax.data.dataset import Dataset, check_parts
from cnn_jax.data.mini import load_mini
from cnn_jax.data.originals import DEFAULT_DATA_DIR, load_idx_folder, load_published
from cnn_jax.data.pictures import FITS, Fit, cannot_read
from cnn_jax.data.published import DATASETS
from cnn_jax.data.shapes import synthetic
from cnn_jax.errors import DataError

# Data sets that a function of their options makes, beside the published ones. A name's options are
# the function's arguments: `synthetic:size=32` calls `synthetic(size=32)`.
SOURCES: dict[str, Callable[..., Dataset]] = {
    "fashion_mnist_mini": load_mini,
    "synthetic": synthetic,
}


def _is_path(kind: str) -> bool:
    return "/" in kind or kind.endswith((".npz", ".csv")) or kind in (".", "..", "~")


def short_name(name: str) -> str:
    """Returns a name for a title: of a path its last part, without options.

    >>> short_name("/home/me/pets:size=64"), short_name("synthetic:size=32")
    ('pets', 'synthetic:size=32')
    """
    path, colon, tail = name.rpartition(":")
    if not colon or "=" not in tail:
        path = name
    if not _is_path(path):
        return name
    return os.path.basename(os.path.abspath(os.path.expanduser(path))) or path


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
    is_path = _is_path(kind)
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
        kinds = allowed[key]
        try:
            options[key] = _parse(value, kinds)
        except (ValueError, KeyError):
            words = {bool: "true or false", float: "a number", int: "a whole number"}
            what = next((words[t] for t in words if t in kinds), "")
            raise DataError(
                f"option {key!r} of data set {kind!r} must be "
                f"{what or 'one of ' + ', '.join(map(str, kinds))}, got {value!r}."
            ) from None
    return kind, options


def _parse(value: str, kinds: tuple[Any, ...]) -> Any:
    """Reads an option's value, of one of the types or choices `kinds`."""
    if bool in kinds:
        return {"true": True, "false": False}[value.lower()]
    if float in kinds or int in kinds:
        return float(value) if float in kinds else int(value)
    return {str(choice): choice for choice in kinds}[value]


def _read_options(kind: str) -> dict[str, tuple[Any, ...]]:
    """The options of a name or path, each with its types or its choices."""
    own: dict[str, Callable[..., Any]] = {".npz": load_npz, ".csv": tables.load_csv}
    load = SOURCES.get(kind) or own.get(kind[-4:], folders.decode)
    hints = typing.get_type_hints(load)
    kinds = {name: typing.get_args(hints[name]) or (hints[name],) for name in hints}
    return {
        name: kinds[name]
        for name in inspect.signature(load).parameters
        if name in kinds
        and ({int, float, bool} & set(kinds[name]) or typing.get_origin(hints[name]) is Literal)
    }


def read_fit(name: str) -> Fit:
    """How pictures are brought to the size of the data set `name`, its own and those to predict.

    Raises:
      DataError: as `parse_name`.
    """
    chosen = parse_name(name)[1].get("fit")
    return next((fit for fit in FITS if fit == chosen), "stretch")


def load(name: str, data_dir: str | Path | None = None, keep: bool = True) -> Dataset:
    """Loads a data set as uint8 arrays in its canonical order.

    `name` is one of

    - `fashion_mnist` and the others of DATASETS: looked for in `data_dir` as decoded arrays, as a
      set prepared by TFDS and as the original archives, in this order. The canonical order is that
      of the original files. Nothing is downloaded; `python -m experiments.prepare_data` does that.
    - `fashion_mnist_mini`: 2,000 + 1,000 images of Fashion-MNIST that come with the package.
    - `synthetic`, with options as in `synthetic:size=32,channels=3,train=512`: see `synthetic`.
    - the path of a folder of class folders, of an .npz or of a .csv: see `load_folder`, `load_npz`
      and `load_csv`, with options as in `pictures/flowers:size=64,fit=pad,holdout=0.1`; or of a
      folder with the four IDX files, or with train.csv.

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
        dataset, said = _load_own(path, folder, options, keep)
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


def _load_own(path: Path, data_dir: Path, options: dict[str, Any], keep: bool) -> cache.Kept:
    """Loads a folder of pictures or a table, kept decoded like the published sets."""
    if os.path.isdir(path):
        for place in (path, path / "raw"):  # as in torchvision's MNIST/raw
            if (found := load_idx_folder(place)) is not None:
                _refuse_options(path, options)
                return cache.Kept(found)
        table = path / "train.csv"
        if table.is_file() and not any(map(os.path.isdir, listing.visible_entries(path))):
            _refuse_options(path, options, allowed=("holdout", "seed"))
            path = table
    if os.path.exists(path):
        own = path.resolve()
        identity = json.dumps([str(own), sorted(options.items())])
        digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
        cached = data_dir / "cache" / f"{own.name[:50]}-{digest}.npz"
        if (kept := cache.read(cached)) is not None:
            return kept
    if path.suffix == ".csv":
        sources = cache.snapshot([path, tables.find_test(path)])
        dataset, said = tables.decode(path, **options)
    else:
        scan = listing.scan(path, options.get("skip_bad", False))
        sources = scan.sources
        dataset, said = folders.decode(path, scan, **options)
    kept = cache.Kept(dataset, tuple(said))
    if keep:
        cache.write(cached, kept, sources)
    return kept


def _refuse_options(path: Path, options: dict[str, Any], allowed: Sequence[str] = ()) -> None:
    """Raises DataError for options that the files in a folder don't have."""
    for key in options:
        if key not in allowed:
            raise DataError(
                f"{text.one_line(str(path))} holds images of one size, not pictures, and has no "
                f"option {key!r}; leave it out."
            )
