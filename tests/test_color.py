"""Color jitter beside the formulas, colorsys and PIL."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from cnn_jax import augment, config, experiment, ops
from cnn_jax.augment import color
from cnn_jax.data import Dataset
from cnn_jax.errors import ConfigError

IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3)) / 255, jnp.float32)


def picture(image):
    return Image.fromarray(np.round(np.asarray(image) * 255).astype(np.uint8))


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
def test_adjustments_are_pils_up_to_whole_levels(factor):
    for name, enhance in (
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ):
        got = color.ADJUSTMENTS[name](IMAGES, factor)
        for image, found in zip(IMAGES, got, strict=True):
            expected = np.asarray(enhance(picture(image)).enhance(factor)) / 255
            np.testing.assert_allclose(found, expected, atol=2.01 / 255)


def test_hue_turns_each_color_round_the_circle():
    plain = jnp.asarray(
        [
            [1, 0, 0],
            [0, 1, 0],
            [0, 0, 1],
            [0.5, 0.5, 0.5],
            [0, 0, 0],
            [1, 1, 0.25],
            [0.2, 0.6, 0.6],
        ],
        jnp.float32,
    ).reshape(1, 1, 7, 3)
    for images in (plain, IMAGES):
        for shift in (-0.5, -0.1, 0.0, 0.25, 0.5):
            got = np.asarray(color.adjust_hue(images, jnp.float32(shift))).reshape(-1, 3)
            for pixel, found in zip(np.asarray(images).reshape(-1, 3), got, strict=True):
                h, s, v = colorsys.rgb_to_hsv(*map(float, pixel))
                expected = colorsys.hsv_to_rgb((h + shift) % 1, s, v)
                np.testing.assert_allclose(found, expected, atol=1e-5)


def test_jitter_draws_a_factor_for_each_image_within_its_range():
    gray = jnp.full((500, 1, 1, 1), 0.25)
    factors = np.asarray(augment.color_jitter(jax.random.key(0), gray, brightness=0.4)) / 0.25
    assert factors.min() == pytest.approx(0.6, abs=0.01)
    assert factors.max() == pytest.approx(1.4, abs=0.01)
    assert factors.mean() == pytest.approx(1, abs=0.03)
    factors = np.asarray(augment.color_jitter(jax.random.key(0), gray, brightness=2.0)) / 0.25
    assert factors.min() == pytest.approx(0, abs=0.02)  # not below 0


def test_the_order_is_drawn_for_each_image():
    images = jnp.broadcast_to(IMAGES[:1] / 2, (64, 5, 6, 3))
    jitter = jax.jit(augment.color_jitter, static_argnums=(2, 3, 4, 5))
    got = np.asarray(jitter(jax.random.key(1), images, 0.4, 0.0, 0.8, 0.0))
    with jax.debug_key_reuse(False):
        key_order, *keys = jax.random.split(jax.random.key(1), 5)
        order = np.asarray(jax.random.uniform(key_order, (64, 2, 1, 1))).argsort(1)[:, 0, 0, 0]
        drawn = [
            jax.random.uniform(keys[i], (64, 1, 1, 1), jnp.float32, 1 - b, 1 + b)
            for i, b in ((0, 0.4), (2, 0.8))
        ]
    bright = color.adjust_saturation(color.adjust_brightness(images, drawn[0]), drawn[1])
    vivid = color.adjust_brightness(color.adjust_saturation(images, drawn[1]), drawn[0])
    expected = np.where(order.reshape(-1, 1, 1, 1) == 0, bright, vivid)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert 15 < order.sum() < 49


def test_gray_images_have_no_hue_and_nothing_is_nothing():
    gray = IMAGES[..., :1]
    np.testing.assert_array_equal(
        augment.color_jitter(jax.random.key(0), gray, saturation=0.9, hue=0.5), gray
    )
    np.testing.assert_array_equal(augment.color_jitter(jax.random.key(0), IMAGES), IMAGES)
    four = jnp.zeros((1, 2, 2, 4))
    for call, said in (
        (lambda: augment.color_jitter(None, four, 0.1), "is for images of 1 or 3 channels; these"),
        (lambda: augment.color_jitter(None, IMAGES, hue=0.6), "hue=0.6 must be from 0 to 0.5"),
        (lambda: augment.color_jitter(None, IMAGES, -1.0), "brightness=-1.0 must be from 0"),
        (lambda: augment.color_jitter(None, IMAGES.astype(int)), "expects normalized images"),
    ):
        with pytest.raises(ops.ArgumentError, match=said):
            call()


def test_colors_of_images_without_known_ones_are_refused():
    images, labels = np.zeros((4, 2, 2, 4), np.uint8), np.zeros(4, np.int32)
    data = Dataset(images, labels, images, labels, ("a",), "")
    for changes in ({"hue": 0.1}, {"rand_augment": 2}):
        settings = config.Config(augment=config.AugmentConfig(**changes), batch_size=2)
        with pytest.raises(ConfigError, match="has images of 4 channels; leave out brightness"):
            experiment.build(settings, data)
