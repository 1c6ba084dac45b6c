"""The options of data that are read from files as they are needed."""

from dataclasses import dataclass
from typing import Literal

from cnn_jax.options import POSITIVE_SHARE, option, whole


@dataclass
class StreamConfig:
    """How pictures of any size become images of one size, on the host."""

    # Height and width of the images.
    size: int = option(224, whole(1, 4096))
    # What is cut out of a picture in training. 'resized': a rectangle of random area, proportions
    # and place, brought to `size`. 'square': a random square of `size`, after the picture's short
    # side was brought to `short_side`. 'center': what is cut out in evaluation.
    crop: Literal["resized", "square", "center"] = "resized"
    # The smallest share of the picture's area that 'resized' takes.
    crop_area: float = option(0.08, POSITIVE_SHARE)
    # In evaluation, the short side is brought to this, and the square in the middle is cut out.
    short_side: int = option(256, whole(1, 4096))
    # Read pictures as gray.
    gray: bool = False
    # What brings pictures to another size; the two don't give the same bits.
    resizer: Literal["pillow", "opencv"] = "pillow"
    # A damaged picture is an 'error', or is replaced: 'replace' takes the next picture of the same
    # class that can be read.
    damaged: Literal["error", "replace"] = "error"
