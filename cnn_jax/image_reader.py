"""Images of a part of a data set, read by several threads."""

from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from cnn_jax import data, text
from cnn_jax.errors import DataError, UserError

PIECES = 4  # that each thread reads, one after the other, of what is asked for


class ImageReader:
    """Reads in `threads` threads; what is read doesn't depend on their number."""

    def __init__(self, part: data.Stream, threads: int) -> None:
        self._part, self._threads = part, threads
        self._pool = ThreadPoolExecutor(threads, "feed_reader")

    def read(
        self, images: np.ndarray, indices: np.ndarray, weights: np.ndarray, epoch: int | None
    ) -> None:
        """Writes the images at `indices` [steps, B] into the first of `images` uint8 [n, H, W, C].

        `weights` have at least as many rows. Those of weight 0, which are all of one example, are
        read once. The epoch is None in evaluation.

        Raises:
          DataError: an image can't be read.
        """
        wanted = indices.reshape(-1)
        counts = weights.reshape(-1)[: len(wanted)] > 0
        (places,), (padding,) = np.nonzero(counts), np.nonzero(~counts)
        pieces = np.array_split(places, min(len(places), PIECES * self._threads) or 1)
        reading = [
            self._pool.submit(self._read_piece, images, piece, wanted[piece], epoch)
            for piece in [*pieces, padding[:1]]
            if len(piece)
        ]
        try:
            for piece in reading:
                piece.result()
        finally:  # nothing is written any more when this returns
            wait([piece for piece in reading if not piece.cancel()])
        if len(padding):
            images[padding] = images[padding[0]]

    def cancel(self) -> None:
        """Makes `read` fail, after the pieces that are being read."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Waits for the threads to end."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _read_piece(
        self, images: np.ndarray, places: np.ndarray, indices: np.ndarray, epoch: int | None
    ) -> None:
        """Reads a piece; raises DataError in place of what the stream may raise."""
        which = "test" if epoch is None else "training"

        def numbers() -> str:
            return text.list_some([str(index) for index in indices], 3)

        try:
            read = self._part.read(indices, epoch)
        except UserError:
            raise
        except Exception as error:
            raise DataError(
                f"{which} images can't be read, among them numbers {numbers()}: "
                f"{type(error).__name__}: {text.one_line(str(error))}. Mend that and give the "
                "same command again; it goes on from the newest checkpoint."
            ) from error
        expected = (len(indices), *self._part.image_shape)
        if read.dtype != np.uint8 or read.shape != expected:
            raise DataError(
                f"{which} images must be read as uint8 {list(expected)}, and numbers {numbers()} "
                f"are {read.dtype} {list(read.shape)}; correct what reads them."
            )
        images[places] = read
