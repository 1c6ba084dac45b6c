"""`synthetic`: images of labelled shapes, made from a seed, the same on every platform.

Random numbers come from the raw stream of a counter-based generator, and rendering uses only
additions, multiplications and comparisons.
"""

from collections.abc import Callable

import numpy as np

from cnn_jax.data import memory
from cnn_jax.data.dataset import Dataset, make_dataset
from cnn_jax.data.sampling import SHAPES, permutation, stream, uniform
from cnn_jax.errors import DataError

_VALUES = 1 << 22  # drawn at a time, which bounds the memory
_Predicate = Callable[[np.ndarray, np.ndarray], np.ndarray]

# Whether a point belongs to the shape of radius 1 around the origin; u to the right, v downwards.
SHAPE_PREDICATES: dict[str, _Predicate] = {
    "circle": lambda u, v: u * u + v * v <= 1.0,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) <= 0.85,
    "triangle": lambda u, v: (v <= 0.8) & (abs(u) * 1.8 <= v + 1.0),
    "cross": lambda u, v: (np.maximum(abs(u), abs(v)) <= 1.0) & (np.minimum(abs(u), abs(v)) <= 0.3),
    "ring": lambda u, v: (u * u + v * v <= 1.0) & (u * u + v * v >= 0.35),
    "diamond": lambda u, v: abs(u) + abs(v) <= 1.0,
    "frame": lambda u, v: (np.maximum(abs(u), abs(v)) <= 0.9) & (np.maximum(abs(u), abs(v)) >= 0.5),
    "horizontal bar": lambda u, v: (abs(u) <= 1.0) & (abs(v) <= 0.3),
    "vertical bar": lambda u, v: (abs(u) <= 0.3) & (abs(v) <= 1.0),
    "saltire": lambda u, v: (np.maximum(abs(u), abs(v)) <= 0.9) & (abs(abs(u) - abs(v)) <= 0.35),
}


def _render(
    labels: np.ndarray, size: int, channels: int, noise: float, generator: np.random.Philox
) -> np.ndarray:
    """Draws one shape per label: images uint8 `[n, size, size, channels]`."""
    n = len(labels)
    radius = size * (0.22 + 0.2 * uniform(generator, (n, 1, 1)))
    x = radius + (size - 2.0 * radius) * uniform(generator, (n, 1, 1))
    y = radius + (size - 2.0 * radius) * uniform(generator, (n, 1, 1))
    dark = 0.35 * uniform(generator, (n, 1, 1, channels))
    bright = 0.6 + 0.4 * uniform(generator, (n, 1, 1, channels))
    # The sum of two uniform numbers, scaled to standard deviation 1: noise without a logarithm.
    grain = uniform(generator, (n, size, size, channels))
    grain = (grain + uniform(generator, grain.shape) - 1.0) * 2.449489742783178

    centers = np.arange(size) + 0.5
    u = (centers[None, None, :] - x) / radius
    v = (centers[None, :, None] - y) / radius
    inside = np.empty((n, size, size), bool)
    for label, predicate in enumerate(SHAPE_PREDICATES.values()):
        (members,) = np.nonzero(labels == label)
        inside[members] = predicate(u[members], v[members])
    values = np.where(inside[..., None], bright, dark) + noise * grain
    return np.rint(255.0 * np.clip(values, 0.0, 1.0)).astype(np.uint8)


def synthetic(
    *,
    size: int = 28,
    channels: int = 1,
    classes: int = 10,
    train: int = 2048,
    test: int = 512,
    noise: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """Labelled shapes at random places, in random sizes and colors, with noise.

    `classes` are the first 2 to 10 of `SHAPE_PREDICATES`; their counts differ by at most one.
    `noise` is a standard deviation, on the scale 0 to 1 of the pixels.

    Raises:
      DataError: a number is out of range.
    """
    for what, value, low, high in (
        ("size", size, 8, 1024),
        ("channels", channels, 1, 64),
        ("classes", classes, 2, len(SHAPE_PREDICATES)),
        ("train", train, 1, 10_000_000),
        ("test", test, 1, 10_000_000),
        ("noise", noise, 0.0, 10.0),
    ):
        if not low <= value <= high:
            raise DataError(f"synthetic: {what} must lie between {low} and {high}, got {value}.")
    values = size * size * channels  # of an image
    step = max(1, _VALUES // values)
    memory.check_fits(
        (train + test) * (values + 24) + 64 * values * min(step, max(train, test)),
        f"synthetic: {train} + {test} images of {size}x{size} with {channels} channels",
        "choose smaller numbers",
    )

    def part(index: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        labels = permutation(n, seed, index, SHAPES) % classes
        generator = stream(seed, 2 + index, SHAPES)
        images = np.empty((n, size, size, channels), np.uint8)
        for start in range(0, n, step):
            chunk = slice(start, start + step)
            images[chunk] = _render(labels[chunk], size, channels, noise, generator)
        return images, labels

    return make_dataset(
        part(0, train),
        part(1, test),
        tuple(SHAPE_PREDICATES)[:classes],
        f"synthetic shapes, noise {noise}, seed {seed}",
    )
