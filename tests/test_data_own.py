"""A user's own pictures and arrays, good and bad."""

import io
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from cnn_jax import data
from cnn_jax.data import memory
from cnn_jax.data import pictures as decoding

pytestmark = [
    pytest.mark.usefixtures("elsewhere"),
    # Pictures of one value, and few of them, are just what is wanted here.
    pytest.mark.filterwarnings("ignore::cnn_jax.data.DataWarning"),
]


def picture(path, shape=(6, 8), value=100, mode="L", **save):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "LA": (2,)}[mode]
    Image.fromarray(np.full(shape + channels, value, np.uint8), mode).save(path, **save)
    return path


@pytest.fixture
def pictures(tmp_path):
    """Two classes with a train and a test part; the value of a picture tells where it is from."""
    for part, n, offset in (("train", 3, 0), ("test", 2, 100)):
        for label, name in enumerate(["ant", "bee"]):
            for index in range(n):
                value = offset + 10 * label + index
                picture(tmp_path / "set" / part / name / f"{index}.png", value=value)
    return tmp_path / "set"


def test_folder_with_split(pictures, tmp_path):
    dataset = data.load(str(pictures), data_dir=tmp_path / "data")
    assert dataset.class_names == ("ant", "bee")
    assert dataset.train_images.shape == (6, 6, 8, 1)
    np.testing.assert_array_equal(dataset.train_images[:, 0, 0, 0], [0, 1, 2, 10, 11, 12])
    np.testing.assert_array_equal(dataset.train_labels, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(dataset.test_images[:, 0, 0, 0], [100, 101, 110, 111])
    assert f"pictures in {pictures}" in dataset.provenance


def test_folder_without_split_holds_a_part_out(pictures):
    dataset = data.load_folder(pictures / "train", holdout=0.3, seed=1)
    assert len(dataset.train_labels) == 4
    assert sorted(dataset.test_labels) == [0, 1]
    values = {*dataset.train_images[:, 0, 0, 0], *dataset.test_images[:, 0, 0, 0]}
    assert values == {0, 1, 2, 10, 11, 12}
    assert "0.3 held out, seed 1" in dataset.provenance


def test_folder_with_train_only_holds_a_part_out(pictures):
    for file in sorted(pictures.glob("test/*/*")):
        file.unlink()
    for folder in (pictures / "test" / "ant", pictures / "test" / "bee", pictures / "test"):
        folder.rmdir()
    dataset = data.load_folder(pictures, holdout=1 / 3)
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (4, 2)


def test_options_follow_the_path(pictures, tmp_path):
    dataset = data.load(f"{pictures}:size=5,channels=3", data_dir=tmp_path / "data")
    assert dataset.train_images.shape == (6, 5, 5, 3)
    np.testing.assert_array_equal(dataset.train_images[4], 11)


def test_second_start_reads_the_kept_arrays(pictures, tmp_path, monkeypatch):
    first = data.load(str(pictures), data_dir=tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode", None)
        second = data.load(str(pictures), data_dir=tmp_path / "data")
    assert second.provenance == first.provenance
    np.testing.assert_array_equal(second.train_images, first.train_images)
    assert second.train_images.flags.writeable

    picture(pictures / "train" / "bee" / "new.png", value=77)
    third = data.load(str(pictures), data_dir=tmp_path / "data")
    assert len(third.train_labels) == 7
    picture(pictures / "train" / "bee" / "new.png", value=78)
    fourth = data.load(str(pictures), data_dir=tmp_path / "data")
    assert fourth.train_images[-1, 0, 0, 0] == 78
    (pictures / "train" / "bee" / "new.png").unlink()
    fifth = data.load(str(pictures), data_dir=tmp_path / "data")
    assert len(fifth.train_labels) == 6


def test_changes_are_noticed_through_a_linked_data_folder(pictures, tmp_path):
    (tmp_path / "far" / "away" / "data").mkdir(parents=True)
    (tmp_path / "data").symlink_to(tmp_path / "far" / "away" / "data")
    (tmp_path / "linked").symlink_to(pictures)
    assert len(data.load("./linked", data_dir="data").train_labels) == 6
    picture(pictures / "train" / "bee" / "new.png", value=77)
    assert len(data.load("./linked", data_dir="data").train_labels) == 7


def test_pictures_of_16_bits_lose_the_lower_8(pictures):
    Image.fromarray(np.full((6, 8), 0xABCD, np.uint16)).save(pictures / "train" / "ant" / "1.png")
    (pictures / "train" / "bee" / "1.png").unlink()
    pgm = b"P5 8 6 65535\n" + np.full((6, 8), 0x1234, ">u2").tobytes()
    (pictures / "train" / "bee" / "1.pgm").write_bytes(pgm)
    dataset = data.load_folder(pictures)
    assert dataset.train_images.shape == (6, 6, 8, 1)
    np.testing.assert_array_equal(dataset.train_images[1], 0xAB)
    np.testing.assert_array_equal(dataset.train_images[4], 0x12)


def test_hidden_files_are_no_pictures(pictures):
    (pictures / ".DS_Store").write_bytes(b"?")
    (pictures / "train" / "ant" / ".thumbs").write_bytes(b"?")
    assert len(data.load_folder(pictures).train_labels) == 6


def test_color_and_transparency(pictures):
    picture(pictures / "train" / "ant" / "0.png", mode="RGB", value=40)
    transparent = np.zeros((6, 8, 4), np.uint8)
    transparent[:, 4:, 3] = 255  # left half transparent, right half opaque black
    Image.fromarray(transparent, "RGBA").save(pictures / "train" / "ant" / "1.png")
    Image.fromarray(np.full((6, 8), 9, np.uint8)).convert("P").save(
        pictures / "train" / "ant" / "2.gif"
    )
    (pictures / "train" / "ant" / "2.png").unlink()
    dataset = data.load_folder(pictures)
    assert dataset.train_images.shape == (6, 6, 8, 3)
    np.testing.assert_array_equal(dataset.train_images[0], 40)
    np.testing.assert_array_equal(dataset.train_images[1, :, :4], 255)
    np.testing.assert_array_equal(dataset.train_images[1, :, 4:], 0)
    np.testing.assert_array_equal(dataset.train_images[2], 9)
    assert data.load_folder(pictures, channels=1).train_images.shape == (6, 6, 8, 1)


def test_camera_orientation_is_applied(pictures):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(8, 6) * 5)
    image.save(pictures / "train" / "ant" / "0.png", exif=exif)
    dataset = data.load_folder(pictures)
    np.testing.assert_array_equal(dataset.train_images[0, :, :, 0], np.rot90(np.asarray(image), -1))


def png_header(width, height):
    """A PNG that announces a size and ends there."""

    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(9_000, 9_000), (60_000, 60_000)])
def test_decompression_bomb_is_refused_before_decoding(pictures, size):
    (pictures / "train" / "ant" / "1.png").write_bytes(png_header(*size))
    with pytest.raises(data.DataError, match=r"ant/1.png announces .* pixels.*; scale it down"):
        data.load_folder(pictures, size=8, channels=1)


def test_a_set_beyond_the_memory_limit_is_refused(pictures, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 100)
    with pytest.raises(data.DataError, match=r"MiB of memory.*choose a smaller size"):
        data.load_folder(pictures)


def test_bad_picture_files(pictures):
    bad = pictures / "train" / "ant" / "1.png"
    bad.write_bytes(b"not a picture")
    with pytest.raises(data.DataError, match=r"ant/1.png is not a picture .*; move it away"):
        data.load_folder(pictures)
    noise = np.random.default_rng(0).integers(0, 256, (60, 80), np.uint8)
    Image.fromarray(noise).save(bad)
    bad.write_bytes(bad.read_bytes()[:3000])
    with pytest.raises(data.DataError, match=r"ant/1.png is truncated or damaged .*; replace it"):
        data.load_folder(pictures, size=4, channels=1)
    Image.fromarray(np.full((6, 8), 0.5, np.float32)).save(bad, format="TIFF")
    with pytest.raises(data.DataError, match=r"ant/1.png has pixels of 32 bits.*save it as 8-bit"):
        data.load_folder(pictures)
    picture(bad, shape=(5, 5))
    with pytest.raises(data.DataError, match=r"is 8x6 and .*1.png is 5x5 pixels; choose one size"):
        data.load_folder(pictures)
    assert data.load_folder(pictures, size=4).train_images.shape == (6, 4, 4, 1)


def test_postscript_is_never_interpreted(pictures):
    (pictures / "train" / "ant" / "1.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%EOF\n")
    with pytest.raises(data.DataError, match="is not a picture"):
        data.load_folder(pictures)


def test_bad_folders(pictures, tmp_path):
    with pytest.raises(data.DataError, match=r"nothing does not exist or is no folder; give"):
        data.load(str(tmp_path / "nothing"))
    (pictures / "test" / "cat").mkdir()
    with pytest.raises(data.DataError, match="cat is empty; remove the folder"):
        data.load_folder(pictures)
    picture(pictures / "test" / "cat" / "0.png")
    with pytest.raises(data.DataError, match=r"test/cat is a class that .*train does not have"):
        data.load_folder(pictures)
    (pictures / "train" / "readme.txt").write_text("hello")
    with pytest.raises(data.DataError, match=r"readme.txt lies beside the class folders"):
        data.load_folder(pictures)
    picture(tmp_path / "one" / "class" / "0.png")
    with pytest.raises(data.DataError, match="holds 1 class folders; put the pictures of each"):
        data.load_folder(tmp_path / "one")
    picture(tmp_path / "lonely" / "test" / "class" / "0.png")
    with pytest.raises(data.DataError, match="has a test folder but no train folder"):
        data.load_folder(tmp_path / "lonely")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must lie between 1 and 4096"),
        ({"channels": 2}, r"channels must be 1 \(gray\) or 3"),
    ],
)
def test_bad_folder_options(pictures, options, message):
    with pytest.raises(data.DataError, match=message):
        data.load_folder(pictures, **options)


def arrays(n=8, m=4):
    generator = np.random.default_rng(0)
    return {
        "train_images": generator.integers(0, 256, (n, 5, 6, 2), np.uint8),
        "train_labels": np.arange(n) % 3,
        "test_images": generator.integers(0, 256, (m, 5, 6, 2), np.uint8),
        "test_labels": np.arange(m) % 3,
    }


def test_npz(tmp_path):
    given = arrays()
    np.savez(tmp_path / "own.npz", **given)
    dataset = data.load(str(tmp_path / "own.npz"))
    for name, array in given.items():
        np.testing.assert_array_equal(getattr(dataset, name), array)
    assert dataset.train_labels.dtype == np.int32
    assert dataset.class_names == ("0", "1", "2")
    assert f"arrays in {tmp_path / 'own.npz'}" in dataset.provenance
    np.savez_compressed(tmp_path / "own.npz", **given, class_names=np.array(["a", "b", "c", "d"]))
    assert data.load_npz(tmp_path / "own.npz").class_names == ("a", "b", "c", "d")


def test_npz_of_gray_images_without_a_test_part(tmp_path):
    given = arrays(30)
    path = tmp_path / "own.npz"
    images, labels = given["train_images"][..., 0], given["train_labels"]
    np.savez(path, train_images=images, train_labels=labels)
    dataset = data.load(f"{path}:holdout=0.1,seed=3")
    assert dataset.train_images.shape == (27, 5, 6, 1)
    np.testing.assert_array_equal(np.sort(dataset.test_labels), [0, 1, 2])


def save(path, **changes):
    np.savez(path, **{k: v for k, v in (arrays() | changes).items() if v is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": None}, "own.npz lacks train_labels; save it with np.savez"),
        ({"test_labels": None}, "own.npz lacks test_labels"),
        (
            {"train_images": np.zeros((8, 5, 6, 2))},
            "train_images must be uint8 .* they are float64",
        ),
        ({"train_images": np.zeros((8, 60), np.uint8)}, r"train_images must be uint8 .*\[8, 60\]"),
        ({"train_labels": np.zeros(7, int)}, "train has 8 images but 7 labels; give one label"),
        ({"test_images": None}, r"own.npz lacks test_images"),
        ({"train_labels": np.array(list("abcabcab"))}, "train_labels must be whole numbers"),
        ({"train_labels": np.full(8, 10**9)}, "the label 1000000000 of 12 .*; renumber them"),
        ({"train_labels": np.full(8, 1000)}, "the label 1000 of 12 examples .*; renumber them"),
        (
            {"train_images": np.full((8, 5, 6, 2), 0.5)},
            r"float64 .* values are 0 to 1, so save np.rint\(images \* 255\).astype\(np.uint8\)\.",
        ),
        (
            {"train_images": np.full((8, 5, 6, 2), 200.0)},
            r"are 200 to 200, so save np.rint\(images\).astype\(np.uint8\)\.",
        ),
        (
            {"train_images": np.full((8, 5, 6, 2), 255, np.uint16)},
            r"uint16 .* are 255 to 255, so save images.astype\(np.uint8\)\.",
        ),
        ({"train_images": np.full((8, 5, 6, 2), 999)}, "999 to 999, so scale them to 0 to 255"),
        ({"train_images": np.ones((8, 5, 6, 2), bool)}, r"images.astype\(np.uint8\) \* 255"),
        ({"train_labels": np.eye(8)}, r"if each row marks one class, save labels.argmax\(1\)"),
        ({"train_labels": np.eye(8, dtype=np.uint8)}, r"save labels.argmax\(1\)"),
        ({"train_labels": np.arange(8) % 2 == 0}, r"save labels.astype\(np.int64\)"),
        ({"class_names": np.array(["a", "b", "a"])}, "two classes have the name 'a'; rename"),
        ({"class_names": np.array(["a", "\x1b", "\\x1b"])}, r"have the name '\\\\x1b'"),
        ({"train_labels": np.zeros(8)}, "train_labels must be whole numbers"),
        ({"train_labels": np.full(8, -1)}, "train_labels run from -1 to -1, but 3 classes"),
        ({"test_images": np.zeros((4, 5, 7, 2), np.uint8)}, r"\[5, 6, 2\] but test images are"),
        (
            {"test_images": np.zeros((0, 5, 6, 2), np.uint8), "test_labels": np.zeros(0, int)},
            "empty",
        ),
        (
            {"class_names": np.array(["a"])},
            "labels run from 0 to 2, but 1 classes need labels 0 to 0",
        ),
        ({"train_labels": np.array([{}] * 8)}, "is not a readable .npz of plain arrays"),
    ],
)
def test_bad_npz(tmp_path, changes, message):
    save(tmp_path / "own.npz", **changes)
    with pytest.raises(data.DataError, match=message) as caught:
        data.load(str(tmp_path / "own.npz"))
    assert "own.npz" in str(caught.value)


def test_pickles_in_an_npz_are_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "attacked"),))

    path = tmp_path / "own.npz"
    save(path, train_labels=np.array([Attack()], dtype=object))
    with pytest.raises(data.DataError, match=r"not a readable .npz"):
        data.load(str(path))
    assert not (tmp_path / "attacked").exists()


def test_npz_files_that_are_none(tmp_path):
    path = tmp_path / "own.npz"
    with pytest.raises(data.DataError, match=r"own.npz does not exist"):
        data.load(str(path))
    path.write_bytes(b"no zip")
    with pytest.raises(data.DataError, match=r"own.npz is not a readable .npz"):
        data.load(str(path))
    save(path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(data.DataError, match=r"own.npz is not a readable .npz"):
        data.load(str(path))


def test_npz_that_lies_about_its_size(tmp_path):
    path = tmp_path / "own.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**15, 5, 6, 2)}
    )
    save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | {"train_images.npy": header.getvalue()}).items():
            archive.writestr(name, content)
    with pytest.raises(data.DataError, match=r"own.npz is not a readable .npz"):
        data.load(str(path))


def test_npz_bomb_is_refused_before_unpacking(tmp_path, monkeypatch):
    path = tmp_path / "own.npz"
    zeros = io.BytesIO()
    np.save(zeros, np.zeros((4000, 50, 50, 1), np.uint8))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_images.npy", zeros.getvalue())
        labels = io.BytesIO()
        np.save(labels, np.zeros(4000, np.uint8))
        archive.writestr("train_labels.npy", labels.getvalue())
    monkeypatch.setattr(memory, "available", lambda: 1 << 20)
    with pytest.raises(data.DataError, match=r"own.npz would take 19.1 MiB .* than the 1.0 MiB"):
        data.load(str(path))
