"""The original files of published sets, and the IDX format of MNIST and those like it.

Nothing is unpacked to disk or unpickled, sizes are bounded before reading, and payloads are
compared, after decompression, with the checksums of the originals.
"""

import contextlib
import gzip
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

import numpy as np

from cnn_jax import files, text
from cnn_jax.data import memory
from cnn_jax.data.pictures import cannot_read
from cnn_jax.errors import DataError, DataNotFoundError

Split = tuple[np.ndarray, np.ndarray]  # images uint8 [n, H, W, C], labels [n]

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
MAX_BYTES = 1 << 30  # no file of these sets comes near; a larger one is damage or a bomb
_ALGORITHMS = {32: "md5", 64: "sha256"}  # by the hexadecimal digits of a checksum
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


def name_variants(name: str) -> tuple[str, ...]:
    """The names under which people have an IDX file: as published, unpacked, with a dot.

    >>> name_variants("t10k-labels-idx1-ubyte")[2]
    't10k-labels.idx1-ubyte'
    """
    dotted = name.replace("-idx", ".idx")
    return name, f"{name}.gz", dotted, f"{dotted}.gz"


def read_bytes(path: Path) -> bytes:
    """The content of `path`, decompressed if its first bytes are those of gzip.

    Raises:
      DataError: it is damaged, holds too much, or can't be read.
    """
    shown = text.one_line(str(path))
    with reading(path) as file:
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        return read_gzip(file, shown) if compressed else _read_whole(file, shown)


def read_gzip(file: IO[bytes], shown: str) -> bytes:
    """The decompressed content of an open file; DataError if it holds too much."""
    with gzip.open(file) as unpacked:
        return _read_whole(unpacked, shown)


def _read_whole(source: IO[bytes] | gzip.GzipFile, shown: str) -> bytes:
    """Reads to the end, a piece at a time, as a small file may unpack to any amount."""
    content = bytearray()
    while piece := source.read(_STEP):
        content += piece
        if len(content) > MAX_BYTES:
            raise DataError(f"{shown} holds more than {MAX_BYTES} bytes; fetch it again.")
        memory.check_fits(_STEP + len(content), shown, "end other programs")
    return bytes(content)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
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


def read_idx_set(
    folder: Path, names: Sequence[str] = IDX_FILES, packed_first: bool = False
) -> dict[str, Payload] | None:
    """Reads the four IDX files in `folder`, plain or .gz; None when none of them is there.

    Args:
      folder: where they are looked for.
      names: theirs, in the order of IDX_FILES, by which they are returned.
      packed_first: read a .gz rather than the plain file beside it.
    """
    found = {}
    for key, name in zip(IDX_FILES, names, strict=True):
        variants = name_variants(name)
        if packed_first:
            variants = tuple(sorted(variants, key=lambda variant: not variant.endswith(".gz")))
        for variant in variants:
            if (folder / variant).is_file():
                found[key] = folder / variant
                break
    if not found:
        return None
    missing = [name for key, name in zip(IDX_FILES, names, strict=True) if key not in found]
    if missing:
        raise DataNotFoundError(
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


def matches(content: bytes, digest: str) -> bool:
    """Compares with an MD5 (CIFAR-10's only known checksum) or a SHA-256, in hexadecimal."""
    algorithm = _ALGORITHMS[len(digest)]
    return hashlib.new(algorithm, content, usedforsecurity=False).hexdigest() == digest


def file_matches(path: Path, digest: str) -> bool:
    """As `matches`, of a file as it is on disk.

    Raises:
      DataError: it can't be read.
    """
    with reading(path) as file:
        found = hashlib.new(_ALGORITHMS[len(digest)], usedforsecurity=False)
        while piece := file.read(_STEP):
            found.update(piece)
        return found.hexdigest() == digest
