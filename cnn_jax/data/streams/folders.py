"""A folder of class folders whose pictures are read one by one."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnn_jax.data import names, pictures
from cnn_jax.data.arrays import PARTS
from cnn_jax.data.listing import SYSTEM_FILES
from cnn_jax.data.streams.source import Names, Parts, Source, choose_test_part, read_file, show
from cnn_jax.errors import DataError


class FolderSource(Source):
    """The files of class folders, in the order of the class names, then of the file names."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        """Lists the class folders `classes` of `folder`; those that aren't there are empty."""
        self._folder, self._classes = folder, tuple(classes)
        labels, sizes, found = [], [], []
        for label, name in enumerate(classes):
            entries = _list_files(folder / name) if (folder / name).is_dir() else []
            found += [os.fsencode(entry) for entry, _ in entries]
            sizes.append(np.fromiter((size for _, size in entries), np.int64, len(entries)))
            labels.append(np.full(len(entries), label, np.int32))
        self.labels = np.concatenate(labels)
        self._sizes, self._names = np.concatenate(sizes), Names(found)
        self.fingerprint = self.digest(0, len(self))

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        return read_file(self._path(index)), int(self.labels[index])

    def name(self, index: int) -> str:
        """Returns the path of a file."""
        return show(self._path(index))

    def digest(self, start: int, stop: int) -> str:
        """Returns a SHA-256 of classes, names and sizes of files."""
        found = hashlib.sha256()
        for index in range(start, stop):
            name = f"{self._classes[self.labels[index]]}/{self._names[index]}"
            found.update(os.fsencode(f"{name}\0{self._sizes[index]}\0"))
        return found.hexdigest()

    def _path(self, index: int) -> Path:
        return self._folder / self._classes[self.labels[index]] / self._names[index]


def is_visible(name: str) -> bool:
    """Whether a file or folder is no hidden one, nor one of the system."""
    return not name.startswith((".", "__MACOSX")) and name.lower() not in SYSTEM_FILES


def _scan(folder: Path) -> list["os.DirEntry[str]"]:
    """The visible entries of a folder, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if is_visible(e.name)), key=lambda e: e.name)
    except OSError as error:
        raise pictures.cannot_read(folder, error) from error


def _list_files(folder: Path) -> list[tuple[str, int]]:
    """The names and sizes of a class's files."""
    found = []
    for entry in _scan(folder):
        try:
            if not entry.is_file():
                raise DataError(
                    f"{show(entry.path)} is no regular file; a class folder must hold its pictures "
                    "and nothing else."
                )
            found.append((entry.name, entry.stat().st_size))
        except OSError as error:
            raise pictures.cannot_read(Path(entry.path), error) from error
    if not found:
        raise DataError(
            f"{show(folder)} is empty; remove the folder or put this class's pictures in."
        )
    return found


def recognize(path: Path) -> bool:
    """Whether a path is a folder that holds folders."""
    return path.is_dir() and any(entry.is_dir() for entry in _scan(path))


def open_parts(path: Path) -> Parts:
    """Lists `path/train/<class>/<picture>` and `path/test/…`, or `path/<class>/<picture>`.

    Raises:
      DataError: one sentence that names the file and says what to do.
    """
    folders = [entry.name for entry in _scan(path) if entry.is_dir()]
    parts = [name for name in folders if name in PARTS]
    tested = choose_test_part(path, parts) if parts else None
    root = path / "train" if parts else path
    classes = _list_classes(root)
    class_names = names.clean(classes, show(path))
    test = None
    if tested:
        if strangers := sorted(set(_list_classes(path / tested)) - set(classes)):
            raise DataError(
                f"{show(path / tested / strangers[0])} is a class that {show(root)} does not have; "
                "name the class folders alike."
            )
        test = FolderSource(path / tested, classes)
    origin = f"pictures in {show(path)}"
    return Parts(FolderSource(root, classes), test, class_names, origin, tested or "")


def _list_classes(folder: Path) -> list[str]:
    entries = _scan(folder)
    for entry in entries:
        if not entry.is_dir():
            raise DataError(
                f"{show(entry.path)} lies beside the class folders; {show(folder)} must hold one "
                "folder of pictures per class and nothing else."
            )
    if len(entries) < 2:
        raise DataError(
            f"{show(folder)} holds {len(entries)} class folders; put the pictures of each class "
            "into a folder of its own, at least two."
        )
    return [entry.name for entry in entries]
