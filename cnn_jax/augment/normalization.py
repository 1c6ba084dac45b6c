"""The scale of images: normalization and whitening. Neither is random."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from cnn_jax import data
from cnn_jax.augment.checks import check_images
from cnn_jax.ops import ArgumentError


def normalize(
    images: Array,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    dtype: str = "float32",
) -> Array:
    """Returns (images / 255 − mean) / std of uint8 images, computed in float32, as `dtype`.

    `mean` and `std` are numbers on the scale 0 to 1, one for all channels or one for each.

    Raises:
      ArgumentError: images aren't uint8, or there are neither 1 nor C means or deviations.
    """
    return standardize(scale(images), mean, std).astype(dtype)


def scale(images: Array) -> Array:
    """Returns uint8 images / 255 in float32.

    Raises:
      ArgumentError: images aren't uint8.
    """
    check_images(images)
    if images.dtype != jnp.uint8:
        raise ArgumentError(f"normalize expects uint8 images, 0 to 255; these are {images.dtype}.")
    return images.astype(jnp.float32) / 255.0


def standardize(
    images: Array, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0
) -> Array:
    """Returns (images − mean) / std of images scaled to [0, 1]; the second half of `normalize`.

    Raises:
      ArgumentError: there are neither 1 nor C means or deviations.
    """
    check_images(images, floating="standardize")
    channels = images.shape[-1]
    constants = []
    for name, value in (("mean", mean), ("std", std)):
        values = np.atleast_1d(np.asarray(value, np.float32))
        if values.ndim != 1 or len(values) not in (1, channels):
            raise ArgumentError(
                f"normalize got {len(values)} values of {name} for images of {channels} channels; "
                "give one number, or one for each channel."
            )
        constants.append(jnp.asarray(values).reshape(1, 1, 1, -1))
    return (images - constants[0]) / constants[1]


def whiten(images: Array, mean: np.ndarray, std: np.ndarray, epsilon: float) -> Array:
    """Evens out the spatial frequencies of images: y = D⁻¹(D(x − mean) / √(std² + ε)) / s.

    D is the orthonormal discrete cosine transform of rows and columns (DCT-II), `mean` [H, W, C]
    the mean image and `std` [H, W, C] the deviation of each coefficient; s makes the mean variance
    of the pixels 1. The covariance of images is nearly diagonal in these coefficients (Ahmed,
    Natarajan and Rao, 1974), so this is close to ZCA whitening of each channel (Bell and Sejnowski,
    1997; Coates and Ng, 2012). The larger ε, the more of the images' own spectrum is left.

    Raises:
      ArgumentError: images aren't floating-point, the statistics are of another shape, or ε isn't
        positive.
    """
    check_images(images, floating="whiten")
    if not mean.shape == std.shape == images.shape[1:]:
        raise ArgumentError(
            f"whiten got a mean of shape {mean.shape} and deviations of shape {std.shape} for "
            f"images of {images.shape[1:]}; all must be alike."
        )
    if not epsilon > 0:
        raise ArgumentError(f"whiten: epsilon={epsilon} must be positive.")
    variance = np.square(np.asarray(std, np.float64))
    scale = np.sqrt(np.mean(variance / (variance + epsilon)))
    gain = 1 / (scale * np.sqrt(variance + epsilon)) if scale else np.zeros_like(variance)

    def transform(x: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
        # Faster than jax.scipy.fft.dctn on a CPU (experiments/reports/cpu_operations.md).
        return jnp.einsum("ri,nijc,sj->nrsc", rows, x, columns, precision="highest")

    rows, columns = (data.cosines(length).astype(np.float32) for length in images.shape[1:3])
    x = images.astype(jnp.float32) - mean[None].astype(np.float32)
    x = transform(x, rows, columns) * gain[None].astype(np.float32)
    return transform(x, rows.T, columns.T).astype(images.dtype)
