"""The original files of MNIST, Fashion-MNIST (IDX) and CIFAR-10 (binary records).

Nothing is unpacked to disk or unpickled, sizes are bounded before reading, and payloads are
compared, after decompression, with the checksums of the originals.
"""

import contextlib
import gzip
import hashlib
import math
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from cnn_jax import files, text
from cnn_jax.data import memory
from cnn_jax.data.pictures import cannot_read
from cnn_jax.errors import DataError

Split = tuple[np.ndarray, np.ndarray]  # images uint8 [n, H, W, C], labels [n]

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR_FOLDER = "cifar-10-batches-bin"
CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR_PICKLES = ("cifar-10-batches-py", "cifar-10-python.tar.gz")
CIFAR_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
CIFAR_RECORD = 1 + 3 * 32 * 32  # one label byte, then the red, green and blue planes
MAX_BYTES = 1 << 30  # no file of these sets comes near; a larger one is damage or a bomb
_STEP = 1 << 24  # bytes read at a time


class Payload(NamedTuple):
    """The decompressed content of an original file, and the file on disk it was found in."""

    content: bytes
    file: Path
    member: str = ""  # its name inside `file`, when that is an archive

    @property
    def where(self) -> str:
        """The place of the content, for error messages."""
        return f"{self.member} in {self.file}" if self.member else str(self.file)


def read_bytes(path: Path) -> bytes:
    """The content of `path`, decompressed if its first bytes are those of gzip.

    Raises:
      DataError: it is damaged, holds too much, or can't be read.
    """
    shown = text.one_line(str(path))
    with _reading(path) as file:
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if compressed:
            with gzip.open(file) as unpacked:
                return _read_whole(unpacked, shown)
        return _read_whole(file, shown)


def _read_whole(source: BinaryIO | gzip.GzipFile, shown: str) -> bytes:
    """Reads to the end, a piece at a time, as a small file may unpack to any amount."""
    content = bytearray()
    while piece := source.read(_STEP):
        content += piece
        if len(content) > MAX_BYTES:
            raise DataError(f"{shown} holds more than {MAX_BYTES} bytes; fetch it again.")
        memory.check_fits(_STEP + len(content), shown, "end other programs")
    return bytes(content)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    """Opens a file, and makes a DataError of what the system or a decoder raises."""
    try:
        with files.open_regular(path) as file:
            yield file
    except (DataError, MemoryError):
        raise
    except Exception as error:  # of gzip, zlib, bz2, lzma and tarfile, which differ in what fits
        if isinstance(error, OSError) and error.errno is not None:
            raise cannot_read(path, error) from error
        raise DataError(
            f"{text.one_line(str(path))} is truncated or damaged ({text.one_line(str(error))}); "
            "fetch it again."
        ) from error


def parse_idx(payload: Payload) -> np.ndarray:
    """Decodes an IDX file of unsigned bytes: `0, 0, 8, rank`, big-endian sizes, values."""
    content = payload.content
    rank = content[3] if len(content) > 3 else 0
    header = 4 + 4 * rank
    if content[:3] != b"\x00\x00\x08" or len(content) < header or not 1 <= rank <= 4:
        raise DataError(
            f"{payload.where} is not an IDX file of unsigned bytes (it starts with "
            f"0x{content[:4].hex()}); fetch the original again."
        )
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4)]
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{payload.where} announces {math.prod(shape)} values, shape {shape}, but holds "
            f"{len(content) - header}; fetch the original again."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()


def idx_bytes(array: np.ndarray) -> bytes:
    """The IDX file of a uint8 array, the inverse of `parse_idx`."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return b"\x00\x00\x08" + bytes([array.ndim]) + sizes + array.tobytes()


def parse_cifar(payload: Payload) -> Split:
    """Decodes CIFAR-10 records to images `[n, 32, 32, 3]` and labels `[n]`."""
    size = len(payload.content)
    if not size or size % CIFAR_RECORD:
        raise DataError(
            f"{payload.where} holds {size} bytes, not a whole number of {CIFAR_RECORD}-byte "
            "CIFAR-10 records; fetch the original again."
        )
    rows = np.frombuffer(payload.content, np.uint8).reshape(-1, CIFAR_RECORD)
    images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), rows[:, 0].copy()


def cifar_bytes(images: np.ndarray, labels: np.ndarray) -> bytes:
    """The CIFAR-10 records of uint8 images and labels: the inverse of `parse_cifar`."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([labels.astype(np.uint8)[:, None], planes], axis=1).tobytes()


def read_idx_set(folder: Path) -> dict[str, Payload] | None:
    """Reads the four IDX files in `folder`, plain or .gz; None when none of them is there."""
    found = {}
    for name in IDX_FILES:
        for file in (folder / name, folder / f"{name}.gz"):
            if file.is_file():
                found[name] = file
                break
    if not found:
        return None
    missing = [name for name in IDX_FILES if name not in found]
    if missing:
        raise DataError(
            f"{folder} lacks {', '.join(missing)} (plain or .gz) beside its other IDX files; "
            "put the original there."
        )
    return {name: Payload(read_bytes(file), file) for name, file in found.items()}


def decode_idx_set(payloads: Mapping[str, Payload]) -> tuple[Split, Split]:
    """Decodes the four IDX payloads to (train, test); images get one channel."""
    arrays = [parse_idx(payloads[name]) for name in IDX_FILES]
    for name, array, rank in zip(IDX_FILES, arrays, (3, 1, 3, 1), strict=True):
        if array.ndim != rank:
            raise DataError(
                f"{payloads[name].where} has shape {list(array.shape)}, but {name} must have rank "
                f"{rank}; fetch the original again."
            )
    train_images, train_labels, test_images, test_labels = arrays
    return (train_images[..., None], train_labels), (test_images[..., None], test_labels)


def encode_idx_set(train: Split, test: Split) -> dict[str, bytes]:
    """The inverse of `decode_idx_set`."""
    arrays = (train[0][..., 0], train[1], test[0][..., 0], test[1])
    return dict(zip(IDX_FILES, map(idx_bytes, arrays), strict=True))


def read_cifar_set(folder: Path) -> dict[str, Payload] | None:
    """Reads CIFAR-10's batches, unpacked or in their archive; None when neither is in `folder`."""
    if (folder / CIFAR_FOLDER).is_dir():
        found = {name: folder / CIFAR_FOLDER / name for name in CIFAR_FILES}
        missing = [name for name, file in found.items() if not file.is_file()]
        if missing:
            raise DataError(
                f"{folder / CIFAR_FOLDER} lacks {', '.join(missing)}; unpack {CIFAR_ARCHIVE} again."
            )
        return {name: Payload(read_bytes(file), file) for name, file in found.items()}
    if (folder / CIFAR_ARCHIVE).is_file():
        return read_cifar_archive(folder / CIFAR_ARCHIVE)
    return None


def read_cifar_archive(path: Path) -> dict[str, Payload]:
    """Reads the batches out of the tar archive, in memory; other members are never touched."""
    payloads = {}
    taken = 0
    # A stream ("r|") visits each member once and never seeks.
    with _reading(path) as opened, tarfile.open(fileobj=opened, mode="r|*") as archive:
        for member in archive:
            folder, _, name = member.name.removeprefix("./").rpartition("/")
            if folder != CIFAR_FOLDER or name not in CIFAR_FILES or not member.isfile():
                continue
            if member.size > MAX_BYTES:
                raise DataError(
                    f"{name} in {path} announces {member.size} bytes, which is no CIFAR-10 "
                    "batch; fetch the original archive again."
                )
            taken += member.size
            memory.check_fits(taken, str(path), "end other programs")
            file = archive.extractfile(member)
            payloads[name] = Payload(file.read() if file else b"", path, name)
    missing = [name for name in CIFAR_FILES if name not in payloads]
    if missing:
        raise DataError(
            f"{path} lacks {CIFAR_FOLDER}/{missing[0]}; fetch the binary variant of CIFAR-10 again."
        )
    return payloads


def decode_cifar_set(payloads: Mapping[str, Payload]) -> tuple[Split, Split]:
    """Decodes the six CIFAR-10 payloads to (train, test), the training batches in their order."""
    *parts, test = [parse_cifar(payloads[name]) for name in CIFAR_FILES]
    images, labels = zip(*parts, strict=True)
    return (np.concatenate(images), np.concatenate(labels)), test


def encode_cifar_set(train: Split, test: Split) -> dict[str, bytes]:
    """The inverse of `decode_cifar_set`, when the training batches are of equal size."""
    images, labels = np.split(train[0], 5), np.split(train[1], 5)
    parts = [cifar_bytes(*part) for part in (*zip(images, labels, strict=True), test)]
    return dict(zip(CIFAR_FILES, parts, strict=True))


def matches(content: bytes, digest: str) -> bool:
    """Compares with an MD5 (CIFAR-10's only known checksum) or a SHA-256, in hexadecimal."""
    algorithm = {32: "md5", 64: "sha256"}[len(digest)]
    return hashlib.new(algorithm, content, usedforsecurity=False).hexdigest() == digest
