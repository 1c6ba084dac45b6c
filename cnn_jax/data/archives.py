"""The original files of MNIST, Fashion-MNIST (IDX) and CIFAR-10 (binary records).

Nothing is ever unpacked to disk or unpickled: members are read by their exact names, sizes are
bounded before reading, and payloads (after decompression, so that re-compressed copies pass) are
compared with the checksums of the originals.
"""

import gzip
import hashlib
import math
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cnn_jax.data.dataset import DataError

Split = tuple[np.ndarray, np.ndarray]  # images uint8 [n, H, W, C], labels uint8 [n]

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR_FOLDER = "cifar-10-batches-bin"
CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
CIFAR_RECORD = 1 + 3 * 32 * 32  # one label byte, then the red, green and blue planes
MAX_BYTES = 1 << 30  # no file of these sets comes near; a larger header or stream is damage


def read_bytes(path: Path) -> bytes:
    """The content of `path`, decompressed if it is gzip (told by its first bytes, not its name)."""
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        opener = gzip.open if compressed else open
        with opener(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} is truncated or damaged ({error}); delete it and fetch it again."
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the file.") from error
    if len(content) > MAX_BYTES:
        raise DataError(f"{path} holds more than {MAX_BYTES} bytes; delete it and fetch it again.")
    return content


def parse_idx(content: bytes, where: Path) -> np.ndarray:
    """Decodes an IDX file of unsigned bytes: magic `0, 0, 8, rank`, big-endian sizes, values."""
    rank = content[3] if len(content) > 3 else 0
    header = 4 + 4 * rank
    if content[:3] != b"\x00\x00\x08" or len(content) < header or not 1 <= rank <= 4:
        raise DataError(
            f"{where} is not an IDX file of unsigned bytes (it starts with "
            f"0x{content[:4].hex()}); fetch the original again."
        )
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4)]
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{where} announces shape {shape}, {math.prod(shape)} values, but holds "
            f"{len(content) - header}; it is truncated or damaged, fetch it again."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def idx_bytes(array: np.ndarray) -> bytes:
    """The IDX file of a uint8 array: the inverse of `parse_idx`."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return b"\x00\x00\x08" + bytes([array.ndim]) + sizes + array.tobytes()


def parse_cifar(content: bytes, where: Path) -> Split:
    """Decodes CIFAR-10 records to images `[n, 32, 32, 3]` and labels `[n]`."""
    if not content or len(content) % CIFAR_RECORD:
        raise DataError(
            f"{where} holds {len(content)} bytes, not a whole number of {CIFAR_RECORD}-byte "
            "CIFAR-10 records; it is truncated or damaged, fetch it again."
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, CIFAR_RECORD)
    images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), rows[:, 0].copy()


def cifar_bytes(images: np.ndarray, labels: np.ndarray) -> bytes:
    """The CIFAR-10 records of uint8 images and labels: the inverse of `parse_cifar`."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([labels.astype(np.uint8)[:, None], planes], axis=1).tobytes()


def read_cifar_members(source: Path, names: tuple[str, ...] = CIFAR_FILES) -> dict[str, bytes]:
    """Reads the batches from `cifar-10-batches-bin/` or from the tar archive that holds it."""
    if source.is_dir():
        missing = [name for name in names if not (source / name).is_file()]
        if missing:
            raise DataError(
                f"{source} lacks {', '.join(missing)}; unpack {CIFAR_ARCHIVE} there again."
            )
        return {name: read_bytes(source / name) for name in names}
    contents = {}
    try:
        # A stream ("r|") visits each member once and never seeks, so nothing is read twice.
        with tarfile.open(source, "r|*") as archive:
            for member in archive:
                folder, _, name = member.name.removeprefix("./").rpartition("/")
                if folder != CIFAR_FOLDER or name not in names or not member.isfile():
                    continue
                if member.size > MAX_BYTES:
                    raise DataError(f"{source}: member {name} announces {member.size} bytes.")
                file = archive.extractfile(member)
                contents[name] = file.read() if file else b""
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, OSError) as error:
        raise DataError(
            f"{source} is truncated or damaged ({error}); delete it and fetch it again."
        ) from error
    missing = [name for name in names if name not in contents]
    if missing:
        raise DataError(
            f"{source} lacks {', '.join(missing)} in {CIFAR_FOLDER}/; fetch the binary version "
            f"of CIFAR-10 ({CIFAR_ARCHIVE}) again."
        )
    return contents


def digest_matches(content: bytes, expected: str) -> bool:
    """Compares with an MD5 or SHA-256 in hexadecimal, told apart by its length.

    CIFAR-10's batches are known by MD5 only, which tells damage and other versions from the
    originals, though not a deliberate forgery.
    """
    algorithm = {32: "md5", 64: "sha256"}[len(expected)]
    return hashlib.new(algorithm, content, usedforsecurity=False).hexdigest() == expected


def decode_idx_set(payloads: Mapping[str, bytes], where: Mapping[str, Path]) -> tuple[Split, Split]:
    """Decodes the four IDX payloads to (train, test); images get one channel."""
    arrays = [parse_idx(payloads[name], where[name]) for name in IDX_FILES]
    for name, array, rank in zip(IDX_FILES, arrays, (3, 1, 3, 1), strict=True):
        if array.ndim != rank:
            raise DataError(
                f"{where[name]} has shape {list(array.shape)}, but {name} has {rank} dimension"
                f"{'s' * (rank > 1)}; check which file this is."
            )
    train_images, train_labels, test_images, test_labels = arrays
    return (train_images[..., None], train_labels), (test_images[..., None], test_labels)


def decode_cifar_set(payloads: Mapping[str, bytes], source: Path) -> tuple[Split, Split]:
    """Decodes the six CIFAR-10 payloads to (train, test), the training batches in their order."""
    parts = [parse_cifar(payloads[name], source / name) for name in CIFAR_FILES]
    images = np.concatenate([part[0] for part in parts[:-1]])
    labels = np.concatenate([part[1] for part in parts[:-1]])
    return (images, labels), parts[-1]
