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
