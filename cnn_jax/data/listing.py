"""What a folder of class folders holds, before any picture is opened; all of it may be links."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cnn_jax import files, text
from cnn_jax.data import cache, pictures
from cnn_jax.data.arrays import PARTS, VALIDATION, describe_validation
from cnn_jax.errors import DataError, DataNotFoundError

Classes = dict[str, list[Path]]  # the pictures of each, by the name of its folder

# What systems and archivers leave in folders, in small letters; beside names that begin with a dot.
SYSTEM_FILES = (
    "__macosx",
    "@eadir",
    "$recycle.bin",
    "desktop.ini",
    "ehthumbs.db",
    "icon\r",
    "lost+found",
    "system volume information",
    "thumbs.db",
)
RUN_FILES = ("config.json", "environment.json", "metrics.jsonl")


class Scan(NamedTuple):
    """The contents of a folder."""

    train: Classes
    test: Classes | None  # None: a part is to be held out
    tested_on: str  # the test part's folder
    sources: cache.Snapshot  # every folder and file that the data set depends on
    notes: list[str]
    skipped: list[Path]  # files that lie beside the class folders


def visible_entries(folder: Path) -> list[Path]:
    """The visible entries of a folder, sorted by name, without SYSTEM_FILES.

    Raises:
      DataError: the folder can't be read.
    """
    try:
        found = os.listdir(folder)
    except OSError as error:
        raise pictures.cannot_read(folder, error) from error
    return [folder / name for name in sorted(found) if not _is_of_the_system(name)]


def _is_of_the_system(name: str) -> bool:
    return name.startswith((".", "__MACOSX")) or name.lower() in SYSTEM_FILES


def _visit(path: Path, sources: cache.Snapshot) -> os.stat_result:
    """Records the identity of a file or folder before it is read."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise pictures.cannot_read(path, error) from error
    sources[path] = cache.identify(status)
    return status


def scan(path: Path, skip_bad: bool = False) -> Scan:
    """Lists the parts, classes and pictures of a folder.

    With `skip_bad`, files beside the class folders are listed as skipped.

    Raises:
      DataError: it doesn't hold what `load_folder` expects, or can't be read.
    """
    sources: cache.Snapshot = {}
    if not os.path.exists(path) or not stat.S_ISDIR(_visit(path, sources).st_mode):
        raise DataNotFoundError(
            f"{_show(path)} does not exist or is no folder; give a folder of class folders or an "
            ".npz."
        )
    skipped: list[Path] | None = [] if skip_bad else None
    entries = visible_entries(path)
    folders = {entry.name for entry in entries if os.path.isdir(entry)}
    if "train" not in folders:
        if "test" in folders:
            raise DataError(
                f"{_show(path)} has a test folder but no train folder; add {_show(path / 'train')}."
            )
        train = _classes(path, sources, skipped)
        said = _describe_twice(path, train, {}, sources)
        return Scan(train, None, "", sources, said, skipped or [])
    validations = [name for name in VALIDATION if name in folders]
    if "test" not in folders and len(validations) > 1:
        raise DataError(
            f"{_show(path)} has the folders {validations[0]} and {validations[1]}, either of which "
            "could be the test part; call one of them test."
        )
    tested = next((name for name in ("test", *validations) if name in folders), "")
    train = _classes(path / "train", sources, skipped)
    test = _classes(path / tested, sources, skipped) if tested else None
    if strangers := sorted(set(test or ()) - set(train)):
        raise DataError(
            f"{_show(path / tested / strangers[0])} is a class that {_show(path / 'train')} does "
            "not have; name the class folders alike."
        )
    said = _describe_rest(path, [e.name for e in entries if e.name not in ("train", tested)])
    said += _describe_twice(path, train, test or {}, sources)
    return Scan(train, test, tested, sources, said, skipped or [])


def _show(path: Path) -> str:
    return text.one_line(str(path))


def _describe_rest(path: Path, rest: Sequence[str]) -> list[str]:
    """A note on what lies beside the parts and isn't read, if there is anything."""
    if not rest:
        return []
    shown = ", ".join(map(text.one_line, rest[:10])) + (", …" if len(rest) > 10 else "")
    origin, line = f"pictures in {_show(path)}", f"not read: {shown}"
    if any(name in VALIDATION for name in rest):
        return [f"{origin}: train is trained on, test tested on; {line}; {describe_validation()}"]
    return [f"{origin}: {line}; the parts of a data set are called {', '.join(PARTS)}"]


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


def _classes(folder: Path, sources: cache.Snapshot, skipped: list[Path] | None) -> Classes:
    """The class folders of `folder` with their picture files.

    Files beside them are added to `skipped`; None: there may be none.
    """
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
            if skipped is not None:
                skipped.append(entry)
                continue
            raise DataError(
                f"{_show(entry)} lies beside the class folders; {_show(folder)} must hold one "
                "folder of pictures per class and nothing else (or skip such files with "
                ":skip_bad=true)."
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
