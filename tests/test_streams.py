"""Data read as they are needed: sources, decoding, what is cut out, and errors in one sentence."""

import functools
import io
import pickle
import shutil
import tarfile
import warnings

import numpy as np
import pytest
from PIL import Image

from cnn_jax import config, data, records, train
from cnn_jax.data import DatasetConfig, dataset, pictures, streams
from cnn_jax.data.streams import StreamConfig, cropping, decoding, prepare
from cnn_jax.display import Display
from tests.data_sets import refusal, warnings_of
from tests.picture_sets import (
    CLASSES,
    SMALL,
    add_bytes,
    damage,
    encode,
    load,
    make_pictures,
    pack_classes,
    pack_whole,
    picture,
    read_all,
)

WITHOUT = pytest.mark.skipif(not decoding.find_simplejpeg(), reason="simplejpeg isn't installed")


def varint(value):
    encoded = b""
    while value > 127:
        encoded += bytes([value & 127 | 128])
        value >>= 7
    return encoded + bytes([value])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(image, label):
    """A tf.train.Example with two features."""
    features = {b"image": field(1, field(1, image)), b"label": field(3, field(1, varint(label)))}
    entries = (field(1, field(1, name) + field(2, value)) for name, value in features.items())
    return field(1, b"".join(entries))


def write_array_records(folder, path):
    """Two ArrayRecord files for each part, named as by TFDS."""
    module = pytest.importorskip("array_record.python.array_record_module")
    path.mkdir()
    (path / "label.labels.txt").write_text("\n".join(CLASSES))
    for part in ("train", "test"):
        listed = sorted((folder / part).glob("*/*"))
        for number, some in enumerate(np.array_split(listed, 2)):
            file = path / f"set-{part}.array_record-{number:05d}-of-00002"
            writer = module.ArrayRecordWriter(str(file), "group_size:1")
            for one in some:
                writer.write(example(one.read_bytes(), CLASSES.index(one.parent.name)))
            writer.close()


PACKERS = {
    "folder": lambda folder, path: shutil.copytree(folder, path),
    "tar": pack_whole,
    "nested tars": pack_classes,
    "array_record": write_array_records,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("pictures") / "set")


# Sources.


@pytest.mark.parametrize("kind", PACKERS)
def test_every_kind_of_source_gives_the_same_images_and_labels(folder, tmp_path, kind):
    PACKERS[kind](folder, tmp_path / "packed")
    expected = load(folder)
    for _ in range(2):  # the second time with the index that was kept
        found = load(tmp_path / "packed")
        assert found.class_names == CLASSES
        for part, other in ((found.train, expected.train), (found.test, expected.test)):
            np.testing.assert_array_equal(part.labels, np.repeat(np.arange(3, dtype=np.int32), 4))
            assert part.labels.dtype == np.int32
            assert len(part) == 12
            assert part.image_shape == (16, 16, 3)
            for epoch in (None, 0, 7):
                np.testing.assert_array_equal(read_all(part, epoch), read_all(other, epoch))


@pytest.mark.parametrize("kind", PACKERS)
def test_a_source_has_random_access_and_survives_pickling(folder, tmp_path, kind):
    PACKERS[kind](folder, tmp_path / "packed")
    source = streams.open_parts(tmp_path / "packed").train
    copy = pickle.loads(pickle.dumps(source))
    files = sorted((folder / "train").glob("*/*"))
    for index in (11, 0, 5):
        assert source[index] == copy[index] == (files[index].read_bytes(), index // 4)


def test_an_index_takes_few_bytes_of_memory(tmp_path):
    for name in CLASSES[:2]:
        (tmp_path / name).mkdir()
        for index in range(1000):
            (tmp_path / name / f"n01440764_{index:05d}.JPEG").touch()
    source = streams.open_parts(tmp_path).train
    assert len(pickle.dumps(source)) < 100 * len(source)


def test_the_fingerprint_notices_other_names_sizes_and_classes(folder, tmp_path):
    def change(name, do):
        path = tmp_path / name
        shutil.copytree(folder, path)
        do(path)
        return load(path).fingerprint

    def grow(path):
        with open(path / "train" / "ant" / "0.jpg", "ab") as file:
            file.write(b"\0")

    ant, bee = (f"train/{name}" for name in CLASSES[:2])
    found = [
        change("same", lambda path: None),
        change("renamed", lambda path: (path / ant / "0.jpg").rename(path / ant / "00.jpg")),
        change("moved", lambda path: (path / ant / "0.jpg").rename(path / bee / "9.jpg")),
        change("grown", grow),
        change("test", lambda path: (path / "test/ant/0.jpg").unlink()),
    ]
    assert found[0] == load(folder).fingerprint
    assert len(set(found)) == len(found)


def test_the_fingerprint_of_tars_notices_a_renamed_picture_and_no_copy(folder, tmp_path):
    pack_whole(folder, tmp_path / "first")
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    renamed = shutil.copytree(folder, tmp_path / "renamed")
    (renamed / "train/ant/3.jpg").rename(renamed / "train/ant/4.jpg")
    pack_whole(renamed, tmp_path / "second")
    (tmp_path / "copy" / "all.tar").touch()
    first = load(tmp_path / "first").fingerprint
    assert load(tmp_path / "copy").fingerprint == first
    assert load(tmp_path / "second").fingerprint != first


def test_imagenets_validation_pictures_have_the_classes_of_their_numbers(tmp_path):
    content = encode(picture(0))
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "w") as outer:
        for name in ("n01751748", "n02105855", "n09193705"):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                add_bytes(tar, f"{name}_1.JPEG", content)
            add_bytes(outer, f"{name}.tar", inner.getvalue())
    with tarfile.open(tmp_path / "ILSVRC2012_img_val.tar", "w") as tar:
        for number in (1, 2, 3):
            add_bytes(tar, f"ILSVRC2012_val_{number:08d}.JPEG", content)
    parts = streams.open_parts(tmp_path)
    assert parts.tested_on == "val"
    assert [parts.class_names[i] for i in parts.test.labels] == [
        "n01751748",
        "n09193705",
        "n02105855",
    ]


def test_a_part_is_held_out_where_there_is_no_test_part(folder, tmp_path):
    shutil.copytree(folder / "train", tmp_path / "set")
    found, (line,) = warnings_of(load, tmp_path / "set")
    assert "there is no test part, so 2 of the 12 examples are held out" in line
    assert (len(found.train), len(found.test)) == (10, 2)
    whole = read_all(load(folder).train, None)
    images = [image.tobytes() for part in found[:2] for image in read_all(part, None)]
    assert sorted(images) == sorted(image.tobytes() for image in whole)


# What is cut out.


def test_images_depend_on_seed_epoch_and_index_alone(folder):
    part = load(folder, seed=3).train
    whole = read_all(part, 5)
    for threads in (1, 4):
        other = load(folder, seed=3, threads=threads).train
        order = np.array([7, 0, 7, 11, 2])
        np.testing.assert_array_equal(other.read(order, 5), whole[order])
    chosen = part.take(np.array([9, 4]))
    np.testing.assert_array_equal(chosen.read(np.array([1, 0]), 5), whole[[4, 9]])
    np.testing.assert_array_equal(chosen.take(np.array([1])).labels, part.labels[[4]])
    for seed, epoch in ((3, 6), (4, 5)):
        assert (read_all(load(folder, seed=seed).train, epoch) != whole).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(read_all(part, None), read_all(load(folder, seed=9).train, None))
    assert part.read(np.array([], np.int64), 0).shape == (0, 16, 16, 3)


def test_draws_are_those_of_a_generator_of_their_own():
    indices = np.array([5, 0, 5, 2**40])
    draws = cropping.draw(7, 2, indices)
    for index, row in zip(indices.tolist(), draws, strict=True):
        own = np.random.Philox(
            key=np.array([7, 2], np.uint64),
            counter=np.array([index * cropping.DRAWS // 4, 0, 0, 3], np.uint64),
        )
        expected = (own.random_raw(cropping.DRAWS) >> np.uint64(11)) * 2.0**-53
        np.testing.assert_array_equal(row, expected)


def test_rectangles_have_the_areas_and_proportions_of_the_paper():
    draws = cropping.draw(0, 0, np.arange(4000))
    found = [cropping.choose_rectangle(375, 500, row) for row in draws]
    areas = np.array([r.height * r.width for r in found]) / (375 * 500)
    ratios = np.array([r.width / r.height for r in found])
    assert 0.079 < areas.min() < 0.085
    assert 0.95 < areas.max() <= 1
    assert 0.74 < ratios.min() < 0.76
    assert 1.32 < ratios.max() < 1.34
    # Large areas fit in fewer proportions; below half of the picture all do.
    low = areas[areas < 0.5]
    np.testing.assert_allclose(np.histogram(low, 4, (0.08, 0.5))[0] / len(low), 0.25, atol=0.03)
    assert all(0 <= r.top <= 375 - r.height and 0 <= r.left <= 500 - r.width for r in found)
    assert cropping.choose_rectangle(10, 1000, draws[0]) == (0, 493, 10, 13)  # none fits
    assert cropping.choose_rectangle(1, 1, draws[0]) == (0, 0, 1, 1)


def test_an_image_is_its_rectangle_brought_to_size():
    image = np.asarray(picture(1, 60, 90))
    (draws,) = cropping.draw(0, 0, np.array([4]))
    box = cropping.choose_rectangle(60, 90, draws)
    part = Image.fromarray(image[box.top : box.top + box.height, box.left : box.left + box.width])
    expected = np.asarray(part.resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(cropping.crop(image, SMALL, draws), expected)


def test_evaluation_takes_the_middle_of_the_short_side():
    image = np.asarray(picture(1, 60, 90))
    scaled = np.asarray(Image.fromarray(image).resize((30, 20), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(cropping.crop(image, SMALL), scaled[2:18, 7:23])
    centered = StreamConfig(size=16, short_side=20, crop="center")
    draws = cropping.draw(0, 0, np.array([0]))[0]
    np.testing.assert_array_equal(cropping.crop(image, centered, draws), scaled[2:18, 7:23])
    square = StreamConfig(size=16, short_side=20, crop="square")
    known = {
        scaled[top : top + 16, left : left + 16].tobytes(): (top, left)
        for top in range(5)
        for left in range(15)
    }
    places = {
        known[cropping.crop(image, square, draws).tobytes()]
        for draws in cropping.draw(0, 0, np.arange(1000))
    }
    assert places == set(known.values())


def test_no_size_of_a_picture_is_too_small_or_too_long():
    for height, width in ((1, 1), (1, 300), (300, 1), (16, 16), (20, 20), (3, 4)):
        image = np.full((height, width, 3), 77, np.uint8)
        for crop in ("resized", "square", "center"):
            settings = StreamConfig(size=16, short_side=20, crop=crop)
            for draws in (None, *cropping.draw(0, 0, np.arange(3))):
                assert (cropping.crop(image, settings, draws) == np.full((16, 16, 3), 77)).all()


def test_opencv_is_an_option_that_says_when_it_is_missing(folder, monkeypatch):
    settings = StreamConfig(size=16, short_side=20, resizer="opencv")
    try:
        import cv2
    except ImportError:
        assert "isn't installed; run `pip install opencv-python-headless`" in refusal(
            load, folder, settings
        )
        return
    image = np.asarray(picture(1, 60, 90))
    expected = cv2.resize(image, (30, 20), interpolation=cv2.INTER_AREA)[2:18, 7:23]
    np.testing.assert_array_equal(cropping.crop(image, settings), expected)
    assert read_all(load(folder, settings).train).shape == (12, 16, 16, 3)


# Decoding.


def by_pillow(content, channels=3):
    return pictures.decode_picture(io.BytesIO(content), channels)


@WITHOUT
@pytest.mark.parametrize("channels", [1, 3])
def test_decoders_are_equal_to_the_bit(channels):
    image = picture(5, 61, 83)
    variants = [
        *(encode(image, quality=q, subsampling=s) for q in (60, 95) for s in (0, 1, 2)),
        *(encode(image, progressive=True), encode(image, keep_rgb=True)),
        *(encode(image.convert("L")), encode(image.convert("CMYK"))),
    ]
    for content in variants:
        expected = by_pillow(content, channels)
        np.testing.assert_array_equal(decoding.decode(content, "it", channels), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation):
    image = picture(2)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(image, exif=exif, quality=95)
    plain = Image.open(io.BytesIO(encode(image, quality=95)))
    turn = dict(enumerate((0, 3, 1, 5, 4, 6, 2), 2)).get(orientation)
    expected = plain if turn is None else plain.transpose(Image.Transpose(turn))
    np.testing.assert_array_equal(decoding.decode(content, "it"), np.asarray(expected))


def test_other_formats_and_modes_become_rgb():
    image = picture(3)
    pixels = np.asarray(image)
    np.testing.assert_array_equal(decoding.decode(encode(image, "PNG"), "it"), pixels)
    gray = image.convert("L")
    expected = np.repeat(np.asarray(gray)[..., None], 3, 2)
    np.testing.assert_array_equal(decoding.decode(encode(gray, "PNG"), "it"), expected)
    np.testing.assert_array_equal(decoding.decode(encode(gray, "PNG"), "it", 1), expected[..., :1])
    palette = image.quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(decoding.decode(encode(palette, "GIF"), "it"), expected)
    clear = image.convert("RGBA")
    clear.putalpha(0)
    assert (decoding.decode(encode(clear, "PNG"), "it") == 255).all()
    inks = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    cyan = decoding.decode(encode(inks, quality=100), "it")[4, 4]
    assert (np.abs(cyan.astype(int) - [0, 255, 255]) < 4).all()
    gray_jpeg = decoding.decode(encode(gray, quality=95), "it")
    assert (gray_jpeg[..., 0] == gray_jpeg[..., 2]).all()


@WITHOUT
def test_the_same_files_are_damaged_with_both_decoders():
    content = encode(picture(4, 50, 70), quality=90)
    rng = np.random.default_rng(0)
    broken = [content[:end] for end in range(2, len(content), 37)]
    for _ in range(60):
        changed = bytearray(content)
        for place in rng.integers(2, len(content), 3):
            changed[place] = rng.integers(256)
        broken.append(bytes(changed))

    def outcome(decode, one):
        try:
            return decode(one).tobytes()
        except data.DataError:
            return None

    found = [outcome(lambda one: decoding.decode(one, "it"), one) for one in broken]
    assert found == [outcome(by_pillow, one) for one in broken]
    assert 20 < found.count(None) < len(found)


# Damaged files.


def test_a_damaged_file_is_one_sentence_with_its_name(folder, tmp_path):
    path = shutil.copytree(folder, tmp_path / "set")
    damage(path, "train/bee/1.jpg")
    for kind in ("set", "tar"):
        if kind == "tar":
            pack_whole(path, tmp_path / "tar")
        part = load(tmp_path / kind).train
        sentence = refusal(part.read, np.array([4, 5]), 0)
        assert "train/bee/1.jpg is truncated or damaged" in sentence
        assert "dataset.stream.damaged=replace" in sentence
        assert part.read(np.array([4, 6]), 0).shape == (2, 16, 16, 3)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_damaged_file_is_replaced_by_the_next_of_its_class_and_counted(folder, tmp_path, threads):
    path = shutil.copytree(folder, tmp_path / "set")
    damage(path, "train/bee/1.jpg", "train/bee/2.jpg", "train/cat/3.jpg")
    settings = StreamConfig(size=16, short_side=20, damaged="replace")
    part = load(path, settings, threads=threads).train
    whole = read_all(load(folder).train, None)
    found, lines = warnings_of(part.read, np.arange(12), None)
    np.testing.assert_array_equal(found, whole[[0, 1, 2, 3, 4, 7, 7, 7, 8, 9, 10, 8]])
    assert sorted(part.damaged) == [5, 6, 11]
    assert len(lines) == 3
    assert any("bee/1.jpg is truncated" in line for line in lines)
    # Never by an example that was not chosen.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for take in (part.take, functools.partial(dataset.select, part)):
            chosen = take(np.array([4, 5, 8, 11]))
            np.testing.assert_array_equal(read_all(chosen, None), whole[[4, 4, 8, 8]])
        alone = part.take(np.array([0, 5]))
        assert "no picture of the class of" in refusal(alone.read, np.array([1]), 0)


def test_a_file_that_is_gone_is_not_replaced(folder, tmp_path):
    path = shutil.copytree(folder, tmp_path / "set")
    settings = StreamConfig(size=16, short_side=20, damaged="replace")
    part = load(path, settings).train
    (path / "train/ant/1.jpg").unlink()
    assert "train/ant/1.jpg can't be read: No such file" in refusal(part.read, np.array([1]), 0)


# Wrong input.


def test_what_cannot_be_opened_is_said_in_one_sentence(folder, tmp_path):
    def make(name, *files):
        for file in files:
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(picture(0)))
        return tmp_path / name

    assert "nowhere does not exist" in refusal(load, tmp_path / "nowhere")
    assert "holds none of prepared records" in refusal(load, make("flat", "1.jpg"))
    assert "1 class folders" in refusal(load, make("one", "a/1.jpg"))
    assert "lies beside the class folders" in refusal(load, make("beside", "a/1.jpg", "b.jpg"))
    strange = make("strange", *(f"train/{c}/1.jpg" for c in "ab"), "test/c/1.jpg", "test/a/1.jpg")
    assert "test/c is a class that" in refusal(load, strange)
    only = make("only", *(f"test/{c}/1.jpg" for c in "ab"))
    assert "has no part called train" in refusal(load, only)
    (make("empty", "a/1.jpg") / "b").mkdir()
    assert "b is empty" in refusal(load, tmp_path / "empty")
    (make("nested", "a/1.jpg", "b/1.jpg") / "a" / "c").mkdir()
    assert "a/c is no regular file" in refusal(load, tmp_path / "nested")
    assert "takes no options as in :size=64" in refusal(load, f"{folder}:size=64")
    sentence = refusal(load, folder, StreamConfig(size=32, short_side=20))
    assert "config.dataset.stream.short_side=20 is less than" in sentence


def test_tars_that_cannot_be_used_are_said_in_one_sentence(folder, tmp_path):
    def pack(name, *members, mode="w"):
        path = tmp_path / name
        with tarfile.open(path, mode) as tar:
            for member in members:
                add_bytes(tar, member, b"x")
        return path

    assert "if it is compressed, unpack it" in refusal(load, pack("a.tar", "a/1.jpg", mode="w:gz"))
    flat = pack("train.tar", "1.jpg")
    assert "1.jpg lies in no class folder" in refusal(load, flat)
    assert "has the class 'ant' only" in refusal(load, pack("b.tar", "train/ant/1.jpg"))
    assert "holds no pictures" in refusal(load, pack("c.tar"))
    mixed = pack("d.tar", "train/ant/1.jpg", "bee/1.jpg")
    assert "lie in no part" in refusal(load, mixed)
    strange = pack("e.tar", "train/ant/1.jpg", "train/bee/1.jpg", "test/cat/1.jpg")
    assert "'cat' has no training pictures" in refusal(load, strange)
    pack_whole(folder, tmp_path / "cut")
    part = load(tmp_path / "cut").train
    file = tmp_path / "cut" / "all.tar"
    file.write_bytes(file.read_bytes()[:4000])
    assert "is shorter than it was when it was indexed" in refusal(part.read, np.array([11]), 0)


def test_array_records_that_cannot_be_used_are_said_in_one_sentence(folder, tmp_path):
    write_array_records(folder, tmp_path / "set")
    names = tmp_path / "set" / "label.labels.txt"
    names.write_text("ant\nbee\n")
    assert "the labels of train don't fit the 2 classes" in refusal(load, tmp_path / "set")
    names.unlink()
    assert "has no label.labels.txt or labels.txt" in refusal(load, tmp_path / "set")
    from array_record.python import array_record_module

    names.write_text("\n".join(CLASSES))
    file = tmp_path / "set" / "set-train.array_record-00000-of-00002"
    writer = array_record_module.ArrayRecordWriter(str(file), "group_size:1")
    writer.write(b"\xff\xff none")
    writer.close()
    assert "record 0 of its part is no tf.train.Example" in refusal(load, tmp_path / "set")


# Training


def train_on(path, workdir, **values):
    settings = config.with_values(
        config.Config(
            dataset=DatasetConfig(name=str(path), stream=SMALL),
            model=config.ModelConfig("softmax"),
            batch_size=4,
            eval_batch_size=5,
            epochs=2,
        ),
        {"optimizer.learning_rate": 0.1, **values},
    )
    train.train_and_evaluate(settings, workdir, Display(io.StringIO()))
    rows = records.read_metrics(workdir)
    return [{k: row[k] for k in ("test_loss", "train_loss", "test_accuracy")} for row in rows]


def test_a_run_reads_its_pictures_as_it_needs_them_from_folders_tars_and_records(tmp_path):
    folder = make_pictures(tmp_path / "pictures")
    pack_whole(folder, tmp_path / "tars")
    rows = train_on(folder, tmp_path / "folder", **{"dataset.feed": "stream"})
    assert train_on(tmp_path / "tars", tmp_path / "tar") == rows
    prepare.prepare(streams.open_parts(folder), tmp_path / "records")
    assert train_on(tmp_path / "records", tmp_path / "record") == rows
    other = train_on(tmp_path / "tars", tmp_path / "other", seed=1)
    assert other != rows
    # Evaluated in the middle, all of them, whatever the batch: 12 are two batches of 5 and 2.
    again = train_on(tmp_path / "tars", tmp_path / "whole", eval_batch_size=12)
    assert again == [
        {name: pytest.approx(value, rel=1e-5) for name, value in row.items()} for row in rows
    ]


def test_class_folders_are_loaded_as_a_whole_unless_a_stream_is_asked_for(tmp_path):
    folder = make_pictures(tmp_path / "pictures")
    assert not streams.is_streamed(DatasetConfig(name=str(folder)))
    assert streams.is_streamed(DatasetConfig(name=str(folder), feed="stream"))
    pack_whole(folder, tmp_path / "tars")
    assert streams.is_streamed(DatasetConfig(name=str(tmp_path / "tars")))
    assert not streams.is_streamed(DatasetConfig(name="mnist", feed="stream"))
    assert not streams.is_streamed(DatasetConfig(name=f"{folder}:size=8", feed="stream"))
