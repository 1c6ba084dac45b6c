"""Folders of pictures that are odd, hostile or misread: noticed, and said in one sentence."""

import functools
import io
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from cnn_jax import data, files
from cnn_jax.data import archives, cifar
from tests.data_sets import draw, exchange_contents, make_set, quietly, refusal, warnings_of

pytestmark = pytest.mark.usefixtures("elsewhere")


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
        f"pictures in {folder}: there is no test part, so 1 of the 6 examples are held out as "
        "one, chosen at random from each class (a fraction of 0.2, seed 0)"
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
    archive = tmp_path / cifar.CIFAR10.archive
    archive.write_bytes(b"?")
    said = os.strerror(number)
    for name, call, argument in (
        ("1.bmp", data.load_folder, folder),
        ("own.npz", data.load_npz, "own.npz"),
        ("idx", archives.read_bytes, tmp_path / "idx"),
        (".tar.gz", functools.partial(cifar.read_archive, cifar.CIFAR10), archive),
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
    for call in (archives.read_bytes, functools.partial(cifar.read_archive, cifar.CIFAR10)):
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
