"""Damaged data files: truncated or with bytes changed, they load or are refused in one sentence."""

import functools
import gzip
import pathlib
import random

import numpy as np
import pytest
from PIL import Image

from cnn_jax import data
from cnn_jax.data import archives, cifar

CASES = 40  # of each kind
pytestmark = [
    pytest.mark.usefixtures("elsewhere"),
    pytest.mark.filterwarnings("ignore::cnn_jax.data.DataWarning"),
]


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Cut short, or with up to 8 bytes changed."""
    if rng.random() < 0.3:
        return content[: rng.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] ^= rng.randrange(1, 256)
    return bytes(changed)


def survives(load, where: pathlib.Path) -> str:
    """Returns 'loaded' or 'refused'; anything else is an error of ours."""
    sentence = None
    try:
        load()
    except data.DataError as error:
        sentence = str(error)
    if sentence is None:
        return "loaded"
    assert "\n" not in sentence
    assert where.name in sentence
    return "refused"


def pictures(folder: pathlib.Path, suffix: str) -> list[pathlib.Path]:
    rng = np.random.default_rng(0)
    files = []
    for part, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
        file = folder / part / name / f"picture{suffix}"
        file.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(file)
        files.append(file)
    return files


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".gif"])
def test_damaged_pictures(tmp_path, suffix):
    files = pictures(tmp_path / "own", suffix)
    rng = random.Random(1)
    outcomes = set()
    for _ in range(CASES):
        file = rng.choice(files)
        whole = file.read_bytes()
        file.write_bytes(damaged(whole, rng))
        outcomes.add(survives(lambda: data.load(f"{tmp_path / 'own'}:size=8,channels=3"), file))
        file.write_bytes(whole)
    assert "refused" in outcomes


def test_damaged_npz(tmp_path):
    file = tmp_path / "own.npz"
    images = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 1), np.uint8)
    labels = np.arange(12) % 3
    arrays = {"train_images": images, "train_labels": labels}
    np.savez_compressed(file, **arrays, test_images=images, test_labels=labels)
    whole, rng, outcomes = file.read_bytes(), random.Random(2), set()
    for _ in range(2 * CASES):
        file.write_bytes(damaged(whole, rng))
        outcomes.add(survives(lambda: data.load(str(file)), file))
    assert "refused" in outcomes


@pytest.mark.parametrize("kind", ["idx", "idx.gz", "cifar"])
def test_damaged_archives(tmp_path, kind):
    rng = random.Random(3)
    file = tmp_path / f"archive.{kind}"
    array = np.random.default_rng(0).integers(0, 256, (20, 5, 5), np.uint8)
    if kind == "cifar":
        images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
        whole = cifar.make_records(cifar.CIFAR10, images, np.arange(20) % 10)
    else:
        whole = archives.idx_bytes(array)
        whole = gzip.compress(whole) if kind == "idx.gz" else whole
    parse = (
        functools.partial(cifar.parse_records, cifar.CIFAR10)
        if kind == "cifar"
        else archives.parse_idx
    )
    outcomes = set()
    for _ in range(CASES):
        file.write_bytes(damaged(whole, rng))
        outcomes.add(
            survives(lambda: parse(archives.Payload(archives.read_bytes(file), file)), file)
        )
    assert "refused" in outcomes
