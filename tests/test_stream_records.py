"""Prepared records: what is in them, made in parallel, resumed after a kill, verified."""

import functools
import json
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from cnn_jax.data import streams
from cnn_jax.data.streams import (
    StreamConfig,
    cropping,
    decoding,
    in_memory,
    pieces,
    prepare,
    progress,
    records,
)
from cnn_jax.errors import RunDirectoryError
from tests import commands
from tests.data_sets import refusal
from tests.picture_sets import (
    CLASSES,
    SMALL,
    damage,
    encode,
    load,
    make_pictures,
    pack_classes,
    read_all,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("pictures") / "set")


@pytest.fixture
def small_files(monkeypatch):
    monkeypatch.setattr(pieces, "SHARD", 5)


def make(source, output, *options, **more):
    return prepare.prepare(streams.open_parts(source), output, *options, **more)


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


pytestmark = pytest.mark.usefixtures("small_files")


# What is in them.


def test_records_of_pictures_as_they_are_give_the_same_images(folder, tmp_path):
    pack_classes(folder, tmp_path / "tars")
    about = make(folder, tmp_path / "one")
    make(tmp_path / "tars", tmp_path / "two")
    make(tmp_path / "one", tmp_path / "three")
    assert about["class_names"] == list(CLASSES)
    assert [s["examples"] for s in about["parts"]["train"]["shards"]] == [5, 5, 2]
    expected = load(folder)
    for name in ("one", "two", "three"):
        found = load(tmp_path / name)
        assert found.class_names == CLASSES
        for part, other in ((found.train, expected.train), (found.test, expected.test)):
            np.testing.assert_array_equal(part.labels, other.labels)
            for epoch in (None, 3):
                np.testing.assert_array_equal(read_all(part, epoch), read_all(other, epoch))
    source = pickle.loads(pickle.dumps(streams.open_parts(tmp_path / "one").train))
    assert source[7] == ((folder / "train" / "bee" / "3.jpg").read_bytes(), 1)
    with tarfile.open(tmp_path / "one" / "train-00001.tar") as tar:
        assert tar.getnames() == ["bee/1.jpg", "bee/2.jpg", "bee/3.jpg", "cat/0.jpg", "cat/1.jpg"]
    assert source.name(8).endswith("train-00001.tar: cat/0.jpg")


def test_raw_records_are_the_squares_of_an_evaluation(folder, tmp_path):
    make(folder, tmp_path / "raw", "raw", 20)
    square = StreamConfig(size=20, short_side=20)
    expected = read_all(load(folder, square).train, None)
    np.testing.assert_array_equal(read_all(load(tmp_path / "raw", square).train, None), expected)
    source = pickle.loads(pickle.dumps(streams.open_parts(tmp_path / "raw").train))
    for index in (0, 4, 5, 11):  # in the first, second and last file
        assert source[index] == (expected[index].tobytes(), index // 4)
    assert source.name(11).endswith("train-00002.raw: record 1")
    # What is cut out of them is cut out of these squares.
    draws = cropping.draw(0, 2, np.arange(12))
    found = read_all(load(tmp_path / "raw").train, 2)
    for image, square_, row in zip(found, expected, draws, strict=True):
        np.testing.assert_array_equal(image, cropping.crop(square_, SMALL, row))
    gray = load(tmp_path / "raw", StreamConfig(size=20, short_side=20, gray=True)).train
    lightness = np.asarray(Image.fromarray(expected[3]).convert("L"))
    np.testing.assert_array_equal(read_all(gray, None)[3, ..., 0], lightness)


def test_jpegs_of_a_short_side_have_it(folder, tmp_path):
    make(folder, tmp_path / "small", None, 18)
    source = streams.open_parts(tmp_path / "small").train
    original = streams.open_parts(folder).train
    for index in range(12):
        assert source[index][0][:2] == b"\xff\xd8"
        image = original.pixels(index, 3)
        size = cropping.scale_to_short_side(image.shape[0], image.shape[1], 18)
        found = source.pixels(index, 3)
        assert found.shape[:2] == size
        assert min(size) == 18
        scaled = Image.fromarray(cropping.resize_by_pillow(image, size))
        expected = decoding.decode(encode(scaled, quality=95), "it")
        np.testing.assert_array_equal(found, expected)


def test_a_data_set_in_memory_becomes_records_of_the_same_pixels(tmp_path, shapes):
    parts = in_memory.as_parts(shapes)
    for form, size in (("jpeg", 0), ("raw", 12)):
        prepare.prepare(parts, tmp_path / form, form, size)
        found = load(tmp_path / form, StreamConfig(size=12, short_side=12))
        np.testing.assert_array_equal(read_all(found.train, None), shapes.train_images)
        np.testing.assert_array_equal(found.test.labels, shapes.test_labels)
        assert found.class_names == shapes.class_names
    make(tmp_path / "raw", tmp_path / "again")
    found = load(tmp_path / "again", StreamConfig(size=12, short_side=12))
    np.testing.assert_array_equal(read_all(found.train, None), shapes.train_images)


# How they are made.


def test_records_do_not_depend_on_the_number_of_jobs(folder, tmp_path):
    make(folder, tmp_path / "one")
    make(folder, tmp_path / "three", jobs=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


CHILD = """
import os, signal, sys
from pathlib import Path
from cnn_jax.data import streams
from cnn_jax.data.streams import pieces, prepare
pieces.SHARD, convert, done = 5, pieces.convert, []
def convert_some(*arguments):
    done.append(1)
    if len(done) > int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return convert(*arguments)
pieces.convert = convert_some
prepare.prepare(streams.open_parts(Path(sys.argv[1])), Path(sys.argv[2]), "raw", 20)
"""


def test_after_a_kill_the_same_command_goes_on_to_the_same_bytes(folder, tmp_path, monkeypatch):
    command = [sys.executable, "-c", CHILD, str(folder), str(tmp_path / "killed"), "14"]
    ended = subprocess.run(command, cwd=commands.ROOT, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    left = {file.name for file in (tmp_path / "killed").iterdir()}
    assert {"train-00000.npz", "train-00000.raw", "train-00002.npz"} <= left
    assert any(name.endswith(".new") for name in left)
    assert "isn't finished; run the same command" in refusal(load, tmp_path / "killed")
    (tmp_path / "killed" / "train-00001.raw").unlink()  # one that has gone is made again
    converted, convert = [], pieces.convert
    monkeypatch.setattr(
        pieces, "convert", lambda *given: converted.append(given[1]) or convert(*given)
    )
    done = []
    report = lambda count, total: done.append((count, total))  # noqa: E731
    make(folder, tmp_path / "killed", "raw", 20, report=report)
    assert converted == [*range(5, 10), *range(12)]
    assert done[-1] == (24, 24)
    make(folder, tmp_path / "whole", "raw", 20)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not [name for name in contents(tmp_path / "whole") if name.endswith((".new", ".npz"))]


def test_records_that_are_there_are_verified_and_not_made_again(folder, tmp_path, monkeypatch):
    first = make(folder, tmp_path / "set")
    monkeypatch.setattr(pieces, "convert", None)
    assert make(folder, tmp_path / "set") == first
    file = tmp_path / "set" / "train-00001.tar"
    content = bytearray(file.read_bytes())
    content[700] ^= 1
    file.write_bytes(content)
    assert "train-00001.tar isn't as it was written" in refusal(make, folder, tmp_path / "set")


def test_records_of_something_else_are_never_replaced(folder, tmp_path):
    make(folder, tmp_path / "set")
    before = contents(tmp_path / "set")
    for options in (("raw", 20), ("jpeg_short_side", 20)):
        assert "choose another --output" in refusal(make, folder, tmp_path / "set", *options)
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "train" / "ant" / "1.jpg").rename(other / "train" / "ant" / "9.jpg")
    assert "choose another --output" in refusal(make, other, tmp_path / "set")
    assert contents(tmp_path / "set") == before


def test_one_process_at_a_time_prepares_a_folder(folder, tmp_path):
    def prepare_again(done, total):
        if done == 3:
            sentence = refusal(make, folder, tmp_path / "set")
            assert "another process prepares records" in sentence

    make(folder, tmp_path / "set", report=prepare_again)


def test_damaged_files_are_named_and_left_out_if_asked(folder, tmp_path, monkeypatch):
    path = shutil.copytree(folder, tmp_path / "pictures")
    damage(path, "train/ant/1.jpg", "test/cat/2.jpg")
    sentence = refusal(make, path, tmp_path / "set")
    assert sentence.startswith("2 of the 24 pictures can't be read (")
    assert "train/ant/1.jpg" in sentence
    assert "test/cat/2.jpg" in sentence
    assert "--skip_damaged" in sentence
    about = make(path, tmp_path / "set", skip_damaged=True)
    assert [name.rpartition("pictures/")[2] for name in about["skipped"]] == [
        "train/ant/1.jpg",
        "test/cat/2.jpg",
    ]
    expected = read_all(load(folder).train, None)
    found = load(tmp_path / "set")
    np.testing.assert_array_equal(read_all(found.train, None), np.delete(expected, 1, 0))
    assert len(found.test) == 11
    assert "choose another --output" in refusal(make, path, tmp_path / "set")
    assert "2 damaged left out (" in prepare.describe(about)
    # When they are replaced, what was made of the others is kept.
    refusal(make, path, tmp_path / "mended")
    shutil.copytree(folder, path, dirs_exist_ok=True)
    converted, convert = [], pieces.convert
    monkeypatch.setattr(
        pieces, "convert", lambda *given: converted.append(given[1]) or convert(*given)
    )
    make(path, tmp_path / "mended")
    assert converted == [*range(5), 10, 11]  # of train; of test
    make(folder, tmp_path / "whole")
    assert load(tmp_path / "mended").fingerprint == load(tmp_path / "whole").fingerprint


def test_the_fingerprint_of_records_is_of_their_bytes_and_labels(folder, tmp_path):
    make(folder, tmp_path / "first")
    other = shutil.copytree(folder, tmp_path / "pictures")
    file = other / "train" / "ant" / "1.jpg"
    content = bytearray(file.read_bytes())
    content[-2:] = b"\xff\xd8"  # of the same length, and readable
    file.write_bytes(content[:-2] + b"\xff\xd9")
    make(other, tmp_path / "same")
    assert load(tmp_path / "same").fingerprint == load(tmp_path / "first").fingerprint
    image = Image.open(folder / "train" / "ant" / "1.jpg")
    changed = bytearray(content[:-2] + b"\xff\xd9")
    changed[13] ^= 1  # the density, which changes no pixel
    file.write_bytes(changed)
    assert Image.open(file).size == image.size
    make(other, tmp_path / "second")
    assert load(tmp_path / "second").fingerprint != load(tmp_path / "first").fingerprint


# Records that can't be used.


def test_records_that_were_changed_are_refused(folder, tmp_path):
    def spoil(name, do):
        path = shutil.copytree(tmp_path / "set", tmp_path / name)
        do(path)
        return refusal(load, path)

    def change_about(path, **values):
        about = json.loads((path / "records.json").read_text())
        (path / "records.json").write_text(json.dumps({**about, **values}))

    make(folder, tmp_path / "set", "raw", 20)
    file = "train-00001.raw"
    assert f"{file} can't be read: No such file" in spoil("a", lambda p: (p / file).unlink())
    sentence = spoil("b", lambda p: (p / file).write_bytes(b"x"))
    assert f"{file} has 1 bytes where 6,000 were prepared" in sentence
    index = "train.index.npy"
    sentence = spoil("c", lambda p: (p / index).write_bytes((p / index).read_bytes() + b"\0"))
    assert f"{index} isn't the index that was prepared" in sentence
    two = ["ant", "bee"]
    sentence = spoil("d", functools.partial(change_about, class_names=two))
    assert "the index of test doesn't fit its records" in sentence
    sentence = spoil("e", functools.partial(change_about, size=10))
    assert "its records aren't of the size 10" in sentence
    sentence = spoil("f", functools.partial(change_about, version=2))
    assert "is of version 2, and this is for 1" in sentence
    assert "format=png must be one of" in refusal(make, folder, tmp_path / "g", "png")
    (tmp_path / "set" / "records.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match=r"records.json can't be read: class_names is miss"):
        load(tmp_path / "set")


# The command.


def test_the_command_makes_records_and_says_what_is_wrong(folder, tmp_path):
    run = functools.partial(commands.run, "experiments.prepare_data")
    done = run(folder, f"--output={tmp_path}/set", "--size=20", "--format=raw", "--jobs=2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        f"{tmp_path}/set: raw 20 records of 12 train and 12 test images, 3 classes, 0.0 MiB, "
        "verified in "
    )
    assert records.read_about(tmp_path / "set")["format"] == "raw"
    for arguments, said in (
        ((folder, f"--output={tmp_path}/b", "--format=raw"), "format=raw needs the pixels"),
        ((folder, f"--output={tmp_path}/b", "--format=jpeg", "--size=9"), "takes no size=9"),
        ((folder, f"--output={folder}/b"), "which is read; choose a folder elsewhere"),
        ((f"--output={tmp_path}/b",), "--output takes records of one data set; name one"),
        (("mnist", "--format=raw"), "--format is for records; give their folder too"),
        ((f"{tmp_path}/no", f"--output={tmp_path}/b"), "no does not exist; check the path"),
    ):
        ended = run(*arguments)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert said in ended.stderr
        assert ended.stderr.count("\n") == 1


def test_progress_is_a_line_at_times_with_the_time_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Progress() as shown:
        for done in range(1, 31):
            now[0] += 1
            shown.show(done * 100, 9000)
    assert capsys.readouterr().out.splitlines() == [
        "1,100 of 9,000 images (12 %), 100/s, 0:01:19 left",
        "2,100 of 9,000 images (23 %), 100/s, 0:01:09 left",
    ]
