"""The reader of .npz files, a user's own and the kept ones: plain arrays, nothing else.

Unlike NumPy's it checks that no name occurs twice, that a member holds what its header announces,
that there is memory for it, and the checksum of every byte.
"""

import contextlib
import errno
import math
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from typing import IO, BinaryIO, NamedTuple

import numpy as np

from cnn_jax.data import memory
from cnn_jax.errors import DataError

_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_KINDS = "?biufcSU"  # of plain values: truth values, numbers and text
_STEP = 1 << 22  # bytes read at a time


class DamagedError(ValueError):
    """A file that isn't an .npz of plain arrays; the message says why, in a few words."""


class _Header(NamedTuple):
    shape: tuple[int, ...]
    in_columns: bool  # the first index runs fastest
    dtype: np.dtype
    start: int  # of the values, in bytes

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Archive:
    """An .npz open for reading.

    Raises:
      DamagedError: it isn't an .npz.
      OSError: the system failed to read it.
    """

    def __init__(self, file: BinaryIO) -> None:
        with _raising_damaged_errors():
            self._zip = zipfile.ZipFile(file)
            self._members = _by_name(self._zip.infolist())

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its arrays."""
        return tuple(self._members)

    def read(self, names: Sequence[str], what: str, copies: int = 1) -> dict[str, np.ndarray]:
        """Returns the named arrays.

        Raises:
          DamagedError: one is missing, or isn't a plain array.
          DataError: there isn't enough memory for `copies` of `what`.
          OSError: the system failed to read them.
        """
        with _raising_damaged_errors():
            headers = {name: self._header(name) for name in names}
            size = sum(header.size for header in headers.values())
            memory.check_fits(copies * size, what, "save a smaller set")
            return {name: self._values(name, header) for name, header in headers.items()}

    def _header(self, name: str) -> _Header:
        if name not in self._members:
            raise DamagedError(f"there is no {name}")
        member = self._members[name]
        with self._zip.open(member) as stream:
            header = _read_header(stream, name)
        if member.file_size != header.start + header.size:
            raise DamagedError(
                f"{name} announces {header.size:,} bytes, shape {list(header.shape)}, but holds "
                f"{member.file_size - header.start:,}"
            )
        return header

    def _values(self, name: str, header: _Header) -> np.ndarray:
        values = np.empty(header.size, np.uint8)
        with self._zip.open(self._members[name]) as stream:
            if len(stream.read(header.start)) < header.start:
                raise DamagedError(f"{name} is cut short")
            for start in range(0, header.size, _STEP):
                part = stream.read(min(_STEP, header.size - start))
                if len(part) != min(_STEP, header.size - start):
                    raise DamagedError(f"{name} is cut short")
                values[start : start + len(part)] = np.frombuffer(part, np.uint8)
            if stream.read(1):  # asks for the end, where the checksum is compared
                raise DamagedError(f"{name} holds more than it announces")
        flat = values.view(header.dtype) if header.size else np.empty(0, header.dtype)
        if header.in_columns:
            return flat.reshape(header.shape[::-1]).transpose()
        return flat.reshape(header.shape)


def _read_header(stream: IO[bytes], name: str) -> _Header:
    version = np.lib.format.read_magic(stream)
    if version not in _READERS:
        raise DamagedError(f"{name} is of a version that no plain array has")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a header is Python, which may warn of anything
        shape, in_columns, dtype = _READERS[version](stream)
    if dtype.hasobject or dtype.kind not in _KINDS:
        raise DamagedError(f"{name} holds {dtype}, not numbers or text")
    if any(type(n) is not int or n < 0 for n in shape):
        raise DamagedError(f"{name} has the shape {shape}")
    return _Header(tuple(shape), bool(in_columns), dtype, stream.tell())


def _by_name(members: Sequence[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """The members by the names of their arrays."""
    found: dict[str, zipfile.ZipInfo] = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name in found:
            raise DamagedError(f"it holds {name} twice")
        found[name] = member
    return found


@contextlib.contextmanager
def _raising_damaged_errors() -> Iterator[None]:
    """Makes a DamagedError of what zipfile, zlib and NumPy raise about damaged bytes."""
    try:
        yield
    except (DamagedError, DataError, MemoryError):
        raise
    except Exception as error:
        # Damage can lead a reader to a negative offset, which the system refuses with EINVAL.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        reason = " ".join(str(error).split())[:120] or "damaged"
        raise DamagedError(f"NumPy can't make sense of it: {reason}") from error
