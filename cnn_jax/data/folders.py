"""A user's own data set as picture files in class folders, any of which may be links."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ImageOps

from cnn_jax import files, text
from cnn_jax.data import cache, memory, names, notes, pictures
from cnn_jax.data.arrays import VALIDATION, Split, describe_validation, split_off
from cnn_jax.data.dataset import Dataset, make_dataset
from cnn_jax.errors import DataError, DataNotFoundError

Classes = dict[str, list[Path]]  # the pictures of each, by the name of its folder

PARTS = ("train", "test", *VALIDATION)
RUN_FILES = ("config.json", "environment.json", "metrics.jsonl")


class Scan(NamedTuple):
    """The contents of a folder, before any picture is opened."""

    train: Classes
    test: Classes | None  # None: a part is to be held out
    tested_on: str  # the test part's folder
    sources: cache.Snapshot  # every folder and file that the data set depends on
    notes: list[str]


def visible_entries(folder: Path) -> list[Path]:
    """The visible entries of a folder, sorted by name.

    Raises:
      DataError: the folder can't be read.
    """
    try:
        found = os.listdir(folder)
    except OSError as error:
        raise pictures.cannot_read(folder, error) from error
    shown = (name for name in found if not name.startswith((".", "__MACOSX")))
    return [folder / name for name in sorted(shown)]


def _visit(path: Path, sources: cache.Snapshot) -> os.stat_result:
    """Records the identity of a file or folder before it is read."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise pictures.cannot_read(path, error) from error
    sources[path] = cache.identify(status)
    return status


def scan(path: Path) -> Scan:
    """Lists the parts, classes and pictures of a folder.

    Raises:
      DataError: it doesn't hold what `load_folder` expects, or can't be read.
    """
    sources: cache.Snapshot = {}
    if not os.path.exists(path) or not stat.S_ISDIR(_visit(path, sources).st_mode):
        raise DataNotFoundError(
            f"{_show(path)} does not exist or is no folder; give a folder of class folders or an "
            ".npz."
        )
    entries = visible_entries(path)
    folders = {entry.name for entry in entries if os.path.isdir(entry)}
    if "train" not in folders:
        if "test" in folders:
            raise DataError(
                f"{_show(path)} has a test folder but no train folder; add {_show(path / 'train')}."
            )
        train = _classes(path, sources)
        return Scan(train, None, "", sources, _describe_twice(path, train, {}, sources))
    validations = [name for name in VALIDATION if name in folders]
    if "test" not in folders and len(validations) > 1:
        raise DataError(
            f"{_show(path)} has the folders {validations[0]} and {validations[1]}, either of which "
            "could be the test part; call one of them test."
        )
    tested = next((name for name in ("test", *validations) if name in folders), "")
    train = _classes(path / "train", sources)
    test = _classes(path / tested, sources) if tested else None
    if strangers := sorted(set(test or ()) - set(train)):
        raise DataError(
            f"{_show(path / tested / strangers[0])} is a class that {_show(path / 'train')} does "
            "not have; name the class folders alike."
        )
    said = _describe_rest(path, [e.name for e in entries if e.name not in ("train", tested)])
    said += _describe_twice(path, train, test or {}, sources)
    return Scan(train, test, tested, sources, said)


def _show(path: Path) -> str:
    return text.one_line(str(path))


def _describe_rest(path: Path, rest: Sequence[str]) -> list[str]:
    """A note on what lies beside the parts and isn't read, if there is anything."""
    if not rest:
        return []
    shown = ", ".join(map(text.one_line, rest[:10])) + (", …" if len(rest) > 10 else "")
    line = f"pictures in {_show(path)}: not read: {shown}"
    if any(name in VALIDATION for name in rest):
        return [f"{line}; {describe_validation()}"]
    return [f"{line}; the parts of a data set are called {', '.join(PARTS)}"]


def _describe_twice(
    path: Path, train: Classes, test: Classes, sources: cache.Snapshot
) -> list[str]:
    """A note on the first file that links put into two classes or into both parts."""
    seen: dict[tuple[int, ...], tuple[Path, tuple[bool, str]]] = {}
    for is_test, part in enumerate((train, test)):
        for name, found in part.items():
            for file in found:
                place = (bool(is_test), name)
                first, other = seen.setdefault(tuple(sources[file] or ()), (file, place))
                if other != place:
                    return [
                        f"pictures in {_show(path)}: {_show(first)} and {_show(file)} are the same "
                        "file, in two classes or in both parts"
                    ]
    return []


def _classes(folder: Path, sources: cache.Snapshot) -> Classes:
    """The class folders of `folder` with their picture files."""
    _visit(folder, sources)
    entries = visible_entries(folder)
    left = [e.name for e in entries if e.name in RUN_FILES and not os.path.isdir(e)]
    if left:
        raise DataError(
            f"{_show(folder)} holds the files of a run ({', '.join(left)} …) beside the class "
            "folders; move them to a folder of their own, and give another --workdir."
        )
    classes = {}
    for entry in entries:
        if not stat.S_ISDIR(_visit(entry, sources).st_mode):
            raise DataError(
                f"{_show(entry)} lies beside the class folders; {_show(folder)} must hold one "
                "folder of pictures per class and nothing else."
            )
        found = visible_entries(entry)
        if not found:
            raise DataError(
                f"{_show(entry)} is empty; remove the folder or put this class's pictures in."
            )
        for file in found:
            _check_regular(file, _visit(file, sources).st_mode)
        classes[entry.name] = found
    if len(classes) < 2:
        raise DataError(
            f"{_show(folder)} holds {len(classes)} class folders; put the pictures of each class "
            "into a folder of its own, at least two."
        )
    return classes


def _check_regular(file: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise DataError(
            f"{_show(file)} is a folder in a class folder; the pictures of a class lie directly in "
            f"its folder, and the parts of a data set are called {', '.join(PARTS)}: move them "
            "there."
        )
    if not stat.S_ISREG(mode):
        raise DataError(
            f"{_show(file)} is {files.kind_of_file(mode)}, not a picture; move it away."
        )


def load_folder(
    path: str | Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    holdout: float | None = None,
    seed: int = 0,
) -> Dataset:
    """Reads `path/train/<class>/<picture>` and `path/test/<class>/<picture>`.

    Without `test` a folder `val` (`valid`, `validation`) is the test part. Without that, or
    without parts (`path/<class>/<picture>`), a part is held out. The order is that of the class
    names, then of the file names.

    Args:
      path: the folder.
      size: height and width to scale every picture to; None: pictures must all have one size.
      channels: 1 for gray, 3 for color; None: 1 if all pictures are gray.
      holdout: the fraction of each class that is held out; None is HOLDOUT, with a warning.
      seed: of the choice of the held-out part.

    Raises:
      DataError: one sentence that names the file and says what to do.
    """
    path = Path(path)
    dataset, said = decode(
        path, scan(path), size=size, channels=channels, holdout=holdout, seed=seed
    )
    notes.warn(said)
    return dataset


def decode(
    path: Path,
    found: Scan,
    *,
    size: int | None = None,
    channels: int | None = None,
    holdout: float | None = None,
    seed: int = 0,
) -> tuple[Dataset, list[str]]:
    """Reads what `scan` found, as `load_folder` does; returns notes for the user too."""
    if size is not None and not 1 <= size <= 4096:
        raise DataError(f"size must lie between 1 and 4096 pixels, got {size}.")
    if channels not in (None, 1, 3):
        raise DataError(f"channels must be 1 (gray) or 3 (color), got {channels}.")
    origin = named = f"pictures in {_show(path)}"
    class_names = names.clean(found.train, origin)
    parts = [_examples(found.train, found.train)]
    if found.test is not None:
        parts.append(_examples(found.test, found.train))
    shape = _common_shape(path, [file for part in parts for file, _ in part], size, channels)
    bytes_ = sum(map(len, parts)) * int(np.prod(shape)) * (1 if found.test else 2)
    memory.check_fits(bytes_, _show(path), "choose a smaller size, as in :size=64")

    faint: list[Path] = []
    splits = [_decode_part(part, shape, size, faint) for part in parts]
    said = [*found.notes, *_describe_faint(faint, origin)]
    if len(splits) == 1:
        train, test, origin, more = split_off(*splits[0], holdout, seed, origin)
        said += more
    else:
        train, test = splits
        origin += "" if found.tested_on == "test" else f", tested on {found.tested_on}"
        if holdout is not None:
            said.append(f"{named}: holdout={holdout} has no effect, as there is a test part")
    dataset = make_dataset(train, test, class_names, origin)
    return dataset, said + notes.find_oddities(dataset[:2], dataset[2:4], class_names, named)


def _examples(part: Classes, order: Classes) -> list[tuple[Path, int]]:
    """The pictures of a part, each with its label."""
    return [(file, label) for label, name in enumerate(order) for file in part.get(name, [])]


def _common_shape(
    path: Path, found: Sequence[Path], size: int | None, channels: int | None
) -> tuple[int, int, int]:
    """Height, width and channels of all pictures, which are opened if one of these isn't given."""
    if size is not None and channels is not None:
        return size, size, channels
    shapes: dict[tuple[int, int], Path] = {}
    gray = True
    for file in found:
        with pictures.opening(file) as picture:
            shapes.setdefault(ImageOps.exif_transpose(picture).size, file)
            gray = gray and (picture.mode in ("1", "L", "LA") or picture.mode[0] == "I")
    channels = channels or (1 if gray else 3)
    if size is not None:
        return size, size, channels
    if len(shapes) > 1:
        (first, one), (second, other), *_ = shapes.items()
        raise DataError(
            f"{_show(one)} is {first[0]}x{first[1]} and {_show(other)} is {second[0]}x{second[1]} "
            "pixels; choose one size for all, for example "
            f"dataset.name={'' if path.is_absolute() else './'}{_show(path)}:size=64."
        )
    width, height = next(iter(shapes))
    return height, width, channels


def _decode_part(
    part: Sequence[tuple[Path, int]],
    shape: tuple[int, int, int],
    size: int | None,
    faint: list[Path],
) -> Split:
    """Images [n, H, W, C] and labels [n]; adds to `faint` the files that came out black."""
    images = np.empty((len(part), *shape), np.uint8)
    for index, (file, _) in enumerate(part):
        image, is_faint = pictures.decode(file, shape[2], (size, size) if size else None)
        if image.shape != shape:
            raise DataError(f"{_show(file)} has changed while it was read; run the command again.")
        images[index] = image
        faint += [file] if is_faint else []
    return images, np.array([label for _, label in part], np.int32)


def _describe_faint(found: Sequence[Path], origin: str) -> list[str]:
    if not found:
        return []
    return [
        f"{origin}: {len(found):,} pictures have 16 bits with values up to 255 only, and are read "
        f"as black; save them as 8-bit PNG (the first is {_show(found[0])})"
    ]
