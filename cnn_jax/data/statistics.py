"""Statistics of the channels, spatial frequencies and borders of images uint8 [N, H, W, C]."""

import numpy as np


def cosines(length: int) -> np.ndarray:
    """The orthonormal DCT-II as a matrix: row k is the cosine of frequency k, `[length, length]`.

    `scipy.fft.dct(numpy.eye(length), axis=0, norm="ortho")` without the import, which is slow.
    """
    frequency, place = np.arange(length)[:, None], np.arange(length) + 0.5
    matrix = np.sqrt(2 / length) * np.cos(np.pi * frequency * place / length)
    matrix[0] /= np.sqrt(2)
    return matrix


def spectrum_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean image, and the standard deviation of each spatial frequency, `[H, W, C]` each.

    On the scale 0 to 1; a frequency is a coefficient of the orthonormal discrete cosine transform
    (DCT-II) of rows and columns, [0, 0] the lowest.
    """
    mean = images.mean(0, dtype=np.float64) / 255.0
    rows, columns = (cosines(length).astype(np.float32) for length in images.shape[1:3])
    squares = np.zeros(images.shape[1:])
    for start in range(0, len(images), 512):  # as much as a processor's cache holds
        centered = images[start : start + 512] / np.float32(255) - mean.astype(np.float32)
        spectrum = np.einsum("ri,nijc,sj->nrsc", rows, centered, columns, optimize=True)
        squares += np.square(spectrum).sum(0, dtype=np.float64)
    return mean, np.sqrt(squares / len(images))


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, on the scale 0 to 1."""
    # Counting the 256 values makes the result independent of the order of summation.
    values = np.arange(256) / 255.0
    means, deviations = [], []
    for channel in range(images.shape[-1]):
        counts = np.zeros(256, np.int64)
        for start in range(0, len(images), 4096):  # a chunk at a time: bincount copies to int64
            chunk = images[start : start + 4096, ..., channel]
            counts += np.bincount(chunk.ravel(), minlength=256)
        weights = counts / counts.sum()
        mean = float(weights @ values)
        means.append(mean)
        deviations.append(float(np.sqrt(weights @ (values - mean) ** 2)))
    return tuple(means), tuple(deviations)


def border_brightness(images: np.ndarray) -> np.ndarray:
    """The mean of the outermost pixels of each image, `[n]`, on the scale 0 to 1."""
    border = np.ones(images.shape[1:3], bool)
    border[1:-1, 1:-1] = False
    return images[:, border].mean((1, 2)) / 255.0


def border_statistics(images: np.ndarray, most: int = 4096) -> tuple[float, float]:
    """Mean and standard deviation of `border_brightness`, of at most about `most` of the images."""
    brightness = border_brightness(images[:: max(1, len(images) // most)])
    return float(brightness.mean()), float(brightness.std())
