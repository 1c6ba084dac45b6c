"""Data augmentation: pure functions (key, images [N, H, W, C]) → images, for the compiled step.

They keep the dtype and, resizing apart, the shape. Every image draws on its own, from `key` alone,
and an amount of 0 (padding, size, probability) returns the images as they are. What is said of
colors is for images scaled to [0, 1]; so `augment_pixels` comes before the normalization, `augment`
after it. Pixels that its shifts and cutouts uncover become 0: black for images scaled to [0, 1],
the mean color for standardized ones. Whiten last.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
from jax import Array

from cnn_jax.augment.color import color_jitter
from cnn_jax.augment.erasing import cutout, random_erasing
from cnn_jax.augment.geometry import flip, pad_crop, random_resized_crop, resize
from cnn_jax.augment.mixing import Mixed, cutmix, mixup, mixup_or_cutmix
from cnn_jax.augment.normalization import normalize, scale, standardize, whiten
from cnn_jax.augment.randaugment import MAGNITUDES, rand_augment
from cnn_jax.options import NOT_NEGATIVE, PIXELS, PROBABILITY, Range, option, whole

# (key, images, labels, weights) → the batch mixed.
Mix = Callable[[Array, Array, Array, Array], Mixed]


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
    # The least share of the image that is cut out at random and brought to the network's size, at
    # most all of it (torchvision's RandomResizedCrop has 0.08); 0: none.
    crop_area: float = option(0.0, PROBABILITY)
    # The most by which brightness, contrast and saturation are raised or lowered, and by which the
    # hue is turned (torchvision's ColorJitter).
    brightness: float = option(0.0, NOT_NEGATIVE)
    contrast: float = option(0.0, NOT_NEGATIVE)
    saturation: float = option(0.0, NOT_NEGATIVE)
    hue: float = option(0.0, Range(0, 0.5, "from 0 to 0.5"))
    # RandAugment's number of operations for each image (torchvision has 2), and their magnitude.
    rand_augment: int = option(0, whole(0, 100))
    rand_augment_magnitude: int = option(9, whole(0, MAGNITUDES))
    # α of mixup (Zhang et al., 2018) and of CutMix (Yun et al., 2019); 0: not. With both, an image
    # has one of them. Training's metrics compare with the label that has the larger share.
    mixup: float = option(0.0, NOT_NEGATIVE)
    cutmix: float = option(0.0, NOT_NEGATIVE)


# In this order. Adding one changes no draw of the others: the first four keys are those of recorded
# runs, every later one comes from its place alone.
AUGMENTATIONS: list[Callable[[Array, Array, AugmentConfig], Array]] = [
    lambda key, images, config: pad_crop(key, images, config.pad, config.pad_probability),
    lambda key, images, config: flip(key, images) if config.flip else images,
    lambda key, images, config: cutout(key, images, config.cutout),
    lambda key, images, config: random_erasing(key, images, config.erase),
]

# As above, but on images that are scaled to [0, 1] and not yet normalized.
PIXEL_AUGMENTATIONS: list[Callable[[Array, Array, AugmentConfig], Array]] = [
    lambda key, images, config: (
        color_jitter(key, images, config.brightness, config.contrast, config.saturation, config.hue)
        if uses_colors(config)
        else images
    ),
    lambda key, images, config: (
        rand_augment(key, images, config.rand_augment, config.rand_augment_magnitude)
        if config.rand_augment
        else images
    ),
]
_CROP = 1 << 16  # folded into keys from here on; AUGMENTATIONS have the numbers below


def augment(key: Array, images: Array, config: AugmentConfig) -> Array:
    """Changes images [N, H, W, C] by each of AUGMENTATIONS as `config` has it (0 or False: not).

    Every one has its own key, so that turning one off leaves the others' draws unchanged.
    """
    keys = list(jax.random.split(key, 4))
    keys += [jax.random.fold_in(key, place) for place in range(4, len(AUGMENTATIONS))]
    for own_key, change in zip(keys, AUGMENTATIONS, strict=True):
        images = change(own_key, images, config)
    return images


def augment_pixels(
    key: Array, images: Array, config: AugmentConfig, size: tuple[int, int]
) -> Array:
    """Changes images scaled to [0, 1]: a random resized crop to `size`, then PIXEL_AUGMENTATIONS.

    Without the crop their size stays as it is. Every one has its own key.
    """
    if config.crop_area:
        crop_key = jax.random.fold_in(key, _CROP)
        images = random_resized_crop(crop_key, images, size, (config.crop_area, 1.0))
    for place, change in enumerate(PIXEL_AUGMENTATIONS, _CROP + 1):
        images = change(jax.random.fold_in(key, place), images, config)
    return images


def uses_colors(config: AugmentConfig) -> bool:
    """Whether brightness, contrast, saturation or hue are changed."""
    return any((config.brightness, config.contrast, config.saturation, config.hue))


def make_mix(config: AugmentConfig) -> Mix | None:
    """Returns how a batch of images and labels is mixed; None if it isn't."""
    if config.mixup and config.cutmix:
        return functools.partial(mixup_or_cutmix, alphas=(config.mixup, config.cutmix))
    if config.mixup:
        return functools.partial(mixup, alpha=config.mixup)
    if config.cutmix:
        return functools.partial(cutmix, alpha=config.cutmix)
    return None
