"""Where pixels are: resizing, crops, shifts and reflections."""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax

from cnn_jax.augment.checks import check_images, check_probability, check_rectangles
from cnn_jax.ops.arguments import integer
from cnn_jax.ops.windows import per_axis


def resize(images: Array, size: int | tuple[int, int]) -> Array:
    """Returns the images with height and width `size` (one number: both), bilinear.

    The antialiasing triangle filter of PIL, and so of torchvision's `Resize` on a PIL image, but
    without rounding to whole gray levels.

    Raises:
      ArgumentError: images aren't floating-point, or size isn't positive.
    """
    check_images(images, floating="resize")
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
    check_images(images)
    padding = integer("pad_crop: padding", padding, 0)
    probability = check_probability("pad_crop", probability)
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
    check_images(images)
    heads = jax.random.bernoulli(key, shape=(images.shape[0], 1, 1, 1))
    return jnp.where(heads, images[:, :, ::-1], images)


def random_resized_crop(
    key: Array,
    images: Array,
    size: tuple[int, int],
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    attempts: int = 10,
) -> Array:
    """Cuts a random rectangle out of each image and resizes it to (height, width), bilinear.

    Szegedy et al. (2015), as torchvision has it: the rectangle's share of the image is uniform in
    `area`, the logarithm of its width : height in that of `aspect`; rectangles that don't fit are
    drawn again, up to `attempts` times, after which the largest in the middle of an allowed aspect
    is taken. It is resized as `resize` does, from its own pixels alone.

    Raises:
      ArgumentError: images aren't floating-point, a size isn't positive, or a range is empty.
    """
    check_images(images, floating="random_resized_crop")
    sizes = per_axis("random_resized_crop: size", size, 2, 1)
    area, aspect = check_rectangles("random_resized_crop", area, aspect)
    attempts = integer("random_resized_crop: attempts", attempts, 1)
    n, height, width, _ = images.shape
    draws = jax.random.uniform(key, (2 * attempts + 2, n), jnp.float32)
    pixels = height * width * (area[0] + (area[1] - area[0]) * draws[:attempts])
    low, high = map(math.log, aspect)
    ratios = jnp.exp(low + (high - low) * draws[attempts : 2 * attempts])
    rows, columns = jnp.round(jnp.sqrt(pixels / ratios)), jnp.round(jnp.sqrt(pixels * ratios))
    fits = (rows > 0) & (rows <= height) & (columns > 0) & (columns <= width)
    first = jnp.argmax(fits, axis=0)[None]
    middle = (
        min(height, round(width / aspect[0])),
        min(width, round(height * aspect[1])),
    )
    resized = images.astype(jnp.float32)
    spots = (("nrh,nhwc->nrwc", rows, height), ("nsw,nrwc->nrsc", columns, width))
    for axis, (product, lengths, whole) in enumerate(spots):
        drawn = jnp.take_along_axis(lengths, first, axis=0)[0]
        length = jnp.where(fits.any(0), drawn, middle[axis])
        start = jnp.floor(draws[2 * attempts + axis] * (whole - length + 1))
        start = jnp.where(fits.any(0), start, (whole - middle[axis]) // 2)
        weights = _interpolate(start, length, whole, sizes[axis])
        resized = jnp.einsum(product, weights, resized, precision="highest")
    return resized.astype(images.dtype)


def _interpolate(start: Array, length: Array, whole: int, size: int) -> Array:
    """The weights [N, size, whole] by which pixels [start, start + length) become `size` others."""
    scale = (length / size)[:, None, None]
    centers = (jnp.arange(size, dtype=jnp.float32)[None, :, None] + 0.5) * scale
    pixels = jnp.arange(whole, dtype=jnp.float32)[None, None] - start[:, None, None]
    near = 1 - jnp.abs(pixels + 0.5 - centers) / jnp.maximum(scale, 1)
    inside = (pixels >= 0) & (pixels < length[:, None, None])
    weights = jnp.where(inside, jnp.maximum(near, 0), 0)
    return weights / weights.sum(2, keepdims=True)
