"""RandAugment's operations beside PIL's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from cnn_jax import augment, ops
from cnn_jax.augment import randaugment

rng = np.random.default_rng(0)
smooth = rng.normal(size=(13, 17, 3)).cumsum(0).cumsum(1)
COLOR = np.clip(smooth * 12 + 110, 20, 230).astype(np.uint8)
GRAY = COLOR[:, :, :1]
FEW = np.where(COLOR > 110, 200, 90).astype(np.uint8)  # two levels
EVEN = np.full((5, 6, 3), 77, np.uint8)


def pil(image):
    return Image.fromarray(image[:, :, 0] if image.shape[-1] == 1 else image)


def transform(matrix):
    return lambda p: p.transform(p.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


def enhance(kind, factor):
    return lambda p: kind(p).enhance(factor)


CASES = [
    ("identity", 0.0, lambda p: p),
    ("shear_x", 0.21, transform((1, 0.21, 0, 0, 1, 0))),
    ("shear_x", -0.3, transform((1, -0.3, 0, 0, 1, 0))),
    ("shear_y", 0.17, transform((1, 0, 0, 0.17, 1, 0))),
    ("translate_x", 3.7, transform((1, 0, -3, 0, 1, 0))),
    ("translate_x", -3.7, transform((1, 0, 3, 0, 1, 0))),
    ("translate_y", 2.0, transform((1, 0, 0, 0, 1, -2))),
    ("rotate", 19.0, lambda p: p.rotate(19.0)),
    ("rotate", -30.0, lambda p: p.rotate(-30.0)),
    *(("brightness", f, enhance(ImageEnhance.Brightness, f)) for f in (0.1, 0.73, 1.9)),
    *(("color", f, enhance(ImageEnhance.Color, f)) for f in (0.1, 1.0, 1.63)),
    *(("contrast", f, enhance(ImageEnhance.Contrast, f)) for f in (0.1, 0.46, 1.9)),
    *(("sharpness", f, enhance(ImageEnhance.Sharpness, f)) for f in (0.1, 0.5, 1.9)),
    *(("posterize", b, lambda p, b=b: ImageOps.posterize(p, int(b))) for b in (4.0, 7.0, 8.0)),
    *(("solarize", t, lambda p, t=t: ImageOps.solarize(p, t)) for t in (0.0, 99.5, 255.0)),
    ("autocontrast", 0.0, ImageOps.autocontrast),
    ("equalize", 0.0, ImageOps.equalize),
]


@pytest.mark.parametrize(("name", "amount", "expected"), CASES)
def test_operations_are_pils(name, amount, expected):
    change = randaugment.OPERATIONS[name].change
    for image in (COLOR, GRAY, FEW, EVEN):
        if image.shape[-1] == 1 and name == "color":
            continue  # PIL has no color of gray pictures
        with jax.debug_nans(False):
            got = np.asarray(change(jnp.asarray(image, jnp.int32), jnp.float32(amount)))
        want = np.asarray(expected(pil(image))).reshape(image.shape).astype(int)
        assert got.dtype == np.int32
        if name in ("brightness", "color", "contrast", "sharpness"):
            assert np.abs(got - want).max() <= 1  # products are rounded otherwise
            assert (got != want).mean() < 0.05
        elif name in ("rotate", "shear_x", "shear_y"):  # whose places PIL rounds to 16 bits
            assert (got != want).mean() < 0.03
        elif name == "autocontrast":  # whole levels that PIL's products just miss
            assert set(np.unique(got - want)) <= {0, 1}
            assert (got != want).mean() < 0.02
        else:
            np.testing.assert_array_equal(got, want)


def test_amounts_are_torchvisions():
    """Of an image of 331 × 662 pixels at magnitude 9 of 30."""
    amounts = {
        name: (operation.middle(0.3), operation.span(0.3, 331, 662))
        for name, operation in randaugment.OPERATIONS.items()
    }
    assert amounts == {
        "identity": (0, 0),
        "shear_x": (0, pytest.approx(0.09)),
        "shear_y": (0, pytest.approx(0.09)),
        "translate_x": (0, pytest.approx(90)),
        "translate_y": (0, pytest.approx(45)),
        "rotate": (0, pytest.approx(9)),
        **{n: (1, pytest.approx(0.27)) for n in ("brightness", "color", "contrast", "sharpness")},
        "posterize": (7, 0),
        "solarize": (pytest.approx(178.5), 0),
        "autocontrast": (0, 0),
        "equalize": (0, 0),
    }


def test_each_image_has_operations_of_its_own():
    n = 56
    images = jnp.broadcast_to(jnp.asarray(COLOR / 255, jnp.float32), (n, *COLOR.shape))
    apply = jax.jit(augment.rand_augment, static_argnums=(2, 3))
    key = jax.random.key(0)
    once = np.asarray(apply(key, images, 1, 9))
    levels = np.round(once * 255).astype(int)
    np.testing.assert_allclose(once, levels / 255, atol=1e-6)
    assert 12 < len({image.tobytes() for image in levels}) <= 14 + 9  # of nine with a sign
    with jax.debug_key_reuse(False):
        key_operation, key_sign = jax.random.split(key)
        numbers = np.asarray(jax.random.randint(key_operation, (1, n), 0, 14))[0]
        signs = np.asarray(jax.random.rademacher(key_sign, (1, n), jnp.float32))[0]
    operations = list(randaugment.OPERATIONS.values())
    for i in range(8):
        operation = operations[numbers[i]]
        amount = operation.middle(0.3) + signs[i] * operation.span(0.3, *COLOR.shape[:2])
        want = operation.change(jnp.asarray(COLOR, jnp.int32), jnp.float32(amount))
        np.testing.assert_array_equal(levels[i], want)
    twice = np.asarray(apply(jax.random.key(0), images, 2, 9))
    assert (twice != once).any()
    np.testing.assert_array_equal(augment.rand_augment(jax.random.key(0), images, 0, 9), images)
    half = apply(jax.random.key(1), images[:2].astype(jnp.bfloat16), 1, 9)
    assert (half.shape, half.dtype) == ((2, *COLOR.shape), jnp.bfloat16)


@pytest.mark.parametrize(
    ("count", "magnitude", "channels", "said"),
    [
        (-1, 9, 3, "count"),
        (2, 31, 3, "magnitude=31 must be at most 30"),
        (2, 9, 2, "is for images of 1 or 3 channels; these have 2"),
    ],
)
def test_bad_input_is_one_sentence(count, magnitude, channels, said):
    with pytest.raises(ops.ArgumentError, match=said):
        augment.rand_augment(jax.random.key(0), jnp.zeros((1, 4, 4, channels)), count, magnitude)
