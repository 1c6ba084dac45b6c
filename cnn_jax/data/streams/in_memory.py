"""The images of a data set that is held in memory, as a source."""

import io

import numpy as np
from PIL import Image

from cnn_jax.data.dataset import Dataset
from cnn_jax.data.streams.source import Parts, Source
from cnn_jax.errors import DataError


class ArraySource(Source):
    """Images uint8 [n, H, W, 1 or 3]; their bytes are those of PNGs."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, fingerprint: str) -> None:
        self._images, self.labels, self.fingerprint = images, labels, fingerprint

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        image = self._images[index]
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        return stream.getvalue(), int(self.labels[index])

    def name(self, index: int) -> str:
        """Returns the number of an image."""
        return f"{index:07d}.png"


def as_parts(dataset: Dataset) -> Parts:
    """Returns the parts of a data set in memory.

    Raises:
      DataError: its images have other than 1 or 3 channels.
    """
    if (channels := dataset.train_images.shape[-1]) not in (1, 3):
        raise DataError(
            f"images of {channels} channels can't be kept as pictures; only gray ones (1) and "
            "colored ones (3) can."
        )
    train, test = (
        ArraySource(images, labels, f"{dataset.fingerprint} {part}")
        for part, images, labels in (
            ("train", dataset.train_images, dataset.train_labels),
            ("test", dataset.test_images, dataset.test_labels),
        )
    )
    return Parts(train, test, dataset.class_names, dataset.provenance)
