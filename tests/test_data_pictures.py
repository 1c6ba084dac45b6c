"""A user's own pictures: proportions, formats, and the files among them that are none."""

import dataclasses
import struct

import numpy as np
import pytest
from PIL import Image

from cnn_jax import config, data, identity
from cnn_jax.data import pictures as decoding
from cnn_jax.inspection import trained_network
from experiments import demo_pictures
from tests import commands
from tests.data_sets import draw, make_set, quietly, refusal, warnings_of

pytestmark = pytest.mark.usefixtures("elsewhere")
predict, demo = map(commands.load, ("predict", "demo"))


# Proportions.


def banner(file):
    """Writes a picture 8 high and 24 wide: thirds of 10, 100 and 250 beside each other."""
    pixels = np.repeat(np.array([10, 100, 250], np.uint8), 8)[None].repeat(8, 0)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    return pixels


def test_crop_keeps_the_middle_without_a_change_of_proportions(tmp_path):
    pixels = banner(tmp_path / "a.png")
    square = data.decode_picture(tmp_path / "a.png", 1, (8, 8), "crop")
    np.testing.assert_array_equal(square, np.full((8, 8, 1), 100))
    Image.fromarray(np.ascontiguousarray(pixels.T)).save(tmp_path / "b.png")
    square = data.decode_picture(tmp_path / "b.png", 3, (8, 8), "crop")
    np.testing.assert_array_equal(square, np.full((8, 8, 3), 100))
    # Of 24×8 a middle of 16×8 is kept, which has the proportions of 4×2: four pixels in one.
    half = data.decode_picture(tmp_path / "a.png", 1, (8, 16), "crop")
    np.testing.assert_array_equal(half[..., 0], pixels[:, 4:20])


def test_pad_keeps_the_whole_between_bars_of_the_grounds_color(tmp_path):
    pixels = banner(tmp_path / "a.png")
    square = data.decode_picture(tmp_path / "a.png", 1, (24, 24), "pad")[..., 0]
    np.testing.assert_array_equal(square[8:16], pixels)
    np.testing.assert_array_equal(square[:8], 100)  # the median of the outermost pixels
    np.testing.assert_array_equal(square[16:], 100)
    color = np.full((4, 2, 3), (255, 200, 3), np.uint8)
    color[1:3, 0] = 7  # touches the border, and isn't the ground
    Image.fromarray(color).save(tmp_path / "c.png")
    square = data.decode_picture(tmp_path / "c.png", 3, (4, 4), "pad")
    np.testing.assert_array_equal(square[:, 1:3], color)
    np.testing.assert_array_equal(square[:, [0, 3]], np.broadcast_to((255, 200, 3), (4, 2, 3)))


@pytest.mark.parametrize("shape", [(2, 300), (300, 2), (7, 5), (64, 64), (1, 1)])
@pytest.mark.parametrize("fit", data.FITS)
def test_every_fit_makes_the_size_of_any_proportions(tmp_path, shape, fit):
    values = draw(tmp_path / "a.png", 0, shape)
    image = data.decode_picture(tmp_path / "a.png", 1, (9, 6), fit)
    assert image.shape == (9, 6, 1)
    assert values.min() <= image.min() <= image.max() <= values.max()


def test_without_a_fit_pictures_are_stretched_as_ever(tmp_path):
    banner(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        expected = np.asarray(picture.resize((8, 8), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(
        data.decode_picture(tmp_path / "a.png", 1, (8, 8))[..., 0], expected
    )
    for fit in data.FITS:  # of equal proportions there is one way
        draw(tmp_path / "square.png", 3, (16, 16))
        image = data.decode_picture(tmp_path / "square.png", 1, (8, 8), fit)
        np.testing.assert_array_equal(
            image, data.decode_picture(tmp_path / "square.png", 1, (8, 8))
        )


def test_the_fit_belongs_to_the_data_and_to_what_is_kept(tmp_path):
    make_set(tmp_path / "set")  # 6 high, 8 wide
    names = ["./set:size=4", *(f"./set:size=4,fit={fit}" for fit in data.FITS)]
    first = [quietly(data.load, name) for name in names]
    for name, loaded in zip(names, first, strict=True):
        again = quietly(data.load, name)  # now from the kept arrays
        assert identity.identify_data(again) == identity.identify_data(loaded)
    whole, stretched, padded, cropped = (loaded.fingerprint for loaded in first)
    assert whole == stretched
    assert len({stretched, padded, cropped}) == 3
    picture = data.decode_picture(tmp_path / "set" / "train" / "ant" / "0.bmp", 1, (4, 4), "crop")
    np.testing.assert_array_equal(first[3].train_images[0], picture)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("fit=pad", "fit=pad says how pictures are brought to one size; give that too"),
        ("size=8,fit=squeeze", "must be one of stretch, pad, crop, got 'squeeze'"),
        ("size=8,fit", "must be one of stretch, pad, crop, got ''"),
        ("skip_bad=perhaps", "option 'skip_bad' of data set './set' must be true or false"),
        ("crop=1", "it has size, channels, holdout, seed, fit, skip_bad."),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path, options, sentence):
    make_set(tmp_path / "set")
    assert sentence in refusal(data.load, f"./set:{options}")


def test_pictures_to_predict_are_brought_to_size_as_those_trained_on(tmp_path):
    banner(tmp_path / "a.png")

    @dataclasses.dataclass(frozen=True)
    class Network(trained_network.Trained):
        def probabilities(self, images):
            return images.reshape(len(images), -1)[:, :2] / np.float32(255)

        def feature_maps(self, images):
            return {}

    def network(name):
        settings = config.Config(dataset=config.DatasetConfig(name=name))
        return Network(settings, None, {}, None, (8, 8, 1), ("a", "b"), {})

    found = [predict.Picture(tmp_path / "a.png", None)]
    for name, fit in (
        ("./set:size=8,fit=crop", "crop"),
        ("mnist", "stretch"),
        ("./set", "stretch"),
    ):
        made = network(name)
        assert made.fit == fit
        image = data.decode_picture(tmp_path / "a.png", 1, (8, 8), fit)
        _, answer, _ = predict.classify(made, found, False, made.fit)
        np.testing.assert_array_equal(answer[0] * 255, image.ravel()[:2])
        page = demo.make_app(made).test_client()
        shown = page.post("/see", data=(tmp_path / "a.png").read_bytes()).json
        image = data.decode_picture(tmp_path / "a.png", 1, (8, 8), demo_pictures.choose_fit(made))
        (p,) = (p for name, p, _ in shown["classes"] if name == "a")
        assert p == pytest.approx(image.ravel()[0] / 255, abs=1e-6)


# Files that are no pictures.


def test_bad_files_are_left_out_if_asked_and_counted(tmp_path):
    folder = make_set(tmp_path / "set")
    whole = quietly(data.load, "./set")
    ant, bee = folder / "train" / "ant", folder / "train" / "bee"
    (ant / "0.bmp").write_bytes((ant / "0.bmp").read_bytes()[:-9])  # of the right size, cut short
    (bee / "notes.txt").write_text("no picture")
    (folder / "train" / "list.csv").write_text("a,b")
    assert "list.csv lies beside the class folders" in refusal(data.load, "./set")
    for name in ("./set:skip_bad=true", "./set:skip_bad=True,size=4,channels=1"):
        dataset, (line,) = warnings_of(data.load, name)
        assert line == (
            "pictures in set: 3 of the 14 files are no pictures or damaged and are skipped "
            "(set/train/ant/0.bmp, set/train/bee/notes.txt, set/train/list.csv)"
        )
        np.testing.assert_array_equal(dataset.train_labels, [0, 0, 1, 1, 1])
        assert warnings_of(data.load, name)[1] == [line]  # from the kept arrays too
    dataset, _ = warnings_of(data.load, "./set:skip_bad=true")
    np.testing.assert_array_equal(dataset.train_images, whole.train_images[1:])
    assert dataset.fingerprint != whole.fingerprint
    assert "set/train/list.csv lies" in refusal(data.load, "./set:skip_bad=false")


def test_a_class_without_a_good_picture_is_an_error_all_the_same(tmp_path):
    folder = make_set(tmp_path / "set")
    for file in (folder / "train" / "ant").iterdir():
        file.write_text("no picture")
    sentence = refusal(data.load, "./set:skip_bad=true")
    assert "set: no training picture of the class 'ant' can be read (the first: " in sentence
    assert "is not a picture" in sentence
    for file in folder.glob("*/*/*"):
        file.write_text("no picture")
    assert "holds no picture that can be read" in refusal(data.load, "./set:skip_bad=true")


def test_what_the_system_refuses_is_never_skipped(tmp_path, monkeypatch):
    make_set(tmp_path / "set")

    def fail(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(decoding.files, "open_regular", fail)
    assert "can't be read: Permission denied" in refusal(
        data.load_folder, tmp_path / "set", skip_bad=True
    )


def test_files_of_the_system_are_no_pictures(tmp_path):
    folder = make_set(tmp_path / "set")
    expected = data.load_folder(folder).fingerprint
    for place in (folder, folder / "train", folder / "test" / "ant"):
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._a.png", "ehthumbs.db", "Icon\r"):
            (place / name).write_bytes(b"?")
        for name in ("@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information"):
            (place / name).mkdir()
    assert quietly(data.load_folder, folder).fingerprint == expected
    found = predict.find_pictures(folder / "test", ("ant", "bee"))
    assert [p.path.name for p in found] == ["0.bmp", "1.bmp", "2.bmp"] * 2


# Formats.


@pytest.mark.skipif("AVIF" not in decoding.FORMATS, reason="Pillow was built without AVIF")
def test_avif_is_read(tmp_path):
    Image.new("RGB", (16, 12), (200, 30, 90)).save(tmp_path / "a.avif", quality=100)
    image = data.decode_picture(tmp_path / "a.avif", 3)
    assert image.shape == (12, 16, 3)
    assert np.abs(image.astype(int) - (200, 30, 90)).max() <= 4


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (b"avif", "AVIF, which the installed Pillow can't read; install Pillow 11.3 or newer, or "),
        (b"heic", "HEIC, which can't be read; save it as PNG or JPEG"),
    ],
)
def test_formats_of_cameras_that_cannot_be_read_are_called_so(
    tmp_path, monkeypatch, kind, sentence
):
    monkeypatch.setattr(decoding, "FORMATS", ("PNG", "JPEG"))
    box = struct.pack(">I", 24) + b"ftyp" + kind + bytes(4) + b"mif1" + kind
    (tmp_path / "a.jpg").write_bytes(box)
    said = refusal(data.decode_picture, tmp_path / "a.jpg", 3)
    assert f"a.jpg is a picture in the format {sentence}" in said
