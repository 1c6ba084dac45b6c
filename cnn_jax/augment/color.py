"""Random changes of brightness, contrast, saturation and hue of images scaled to [0, 1]."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from cnn_jax.augment.checks import check_images
from cnn_jax.ops import ArgumentError
from cnn_jax.ops.arguments import is_concrete, is_number

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in gray (ITU-R BT.601)


def color_jitter(
    key: Array,
    images: Array,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> Array:
    """Changes each image's brightness, contrast, saturation and hue in a random order.

    As torchvision's ColorJitter: the factors of the first three are uniform in [max(0, 1 − b),
    1 + b], the shift of the hue, in turns of the color circle, in [−h, h]. Gray images [N, H, W, 1]
    have neither saturation nor hue.

    Raises:
      ArgumentError: images are neither gray nor of three colors, or aren't floating-point; an
        amount is negative, or a hue more than ½.
    """
    check_images(images, floating="color_jitter")
    check_colors("color_jitter", images)
    amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
    for name, amount in amounts.items():
        most = 0.5 if name == "hue" else float("inf")
        if not is_number(amount) or not is_concrete(amount) or not 0 <= float(amount) <= most:
            raise ArgumentError(f"color_jitter: {name}={amount!r} must be from 0 to {most}.")
    n = len(images)
    key_order, *keys = jax.random.split(key, 5)
    changes: list[tuple[Callable[[Array, Array], Array], Array]] = []
    for own_key, (name, amount) in zip(keys, amounts.items(), strict=True):
        middle = 0.0 if name == "hue" else 1.0
        low = -amount if name == "hue" else max(0.0, 1.0 - amount)
        if amount:
            drawn = jax.random.uniform(own_key, (n, 1, 1, 1), images.dtype, low, middle + amount)
            changes.append((ADJUSTMENTS[name], drawn))
    if not changes:
        return images
    order = jnp.argsort(jax.random.uniform(key_order, (n, len(changes), 1, 1)), axis=1)

    # A loop, as the compiler would compute what is chosen from again for each that is chosen.
    def change_next(images: Array, place: Array) -> tuple[Array, None]:
        changed = images
        for number, (change, drawn) in enumerate(changes):
            changed = jnp.where(place == number, change(images, drawn), changed)
        return changed, None

    places = jnp.moveaxis(order, 1, 0)[..., None]  # [places, N, 1, 1, 1]
    return lax.scan(change_next, images, places)[0]


def adjust_brightness(images: Array, factor: Array) -> Array:
    """Returns images times a factor, cut off at 0 and 1; of each [N, 1, 1, 1] or of all."""
    return jnp.clip(images * factor, 0, 1)


def adjust_contrast(images: Array, factor: Array) -> Array:
    """Returns each image's distances from its mean gray times a factor, cut off at 0 and 1."""
    mean = to_gray(images).mean((1, 2, 3), keepdims=True)
    return jnp.clip(mean + factor * (images - mean), 0, 1)


def adjust_saturation(images: Array, factor: Array) -> Array:
    """Returns the colors' distances from their gray times a factor, cut off at 0 and 1."""
    gray = to_gray(images)
    return images if images.shape[-1] == 1 else jnp.clip(gray + factor * (images - gray), 0, 1)


def adjust_hue(images: Array, shift: Array) -> Array:
    """Returns images with their hue moved by a part of the color circle; saturation, value stay."""
    if images.shape[-1] == 1:
        return images
    red, green, blue = (images[..., i] for i in range(3))
    value, least = images.max(-1), images.min(-1)
    span = value - least
    safe = jnp.where(span > 0, span, 1)
    sixths = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    # The value less the span, by how far a color is from each of the three (Smith, 1978).
    turned = (
        sixths[..., None] + 6 * shift + jnp.array([5.0, 3.0, 1.0], images.dtype).reshape(1, 1, 1, 3)
    )
    distance = jnp.mod(turned, 6)
    share = jnp.clip(jnp.minimum(distance, 4 - distance), 0, 1)
    return value[..., None] - span[..., None] * share


ADJUSTMENTS = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}


def to_gray(images: Array) -> Array:
    """Returns the brightness [N, H, W, 1] of gray or color images."""
    if images.shape[-1] == 1:
        return images
    weights = jnp.array(LUMA, images.dtype).reshape(1, 1, 1, 3)
    return (images * weights).sum(-1, keepdims=True)


def check_colors(operation: str, images: Array) -> None:
    """Raises ArgumentError unless images are gray or of three colors."""
    if images.shape[-1] not in (1, 3):
        raise ArgumentError(
            f"{operation} is for images of 1 or 3 channels; these have {images.shape[-1]}."
        )
