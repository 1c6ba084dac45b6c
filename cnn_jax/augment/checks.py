"""What the augmentations ask of their arguments."""

import jax.numpy as jnp
from jax import Array

from cnn_jax.ops import ArgumentError
from cnn_jax.ops.arguments import is_concrete, is_number


def check_images(images: Array, floating: str = "") -> None:
    """Raises ArgumentError unless images is [N, H, W, C], and floating-point where one needs it."""
    if images.ndim != 4:
        raise ArgumentError(
            f"images must be [N, height, width, channels]; this array has shape {images.shape}."
        )
    if floating and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ArgumentError(f"{floating} expects normalized images; these are {images.dtype}.")


def check_probability(operation: str, value: float) -> float:
    """Returns a known probability as Python's float."""
    if not is_number(value) or not is_concrete(value) or not 0 <= float(value) <= 1:
        raise ArgumentError(f"{operation}: probability={value!r} must lie in [0, 1].")
    return float(value)


def check_rectangles(
    operation: str, area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Returns ranges of the shares and the aspects of rectangles as Python's floats."""
    area, aspect = ((float(least), float(most)) for least, most in (area, aspect))
    if not (0 < area[0] <= area[1] <= 1 and 0 < aspect[0] <= aspect[1]):
        raise ArgumentError(
            f"{operation}: area={area} and aspect={aspect} must be (least, greatest), positive, "
            "and areas at most 1."
        )
    return area, aspect
