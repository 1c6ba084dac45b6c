"""Data that are damaged, hostile, misread or too large: noticed, and said in one sentence."""

import gzip
import hashlib
import io
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import types
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from cnn_jax import config, data, files
from cnn_jax.data import archives, cache, folders, memory, npz
from cnn_jax.data.notes import find_oddities
from cnn_jax.experiment import load_dataset
from cnn_jax.figures import run_figures
from tests import commands


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """What is decoded is kept in ./data, which is not to be that of the repository."""
    monkeypatch.chdir(tmp_path)


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


def exchange_contents(one, other):
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)


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
        assert line.startswith("pictures in set: not read: val; ")


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

    monkeypatch.setattr(reproduce, "load_dataset", load)
    monkeypatch.setattr(reproduce.records, "read_environment", lambda run: {})
    monkeypatch.setattr(reproduce.records, "read_metrics", lambda run: [{}])
    for data_dir in (None, "data", "elsewhere", str(tmp_path)):
        settings = config.Config(dataset=config.DatasetConfig(data_dir=data_dir), epochs=1)
        monkeypatch.setattr(reproduce.records, "read_config", lambda run, s=settings: s)
        refusal(reproduce.reproduce, tmp_path, tmp_path / "new")
    assert kept == [True, True, False, False]


# Parts of a folder.


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_part_is_the_test_part_where_there_is_none(tmp_path, name):
    folder = make_set(tmp_path / "set", ["train", name])
    dataset = quietly(data.load, "./set")
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (6, 6)
    expected = np.asarray(Image.open(folder / name / "bee" / "1.bmp"))
    np.testing.assert_array_equal(dataset.test_images[4, :, :, 0], expected)
    assert f"pictures in set, tested on {name}; arrays" in dataset.provenance
    other = make_set(tmp_path / "other", ["train", "val", "valid"])
    assert "has the folders val and valid, either of which" in refusal(data.load_folder, other)


def test_what_lies_beside_the_parts_is_named(tmp_path):
    folder = make_set(tmp_path / "set", ["train", "test", "val", "extra"])
    (folder / "labels.csv").write_text("a,b")
    dataset, (line,) = warnings_of(data.load_folder, folder)
    assert len(dataset.test_labels) == 6
    assert "not read: extra, labels.csv, val; the validation part isn't used" in line
    assert "set dataset.holdout" in line


def test_a_part_held_out_is_said_unless_it_was_asked_for(tmp_path):
    folder = make_set(tmp_path / "set", ["train"])
    _, (line,) = warnings_of(data.load_folder, folder)
    assert line == (
        f"pictures in {folder}: there is no test part, so 1 of the 6 examples are held out as one "
        "(a fraction of 0.2, seed 0)"
    )
    quietly(data.load_folder, folder, holdout=0.2)
    make_set(folder, ["test"])
    _, (line,) = warnings_of(data.load_folder, folder, holdout=0.2)
    assert line.endswith("holdout=0.2 has no effect, as there is a test part")


def test_a_folder_of_parts_by_other_names_is_refused_with_theirs(tmp_path):
    make_set(tmp_path / "set", ["Training", "Testing"])
    sentence = refusal(data.load, "./set")
    assert "set/Testing/ant is a folder in a class folder" in sentence
    assert "the parts of a data set are called train, test, val, valid, validation" in sentence


def test_a_run_in_the_data_is_called_so(tmp_path):
    folder = make_set(tmp_path / "set", ["train"])
    for name in ("config.json", "metrics.jsonl"):
        (folder / "train" / name).write_text("{}")
    sentence = refusal(data.load, "./set/train")
    assert "set/train holds the files of a run (config.json, metrics.jsonl …)" in sentence
    assert "give another --workdir" in sentence
    make_set(tmp_path / "odd", ["train", "test"], ["config.json", "bee"])
    assert data.load("./odd").class_names == ("bee", "config.json")


# Only regular files, each once.


def test_links_in_class_folders_end_at_once(tmp_path):
    folder = make_set(tmp_path / "set")
    for name in ("ant", "bee"):
        (folder / "train" / name / "up").symlink_to("..")
    assert "set/train/ant/up is a folder in a class folder" in refusal(data.load, "./set")


def test_classes_parts_and_pictures_may_be_links(tmp_path):
    folder = make_set(tmp_path / "set")
    expected = data.load_folder(folder).fingerprint
    (tmp_path / "far").mkdir()
    for path in ("train/ant", "test", "train/bee/1.bmp"):
        aside = tmp_path / "far" / path.replace("/", "_")
        (folder / path).rename(aside)
        (folder / path).symlink_to(aside)
    (tmp_path / "link").symlink_to(folder)
    assert quietly(data.load, "./link").fingerprint == expected
    exchange_contents(tmp_path / "far/train_ant/0.bmp", tmp_path / "far/train_ant/1.bmp")
    assert data.load("./link").fingerprint != expected


def test_a_file_that_is_there_twice_is_named(tmp_path):
    folder = make_set(tmp_path / "set")
    os.link(folder / "train" / "ant" / "0.bmp", folder / "test" / "ant" / "9.bmp")
    _, (line,) = warnings_of(data.load_folder, folder)
    assert "set/train/ant/0.bmp and " in line
    assert "set/test/ant/9.bmp are the same file" in line
    (folder / "train" / "cow").symlink_to("ant")
    _, (line,) = warnings_of(data.load_folder, folder / "train", holdout=0.2)
    assert "train/ant/0.bmp and " in line
    assert "train/cow/0.bmp are the same file" in line


def test_pipes_are_not_waited_for(tmp_path):
    folder = make_set(tmp_path / "set")
    os.mkfifo(folder / "train" / "ant" / "x.png")
    assert "x.png is a pipe, not a picture; move it away" in refusal(data.load, "./set")
    os.mkfifo(tmp_path / "own.npz")
    assert "it is a pipe, not a regular file" in refusal(data.load, "./own.npz")
    assert "it is a pipe" in refusal(data.decode_picture, tmp_path / "own.npz", 1)
    for name in archives.IDX_FILES:
        os.mkfifo(tmp_path / name)
    assert "mnist is not in ." in refusal(data.load, "mnist", ".")
    assert "it is a pipe" in refusal(archives.read_bytes, tmp_path / archives.IDX_FILES[0])
    os.mkfifo(tmp_path / "mnist")
    refusal(data.load, "mnist", ".")


def refuse_to_open(monkeypatch, number, name):
    """Has the system refuse to open files of a name."""
    opened = os.open

    def refuse(path, *args, **kwargs):
        if str(path).endswith(name):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize("number", [13, 5])  # EACCES, EIO
def test_what_the_system_refuses_is_not_called_damage(tmp_path, monkeypatch, number):
    folder = make_set(tmp_path / "set")
    np.savez("own.npz", train_images=np.zeros((2, 3, 3), np.uint8), train_labels=np.arange(2))
    (tmp_path / "idx").write_bytes(archives.idx_bytes(np.zeros((2, 3), np.uint8)))
    cifar = tmp_path / archives.CIFAR_ARCHIVE
    cifar.write_bytes(b"?")
    said = os.strerror(number)
    for name, call, argument in (
        ("1.bmp", data.load_folder, folder),
        ("own.npz", data.load_npz, "own.npz"),
        ("idx", archives.read_bytes, tmp_path / "idx"),
        (".tar.gz", archives.read_cifar_archive, cifar),
    ):
        with monkeypatch.context() as patch:
            refuse_to_open(patch, number, name)
            sentence = refusal(call, argument)
        assert f"{name} can't be read: {said}; " in sentence
        for word in ("damaged", "not a picture", "remove", "delete", "fetch"):
            assert word not in sentence
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", lambda path: (_ for _ in ()).throw(OSError(number, said)))
        assert f"{said}; " in refusal(data.load_folder, folder)
    (folder / "train" / "ant" / "gone.png").symlink_to("nowhere")
    assert "gone.png can't be read: No such file" in refusal(data.load_folder, folder)


def test_what_the_system_refuses_anywhere_is_a_sentence(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(pathlib.Path, "is_file", refuse)
    sentence = refusal(data.load, "mnist", tmp_path)
    assert f"{tmp_path / 'mnist'}/" in sentence
    assert "can't be read: Permission denied; mend that" in sentence
    assert "there is no such home folder" in refusal(data.load, "~nobody_of_that_name/pictures")
    assert "there is no such home folder" in refusal(data.load, "mnist", "~nobody_of_that_name")


def test_an_error_while_reading_is_not_called_damage(tmp_path, monkeypatch):
    class Failing(io.BytesIO):
        def read(self, *_):
            raise OSError(5, "Input/output error")

        def __str__(self):
            return "the picture"

    sentence = refusal(data.decode_picture, Failing(), 1)
    assert "the picture can't be read: Input/output error" in sentence
    monkeypatch.setattr(files, "open_regular", lambda path: Failing())
    for call in (archives.read_bytes, archives.read_cifar_archive):
        assert "can't be read: Input/output error" in refusal(call, tmp_path / "file")


def test_other_channels_are_no_damage(tmp_path):
    draw(tmp_path / "a.png", 0)
    assert "1 channel (gray) or 3 (color), and 2 are wanted" in refusal(
        data.decode_picture, tmp_path / "a.png", 2
    )


# Names of classes.


def test_names_of_classes_are_made_harmless(tmp_path):
    folder = make_set(tmp_path / "set", names=["a\x1b[31m", "b"])
    assert data.load_folder(folder).class_names == ("a\\x1b[31m", "b")
    make_set(folder, names=["a\\x1b[31m"])
    assert r"two classes have the name 'a\\x1b[31m'; rename" in refusal(data.load_folder, folder)


def test_a_class_is_found_by_its_exact_name_first():
    names = ("T-shirt/top", "A", "a", "C++", "C#", "?")
    assert [data.match_class(n, names) for n in ("A", "a", "t_shirt_top", "?")] == [1, 2, 0, 5]
    assert [data.match_class(n, names) for n in ("hat", "!", "")] == [None, None, None]
    assert "'c' could be each of the classes 'C++', 'C#'" in refusal(data.match_class, "c", names)
    assert data.match_class("tür", ["Tu\u0308r"]) == 0  # composed or not
    assert data.match_class("x\x1b", ["x\\x1b"]) == 0


# Arrays that may not be what they seem.


def base(count=40, shape=(8, 8, 1), seed=0):
    generator = np.random.default_rng(seed)
    return {
        "train_images": generator.integers(0, 256, (count, *shape), np.uint8),
        "train_labels": np.arange(count) % 4,
        "test_images": generator.integers(0, 256, (12, *shape), np.uint8),
        "test_labels": np.arange(12) % 4,
    }


def load_arrays(**changes):
    np.savez("own.npz", **{k: v for k, v in (base() | changes).items() if v is not None})
    return data.load("./own.npz")


NO_TEST = {"test_images": None, "test_labels": None}
ONES = np.random.default_rng(0).integers(0, 2, (40, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, None),
        (
            base(shape=(3, 32, 32)),
            "images of shape [40, 3, 32, 32] are read as 3 pixels high and 32 wide, with 32 "
            "channels; if the channels come first, save images.transpose(0, 2, 3, 1)",
        ),
        (base(shape=(1, 28, 28)), "are read as 1 pixels high and 28 wide, with 28 channels"),
        (base(shape=(64, 3)), "are read as gray, 64 pixels high and 3 wide; if 3 is the number"),
        (base(shape=(4, 4, 2)), None),
        (base(shape=(8, 8, 7)), None),
        (
            {"train_labels": 1 + np.arange(40) % 4, "test_labels": 1 + np.arange(12) % 4},
            "no label is 0, so that class '0' has no example; labels count from 0, so subtract 1",
        ),
        ({"test_labels": np.arange(12) % 5}, "class '4' occurs in the test part but not in the"),
        ({"test_labels": np.arange(12)}, "classes '4', '5', '6', '7', '8' and 3 more occur in the"),
        ({"class_names": np.array(list("abcdef"))}, "classes 'e', 'f' occur in neither part"),
        ({"train_images": ONES}, "all training images have values between 0 and 1 only, nearly"),
        ({"train_images": ONES * 255}, None),
        (
            {"train_images": base()["train_images"] * (np.arange(40) > 3)[:, None, None, None]},
            "4 of the 40 training images are nearly of one value, as if empty",
        ),
        ({"extra": np.zeros(3), "more": np.zeros(3)}, "arrays in own.npz: not read: extra, more"),
        ({"val_images": np.zeros(3)}, "not read: val_images; the validation part isn't used"),
        (NO_TEST, "there is no test part, so 8 of the 40 examples are held out as one"),
    ],
)
def test_what_looks_like_a_mistake_is_said_in_one_line(changes, line):
    dataset, lines = warnings_of(load_arrays, **changes)
    assert len(lines) == (line is not None)
    if line:
        assert line in lines[0]
        assert lines[0].startswith("arrays in own.npz: ")
    given = base() | changes
    images = given["train_images"]
    if given["test_images"] is not None:  # read as they are, whatever is said
        np.testing.assert_array_equal(dataset.train_images.ravel(), images.ravel())


def test_validation_arrays_are_the_test_part_where_there_is_none():
    given = base()
    changes = NO_TEST | {"val_images": given["test_images"], "val_labels": given["test_labels"]}
    dataset = quietly(load_arrays, **changes)
    np.testing.assert_array_equal(dataset.test_images, given["test_images"])
    assert "arrays in own.npz, tested on val_images; arrays" in dataset.provenance
    more = {"valid_images": given["test_images"], "valid_labels": given["test_labels"]}
    assert "arrays of both val and valid" in refusal(load_arrays, **changes, **more)
    lonely = NO_TEST | {"validation_images": given["test_images"]}
    assert "lacks validation_labels" in refusal(load_arrays, **lonely)
    np.savez("keras.npz", x_train=np.zeros(2), y_train=np.zeros(2))
    assert "lacks train_images, train_labels (it holds x_train, y_train)" in refusal(
        data.load, "./keras.npz"
    )


def test_labels_in_a_column_are_labels():
    dataset = quietly(load_arrays, train_labels=base()["train_labels"][:, None])
    np.testing.assert_array_equal(dataset.train_labels, base()["train_labels"])


@pytest.mark.parametrize("label", [60_000, 10_000, 2**63 + 5])
def test_a_label_does_not_announce_any_number_of_classes(label):
    labels = base()["train_labels"].astype(np.uint64)
    labels[7] = label
    assert f"the label {label} of 52 examples" in refusal(load_arrays, train_labels=labels)


def test_few_examples_may_have_a_large_label():
    labels = base()["train_labels"]
    labels[7] = 999
    assert len(warnings_of(load_arrays, train_labels=labels)[0].class_names) == 1000


def test_the_shipped_and_made_sets_have_nothing_odd(mini, shapes):
    for dataset in (mini, shapes):
        assert find_oddities(dataset[:2], dataset[2:4], dataset.class_names, "set") == []


@pytest.mark.parametrize("most", [100, 40_000])
def test_16_bits_that_hold_8_are_noticed(tmp_path, most):
    folder = make_set(tmp_path / "set")
    values = np.random.default_rng(0).integers(0, most, (6, 8)).astype(np.uint16)
    for index in range(2):
        (folder / "train" / "ant" / f"{index}.bmp").unlink()
        Image.fromarray(values).save(folder / "train" / "ant" / f"{index}.png")
    dataset, lines = warnings_of(data.load_folder, folder)
    np.testing.assert_array_equal(dataset.train_images[0, :, :, 0], values >> 8)
    picture = folder / "train" / "ant" / "0.png"
    _, one = warnings_of(data.decode_picture, picture, 1)
    if most > 255:
        assert lines == one == []
    else:
        assert "2 pictures have 16 bits with values up to 255 only, and are read as" in lines[0]
        assert "0.png has pixels of 16 bits with values up to 255 only" in one[0]


# One reader of .npz.


def write_members(path, members):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in members:
            archive.writestr(name, content)


def members_of(**arrays):
    members = []
    for name, array in arrays.items():
        content = io.BytesIO()
        np.save(content, array)
        members.append((f"{name}.npy", content.getvalue()))
    return members


@pytest.mark.parametrize("second", ["train_images", "train_images.npy"])
def test_a_name_that_is_there_twice_is_refused(second, monkeypatch):
    members = members_of(**base())
    write_members("own.npz", [*members, (second, b"\0" * 5000)])
    assert "it holds train_images twice" in refusal(data.load, "./own.npz")


def test_members_without_a_suffix_are_arrays_too():
    write_members("own.npz", [(name.removesuffix(".npy"), c) for name, c in members_of(**base())])
    np.testing.assert_array_equal(data.load("./own.npz").train_images, base()["train_images"])


def header(text):
    """An array file of a header that nobody checked, and no values."""
    raw = text.encode("latin1")
    raw += b" " * (-(len(raw) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + len(raw).to_bytes(2, "little") + raw


HEADERS = (
    [
        f"{{'descr': {descr}, 'fortran_order': False, 'shape': (4,), }}"
        for descr in (
            "','",
            "''",
            "'|V99999999999999999999'",
            "'<i99'",
            "'|O'",
            "[]",
            "[('a', '<i4')]",
            "{}",
            "'<M8[s]'",
            "('<i4', 10**30)",
            "('<i4', (2,))",
            "None",
            "'|S0'",
            "3",
            "'(2)i4'",
            "'i4,i4'",
            "'<U999999999'",
            "'\\x00'",
        )
    ]
    + [
        f"{{'descr': '|u1', 'fortran_order': {order}, 'shape': {shape}, }}"
        for order, shape in (
            ("False", "(-4,)"),
            ("False", "(10**30,)"),
            ("False", "(0, 99999999999999999999999)"),
            ("False", "(1.5,)"),
            ("False", "(True, 4)"),
            ("3", "(4,)"),
            ("False", "4"),
            ("False", "(" * 90 + ")" * 90),
            ("False", "[4]"),
            ("False", "(4L,)"),
        )
    ]
    + [
        "",
        "(",
        "'''",
        "\\\n",
        "{",
        "[1, 2]",
        "1" * 5000,
        "\x0c\x00",
        "{'descr'",
        "0x1and 2",
        "\t\n ",
    ]
)


@pytest.mark.parametrize("text", HEADERS)
def test_odd_headers_are_refused_in_a_sentence(text):
    members = dict(members_of(**base())) | {"train_labels.npy": header(text)}
    write_members("own.npz", members.items())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sentence = refusal(data.load, "./own.npz")
    assert sentence.startswith("own.npz is not a readable .npz of plain arrays (")


@pytest.mark.parametrize("change", [b"\0", b"", b"\3"])
def test_values_beyond_or_short_of_the_announced_are_refused(change):
    members = dict(members_of(**base()))
    labels = members["train_labels.npy"]
    members["train_labels.npy"] = labels + change if change else labels[:-1]
    write_members("own.npz", members.items())
    assert "train_labels announces 320 bytes, shape [40]" in refusal(data.load, "./own.npz")


def test_the_checksum_of_every_byte_is_compared():
    np.savez("own.npz", **base())
    path = pathlib.Path("own.npz")
    whole = path.read_bytes()
    for place in (whole.index(b"train_labels.npy") + 300, whole.index(b"\x93NUMPY") + 50):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert "own.npz is not a readable .npz" in refusal(data.load, "./own.npz")


def test_large_arrays_come_in_pieces(monkeypatch, tmp_path):
    monkeypatch.setattr(npz, "_STEP", 100)
    given = base() | {"train_images": np.asfortranarray(base()["train_images"])}
    np.savez_compressed("own.npz", **given)
    np.testing.assert_array_equal(data.load("./own.npz").train_images, given["train_images"])


# Sizes against the memory there is.


@pytest.fixture
def little(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 3000)


def test_sets_beyond_the_memory_there_is_are_refused(tmp_path, little, monkeypatch):
    tail = "more than the 0.0 MiB that there is; "
    for name in ("synthetic:train=3,test=2", "synthetic:train=2,test=2,channels=64,size=1024"):
        assert tail + "choose smaller numbers" in refusal(data.load, name)
    make_set(tmp_path / "set", count=30)
    assert tail + "choose a smaller size" in refusal(data.load, "./set")
    assert tail + "choose a smaller size" in refusal(data.load, "./set:size=64,channels=3")
    np.savez_compressed("own.npz", **base())
    assert tail + "save a smaller set" in refusal(data.load, "./own.npz")
    monkeypatch.setattr(archives, "_STEP", 1 << 10)
    content = archives.idx_bytes(np.zeros((100, 10, 10), np.uint8))
    for name in archives.IDX_FILES:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    assert tail + "end other programs" in refusal(data.load, "mnist", tmp_path)
    folder = tmp_path / "cifar10" / archives.CIFAR_FOLDER
    folder.mkdir(parents=True)
    for name in archives.CIFAR_FILES:
        (folder / name).write_bytes(bytes(6000))
    assert tail in refusal(data.load, "cifar10", tmp_path)


def test_kept_arrays_beyond_the_memory_there_is_are_not_read(kept, monkeypatch):
    file, _ = kept
    monkeypatch.setattr(memory, "available", lambda: 400)
    with pytest.warns(data.DataWarning, match="can't be used"):
        assert cache.read(file) is None


def test_memory_that_runs_out_is_a_sentence(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise MemoryError

    make_set(tmp_path / "set")
    monkeypatch.setattr(folders, "decode", fail)
    assert refusal(data.load, "./set").startswith("./set takes more memory than there is; ")


def test_the_limits_of_the_process_and_its_groups_count(tmp_path):
    assert 0 < memory.available() < 1 << 50
    code = (
        "import resource, psutil; from cnn_jax import data\n"
        "now = psutil.Process().memory_info().vms\n"
        "resource.setrlimit(resource.RLIMIT_AS, (now + 10**8, now + 10**8))\n"
        "try: data.load('synthetic:train=150000')\n"
        "except data.DataError as error: print(error)\n"
    )
    root = pathlib.Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert "MiB that there is; choose smaller numbers." in done.stdout, done.stderr
    for group, limit, usage in (("", "max", 700), ("a", "1000", 600), ("a/b", "max", 100)):
        folder = tmp_path / "cgroup" / group
        folder.mkdir(exist_ok=True)
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text(f"{usage}\n")
        (folder / "memory.stat").write_text("anon 5\ninactive_file 200\n")
    (tmp_path / "groups").write_text("0::/a/b\n")
    assert list(memory._left_in_groups(tmp_path / "cgroup", tmp_path / "groups")) == [600]
    old = tmp_path / "cgroup" / "memory" / "docker"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("500")
    (old / "memory.usage_in_bytes").write_text("400")
    (old / "memory.stat").write_text("total_inactive_file 50\n")
    (tmp_path / "groups").write_text("4:cpu,cpuacct:/x\n7:memory:/docker\n")
    assert list(memory._left_in_groups(tmp_path / "cgroup", tmp_path / "groups")) == [150]
    assert list(memory._left_in_groups(tmp_path, tmp_path / "none")) == []


# The ground of images.


def test_the_brightness_of_borders_by_hand():
    images = np.zeros((3, 4, 5, 2), np.uint8)
    images[1, 1:-1, 1:-1] = 255  # inside only
    images[2, 0] = 255  # 5 of 14 outer pixels
    np.testing.assert_allclose(data.border_brightness(images), [0, 0, 5 / 14])
    mean, spread = data.border_statistics(images)
    assert (mean, spread) == pytest.approx((5 / 42, np.std([0, 0, 5 / 14])))
    many = np.repeat(np.arange(256, dtype=np.uint8), 40)[:, None, None, None]
    assert data.border_statistics(many, most=2560)[0] == pytest.approx(0.5)
