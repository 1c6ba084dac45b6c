"""EMNIST: six splits in one archive, gzip.zip, whose images are IDX files stored in columns.

Cohen, Afshar, Tapson and van Schaik, "EMNIST: an extension of MNIST to handwritten letters" (2017).
"""

import string
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cnn_jax.data import archives
from cnn_jax.data.archives import IDX_FILES, Payload, Split
from cnn_jax.errors import DataError

ARCHIVES = ("gzip.zip", "emnist.zip", "emnist-gzip.zip")  # the same file as people name it
FOLDERS = (".", "gzip")  # of unpacked files

_MERGED = string.digits + string.ascii_uppercase + "abdefghnqrt"  # letters that look alike are one
CLASSES = {
    "balanced": _MERGED,
    "byclass": string.digits + string.ascii_uppercase + string.ascii_lowercase,
    "bymerge": _MERGED,
    "letters": string.ascii_lowercase,  # small and capital ones are one
    "digits": string.digits,
    "mnist": string.digits,
}


def list_files(split: str) -> tuple[str, ...]:
    """The names of a split's files, in the order of IDX_FILES."""
    return tuple(f"emnist-{split}-{name.replace('t10k', 'test')}" for name in IDX_FILES)


def list_names(split: str) -> tuple[str, ...]:
    """All that may be read of a split, in its folder."""
    variants = [v for name in list_files(split) for v in archives.name_variants(name)]
    return (*ARCHIVES, *(f"{folder}/{v}" for folder in FOLDERS for v in variants))


def read_set(split: str, folder: Path) -> dict[str, Payload] | None:
    """Reads a split's files from the archive, or unpacked; None if `folder` has neither."""
    for name in ARCHIVES:
        if (folder / name).is_file():
            return read_archive(split, folder / name)
    for place in FOLDERS:
        if found := archives.read_idx_set(folder / place, list_files(split)):
            return found
    return None


def read_archive(split: str, path: Path) -> dict[str, Payload]:
    """Reads a split's files out of the zip archive, in memory."""
    payloads = {}
    with archives.reading(path) as opened, zipfile.ZipFile(opened) as archive:
        members = {Path(info.filename).name: info for info in archive.infolist()}
        for key, name in zip(IDX_FILES, list_files(split), strict=True):
            if (member := members.get(f"{name}.gz")) is None:
                raise DataError(f"{path} lacks {name}.gz; fetch the original archive again.")
            with archive.open(member) as file:
                content = archives.read_gzip(file, f"{name} in {path}")
            payloads[key] = Payload(content, path, name)
    return payloads


def decode_set(split: str, payloads: Mapping[str, Payload]) -> tuple[Split, Split]:
    """Decodes a split's payloads to (train, test), upright, with labels that count from 0."""
    train, test = archives.decode_idx_set(payloads)
    return _mend(split, *train), _mend(split, *test)


def encode_set(split: str, train: Split, test: Split) -> dict[str, bytes]:
    """The inverse of `decode_set`."""
    first = np.uint8(_first_label(split))
    turned = [(images.transpose(0, 2, 1, 3), labels + first) for images, labels in (train, test)]
    return archives.encode_idx_set(*turned)


def _mend(split: str, images: np.ndarray, labels: np.ndarray) -> Split:
    first = _first_label(split)
    if labels.size and labels.min() < first:
        raise DataError(
            f"EMNIST's split {split!r} has labels from {first}, and the files hold "
            f"{labels.min()}; fetch the original archive again."
        )
    return np.ascontiguousarray(images.transpose(0, 2, 1, 3)), labels - np.uint8(first)


def _first_label(split: str) -> int:
    return 1 if split == "letters" else 0
