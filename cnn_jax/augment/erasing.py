"""Parts of images that are blanked: cutout and random erasing."""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax

from cnn_jax.augment.checks import check_images, check_probability, check_rectangles
from cnn_jax.ops.arguments import integer


def cutout(key: Array, images: Array, size: int) -> Array:
    """Zeroes a square of `size` × `size` pixels (DeVries and Taylor, 2017).

    Its center c may be any pixel; its first row and column are c − ⌊size/2⌋.

    Raises:
      ArgumentError: size is negative.
    """
    check_images(images)
    size = integer("cutout: size", size, 0)
    if size == 0:
        return images
    n, height, width, _ = images.shape
    centers = jax.random.randint(key, (2, n), 0, jnp.asarray([[height], [width]]))
    top, left = centers - size // 2
    sides = jnp.full((n,), size, top.dtype)
    hole = mark_rectangles(top, left, sides, sides, height, width)
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
    check_images(images, floating="random_erasing")
    probability = check_probability("random_erasing", probability)
    attempts = integer("random_erasing: attempts", attempts, 1)
    area, aspect = check_rectangles("random_erasing", area, aspect)
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
    hole = mark_rectangles(top, left, rows, columns, height, width) & erased.reshape(n, 1, 1, 1)

    least = images.min(axis=(1, 2, 3), keepdims=True)
    span = images.max(axis=(1, 2, 3), keepdims=True) - least
    noise = least + span * _noise(key_noise, images.shape).astype(images.dtype)
    return jnp.where(hole, noise, images)


def _noise(key: Array, shape: tuple[int, ...]) -> Array:
    """Numbers 0, 1/255, …, 1 of a shape [N, ...], four from each draw of 32 bits."""
    per_image = math.prod(shape[1:])
    words = jax.random.bits(key, (shape[0], -(-per_image // 4)), jnp.uint32)
    levels = lax.bitcast_convert_type(words, jnp.uint8)
    levels = levels.reshape(shape[0], words.shape[1] * 4)[:, :per_image]
    return levels.reshape(shape).astype(jnp.float32) / 255.0


def mark_rectangles(
    top: Array, left: Array, rows: Array, columns: Array, height: int, width: int
) -> Array:
    """Returns one rectangle for each image, corners and sides [N] → mask [N, height, width, 1]."""

    def span(start: Array, length: Array, size: int) -> Array:
        pixel = jnp.arange(size, dtype=start.dtype)[None]
        return (pixel >= start[:, None]) & (pixel < (start + length)[:, None])

    vertical, horizontal = span(top, rows, height), span(left, columns, width)
    return (vertical[:, :, None] & horizontal[:, None, :])[..., None]
