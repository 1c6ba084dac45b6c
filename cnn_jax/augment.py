"""Data augmentation: pure functions (key, images [N, H, W, C]) → images, for the compiled step.

They keep the dtype and, `resize` apart, the shape. Every image draws on its own, from `key` alone,
and an amount of 0 (padding, size, probability) returns the images as they are. Pixels that a crop
or a cutout uncovers become 0: black for images scaled to [0, 1], the mean color for standardized
ones. So normalize first; but whiten last.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cnn_jax import data
from cnn_jax.ops import ArgumentError
from cnn_jax.ops.arguments import integer, is_concrete, is_number
from cnn_jax.ops.windows import per_axis
from cnn_jax.options import PIXELS, PROBABILITY, option


@dataclass
class AugmentConfig:
    """Random changes of the training images, drawn anew for each; all off by default."""

    # Zero pixels added on each side before the old size is cut out at a random place, ...
    pad: int = option(0, PIXELS)
    # ... which happens to an image with this probability.
    pad_probability: float = option(1.0, PROBABILITY)
    # Mirror left and right with probability 1/2.
    flip: bool = False
    # Blank a square of this side at a random place (DeVries and Taylor, 2017).
    cutout: int = option(0, PIXELS)
    # Probability of erasing a random rectangle (Zhong et al., 2017).
    erase: float = option(0.0, PROBABILITY)


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
    _check(images)
    if images.dtype != jnp.uint8:
        raise ArgumentError(f"normalize expects uint8 images, 0 to 255; these are {images.dtype}.")
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
    unit = images.astype(jnp.float32) / 255.0
    return ((unit - constants[0]) / constants[1]).astype(dtype)


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
    _check(images, floating="whiten")
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


def resize(images: Array, size: int | tuple[int, int]) -> Array:
    """Returns the images with height and width `size` (one number: both), bilinear.

    The antialiasing triangle filter of PIL, and so of torchvision's `Resize` on a PIL image, but
    without rounding to whole gray levels.

    Raises:
      ArgumentError: images aren't floating-point, or size isn't positive.
    """
    _check(images, floating="resize")
    height, width = per_axis("resize: size", size, 2, 1)
    n, h, w, channels = images.shape
    if (h, w) == (height, width):
        return images
    shape = (n, height, width, channels)
    resized = jax.image.resize(images.astype(jnp.float32), shape, "linear", antialias=True)
    return resized.astype(images.dtype)


def pad_crop(key: Array, images: Array, padding: int, probability: float = 1.0) -> Array:
    """Pads every side with `padding` zeros, then cuts the old size out at a random place.

    Each of the (2 padding + 1)² places is equally likely. With probability 1 − `probability` an
    image stays as it is.

    Raises:
      ArgumentError: padding is negative, or probability isn't in [0, 1].
    """
    _check(images)
    padding = integer("pad_crop: padding", padding, 0)
    probability = _probability("pad_crop", probability)
    if padding == 0 or probability == 0:
        return images
    n, *shape = images.shape
    key, key_moved = jax.random.split(key) if probability < 1 else (key, None)
    corners = jax.random.randint(key, (n, 2), 0, 2 * padding + 1)
    if key_moved is not None:
        corners = jnp.where(jax.random.bernoulli(key_moved, probability, (n, 1)), corners, padding)
    sides = (padding, padding)
    padded = jnp.pad(images, ((0, 0), sides, sides, (0, 0)))

    def crop(image: Array, corner: Array) -> Array:
        return lax.dynamic_slice(image, (corner[0], corner[1], jnp.zeros_like(corner[0])), shape)

    # The fastest form on a CPU (experiments/reports/cpu_operations.md).
    return jax.vmap(crop)(padded, corners)


def flip(key: Array, images: Array) -> Array:
    """Mirrors each image left to right with probability 1/2."""
    _check(images)
    heads = jax.random.bernoulli(key, shape=(images.shape[0], 1, 1, 1))
    return jnp.where(heads, images[:, :, ::-1], images)


def cutout(key: Array, images: Array, size: int) -> Array:
    """Zeroes a square of `size` × `size` pixels (DeVries and Taylor, 2017).

    Its center c may be any pixel; its first row and column are c − ⌊size/2⌋.

    Raises:
      ArgumentError: size is negative.
    """
    _check(images)
    size = integer("cutout: size", size, 0)
    if size == 0:
        return images
    n, height, width, _ = images.shape
    centers = jax.random.randint(key, (2, n), 0, jnp.asarray([[height], [width]]))
    top, left = centers - size // 2
    sides = jnp.full((n,), size, top.dtype)
    hole = _rectangles(top, left, sides, sides, height, width)
    return jnp.where(hole, jnp.zeros((), images.dtype), images)


def random_erasing(
    key: Array,
    images: Array,
    probability: float,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
    attempts: int = 10,
) -> Array:
    """Fills a random rectangle with noise, with the given probability (Zhong et al., 2017).

    The rectangle's share of the image is uniform in `area`, its height : width in `aspect`;
    rectangles that don't fit are drawn again, up to `attempts` times, after which the image stays
    as it is. The noise has 256 levels, equally likely, between the image's extreme values.

    Raises:
      ArgumentError: probability isn't in [0, 1], a range is empty, or images aren't floating-point.
    """
    _check(images, floating="random_erasing")
    probability = _probability("random_erasing", probability)
    attempts = integer("random_erasing: attempts", attempts, 1)
    area, aspect = ((float(least), float(most)) for least, most in (area, aspect))
    if not (0 < area[0] <= area[1] <= 1 and 0 < aspect[0] <= aspect[1]):
        raise ArgumentError(
            f"random_erasing: area={area} and aspect={aspect} must be (least, greatest), positive, "
            "and areas at most 1."
        )
    if probability == 0:
        return images
    n, height, width, _ = images.shape
    key_place, key_noise = jax.random.split(key)
    # One call, as each costs compilation.
    draws = jax.random.uniform(key_place, (2 * attempts + 3, n), jnp.float32)

    # All attempts at once; the first that fits is taken.
    shares = area[0] + (area[1] - area[0]) * draws[:attempts]
    ratios = aspect[0] + (aspect[1] - aspect[0]) * draws[attempts : 2 * attempts]
    rows = jnp.round(jnp.sqrt(height * width * shares * ratios)).astype(jnp.int32)
    columns = jnp.round(jnp.sqrt(height * width * shares / ratios)).astype(jnp.int32)
    fits = (rows <= height) & (columns <= width)
    first = jnp.argmax(fits, axis=0)[None]
    rows = jnp.take_along_axis(rows, first, axis=0)[0]
    columns = jnp.take_along_axis(columns, first, axis=0)[0]

    def corner(draw: Array, length: Array, size: int) -> Array:
        return jnp.floor(draw * (size - length + 1).astype(jnp.float32)).astype(jnp.int32)

    chosen, vertical, horizontal = draws[2 * attempts :]
    top, left = corner(vertical, rows, height), corner(horizontal, columns, width)
    erased = (chosen < probability) & fits.any(axis=0)
    hole = _rectangles(top, left, rows, columns, height, width) & erased.reshape(n, 1, 1, 1)

    least = images.min(axis=(1, 2, 3), keepdims=True)
    span = images.max(axis=(1, 2, 3), keepdims=True) - least
    noise = least + span * _noise(key_noise, images.shape).astype(images.dtype)
    return jnp.where(hole, noise, images)


# In this order. Adding one changes no draw of the others: the first four keys are those of recorded
# runs, every later one comes from its place alone.
AUGMENTATIONS: list[Callable[[Array, Array, AugmentConfig], Array]] = [
    lambda key, images, config: pad_crop(key, images, config.pad, config.pad_probability),
    lambda key, images, config: flip(key, images) if config.flip else images,
    lambda key, images, config: cutout(key, images, config.cutout),
    lambda key, images, config: random_erasing(key, images, config.erase),
]


def augment(key: Array, images: Array, config: AugmentConfig) -> Array:
    """Changes images [N, H, W, C] by each of AUGMENTATIONS as `config` has it (0 or False: not).

    Every one has its own key, so that turning one off leaves the others' draws unchanged.
    """
    keys = list(jax.random.split(key, 4))
    keys += [jax.random.fold_in(key, place) for place in range(4, len(AUGMENTATIONS))]
    for own_key, change in zip(keys, AUGMENTATIONS, strict=True):
        images = change(own_key, images, config)
    return images


def _noise(key: Array, shape: tuple[int, ...]) -> Array:
    """Numbers 0, 1/255, …, 1 of a shape [N, ...], four from each draw of 32 bits."""
    per_image = math.prod(shape[1:])
    words = jax.random.bits(key, (shape[0], -(-per_image // 4)), jnp.uint32)
    levels = lax.bitcast_convert_type(words, jnp.uint8)
    levels = levels.reshape(shape[0], words.shape[1] * 4)[:, :per_image]
    return levels.reshape(shape).astype(jnp.float32) / 255.0


def _rectangles(
    top: Array, left: Array, rows: Array, columns: Array, height: int, width: int
) -> Array:
    """One rectangle for each image, corners and sides [N] → mask [N, height, width, 1]."""

    def span(start: Array, length: Array, size: int) -> Array:
        pixel = jnp.arange(size, dtype=start.dtype)[None]
        return (pixel >= start[:, None]) & (pixel < (start + length)[:, None])

    vertical, horizontal = span(top, rows, height), span(left, columns, width)
    return (vertical[:, :, None] & horizontal[:, None, :])[..., None]


def _probability(operation: str, value: float) -> float:
    """A known probability as Python's float."""
    if not is_number(value) or not is_concrete(value) or not 0 <= float(value) <= 1:
        raise ArgumentError(f"{operation}: probability={value!r} must lie in [0, 1].")
    return float(value)


def _check(images: Array, floating: str = "") -> None:
    """ArgumentError unless images is [N, H, W, C], and floating-point where an op needs it."""
    if images.ndim != 4:
        raise ArgumentError(
            f"images must be [N, height, width, channels]; this array has shape {images.shape}."
        )
    if floating and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ArgumentError(f"{floating} expects normalized images; these are {images.dtype}.")
