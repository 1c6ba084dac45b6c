"""Pictures in tar files, read where they lie; tars in tars are looked into, as in ImageNet's own.

A picture's class is the folder or the inner tar that it lies in; its part is the first folder or
tar on the way whose name says train, test or validation.
"""

import hashlib
import importlib.util
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from cnn_jax.data import names, pictures
from cnn_jax.data.arrays import PARTS
from cnn_jax.data.streams import kept_index
from cnn_jax.data.streams.folders import is_visible
from cnn_jax.data.streams.source import (
    Parts,
    Source,
    choose_test_part,
    find_part,
    read_range,
    show,
)
from cnn_jax.errors import DataError

# Where the bytes of a record lie: the number of the file, and the place and length there.
INDEX = np.dtype([("file", "<u2"), ("offset", "<u8"), ("size", "<u4"), ("label", "<i4")])
MAX_FILES = 2**16
BLOCK = 512  # bytes of a tar's header
_IMAGENET = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


class TarSource(Source):
    """Records at known places in tar files."""

    def __init__(self, found: Sequence[Path], index: np.ndarray, fingerprint: str) -> None:
        """Reads the records of `index`, INDEX [n]."""
        self._files, self._index, self.fingerprint = tuple(found), index, fingerprint
        self.labels = np.ascontiguousarray(index["label"])

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        file, offset, size, label = self._index[index].item()
        return read_range(self._files[file], offset, size), label

    def name(self, index: int) -> str:
        """Returns the file and the name that the record has in it."""
        file, offset, _, _ = self._index[index].item()
        path = self._files[file]
        try:
            header = read_range(path, max(0, offset - BLOCK), BLOCK)
            member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name
        except (DataError, tarfile.TarError):
            member = f"record {index}"
        return f"{show(path)}: {show(member)}"

    def digest(self, start: int, stop: int) -> str:
        """Returns a SHA-256 of the files, and of places, lengths and labels."""
        found = hashlib.sha256(self.fingerprint.encode())
        found.update(self._index[start:stop].tobytes())
        return found.hexdigest()


class _Member(NamedTuple):
    """A picture in a tar."""

    way: tuple[str, ...]  # folders and tars, the last one its class
    name: str
    in_folder: bool  # whether the last of the way is one in the tar, or a tar in it
    offset: int
    size: int


def recognize(path: Path) -> bool:
    """Whether a path is a tar file, or a folder that holds some."""
    return path.suffix == ".tar" or (path.is_dir() and bool(_list_tars(path)))


def _list_tars(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(f for g in ("*.tar", "*/*.tar") for f in path.glob(g) if is_visible(f.name))


def open_parts(path: Path) -> Parts:
    """Indexes the tar files of a folder, or one tar file; the index is kept beside them.

    Raises:
      DataError: one sentence that names the file and says what to do.
    """
    found = _list_tars(path)
    if len(found) > MAX_FILES:
        raise DataError(f"{show(path)} holds {len(found):,} tars; make larger ones of them.")
    kept = path / "index.npz" if path.is_dir() else path.with_name(f"{path.name}.index.npz")
    root = path if path.is_dir() else path.parent
    identity = kept_index.identify(found, root)
    arrays = kept_index.load(kept, identity, lambda: _index(path, found, root))
    try:
        class_names = tuple(arrays.pop("class_names").tobytes().decode().split("\0"))
        known = arrays.pop("names_sha256").tobytes()
        parts = {name: index.view(INDEX).reshape(-1) for name, index in arrays.items()}
    except (KeyError, ValueError) as error:
        raise DataError(f"{show(kept)} is damaged; delete it.") from error
    for index in parts.values():
        if index["file"].max() >= len(found) or index["label"].max() >= len(class_names):
            raise DataError(f"{show(kept)} is damaged; delete it.")
    tested = choose_test_part(path, parts)
    sources = {}
    for name in filter(None, ("train", tested)):
        digest = hashlib.sha256(known + name.encode() + parts[name].tobytes()).hexdigest()
        sources[name] = TarSource(found, parts[name], digest)
    origin = f"pictures in the tars of {show(path)}"
    test = sources[tested] if tested else None
    return Parts(sources["train"], test, names.clean(class_names, show(path)), origin, tested or "")


def _index(path: Path, found: Sequence[Path], root: Path) -> kept_index.Arrays:
    """The parts, each INDEX [n] as bytes, and the names of the classes and a hash of all names."""
    rows: dict[str, list[tuple[int, int, int, str]]] = {}
    digest = hashlib.sha256()  # of all names
    for number, file in enumerate(found):
        for member in _walk(file, root):
            class_name, part = _classify(member, file)
            digest.update("/".join((*member.way, member.name, "\0")).encode("utf-8", "replace"))
            row = (number, member.offset, member.size, class_name)
            rows.setdefault(part, []).append(row)
    if not rows:
        raise DataError(f"{show(path)} holds no pictures.")
    if "" in rows and len(rows) > 1:
        raise DataError(
            f"{show(path)} has pictures that lie in no part ({', '.join(PARTS)}) beside those that "
            "do; put each into one."
        )
    rows = {name or "train": listed for name, listed in rows.items()}
    choose_test_part(path, rows)
    classes = sorted({row[3] for row in rows["train"]})
    labels = {name: label for label, name in enumerate(classes)}
    if strangers := sorted({row[3] for listed in rows.values() for row in listed} - set(labels)):
        raise DataError(
            f"{show(path)}: the class {show(strangers[0])!r} has no training pictures; name the "
            "classes of all parts alike."
        )
    if len(classes) < 2:
        raise DataError(f"{show(path)} has the class {show(classes[0])!r} only; two are needed.")
    arrays = {
        name: np.array([(*row[:3], labels[row[3]]) for row in listed], INDEX).view(np.uint8)
        for name, listed in rows.items()
    }
    texts = {"class_names": "\0".join(classes).encode(), "names_sha256": digest.digest()}
    return {**{name: np.frombuffer(content, np.uint8) for name, content in texts.items()}, **arrays}


def _classify(member: _Member, file: Path) -> tuple[str, str]:
    """The class and the part ('' if none is named) of a picture."""
    *way, last = member.way
    part = next(filter(None, map(find_part, way)), "")
    if member.in_folder or not find_part(last):
        return last, part
    if number := _IMAGENET.fullmatch(member.name):
        return _imagenet_class(int(number[1])), "val"
    raise DataError(
        f"{show(file)}: {show(member.name)} lies in no class folder; put the pictures of each "
        "class into a folder of its own."
    )


def _imagenet_class(number: int) -> str:
    """The class of one of ImageNet's 50,000 validation pictures, whose numbers begin at 1."""
    if not _validation_classes:
        package = importlib.util.find_spec("tensorflow_datasets")
        folder = Path(package.origin).parent if package and package.origin else Path()
        file = folder / "datasets" / "imagenet2012" / "validation_labels.txt"
        try:
            _validation_classes.extend(file.read_text().split())
        except OSError as error:
            raise pictures.cannot_read(file, error) from error
    if not 1 <= number <= len(_validation_classes):
        raise DataError(f"ImageNet has no validation picture {number}; leave it out.")
    return _validation_classes[number - 1]


_validation_classes: list[str] = []


def _walk(file: Path, root: Path) -> Iterator[_Member]:
    """The pictures in a tar file."""
    relative = file.relative_to(root)
    way = (*relative.parts[:-1], relative.stem)
    try:
        with tarfile.open(file, "r:") as tar:
            yield from _walk_members(tar, way, 0, False)
    except OSError as error:
        raise pictures.cannot_read(file, error) from error
    except tarfile.TarError as error:
        raise DataError(
            f"{show(file)} can't be read as a tar ({show(str(error))}); if it is compressed, "
            "unpack it with gunzip or xz -d, and if it was cut off, put the whole file there."
        ) from error


def _walk_members(
    tar: tarfile.TarFile, way: tuple[str, ...], base: int, inner: bool
) -> Iterator[_Member]:
    """The pictures in a tar that begins at `base` in its file."""
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
        path = PurePosixPath(member.name)
        folders = tuple(part for part in path.parts[:-1] if part not in ("/", "."))
        if not member.isreg() or member.issparse() or not is_visible(path.name):
            continue
        if member.size > pictures.MAX_FILE and path.suffix != ".tar":
            raise DataError(f"{'/'.join(way)}: {show(member.name)} is too large; leave it out.")
        offset = base + member.offset_data
        if path.suffix == ".tar":
            with tarfile.open(fileobj=tar.extractfile(member), mode="r:") as nested:
                yield from _walk_members(nested, (*way, *folders, path.stem), offset, True)
        else:
            in_folder = inner or bool(folders)
            yield _Member((*way, *folders), path.name, in_folder, offset, member.size)
