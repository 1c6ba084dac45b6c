"""RandAugment (Cubuk et al., 2020): operations drawn from fourteen, all of one magnitude.

The operations are PIL's, with torchvision's ranges. Each changes one image of 256 levels, int32
[H, W, C] with values 0 to 255 and 1 or 3 channels, by an amount of its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from cnn_jax.augment.checks import check_images
from cnn_jax.augment.color import check_colors
from cnn_jax.ops import ArgumentError
from cnn_jax.ops.arguments import integer

MAGNITUDES = 30  # the greatest magnitude


def rand_augment(key: Array, images: Array, count: int, magnitude: int) -> Array:
    """Changes each image, scaled to [0, 1], by `count` of OPERATIONS, drawn with replacement.

    The magnitude is a whole number from 0 to MAGNITUDES. Images are rounded to 256 levels; what
    moves into them from outside is black.

    Raises:
      ArgumentError: count or magnitude is no such number; images aren't floating-point, or neither
        gray nor of three colors.
    """
    check_images(images, floating="rand_augment")
    check_colors("rand_augment", images)
    count = integer("rand_augment: count", count, 0)
    magnitude = integer("rand_augment: magnitude", magnitude, 0)
    if magnitude > MAGNITUDES:
        raise ArgumentError(f"rand_augment: magnitude={magnitude} must be at most {MAGNITUDES}.")
    share = magnitude / MAGNITUDES
    n, height, width, _ = images.shape
    if count == 0:
        return images
    key_operation, key_sign = jax.random.split(key)
    numbers = jax.random.randint(key_operation, (count, n), 0, len(OPERATIONS))
    signs = jax.random.rademacher(key_sign, (count, n), jnp.float32)

    def branch(operation: Operation) -> Callable[[Array, Array], Array]:
        middle, span = operation.middle(share), operation.span(share, height, width)
        return lambda image, sign: operation.change(image, middle + sign * span)

    branches = [branch(operation) for operation in OPERATIONS.values()]

    def change(levels: Array, drawn: tuple[Array, Array]) -> tuple[Array, None]:
        def one(image: Array, number: Array, sign: Array) -> Array:
            return lax.switch(number, branches, image, sign)

        return jax.vmap(one)(levels, *drawn), None

    levels = jnp.round(images.astype(jnp.float32) * 255).astype(jnp.int32)
    levels, _ = lax.scan(change, levels, (numbers, signs))
    return (levels.astype(jnp.float32) / 255).astype(images.dtype)


def identity(image: Array, amount: Array) -> Array:
    """Returns the image as it is."""
    del amount
    return image


def shear_x(image: Array, slope: Array) -> Array:
    """Moves each row to the left by the slope times its distance from the top edge."""
    return _transform(image, 1, slope, 0, 0, 1, 0)


def shear_y(image: Array, slope: Array) -> Array:
    """Moves each column up by the slope times its distance from the left edge."""
    return _transform(image, 1, 0, 0, slope, 1, 0)


def translate_x(image: Array, pixels: Array) -> Array:
    """Moves the image to the right by whole pixels; what is behind the point is cut off."""
    return _transform(image, 1, 0, -jnp.trunc(pixels), 0, 1, 0)


def translate_y(image: Array, pixels: Array) -> Array:
    """Moves the image down by whole pixels; what is behind the point is cut off."""
    return _transform(image, 1, 0, 0, 0, 1, -jnp.trunc(pixels))


def rotate(image: Array, degrees: Array) -> Array:
    """Turns the image about its middle, counterclockwise."""
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    x, y = image.shape[1] / 2, image.shape[0] / 2
    return _transform(image, cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


def brightness(image: Array, factor: Array) -> Array:
    """Returns the levels times a factor."""
    return _blend(jnp.zeros_like(image), image, factor)


def color(image: Array, factor: Array) -> Array:
    """Returns the levels' distances from their gray times a factor."""
    return image if image.shape[-1] == 1 else _blend(_gray(image), image, factor)


def contrast(image: Array, factor: Array) -> Array:
    """Returns the levels' distances from the mean gray, a whole level, times a factor."""
    mean = jnp.floor(_gray(image).mean(dtype=jnp.float32) + 0.5).astype(jnp.int32)
    return _blend(jnp.full_like(image, mean), image, factor)


def sharpness(image: Array, factor: Array) -> Array:
    """Returns the distances from a smoothed image times a factor; the outermost pixels stay.

    Smoothed is the mean of a pixel, counted five times, and its eight neighbors.
    """
    height, width, _ = image.shape
    if min(height, width) < 3:
        return image
    nine = lax.reduce_window(image, 0, lax.add, (3, 3, 1), (1, 1, 1), "VALID")
    inner = image[1:-1, 1:-1]
    smooth = (2 * (nine + 4 * inner) + 13) // 26  # rounded to a whole level
    return image.at[1:-1, 1:-1].set(_blend(smooth, inner, factor))


def posterize(image: Array, bits: Array) -> Array:
    """Keeps the upper bits of each level."""
    step = jnp.exp2(8 - jnp.round(bits)).astype(jnp.int32)
    return image // step * step


def solarize(image: Array, threshold: Array) -> Array:
    """Inverts the levels from a threshold on."""
    return jnp.where(image.astype(jnp.float32) < threshold, image, 255 - image)


def autocontrast(image: Array, amount: Array) -> Array:
    """Stretches the levels of each channel to 0 … 255."""
    del amount
    low, high = image.min((0, 1), keepdims=True), image.max((0, 1), keepdims=True)
    return jnp.where(high > low, (image - low) * 255 // jnp.maximum(high - low, 1), image)


def equalize(image: Array, amount: Array) -> Array:
    """Spreads the levels of each channel so that about equally many pixels have each."""
    del amount

    def one(channel: Array) -> Array:
        counts = jnp.zeros(256, jnp.int32).at[channel.ravel()].add(1)
        step = (channel.size - counts[channel.max()]) // 255
        below = jnp.cumsum(counts) - counts
        table = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
        return jnp.where(step > 0, table[channel], channel)

    return jnp.stack([one(image[..., i]) for i in range(image.shape[-1])], -1)


class Operation(NamedTuple):
    """A change of an image by `middle` ± `span`, the sign drawn.

    Both are functions of the share of the full magnitude; the span, of the image's height and width
    as well.
    """

    change: Callable[[Array, Array], Array]
    span: Callable[[float, int, int], float] = lambda share, height, width: 0.0
    middle: Callable[[float], float] = lambda share: 0.0


def _enhance(change: Callable[[Array, Array], Array]) -> Operation:
    return Operation(change, lambda share, height, width: 0.9 * share, lambda share: 1.0)


OPERATIONS: dict[str, Operation] = {
    "identity": Operation(identity),
    "shear_x": Operation(shear_x, lambda share, height, width: 0.3 * share),
    "shear_y": Operation(shear_y, lambda share, height, width: 0.3 * share),
    "translate_x": Operation(translate_x, lambda share, height, width: 150 / 331 * width * share),
    "translate_y": Operation(translate_y, lambda share, height, width: 150 / 331 * height * share),
    "rotate": Operation(rotate, lambda share, height, width: 30 * share),
    "brightness": _enhance(brightness),
    "color": _enhance(color),
    "contrast": _enhance(contrast),
    "sharpness": _enhance(sharpness),
    "posterize": Operation(posterize, middle=lambda share: 8 - round(4 * share)),
    "solarize": Operation(solarize, middle=lambda share: 255 * (1 - share)),
    "autocontrast": Operation(autocontrast),
    "equalize": Operation(equalize),
}


def _transform(image: Array, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Array:
    """Takes pixel (x, y) from (a x + b y + c, d x + e y + f), with x and y of the pixels' middles.

    The nearest pixel is taken, black outside of the image.
    """
    height, width, _ = image.shape
    x = jnp.arange(width, dtype=jnp.float32)[None] + 0.5
    y = jnp.arange(height, dtype=jnp.float32)[:, None] + 0.5
    column = jnp.floor(a * x + b * y + c).astype(jnp.int32)
    row = jnp.floor(d * x + e * y + f).astype(jnp.int32)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    found = image[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
    return jnp.where(inside[..., None], found, 0)


def _blend(from_levels: Array, to: Array, factor: Array) -> Array:
    """Levels at `factor` of the way from one image to another, or beyond; cut to whole levels."""
    difference = (to - from_levels).astype(jnp.float32)
    mixed = from_levels.astype(jnp.float32) + factor * difference
    return jnp.floor(jnp.clip(mixed, 0, 255)).astype(jnp.int32)


def _gray(image: Array) -> Array:
    """The brightness [H, W, 1] of a gray or color image, as PIL's mode L rounds it."""
    if image.shape[-1] == 1:
        return image
    weights = jnp.array([19595, 38470, 7471], jnp.int32).reshape(1, 1, 3)
    return ((image * weights).sum(-1, keepdims=True) + 32768) >> 16
