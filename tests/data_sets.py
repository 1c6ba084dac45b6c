"""Small data sets to load, and what loading them says."""

import warnings

import numpy as np
import pytest
from PIL import Image

from cnn_jax import data


def draw(file, seed, shape=(6, 8)):
    """Writes a picture of noise, uncompressed, so that all are of one size."""
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    Image.fromarray(values).save(file)
    return values


def make_set(folder, parts=("train", "test"), names=("ant", "bee"), count=3):
    seed = 0
    for part in parts:
        for name in names:
            for index in range(count):
                draw(folder / part / name / f"{index}.bmp", seed := seed + 1)
    return folder


def quietly(call, *args, **kwargs):
    """Calls, and fails if there is any warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return call(*args, **kwargs)


def warnings_of(call, *args, **kwargs):
    """Returns what a call returns, and its warnings, which are lines of ours."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call(*args, **kwargs)
    assert all(issubclass(w.category, data.DataWarning) for w in caught)
    lines = [str(w.message) for w in caught]
    assert not any("\n" in line for line in lines)
    return result, lines


def refusal(call, *args, **kwargs):
    """Returns the sentence with which a call refuses."""
    with pytest.raises(data.DataError) as caught:
        call(*args, **kwargs)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def exchange_contents(one, other):
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)


def base(count=40, shape=(8, 8, 1), seed=0):
    generator = np.random.default_rng(seed)
    return {
        "train_images": generator.integers(0, 256, (count, *shape), np.uint8),
        "train_labels": np.arange(count) % 4,
        "test_images": generator.integers(0, 256, (12, *shape), np.uint8),
        "test_labels": np.arange(12) % 4,
    }
