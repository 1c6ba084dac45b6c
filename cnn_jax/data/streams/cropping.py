"""What is cut out of a picture, and how that becomes an image of one size.

In training the rectangle is a function of (seed, epoch, index) and the picture's size alone.
"""

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cnn_jax.data import sampling
from cnn_jax.data.streams.settings import StreamConfig
from cnn_jax.errors import DataError

ATTEMPTS = 10  # at a rectangle that fits
ASPECT = (3 / 4, 4 / 3)  # width : height of rectangles
DRAWS = 2 * ATTEMPTS + 4  # for each image, of which the last two aren't used
_COUNTS = DRAWS // 4  # of the generator's counter, each of which gives four draws

Resize = Callable[[np.ndarray, tuple[int, int]], np.ndarray]


class Rectangle(NamedTuple):
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Returns the part of an image [H, W, C], a view."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


def draw(seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
    """Returns float64 numbers in [0, 1), `[k, DRAWS]`, for the crops of k images in an epoch."""
    generator = sampling.stream(seed, epoch, sampling.CROPS)
    draws = np.empty((len(indices), DRAWS))
    position = 0
    for row, index in zip(draws, indices.tolist(), strict=True):
        generator.advance(index * _COUNTS - position)
        row[:] = sampling.uniform(generator, (DRAWS,))
        position = (index + 1) * _COUNTS
    return draws


def choose_rectangle(
    height: int, width: int, draws: np.ndarray, smallest: float = 0.08
) -> Rectangle:
    """Returns a random rectangle of a picture; `draws` are DRAWS numbers in [0, 1).

    Szegedy et al. (2015), as torchvision has it: the share of the area is uniform in
    [smallest, 1], the logarithm of width : height in that of ASPECT. Rectangles that don't fit are
    drawn again; after ATTEMPTS the largest in the middle of an allowed aspect is taken.
    """
    numbers = draws.tolist()
    low, high = map(math.log, ASPECT)
    for attempt in range(ATTEMPTS):
        area = height * width * (smallest + (1 - smallest) * numbers[2 * attempt])
        ratio = math.exp(low + (high - low) * numbers[2 * attempt + 1])
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            top = int(numbers[2 * ATTEMPTS] * (height - rows + 1))
            left = int(numbers[2 * ATTEMPTS + 1] * (width - columns + 1))
            return Rectangle(top, left, rows, columns)
    rows = min(height, max(1, round(width / ASPECT[0])))
    columns = min(width, max(1, round(height * ASPECT[1])))
    return Rectangle((height - rows) // 2, (width - columns) // 2, rows, columns)


def scale_to_short_side(height: int, width: int, side: int) -> tuple[int, int]:
    """Returns the (height, width) of a picture whose short side is brought to `side`."""
    if height <= width:
        return side, max(side, int(side * width / height))
    return max(side, int(side * height / width)), side


def crop(image: np.ndarray, settings: StreamConfig, draws: np.ndarray | None = None) -> np.ndarray:
    """Makes an image of the configured size, uint8 `[size, size, C]`, of one `[H, W, C]`.

    `draws` [DRAWS] are the random numbers of a training image, None in evaluation.
    """
    resize = RESIZERS[settings.resizer]
    height, width = image.shape[:2]
    size = settings.size
    kind = "center" if draws is None else settings.crop
    if draws is not None and kind == "resized":
        part = choose_rectangle(height, width, draws, settings.crop_area).cut(image)
        return resize(part, (size, size))
    scaled = resize(image, scale_to_short_side(height, width, settings.short_side))
    rows, columns = scaled.shape[0] - size, scaled.shape[1] - size
    if draws is not None and kind == "square":
        top = int(draws[2 * ATTEMPTS] * (rows + 1))
        left = int(draws[2 * ATTEMPTS + 1] * (columns + 1))
    else:
        top, left = rows // 2, columns // 2
    return Rectangle(top, left, size, size).cut(scaled)


def resize_by_pillow(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Brings an image [H, W, C] to (height, width): bilinear, over all pixels when it shrinks."""
    if image.shape[:2] == size:
        return image
    gray = image.shape[2] == 1
    picture = Image.fromarray(image[..., 0] if gray else image)
    resized = np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))
    return resized.reshape(*size, image.shape[2])


def resize_by_opencv(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Brings an image [H, W, C] to (height, width): by areas when it shrinks, else bilinear."""
    if image.shape[:2] == size:
        return image
    cv2 = import_opencv()
    shrinks = image.shape[0] >= size[0] and image.shape[1] >= size[1]
    resized = cv2.resize(
        image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return np.asarray(resized).reshape(*size, image.shape[2])


@functools.cache
def import_opencv() -> Any:
    """Imports OpenCV, to work in the threads that call it.

    Raises:
      DataError: it isn't installed.
    """
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError as error:
        raise DataError(
            "config.dataset.stream.resizer='opencv' needs OpenCV, which isn't installed; run "
            "`pip install opencv-python-headless`, or choose 'pillow'."
        ) from error
    cv2.setNumThreads(1)
    return cv2


RESIZERS: dict[str, Resize] = {"pillow": resize_by_pillow, "opencv": resize_by_opencv}
