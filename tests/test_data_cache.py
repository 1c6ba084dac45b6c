"""Kept arrays: damaged, stale, or in a folder that is not the user's; noticed, and said."""

import hashlib
import json
import os
import pathlib
import random
import re
import types
import warnings

import numpy as np
import pytest

from cnn_jax import config, data
from cnn_jax.data import cache, memory
from cnn_jax.experiment import load_dataset
from cnn_jax.figures import run_figures
from tests import commands
from tests.data_sets import exchange_contents, make_set, quietly, refusal, warnings_of

pytestmark = pytest.mark.usefixtures("elsewhere")


# Kept arrays.


@pytest.fixture
def kept(tmp_path):
    """A kept set of a few tiny pictures: its file and what is in it."""
    make_set(tmp_path / "set", count=1)
    quietly(data.load, "./set")
    (file,) = (tmp_path / "data" / "cache").iterdir()
    return file, cache.read(file)


def check_damaged(file, original, whole, places):
    """Reads the kept file with one bit turned at each place, counted in bits."""
    for place in places:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        file.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", data.DataWarning)
            found = cache.read(file)
        if found is not None:
            for a, b in zip(found.dataset[:4], original.dataset[:4], strict=True):
                np.testing.assert_array_equal(a, b, err_msg=f"bit {place}")
            assert found.dataset[4:] == original.dataset[4:], place
            assert found.notes == original.notes, place


def test_no_bit_of_kept_arrays_can_turn_unnoticed(kept):
    file, original = kept
    whole = file.read_bytes()
    places = random.Random(0).sample(range(8 * len(whole)), 200)
    headers = [m.start() for m in re.finditer(rb"\x93NUMPY", whole)]
    assert len(headers) == 5
    for start in headers:  # the length of the header with its bit 0x20
        places += range(8 * (start + 8), 8 * (start + 10))
    check_damaged(file, original, whole, places)


@pytest.mark.slow
def test_no_bit_at_all_of_kept_arrays_can_turn_unnoticed(kept):
    file, original = kept
    whole = file.read_bytes()
    check_damaged(file, original, whole, range(8 * len(whole)))


def test_damaged_kept_arrays_are_made_again_with_one_line(kept):
    file, original = kept
    whole = file.read_bytes()
    start = whole.index(b"\x93NUMPY", whole.index(b"train_images.npy"))
    damaged = bytearray(whole)
    damaged[start + 8] ^= 0x20
    for content in (bytes(damaged), whole[:-40], b"", b"[1, 2]", b"PK\5\6" + bytes(18)):
        file.write_bytes(content)
        dataset, lines = warnings_of(data.load, "./set")
        np.testing.assert_array_equal(dataset.train_images, original.dataset.train_images)
        (line,) = lines
        assert f"{file.relative_to(pathlib.Path.cwd())} can't be used (damaged: " in line
        assert quietly(data.load, "./set").fingerprint == dataset.fingerprint


@pytest.mark.parametrize("about", [[1, 2], {"format": 2}, {"format": 2, "sources": 3}, 7, None])
def test_a_kept_file_that_says_something_else_is_made_again(kept, about):
    file, original = kept
    raw = json.dumps(about).encode()
    digest = hashlib.sha256(raw).hexdigest().encode()
    arrays = dict(zip(cache._ARRAYS, original.dataset[:4], strict=True))
    np.savez(file, about=np.frombuffer(digest + raw, np.uint8), **arrays)
    dataset, lines = warnings_of(data.load, "./set")
    assert dataset.fingerprint == original.dataset.fingerprint
    assert len(lines) == 1


def test_other_arrays_than_those_kept_are_noticed(kept):
    file, original = kept
    with np.load(file) as opened:
        members = dict(opened)
    members["train_labels"] = members["train_labels"][::-1]
    np.savez(file, **members)
    dataset, lines = warnings_of(data.load, "./set")
    np.testing.assert_array_equal(dataset.train_labels, original.dataset.train_labels)
    assert "its arrays are not those that were kept" in lines[0]


def test_files_of_the_first_format_are_made_again_silently(kept):
    file, original = kept
    arrays = dict(zip(cache._ARRAYS, original.dataset[:4], strict=True))
    np.savez(file, about=np.array(json.dumps({"format": 1, "sources": {}})), **arrays)
    assert quietly(data.load, "./set").fingerprint == original.dataset.fingerprint


def test_a_pipe_in_the_place_of_kept_arrays_is_no_obstacle(kept):
    file, original = kept
    file.unlink()
    os.mkfifo(file)
    dataset, lines = warnings_of(data.load, "./set")
    assert dataset.fingerprint == original.dataset.fingerprint
    assert "it is a pipe, not a regular file" in lines[0]
    assert cache.read(file).dataset.fingerprint == dataset.fingerprint


def exchange_names(one, other):
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def make_anew(one, other):
    a, b = one.read_bytes(), other.read_bytes()
    one.unlink()
    other.unlink()
    one.write_bytes(b)
    other.write_bytes(a)


@pytest.mark.parametrize("exchange", [exchange_contents, exchange_names, make_anew])
def test_files_exchanged_under_their_old_times_are_noticed(tmp_path, exchange):
    folder = make_set(tmp_path / "set")
    everything = sorted(folder.rglob("*"), reverse=True)
    for path in everything:
        os.utime(path, (1e9, 1e9))
    before = data.load("./set")
    for index in range(3):
        exchange(folder / f"train/ant/{index}.bmp", folder / f"train/bee/{index}.bmp")
    for path in everything:
        os.utime(path, (1e9, 1e9))
    after = data.load("./set")
    np.testing.assert_array_equal(after.train_images[:3], before.train_images[3:])
    np.testing.assert_array_equal(after.train_images[3:], before.train_images[:3])


def test_folders_exchanged_under_their_old_times_are_noticed(tmp_path):
    folder = make_set(tmp_path / "set")
    before = data.load("./set")
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    exchange_names(folder / "train" / "ant", folder / "train" / "bee")
    for path, time in times.items():
        os.utime(path, ns=(time, time))
    after = data.load("./set")
    np.testing.assert_array_equal(after.train_images[:3], before.train_images[3:])


def test_a_part_that_appears_is_noticed(tmp_path):
    folder = make_set(tmp_path / "set", ["train"])
    with pytest.warns(data.DataWarning, match="there is no test part, so 1 of the 6 examples"):
        data.load("./set")
    make_set(folder, ["val"], count=4)
    assert len(data.load("./set").test_labels) == 8


def test_lines_about_data_come_with_kept_arrays_too(tmp_path):
    make_set(tmp_path / "set", ["train", "test", "val"])
    for _ in range(2):
        _, (line,) = warnings_of(data.load, "./set")
        assert line.startswith(
            "pictures in set: train is trained on, test tested on; not read: val; "
        )


# What is kept, is kept in the user's own folder.


def contents(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def test_nothing_is_written_for_somebody_elses_settings(tmp_path):
    make_set(tmp_path / "set")
    before = contents(tmp_path)
    settings = config.DatasetConfig(name="./set", data_dir=str(tmp_path / "elsewhere"))
    expected = data.load_folder("./set").fingerprint
    evaluated = run_figures.Evaluated(tmp_path)
    evaluated.network = types.SimpleNamespace(config=config.Config(dataset=settings))
    for dataset in (
        data.load("./set", tmp_path / "elsewhere", keep=False),
        load_dataset(settings, keep=False),
        evaluated.dataset,
    ):
        assert dataset.fingerprint == expected
        assert contents(tmp_path) == before
    load_dataset(settings)
    assert (tmp_path / "elsewhere" / "cache").is_dir()
    # What is kept there is read.
    (file,) = (tmp_path / "elsewhere" / "cache").iterdir()
    before = file.stat()
    assert load_dataset(settings, keep=False).fingerprint == expected
    assert file.stat().st_mtime_ns == before.st_mtime_ns


def test_a_rerun_writes_only_into_ones_own_data_folder(tmp_path, monkeypatch):
    reproduce = commands.load("reproduce")
    kept = []

    def load(settings, keep):
        kept.append(keep)
        raise data.DataNotFoundError("not there.")

    monkeypatch.setattr(reproduce.trained_network, "load_dataset", load)
    monkeypatch.setattr(reproduce, "DATA_DIR", types.SimpleNamespace(value=None))
    monkeypatch.setattr(reproduce.records, "read_environment", lambda run: {})
    monkeypatch.setattr(reproduce.records, "read_metrics", lambda run: [{"epoch": 1}])
    for data_dir in (None, "data", "elsewhere", str(tmp_path)):
        settings = config.Config(dataset=config.DatasetConfig(data_dir=data_dir), epochs=1)
        monkeypatch.setattr(reproduce.records, "read_config", lambda run, s=settings: s)
        refusal(reproduce.reproduce, tmp_path, tmp_path / "new")
    assert kept == [True, True, False, False]


def test_kept_arrays_beyond_the_memory_there_is_are_not_read(kept, monkeypatch):
    file, _ = kept
    monkeypatch.setattr(memory, "available", lambda: 400)
    with pytest.warns(data.DataWarning, match="can't be used"):
        assert cache.read(file) is None
