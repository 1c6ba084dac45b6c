"""Pixels as they are, in files that are mapped into memory."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cnn_jax.data import pictures
from cnn_jax.data.streams.source import Source, show


class RawSource(Source):
    """Records uint8 [size, size, 3], one after the other in each file."""

    def __init__(
        self,
        found: Sequence[Path],
        counts: Sequence[int],
        labels: np.ndarray,
        size: int,
        fingerprint: str,
    ) -> None:
        """Maps files with `counts` records each; `labels` int32 [n] are of all of them."""
        self._files, self._counts = tuple(found), tuple(counts)
        self._size, self.labels, self.fingerprint = size, labels, fingerprint
        self._ends = np.cumsum(counts)
        self._maps = self._map()

    def _map(self) -> list[np.ndarray]:
        shape = self._size, self._size, 3
        try:
            return [
                np.memmap(file, np.uint8, "r", shape=(count, *shape))
                for file, count in zip(self._files, self._counts, strict=True)
            ]
        except OSError as error:
            raise pictures.cannot_read(error.filename or self._files[0], error) from error

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_maps": None}  # which would be copied as a whole

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._maps = self._map()

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        return self._view(index).tobytes(), int(self.labels[index])

    def _view(self, index: int) -> np.ndarray:
        file = int(np.searchsorted(self._ends, index, "right"))
        return self._maps[file][index - (self._ends[file - 1] if file else 0)].view(np.ndarray)

    def name(self, index: int) -> str:
        """Returns the file and the number of a record there."""
        file = int(np.searchsorted(self._ends, index, "right"))
        before = int(self._ends[file - 1]) if file else 0
        return f"{show(self._files[file])}: record {index - before}"

    def pixels(self, index: int, channels: int) -> np.ndarray:
        """Returns a record, uint8 [size, size, channels]; a view if it has 3."""
        view = self._view(index)
        if channels == 3:
            return view
        return np.asarray(Image.fromarray(view).convert("L"))[..., None]

    def digest(self, start: int, stop: int) -> str:
        """Returns a SHA-256 of the fingerprint, the places and the labels."""
        found = hashlib.sha256(f"{self.fingerprint} {start} {stop}".encode())
        found.update(self.labels[start:stop].tobytes())
        return found.hexdigest()
