"""Random resized crops beside torchvision's algorithm and PIL's resizing."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnn_jax import augment, config, ops
from cnn_jax.experiment import make_preprocess

crop = jax.jit(
    augment.random_resized_crop, static_argnums=2, static_argnames=("area", "aspect", "attempts")
)


def choose(draws, height, width, area, aspect, attempts):
    """torchvision's RandomResizedCrop.get_params: (top, left, rows, columns)."""
    for share, ratio in zip(draws[:attempts], draws[attempts : 2 * attempts], strict=True):
        pixels = height * width * (area[0] + (area[1] - area[0]) * share)
        low, high = map(math.log, aspect)
        w_over_h = math.exp(low + (high - low) * ratio)
        columns, rows = round(math.sqrt(pixels * w_over_h)), round(math.sqrt(pixels / w_over_h))
        if 0 < columns <= width and 0 < rows <= height:
            top = math.floor(draws[2 * attempts] * (height - rows + 1))
            return top, math.floor(draws[2 * attempts + 1] * (width - columns + 1)), rows, columns
    rows, columns = height, width
    if width / height < aspect[0]:
        rows = round(width / aspect[0])
    elif width / height > aspect[1]:
        columns = round(height * aspect[1])
    return (height - rows) // 2, (width - columns) // 2, rows, columns


@pytest.mark.parametrize(
    ("shape", "size", "options"),
    [
        ((20, 26), (12, 10), {}),
        ((20, 26), (40, 31), {"area": (0.3, 1.0)}),
        ((9, 40), (8, 8), {"area": (0.9, 1.0), "attempts": 2}),  # none fits: the middle
        ((40, 9), (8, 8), {"area": (0.9, 1.0), "attempts": 2}),
    ],
)
def test_crops_are_torchvisions_resized_by_pil(shape, size, options):
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 1, (6, *shape, 2)).astype(np.float32)
    key = jax.random.key(3)
    got = np.asarray(crop(key, jnp.asarray(images), size, **options))
    assert got.shape == (6, *size, 2)
    given = {"area": (0.08, 1.0), "aspect": (3 / 4, 4 / 3), "attempts": 10, **options}
    with jax.debug_key_reuse(False):
        draws = np.asarray(jax.random.uniform(key, (2 * given["attempts"] + 2, 6)))
    chosen = set()
    for i, image in enumerate(images):
        top, left, rows, columns = choose(draws[:, i], *shape, **given)
        chosen.add((top, left, rows, columns))
        for channel in range(2):
            part = image[top : top + rows, left : left + columns, channel]
            expected = Image.fromarray(part).resize(size[::-1], Image.Resampling.BILINEAR)
            np.testing.assert_allclose(got[i, :, :, channel], expected, atol=2e-5)
    assert len(chosen) == (6 if min(shape) == 20 else 1)


def test_the_whole_image_at_its_own_size_stays_and_the_dtype_too():
    images = jax.random.uniform(jax.random.key(0), (3, 8, 8, 3))
    same = crop(jax.random.key(1), images, (8, 8), area=(1.0, 1.0), aspect=(1.0, 1.0))
    np.testing.assert_allclose(same, images, rtol=1e-6)
    half = crop(jax.random.key(1), images.astype(jnp.bfloat16), (4, 4))
    assert (half.shape, half.dtype) == ((3, 4, 4, 3), jnp.bfloat16)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"area": (0.0, 1.0)}, r"random_resized_crop: area=\(0.0, 1.0\) and aspect=.* positive"),
        ({"aspect": (2.0, 1.0)}, "must be"),
        ({"attempts": 0}, "attempts"),
    ],
)
def test_bad_input_is_one_sentence(options, said):
    with pytest.raises(ops.ArgumentError, match=said):
        augment.random_resized_crop(jax.random.key(0), jnp.zeros((1, 4, 4, 1)), (4, 4), **options)
    with pytest.raises(ops.ArgumentError, match="expects normalized images; these are uint8"):
        augment.random_resized_crop(None, jnp.zeros((1, 4, 4, 1), jnp.uint8), (4, 4))


def test_a_run_crops_to_the_networks_size_in_training_alone():
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), np.uint8))
    settings = config.Config(
        dataset=config.DatasetConfig(image_size=8),
        augment=config.AugmentConfig(crop_area=0.5),
    )
    preprocess = make_preprocess(settings, (0.5,), (0.25,))
    crop_key = jax.random.fold_in(jax.random.key(5), 1 << 16)
    unit = augment.scale(images)
    expected = augment.random_resized_crop(crop_key, unit, (8, 8), (0.5, 1.0))
    got = preprocess(images, jax.random.key(5))
    np.testing.assert_allclose(got, (expected - 0.5) / 0.25, rtol=1e-5, atol=1e-5)
    plain = augment.resize(augment.normalize(images, 0.5, 0.25), 8)
    np.testing.assert_array_equal(preprocess(images, None), plain)
    settings.dataset.normalization = "whiten"  # whose statistics are of the whole image
    whole = np.zeros((12, 12, 3)), np.ones((12, 12, 3))
    assert make_preprocess(settings, *whole)(images, jax.random.key(0)).shape == (2, 8, 8, 3)
