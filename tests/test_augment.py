"""Augmentation: exact values on small pictures, frequencies, and equality with hand loops."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from PIL import Image

from cnn_jax import augment, data
from cnn_jax.config import AugmentConfig

# Compiled as they are in use; operation by operation they would cost the tests minutes.
pad_crop = jax.jit(augment.pad_crop, static_argnums=2)
flip = jax.jit(augment.flip)
cutout = jax.jit(augment.cutout, static_argnums=2)
random_erasing = jax.jit(
    augment.random_erasing, static_argnums=2, static_argnames=("area", "aspect")
)


def key(seed=0):
    return jax.random.key(seed)


def numbered(n, height, width, channels=1):
    """Images whose pixels are all different and none 0."""
    pixels = np.arange(1, n * height * width * channels + 1, dtype=np.float32)
    return jnp.asarray(pixels.reshape(n, height, width, channels))


def repeated(n, height, width, channels=1):
    """n times the same image with pixels all different and none 0."""
    return jnp.asarray(np.repeat(np.asarray(numbered(1, height, width, channels)), n, axis=0))


def assert_frequencies(counts, probabilities):
    """Each count lies within 4 standard deviations of its binomial mean."""
    n = sum(counts)
    for count, p in zip(counts, probabilities, strict=True):
        assert abs(count - n * p) <= 4 * math.sqrt(n * p * (1 - p)), (counts, probabilities)


# Normalization


def test_normalize_unit_scale_is_division_by_255():
    images = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
    out = np.asarray(augment.normalize(images))
    expected = np.arange(256, dtype=np.float32).reshape(1, 16, 16, 1) / np.float32(255)
    np.testing.assert_array_max_ulp(out, expected, 1)  # XLA multiplies by the reciprocal
    assert out.min() == 0
    assert out.max() == 1


def test_normalize_standardizes_each_channel():
    images = jnp.asarray([0, 51, 255], jnp.uint8).reshape(1, 1, 1, 3)
    out = augment.normalize(images, (0.5, 0.2, 0.0), (0.25, 0.1, 2.0))
    np.testing.assert_allclose(out.reshape(3), [-2, 0, 0.5], atol=1e-6)
    out = augment.normalize(images, 0.2, 0.1)
    np.testing.assert_allclose(out.reshape(3), [-2, 0, 8], rtol=1e-6, atol=1e-6)


def test_normalize_dtype():
    images = jnp.full((1, 2, 2, 1), 255, jnp.uint8)
    assert augment.normalize(images).dtype == jnp.float32
    out = augment.normalize(images, 0.5, 0.5, dtype="bfloat16")
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, jnp.ones((1, 2, 2, 1), jnp.bfloat16))


# Whitening


def pictures_with_a_spectrum(n=1200, height=6, width=5, channels=2):
    """uint8 pictures whose neighboring pixels are alike, and the statistics of them."""
    noise = np.random.default_rng(0).normal(size=(n, height, width, channels))
    smooth = noise.cumsum(1).cumsum(2) * 9 + 128
    images = np.clip(smooth, 0, 255).astype(np.uint8)
    return jnp.asarray(images), *data.spectrum_statistics(images)


def test_spectrum_statistics_are_the_mean_picture_and_the_deviation_of_each_frequency():
    images, mean, std = pictures_with_a_spectrum()
    unit = np.asarray(images) / 255
    np.testing.assert_allclose(mean, unit.mean(0), rtol=1e-12)
    spectrum = scipy.fft.dctn(unit, axes=(1, 2), norm="ortho")
    np.testing.assert_allclose(std, spectrum.std(0), rtol=1e-5)
    np.testing.assert_allclose(
        data.cosines(7), scipy.fft.dct(np.eye(7), axis=0, norm="ortho"), atol=1e-14
    )
    mean, std = data.spectrum_statistics(np.full((3, 2, 2, 1), 51, np.uint8))
    np.testing.assert_allclose(mean, np.full((2, 2, 1), 0.2))
    np.testing.assert_allclose(std, 0, atol=1e-7)


@pytest.mark.parametrize("epsilon", [1e-4, 1.0])
def test_whitened_pictures_have_the_variances_of_the_formula(epsilon):
    images, mean, std = pictures_with_a_spectrum()
    out = np.asarray(augment.whiten(augment.normalize(images), mean, std, epsilon), np.float64)
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(out.var(), 1, rtol=1e-4)
    expected = std**2 / (std**2 + epsilon)
    variances = scipy.fft.dctn(out, axes=(1, 2), norm="ortho").var(0)
    np.testing.assert_allclose(variances, expected / expected.mean(), rtol=1e-3)


def test_whitening_makes_neighbors_unlike_and_much_epsilon_only_centers():
    images, mean, std = pictures_with_a_spectrum()
    unit = augment.normalize(images)

    def neighbors(x):
        return np.corrcoef(x[:, :, :-1].ravel(), x[:, :, 1:].ravel())[0, 1]

    assert neighbors(np.asarray(unit) - mean) > 0.7
    assert abs(neighbors(np.asarray(augment.whiten(unit, mean, std, 1e-4)))) < 0.25
    much = np.asarray(augment.whiten(unit, mean, std, 1e6))
    centered = np.asarray(unit) - mean
    np.testing.assert_allclose(much * centered.std(), centered, atol=1e-5)
    single = std.astype(np.float32)  # computed in double precision all the same
    np.testing.assert_array_equal(
        augment.whiten(unit, mean, single, 1e-4),
        augment.whiten(unit, mean, single.astype(np.float64), 1e-4),
    )
    even = augment.whiten(unit, mean, np.zeros_like(std), 1.0)  # nothing varies
    np.testing.assert_array_equal(even, np.zeros_like(even))


# Resizing


@pytest.mark.parametrize(
    ("old", "new"),
    [((28, 28), (224, 224)), ((28, 28), (96, 96)), ((96, 80), (28, 33)), ((5, 7), (3, 14))],
)
def test_resize_is_pil_bilinear(old, new):
    picture = np.random.default_rng(0).uniform(0, 1, old).astype(np.float32)
    expected = Image.fromarray(picture).resize(new[::-1], Image.Resampling.BILINEAR)
    out = augment.resize(jnp.asarray(picture)[None, :, :, None], new)
    np.testing.assert_allclose(out[0, :, :, 0], np.asarray(expected), atol=5e-6)


def test_resize_of_whole_gray_levels_is_within_rounding_of_pil():
    picture = np.random.default_rng(1).integers(0, 256, (28, 28)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(picture).resize((96, 96), Image.Resampling.BILINEAR))
    out = augment.resize(augment.normalize(jnp.asarray(picture)[None, :, :, None]), 96)
    assert np.abs(np.asarray(out[0, :, :, 0]) * 255 - expected).max() <= 1.0


def test_resize_values_by_hand():
    row = jnp.asarray([0.0, 4.0]).reshape(1, 1, 2, 1)
    # Doubling: the new centers lie 1/4 of a pixel beside the old ones; edges are held.
    np.testing.assert_allclose(augment.resize(row, (1, 4)).reshape(4), [0, 1, 3, 4], atol=1e-6)
    # Halving: the triangle spans four pixels, weights 1 3 3 1, and inside the edge 3 3 1.
    row = jnp.asarray([0.0, 7.0, 14.0, 21.0]).reshape(1, 1, 4, 1)
    np.testing.assert_allclose(augment.resize(row, (1, 2)).reshape(2), [5, 16], atol=1e-5)


def test_resize_keeps_dtype_and_same_size_is_identity():
    images = jnp.ones((2, 5, 5, 3), jnp.bfloat16)
    assert augment.resize(images, 5) is images
    assert augment.resize(images, (5, 9)).shape == (2, 5, 9, 3)
    assert augment.resize(images, 9).dtype == jnp.bfloat16


# Cropping


def find_shift(image, cropped, padding):
    """Where `cropped` lies in the padded image, (row, column); checks that it is one place."""
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    height, width = image.shape[:2]
    places = [
        (y, x)
        for y in range(2 * padding + 1)
        for x in range(2 * padding + 1)
        if np.array_equal(padded[y : y + height, x : x + width], cropped)
    ]
    assert len(places) == 1
    return places[0]


def test_pad_crop_shifts_every_image_on_its_own_and_fills_with_zeros():
    images = numbered(64, 6, 5, 2)
    out = np.asarray(pad_crop(key(), images, 2))
    shifts = [find_shift(a, b, 2) for a, b in zip(np.asarray(images), out, strict=True)]
    assert len(set(shifts)) > 15  # of 25


def test_pad_crop_places_are_equally_likely():
    images = repeated(4000, 3, 3)
    out = np.asarray(pad_crop(key(1), images, 1))
    picture = np.asarray(images[0])
    shifts = [find_shift(picture, image, 1) for image in out]
    counts = [shifts.count((y, x)) for y in range(3) for x in range(3)]
    assert_frequencies(counts, [1 / 9] * 9)


def test_pad_crop_leaves_the_rest_in_place():
    images = repeated(4000, 3, 3)
    out = np.asarray(augment.pad_crop(key(6), images, 1, 0.3))
    picture = np.asarray(images[0])
    shifts = [find_shift(picture, image, 1) for image in out]
    counts = [shifts.count((y, x)) for y in range(3) for x in range(3)]
    assert_frequencies(counts, [0.3 / 9] * 4 + [0.7 + 0.3 / 9] + [0.3 / 9] * 4)
    assert augment.pad_crop(key(), images, 1, 0.0) is images
    half = augment.augment(key(1), images, AugmentConfig(pad=1, pad_probability=0.5))
    moved = int((np.asarray(half) != picture).any((1, 2, 3)).sum())
    assert_frequencies([moved, 4000 - moved], [0.5 * 8 / 9, 0.5 + 0.5 / 9])


def test_pad_crop_may_pad_more_than_the_image():
    sums = np.asarray(pad_crop(key(2), jnp.ones((200, 2, 2, 1)), 3)).sum((1, 2, 3))
    assert sums.min() == 0
    assert sums.max() == 4


# Flipping


def test_flip_mirrors_columns_of_half_the_images():
    images = numbered(4000, 2, 3, 2)
    out = np.asarray(flip(key(3), images))
    images = np.asarray(images)
    same = [np.array_equal(a, b) for a, b in zip(images, out, strict=True)]
    mirrored = [np.array_equal(a[:, ::-1], b) for a, b in zip(images, out, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert_frequencies([sum(same), sum(mirrored)], [0.5, 0.5])


# Cutout


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_cutout_is_a_square_around_any_pixel(size):
    height, width = 4, 5
    images = repeated(3000, height, width, 2)
    out = np.asarray(cutout(key(size), images, size))
    # The hand loop: every center, its square clipped to the image.
    expected = {}
    for y in range(height):
        for x in range(width):
            image = np.array(images[0])
            top, left = y - size // 2, x - size // 2
            image[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = 0
            expected[image.tobytes()] = expected.get(image.tobytes(), 0) + 1
    counts = dict.fromkeys(expected, 0)
    for image in out:
        counts[image.tobytes()] += 1  # a KeyError is a hole that no center makes
    assert_frequencies(
        [counts[hole] for hole in expected], [n / (height * width) for n in expected.values()]
    )


# Random erasing


def hole_of(before, after):
    """The bounding box (top, left, rows, columns) of the changed pixels, or None."""
    changed = np.argwhere((before != after).any(-1))
    if len(changed) == 0:
        return None
    (top, left), (bottom, right) = changed.min(0), changed.max(0)
    return top, left, bottom - top + 1, right - left + 1


def test_random_erasing_fills_one_rectangle_with_noise_of_the_images_range():
    images = numbered(400, 20, 16, 3)
    out = np.asarray(random_erasing(key(4), images, 1.0))
    images = np.asarray(images)
    areas, aspects = [], []
    for before, after in zip(images, out, strict=True):
        top, left, rows, columns = hole_of(before, after)
        inside = np.zeros(before.shape, bool)
        inside[top : top + rows, left : left + columns] = True
        np.testing.assert_array_equal(after[~inside], before[~inside])
        # A pixel of the hole stays as it was once in 256³: far too seldom to matter here.
        assert (before != after)[inside].mean() > 0.9
        assert before.min() <= after.min()
        assert after.max() <= before.max() * 1.000001
        areas.append(rows * columns / (20 * 16))
        aspects.append(rows / columns)
    # Rounding to whole pixels moves the ranges 0.02 … 0.4 and 0.3 … 3.33 by a little.
    assert 0.01 < min(areas) < 0.05
    assert 0.35 < max(areas) < 0.43
    assert 0.2 < min(aspects) < 0.5
    assert 2.0 < max(aspects) < 5.0


def test_random_erasing_noise_is_uniform_on_256_levels():
    image = jnp.linspace(-1, 1, 64).reshape(1, 8, 8, 1)
    images = jnp.tile(image, (500, 1, 1, 1))
    out = np.asarray(random_erasing(key(5), images, 1.0, area=(1, 1), aspect=(1, 1)))
    levels = (out + 1) / 2 * 255  # the whole image was the hole
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    counts = np.bincount(np.round(levels).astype(int).reshape(-1), minlength=256)
    assert_frequencies(list(counts), [1 / 256] * 256)


@pytest.mark.parametrize("probability", [0.25, 0.5])
def test_random_erasing_happens_with_its_probability(probability):
    images = numbered(4000, 8, 8)
    out = np.asarray(random_erasing(key(6), images, probability))
    erased = int((out != np.asarray(images)).any((1, 2, 3)).sum())
    assert_frequencies([erased, 4000 - erased], [probability, 1 - probability])


def test_random_erasing_places_are_equally_likely():
    # A quarter of 4×4 with aspect 1 is a 2×2 square: 3×3 places.
    images = repeated(4000, 4, 4, 3)
    out = np.asarray(random_erasing(key(7), images, 1.0, area=(0.25, 0.25), aspect=(1, 1)))
    before = np.asarray(images[0])
    holes = [hole_of(before, after) for after in out]
    assert {hole[2:] for hole in holes} == {(2, 2)}
    counts = [sum(hole[:2] == (y, x) for hole in holes) for y in range(3) for x in range(3)]
    assert_frequencies(counts, [1 / 9] * 9)


def test_random_erasing_leaves_an_image_that_no_rectangle_fits():
    images = numbered(50, 4, 16)
    out = random_erasing(key(8), images, 1.0, area=(0.9, 1.0), aspect=(1, 1))
    np.testing.assert_array_equal(out, images)


def test_random_erasing_leaves_an_even_image_even():
    images = jnp.full((400, 20, 16, 3), 0.5)
    np.testing.assert_array_equal(random_erasing(key(9), images, 1.0), images)


# What they have in common


@jax.jit
def some_draws(images, black_and_white):
    """In one program, which takes less long to compile than several."""
    return (
        augment.pad_crop(key(11), images, 2),
        augment.pad_crop(key(16), images, 2, 0.5),
        augment.flip(key(12), images),
        augment.cutout(key(13), images, 4),
        augment.random_erasing(key(14), images, 0.7),
        augment.random_erasing(key(15), black_and_white, 1.0, area=(1, 1), aspect=(0.5, 0.5)),
    )


def test_draws_are_fixed_for_all_time():
    """Made once; a change would make every recorded run irreproducible."""
    images = numbered(6, 12, 10, 2)
    black_and_white = jnp.zeros((2, 1, 2, 3)).at[:, :, 0].set(255.0)
    *out, noise = map(np.asarray, some_draws(images, black_and_white))
    crops, some_crops, flips, squares, holes = (
        list(zip(np.asarray(images), changed, strict=True)) for changed in out
    )
    shifts = [find_shift(a, b, 2) for a, b in crops]
    assert shifts == [(1, 0), (3, 1), (1, 4), (3, 3), (3, 2), (1, 2)]
    shifts = [find_shift(a, b, 2) for a, b in some_crops]
    assert shifts == [(2, 2), (2, 3), (2, 2), (4, 1), (2, 2), (2, 0)]
    assert [np.array_equal(a, b) for a, b in flips] == [True, True, True, False, True, False]
    assert [hole_of(a, b) for a, b in squares] == [
        *((1, 0, 4, 2), (5, 2, 4, 4), (0, 0, 3, 4), (7, 0, 4, 3), (3, 2, 4, 4), (2, 7, 4, 3))
    ]
    assert [hole_of(a, b) for a, b in holes] == [
        *((1, 1, 3, 5), None, (2, 3, 10, 4), (1, 4, 4, 5), (4, 5, 4, 3), None)
    ]
    expected = [10, 180, 152, 218, 31, 252, 57, 81, 254, 226, 185, 180]
    np.testing.assert_allclose(noise.ravel(), expected, rtol=1e-6)


OPERATIONS = {
    "pad_crop": lambda k, x: augment.pad_crop(k, x, 2),
    "pad_crop of some": lambda k, x: augment.pad_crop(k, x, 2, 0.5),
    "whiten": lambda k, x: augment.whiten(x, np.ones(x.shape[1:]), np.ones(x.shape[1:]), 0.1),
    "flip": augment.flip,
    "cutout": lambda k, x: augment.cutout(k, x, 3),
    "random_erasing": lambda k, x: augment.random_erasing(k, x, 0.5),
    "augment": lambda k, x: augment.augment(k, x, AugmentConfig(2, flip=True, cutout=3, erase=0.5)),
}


@pytest.fixture
def keys_used_twice():
    """For tests that repeat a draw on purpose."""
    with jax.debug_key_reuse(False):
        yield


def assert_equal_up_to_rounding(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.usefixtures("keys_used_twice")
def test_augment_is_crop_flip_cutout_erase_each_with_its_own_key():
    images = numbered(16, 8, 8, 3)

    @jax.jit
    def by_hand(k, x):
        keys = jax.random.split(k, 4)
        x = augment.pad_crop(keys[0], x, 2)
        x = augment.flip(keys[1], x)
        x = augment.cutout(keys[2], x, 3)
        return augment.random_erasing(keys[3], x, 0.5)

    compiled = jax.jit(OPERATIONS["augment"])
    out = compiled(key(1), images)
    assert_equal_up_to_rounding(out, by_hand(key(1), images))
    np.testing.assert_array_equal(compiled(key(1), images), out)
    assert not np.array_equal(compiled(key(2), images), out)
    # Turning one off leaves the others' draws as they were.
    alone = augment.augment(key(1), images, AugmentConfig(flip=True))
    np.testing.assert_array_equal(alone, flip(jax.random.split(key(1), 4)[1], images))
    # Many runs at once draw as each does alone.
    keys = jnp.stack([key(1), key(2)])
    both = jax.jit(jax.vmap(OPERATIONS["augment"]))(keys, jnp.stack([images, images]))
    assert_equal_up_to_rounding(both[0], out)
    assert_equal_up_to_rounding(both[1], compiled(key(2), images))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(3, 8, 8, 3), (1, 5, 9, 1)])
def test_shape_and_dtype_stay(name, dtype, shape):
    images = jax.ShapeDtypeStruct(shape, dtype)
    out = jax.eval_shape(OPERATIONS[name], key(), images)
    assert (out.shape, out.dtype) == (shape, dtype)


def test_augment_off_is_the_identity():
    images = numbered(4, 8, 8)
    assert augment.augment(key(), images, AugmentConfig()) is images
    assert augment.pad_crop(key(), images, 0, 0.5) is images
    assert augment.cutout(key(), images, 0) is images
    assert augment.random_erasing(key(), images, 0.0) is images


def test_the_ends_of_what_is_allowed():
    images = jax.ShapeDtypeStruct((2, 3, 4, 1), jnp.float32)
    for size, shape in ((1, (1, 1)), ((3, 9), (3, 9)), ((6, 4), (6, 4))):
        out = jax.eval_shape(lambda x, size=size: augment.resize(x, size), images)
        assert out.shape == (2, *shape, 1)
    mean, std = np.zeros((3, 4, 1)), np.ones((3, 4, 1))
    out = jax.eval_shape(lambda x: augment.whiten(x, mean, std, 1e-12), images)
    assert out.shape == images.shape


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: augment.normalize(x), "expects uint8"),
        (lambda x: augment.normalize(x.astype(jnp.uint8), (0.1, 0.2)), "2 values of mean"),
        (lambda x: augment.normalize(x.astype(jnp.uint8), 0.1, (1, 1)), "2 values of std"),
        (lambda x: augment.normalize(x.astype(jnp.uint8), (0.1, 0.2) * 2), "4 values of mean"),
        (lambda x: augment.resize(x.astype(jnp.uint8), 4), "^resize expects normalized"),
        (lambda x: augment.resize(x, (0, 4)), "size must be an integer of at least 1"),
        (lambda x: augment.resize(x, (4, 0)), "size must be an integer of at least 1"),
        (lambda x: augment.resize(x, 0), "size must be an integer of at least 1"),
        (lambda x: augment.pad_crop(key(), x, -1), "must be an integer of at least 0"),
        (lambda x: augment.pad_crop(key(), x[0], 1), r"shape \(8, 8, 3\)"),
        (lambda x: augment.pad_crop(key(), x, 1, 1.5), r"must lie in \[0, 1\]"),
        (lambda x: augment.pad_crop(key(), x, 1, -0.5), r"must lie in \[0, 1\]"),
        (lambda x: augment.whiten(x, x[0], x[0, :, :, :1], 1.0), "all must be alike"),
        (lambda x: augment.whiten(x, x[0], x[0], 0.0), "epsilon=0.0 must be positive"),
        (lambda x: augment.whiten(x, x[0, 1:], x[0], 1.0), "all must be alike"),
        (lambda x: augment.whiten(x, x[0, 1:], x[0, 1:], 1.0), "all must be alike"),
        (lambda x: augment.whiten(x.astype(jnp.uint8), x[0], x[0], 1.0), "^whiten expects normal"),
        (lambda x: augment.cutout(key(), x, -1), "must be an integer of at least 0"),
        (lambda x: augment.random_erasing(key(), x, 1.5), r"must lie in \[0, 1\]"),
        (lambda x: augment.random_erasing(key(), x, -0.5), r"must lie in \[0, 1\]"),
        (
            lambda x: augment.random_erasing(key(), x.astype(int), 0.5),
            "^random_erasing expects norm",
        ),
        (lambda x: augment.random_erasing(key(), x, 0.5, area=(0.5, 0.1)), "area="),
        (lambda x: augment.random_erasing(key(), x, 0.5, area=(0, 0.1)), "area="),
        (lambda x: augment.random_erasing(key(), x, 0.5, area=(0.5, 1.1)), "area="),
        (lambda x: augment.random_erasing(key(), x, 0.5, aspect=(0, 1)), "aspect="),
        (lambda x: augment.random_erasing(key(), x, 0.5, aspect=(2, 1)), "aspect="),
        (lambda x: augment.normalize(x[0].astype(jnp.uint8)), r"shape \(8, 8, 3\)"),
        (lambda x: augment.whiten(x[0], x[0], x[0], 1.0), r"shape \(8, 8, 3\)"),
        (lambda x: augment.resize(x[0], 4), r"shape \(8, 8, 3\)"),
        (lambda x: augment.flip(key(), x[0]), r"shape \(8, 8, 3\)"),
        (lambda x: augment.cutout(key(), x[0], 1), r"shape \(8, 8, 3\)"),
        (lambda x: augment.random_erasing(key(), x[0], 0.5), r"shape \(8, 8, 3\)"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(jnp.ones((2, 8, 8, 3)))
    assert "\n" not in str(error.value)
