"""A part of a data set whose images are read and cut out when they are needed."""

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cnn_jax.data.notes import DataWarning
from cnn_jax.data.streams import cropping
from cnn_jax.data.streams.settings import StreamConfig
from cnn_jax.data.streams.source import Source
from cnn_jax.errors import DataError, PictureError


class Stream:
    """Images of a source by index; what is read is a function of (seed, epoch, index) alone."""

    def __init__(
        self,
        source: Source,
        settings: StreamConfig,
        seed: int = 0,
        threads: int = 1,
        indices: np.ndarray | None = None,
        labels: np.ndarray | None = None,
    ) -> None:
        """Makes a stream of a source, or of its examples at `indices` [n].

        Args:
          source: where the examples come from.
          settings: how they become images of one size.
          seed: of what is cut out in training.
          threads: how many read at a time in one call of `read`.
          indices: of the examples, None for all.
          labels: int32 [n] in place of those of the source.
        """
        self._source, self._settings, self._seed = source, settings, seed
        self._threads = threads
        self._indices = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)
        own = source.labels[self._indices] if labels is None else labels
        self.labels = np.asarray(own, np.int32)
        # The damaged examples that were replaced, by their index here, and the sentence about each.
        self.damaged: dict[int, str] = {}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape [H, W, C] of every image."""
        size = self._settings.size
        return size, size, 1 if self._settings.gray else 3

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray, labels: np.ndarray | None = None) -> "Stream":
        """Returns the stream of the examples at `indices` [k], cut out as they are here.

        `labels` int32 [k] take the place of theirs if given.
        """
        labels = self.labels[indices] if labels is None else labels
        chosen = self._indices[indices]
        return Stream(self._source, self._settings, self._seed, self._threads, chosen, labels)

    def read(self, indices: np.ndarray, epoch: int | None) -> np.ndarray:
        """Returns the images at `indices` [k], uint8 `[k, H, W, C]`; several threads may call it.

        Args:
          indices: of the images, in the order wanted.
          epoch: of the training, which decides what is cut out; None in evaluation.

        Raises:
          DataError: an image can't be read.
        """
        wanted = np.asarray(indices, np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"the indices must lie in 0 … {len(self) - 1}")
        images = np.empty((len(wanted), *self.image_shape), np.uint8)
        draws = None
        if epoch is not None and self._settings.crop != "center":
            draws = cropping.draw(self._seed, epoch, self._indices[wanted])

        def read_one(place: int) -> None:
            image = self._read_pixels(int(wanted[place]))
            own = None if draws is None else draws[place]
            images[place] = cropping.crop(image, self._settings, own)

        if self._threads == 1 or len(wanted) < 2:
            for place in range(len(wanted)):
                read_one(place)
        else:
            with ThreadPoolExecutor(self._threads, "stream") as pool:
                list(pool.map(read_one, range(len(wanted))))
        return images

    def _read_pixels(self, index: int) -> np.ndarray:
        """The picture of an example, uint8 [height, width, C], or the one that replaces it."""
        channels = self.image_shape[2]
        try:
            return self._source.pixels(int(self._indices[index]), channels)
        except PictureError as error:
            if self._settings.damaged == "error":
                raise _advise_replacing(error) from error
            self._note(index, str(error))
        for other in self._successors(index):
            try:
                return self._source.pixels(int(self._indices[other]), channels)
            except PictureError as error:
                self._note(other, str(error))
        raise DataError(
            f"no picture of the class of {self._source.name(int(self._indices[index]))} can be "
            "read; replace them."
        )

    def _successors(self, index: int) -> Iterator[int]:
        """The other examples with the same label, from `index` on and then from the start."""
        (same,) = np.nonzero(self.labels == self.labels[index])
        at = int(np.searchsorted(same, index))
        yield from map(int, np.concatenate([same[at + 1 :], same[:at]]))

    def _note(self, index: int, sentence: str) -> None:
        if index not in self.damaged:
            self.damaged[index] = sentence
            warnings.warn(
                f"{sentence.rstrip('.')}; the next picture of its class that can be read takes its "
                f"place ({len(self.damaged):,} so far)",
                DataWarning,
                stacklevel=2,
            )


def _advise_replacing(error: PictureError) -> PictureError:
    return PictureError(
        f"{str(error).rstrip('.')} (or let another picture of its class take its place with "
        "config.dataset.stream.damaged=replace)."
    )
