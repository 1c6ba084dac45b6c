"""Where pixels are: resizing, shifts and reflections."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from cnn_jax.augment.checks import check_images, check_probability
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
