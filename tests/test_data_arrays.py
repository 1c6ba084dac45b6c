"""Arrays in files that are damaged, hostile or misread: noticed, and said in one sentence."""

import io
import pathlib
import warnings
import zipfile

import numpy as np
import pytest

from cnn_jax import data
from cnn_jax.data import npz
from cnn_jax.data.notes import find_oddities
from tests.data_sets import base, quietly, refusal, warnings_of

pytestmark = pytest.mark.usefixtures("elsewhere")


# Arrays that may not be what they seem.


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


def in_kerass_names(arrays, x="x", y="y"):
    kinds = {"images": x, "labels": y}
    return {
        f"{kinds[kind]}_{part}": values
        for (part, kind), values in ((name.split("_"), values) for name, values in arrays.items())
    }


@pytest.mark.parametrize(("x", "y"), [("x", "y"), ("X", "Y"), ("X", "y")])
def test_kerass_names_are_understood(x, y):
    given = base(shape=(8, 8))  # gray, as Keras's mnist.npz has them
    np.savez("keras.npz", **in_kerass_names(given, x, y))
    dataset = quietly(data.load, "keras.npz")
    np.testing.assert_array_equal(dataset.train_images[..., 0], given["train_images"])
    np.testing.assert_array_equal(dataset.test_labels, given["test_labels"])
    more = in_kerass_names({"val_images": given["test_images"], "val_labels": given["test_labels"]})
    np.savez("keras.npz", **in_kerass_names(given), **more)
    _, (line,) = warnings_of(data.load, "keras.npz")
    assert line.startswith(
        "arrays in keras.npz: x_train are trained on, x_test tested on; not read: x_val, y_val; "
        "the validation part isn't used where there is a test part; to choose hyperparameters, set "
    )
    names = in_kerass_names(given)
    del names["x_test"], names["y_test"]
    np.savez("keras.npz", **names, **more)
    assert "tested on val_images" in quietly(data.load, "keras.npz").provenance


def test_kerass_names_that_do_not_fit_are_refused():
    given = in_kerass_names(base())
    np.savez("keras.npz", **{k: v for k, v in given.items() if k != "y_test"})
    assert "lacks y_test; save it with" in refusal(data.load, "keras.npz")
    np.savez("keras.npz", **given, train_images=given["x_train"])
    assert "arrays x_train and train_images, either of which could be train_images" in refusal(
        data.load, "keras.npz"
    )
    np.savez("keras.npz", x_train=np.zeros(2), y_train=np.zeros(2))
    assert "train_images must be uint8" in refusal(data.load, "keras.npz")
    np.savez("keras.npz", x=np.zeros(2), y=np.zeros(2), x_other=np.zeros(2))
    assert "lacks train_images, train_labels (it holds x, y, x_other)" in refusal(
        data.load, "keras.npz"
    )


def test_medmnists_arrays_are_read_and_said_to_be_what():
    given = base(shape=(8, 8))
    given |= {f"val_{kind}": given[f"test_{kind}"] for kind in ("images", "labels")}
    given = {k: v[:, None].astype(np.uint8) if "labels" in k else v for k, v in given.items()}
    np.savez("own.npz", **given)
    dataset, (line,) = warnings_of(data.load, "own.npz")
    np.testing.assert_array_equal(dataset.test_labels, np.arange(12) % 4)
    assert "train_images are trained on, test_images tested on; not read: val_images, val" in line
    several = np.zeros((40, 4), np.uint8)
    several[:, :2] = 1  # as in ChestMNIST
    np.savez("own.npz", **(given | {"train_labels": several}))
    assert "an image has one class here, and rows that mark none or several can't" in refusal(
        data.load, "own.npz"
    )
    np.savez("own.npz", **(given | {"train_labels": np.eye(4, dtype=np.uint8)[np.arange(40) % 4]}))
    assert "save labels.argmax(1)" in refusal(data.load, "own.npz")
    np.savez("own.npz", **base(shape=(8, 8, 8)))  # as in OrganMNIST3D
    assert "8 channels; if they are volumes" in warnings_of(data.load, "own.npz")[1][0]


@pytest.mark.parametrize("kind", ["U", "S"])
def test_class_names_are_those_of_the_file(kind):
    names = ["Käfer" if kind == "U" else "bug", "b", "c", "d"]
    dataset = quietly(load_arrays, class_names=np.array(names, kind))
    assert dataset.class_names == tuple(names)
    encoded = np.array(["Käfer".encode(), b"b", b"c", b"d"])
    assert quietly(load_arrays, class_names=encoded).class_names[0] == "Käfer"


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
