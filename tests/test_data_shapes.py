"""Synthetic shapes: fixed for all time, balanced, learnable."""

import numpy as np
import pytest

from cnn_jax import data


def test_pixels_are_fixed_for_all_time():
    dataset = data.synthetic(size=16, channels=2, train=20, test=10, seed=5)
    assert data.fingerprint(*dataset[:4])[:16] == "35dea16521201376"


def test_default_shape_and_balance():
    dataset = data.synthetic()
    assert dataset.train_images.shape == (2048, 28, 28, 1)
    assert dataset.test_images.shape == (512, 28, 28, 1)
    assert dataset.train_images.dtype == np.uint8
    assert dataset.train_labels.dtype == np.int32
    assert len(dataset.class_names) == 10
    counts = np.bincount(dataset.train_labels)
    assert counts.max() - counts.min() <= 1


def test_any_size_channels_and_counts():
    dataset = data.synthetic(size=9, channels=5, classes=3, train=7, test=4)
    assert dataset.train_images.shape == (7, 9, 9, 5)
    assert dataset.class_names == ("circle", "square", "triangle")
    assert dataset.test_labels.max() <= 2


def test_seed_changes_everything_and_parts_differ():
    one, two = data.synthetic(train=64, test=64, seed=0), data.synthetic(train=64, test=64, seed=1)
    assert not np.array_equal(one.train_labels, two.train_labels)
    assert not np.array_equal(one.train_images, two.train_images)
    assert not np.array_equal(one.train_images, one.test_images)


def test_more_examples_keep_the_rendering_in_chunks():
    # The rendering of large sets is cut into chunks; every picture must still hold its shape.
    dataset = data.synthetic(size=64, channels=3, classes=2, train=350, test=2, noise=0.0)
    bright = (dataset.train_images > 0.5 * 255).all(axis=-1)
    area = bright.mean(axis=(1, 2))
    assert area.min() > 0.1
    assert area.max() < 0.6


def test_without_noise_pictures_have_two_colors():
    dataset = data.synthetic(channels=3, train=50, test=10, noise=0.0)
    for image in dataset.train_images:
        assert len(np.unique(image.reshape(-1, 3), axis=0)) == 2


def test_classes_can_be_told_apart():
    # Nearest neighbor on the pixels: far above 10 %, far below what a network reaches.
    dataset = data.synthetic(size=16, train=1500, test=200, seed=2)
    train = dataset.train_images.reshape(1500, -1).astype(np.float64)
    test = dataset.test_images.reshape(200, -1).astype(np.float64)
    distance = (train**2).sum(1)[None] - 2 * test @ train.T
    accuracy = np.mean(dataset.train_labels[distance.argmin(1)] == dataset.test_labels)
    assert 0.5 < accuracy < 0.99


@pytest.mark.parametrize(
    ("option", "value"),
    [("size", 7), ("channels", 0), ("classes", 11), ("train", 0), ("noise", -0.1)],
)
def test_option_out_of_range(option, value):
    with pytest.raises(data.DataError, match=f"synthetic: {option} must lie between"):
        data.synthetic(**{option: value})
