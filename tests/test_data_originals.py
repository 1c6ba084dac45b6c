"""Original files under the names that people have, of small stand-ins for the published sets."""

import dataclasses
import gzip
import hashlib
import io
import pickle
import tarfile
import zipfile

import numpy as np
import pytest

from cnn_jax import data
from cnn_jax.data import archives, cifar, emnist, originals, pickles
from tests.data_sets import quietly, refusal, warnings_of

pytestmark = [
    pytest.mark.usefixtures("elsewhere"),
    pytest.mark.filterwarnings("ignore::cnn_jax.data.DataWarning"),
]


def make_splits(name, sizes=(40, 30)):
    """Random images and labels of the shape and the classes of a set, each class at least once."""
    info = data.DATASETS[name]
    generator = np.random.default_rng(len(name))
    count = len(info.class_names)
    return [
        (
            generator.integers(0, 256, (n, *info.image_shape), np.uint8),
            ((np.arange(n) * 7) % count).astype(np.uint8),
        )
        for n in sizes
    ]


def shrink(monkeypatch, name, splits, **changes):
    """Gives a set of DATASETS the sizes of `splits`; returns its original files' contents."""
    info = data.DATASETS[name]
    payloads = info.format.encode(*splits)
    digests = {file: hashlib.sha256(content).hexdigest() for file, content in payloads.items()}
    sizes = {"train_size": len(splits[0][1]), "test_size": len(splits[1][1])}
    known = {"payloads": digests} if info.payloads else {}
    changed = dataclasses.replace(info, **(sizes | known | changes))
    monkeypatch.setitem(originals.DATASETS, name, changed)
    return payloads


def write(folder, contents, rename=lambda name: name, pack=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        content = gzip.compress(content, mtime=0) if pack else content
        (folder / rename(name)).write_bytes(content)
    return folder


def assert_loaded(dataset, splits):
    for array, expected in zip(dataset[:4], (*splits[0], *splits[1]), strict=True):
        np.testing.assert_array_equal(array, expected)


# IDX files.


def with_a_dot(name):
    return name.replace("-idx", ".idx")


@pytest.mark.parametrize(
    ("name", "place"),
    [("mnist", "mnist"), ("mnist", "MNIST/raw"), ("fashion_mnist", "FashionMNIST/raw")],
)
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("rename", [lambda name: name, with_a_dot])
def test_idx_files_are_found_by_the_names_that_people_have(
    tmp_path, monkeypatch, name, place, pack, rename
):
    splits = make_splits(name)
    payloads = shrink(monkeypatch, name, splits)
    suffix = ".gz" if pack else ""
    folder = write(tmp_path / "data" / place, payloads, lambda n: rename(n) + suffix, pack)
    dataset = quietly(data.load, name)
    assert_loaded(dataset, splits)
    assert f"original files, from data/{place}; " in dataset.provenance
    # The same files by their path, which is that of the folder or of the one that holds `raw`.
    paths = [f"./data/{place}"] + ([f"./data/{place[:-4]}"] if place.endswith("raw") else [])
    for path in paths:
        again = quietly(data.load, path)
        assert again.fingerprint == dataset.fingerprint
        assert again.class_names == data.DATASETS[name].class_names
    (folder / (rename(archives.IDX_FILES[2]) + suffix)).unlink()
    assert "lacks t10k-images-idx3-ubyte (plain or .gz)" in refusal(data.load, paths[0])


def test_idx_files_of_an_unknown_set_have_numbers_as_classes(tmp_path):
    splits = make_splits("mnist")
    splits = [(images, labels + np.uint8(2)) for images, labels in splits]
    write(tmp_path / "own", archives.encode_idx_set(*splits))
    dataset = data.load("./own")
    assert_loaded(dataset, splits)
    assert dataset.class_names == tuple(map(str, range(12)))
    assert "IDX files in own; arrays sha256" in dataset.provenance
    assert "own holds images of one size, not pictures, and has no option 'size'" in refusal(
        data.load, "./own:size=8"
    )


def test_kmnist_is_known_by_the_checksums_of_its_packed_files(tmp_path, monkeypatch):
    splits = make_splits("kmnist")
    payloads = data.DATASETS["kmnist"].format.encode(*splits)
    packed = {f"{n}.gz": gzip.compress(content, mtime=0) for n, content in payloads.items()}
    digests = {n: hashlib.sha256(content).hexdigest() for n, content in packed.items()}
    shrink(monkeypatch, "kmnist", splits, packed=digests)
    write(tmp_path / "a" / "kmnist", packed)
    write(tmp_path / "b" / "KMNIST" / "raw", payloads)
    write(
        tmp_path / "c" / "kmnist",
        packed
        | {
            "t10k-labels-idx1-ubyte.gz": gzip.compress(
                payloads["t10k-labels-idx1-ubyte"], 1, mtime=1
            )
        },
    )
    write(tmp_path / "d" / "kmnist", packed | payloads)  # the packed ones can be checked
    said = []
    for place in "abcd":
        dataset = quietly(data.load, "kmnist", tmp_path / place)
        assert_loaded(dataset, splits)
        said.append(dataset.provenance)
    assert said[0].startswith(f"KMNIST, original files, from {tmp_path / 'a' / 'kmnist'}; ")
    assert "(unpacked files, whose checksums aren't published), from" in said[1]
    assert "KMNIST format, payload sha256 " in said[2]
    assert "(not the original files), from" in said[2]
    assert said[3].startswith("KMNIST, original files, from")
    mnist = shrink(monkeypatch, "mnist", make_splits("mnist"))
    write(tmp_path / "e" / "kmnist", mnist)
    assert "is MNIST's train-images-idx3-ubyte, not KMNIST's; put" in refusal(
        data.load, "kmnist", tmp_path / "e"
    )
    # In the data folder itself they could be anybody's.
    write(tmp_path / "f", payloads)
    assert "kmnist is not in" in refusal(data.load, "kmnist", tmp_path / "f")


# EMNIST.


def test_the_classes_of_emnist_are_those_of_its_splits():
    counts = {
        name: len(info.class_names) for name, info in data.DATASETS.items() if "emnist" in name
    }
    assert counts == {
        "emnist": 47,
        "emnist_byclass": 62,
        "emnist_bymerge": 47,
        "emnist_letters": 26,
        "emnist_digits": 10,
        "emnist_mnist": 10,
    }
    balanced = data.DATASETS["emnist"].class_names
    assert (balanced[9], balanced[10], balanced[35], balanced[36:39]) == (
        "9",
        "A",
        "Z",
        tuple("abd"),
    )
    assert data.DATASETS["emnist_byclass"].class_names[36:38] == ("a", "b")


def zipped(contents):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("gzip/", b"")
        for name, content in contents.items():
            archive.writestr(f"gzip/{name}.gz", gzip.compress(content, mtime=0))
    return stream.getvalue()


@pytest.mark.parametrize("split", ["balanced", "letters"])
def test_emnist_is_turned_upright_and_counts_from_0(tmp_path, monkeypatch, split):
    name = "emnist" if split == "balanced" else f"emnist_{split}"
    splits = make_splits(name, (130, 60))
    # As the files have them: columns in the place of rows, and letters from 1.
    first = int(split == "letters")
    stored = [(x.transpose(0, 2, 1, 3), y + np.uint8(first)) for x, y in splits]
    contents = dict(
        zip(emnist.list_files(split), archives.encode_idx_set(*stored).values(), strict=True)
    )
    packed = zipped(contents)
    digest = hashlib.sha256(packed).hexdigest()
    shrink(monkeypatch, name, splits, packed={"gzip.zip": digest})
    (tmp_path / "a" / "emnist").mkdir(parents=True)
    (tmp_path / "a" / "emnist" / "gzip.zip").write_bytes(packed)
    write(tmp_path / "b" / "EMNIST" / "raw", contents)
    write(tmp_path / "c" / "emnist" / "gzip", contents, lambda n: f"{n}.gz", pack=True)
    for place, said in (("a", "original files"), ("b", "unpacked files"), ("c", "unpacked files")):
        dataset = quietly(data.load, name, tmp_path / place)
        assert_loaded(dataset, splits)
        assert dataset.train_images.flags.c_contiguous
        assert said in dataset.provenance
    if first:
        wrong = [(x, y - np.uint8(1)) for x, y in stored]
        bad = zip(emnist.list_files(split), archives.encode_idx_set(*wrong).values(), strict=True)
        write(tmp_path / "d" / "emnist", dict(bad))
        assert "'letters' has labels from 1, and the files hold 0" in refusal(
            data.load, name, tmp_path / "d"
        )


def test_damaged_emnist_is_a_sentence(tmp_path):
    folder = tmp_path / "emnist"
    folder.mkdir()
    (folder / "gzip.zip").write_bytes(b"<html>moved</html>")
    assert "gzip.zip is truncated or damaged" in refusal(data.load, "emnist", tmp_path)
    (folder / "gzip.zip").write_bytes(zipped({}))
    assert "lacks emnist-balanced-train-images-idx3-ubyte.gz; fetch" in refusal(
        data.load, "emnist", tmp_path
    )


# CIFAR.


def tarred(folder, contents):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def pickled(form, payloads, protocol=2):
    """The batches for Python that hold the records of `payloads`."""
    batches = {}
    for name, content in zip(form.pickled_files, payloads.values(), strict=True):
        rows = np.frombuffer(content, np.uint8).reshape(-1, len(form.labels) + cifar.PLANES)
        labels = {k.encode(): rows[:, i].tolist() for i, k in enumerate(form.labels)}
        batch = {b"data": rows[:, len(form.labels) :].copy(), b"filenames": [b"a"] * len(rows)}
        batches[name] = pickle.dumps(batch | labels, protocol)
    return batches


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_binary_files_and_those_for_python_are_the_same_data(tmp_path, monkeypatch, name):
    form = {"cifar10": cifar.CIFAR10, "cifar100": cifar.CIFAR100}[name]
    splits = make_splits(name, (105, 100))
    payloads = data.DATASETS[name].format.encode(*splits)
    if name == "cifar100":  # coarse labels, which are no labels of ours
        for file, content in payloads.items():
            rows = np.frombuffer(content, np.uint8).reshape(-1, 2 + cifar.PLANES).copy()
            rows[:, 0] = rows[:, 1] % 20
            payloads[file] = rows.tobytes()
    batches = pickled(form, payloads)
    files = {
        form.archive: tarred(form.folder, payloads),
        form.pickled_archive: tarred(form.pickled_folder, batches),
    }
    digests = {
        file: hashlib.md5(content).hexdigest() for file, content in (files | batches).items()
    }
    changes = {} if data.DATASETS[name].payloads else {"packed": digests}
    shrink(monkeypatch, name, splits, **changes)
    for place, (file, content) in zip("ab", files.items(), strict=True):
        write(tmp_path / place / name, {file: content})
    write(tmp_path / "c" / form.pickled_folder, batches)  # as torchvision has it
    write(tmp_path / "d" / form.folder, payloads)
    for place in "abcd":
        dataset = quietly(data.load, name, tmp_path / place)
        assert_loaded(dataset, splits)
        unknown = name == "cifar100" and place == "d"
        assert ("original files" if not unknown else "unpacked files") in dataset.provenance
    assert dataset.class_names[-1] == {"cifar10": "truck", "cifar100": "worm"}[name]
    (tmp_path / "c" / form.pickled_folder / form.pickled_files[-1]).unlink()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c" / "cache" / f"{name}.npz").unlink()
    assert f"lacks {form.pickled_files[-1]}; unpack {form.pickled_archive} again" in refusal(
        data.load, name, tmp_path / "c"
    )


class Hostile:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("batch", "why"),
    [
        (Hostile(), "it names "),
        ({"data": Hostile(), "labels": [1]}, ".print, which is never called"),
        ({"labels": [1]}, "'data'"),
        ({"data": np.zeros((1, 9), np.uint8), "labels": [1]}, "its data are uint8 [1, 9]"),
        ({"data": np.zeros((1, 3072)), "labels": [1]}, "an array of the type 'f8'"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, "one whole number for each image"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [300]}, "all between 0 and 255"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": ["a"]}, "one whole number for each"),
        ([1, 2], "'list' object has no attribute"),
    ],
)
def test_no_pickle_is_run_and_a_wrong_one_is_a_sentence(tmp_path, capsys, batch, why):
    folder = tmp_path / "cifar10" / cifar.CIFAR10.pickled_folder
    write(folder, dict.fromkeys(cifar.CIFAR10.pickled_files, pickle.dumps(batch, 2)))
    sentence = refusal(data.load, "cifar10", tmp_path)
    assert "data_batch_1 is not a CIFAR-10 batch (" in sentence
    assert why in sentence
    assert capsys.readouterr().out == ""


def test_no_bit_of_a_pickle_can_do_more_than_change_bytes():
    whole = pickle.dumps({"data": np.arange(12, dtype=np.uint8).reshape(3, 4), "labels": [1, 2]}, 2)
    np.testing.assert_array_equal(pickles.read(whole)["data"], np.arange(12).reshape(3, 4))
    columns = pickle.dumps({"data": np.asfortranarray(np.eye(3, dtype=np.uint8) * 7)}, 2)
    np.testing.assert_array_equal(pickles.read(columns)["data"], np.eye(3) * 7)
    for place in range(8 * len(whole)):
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        payload = bytes(content)
        with pytest.raises(data.DataError, match=r"is not a CIFAR-10 batch|takes more memory"):
            cifar.read_pickle(cifar.CIFAR10, payload, "it")


# Tables.


def table(images, labels=None, header=True, end="\n"):
    pixels = images.reshape(len(images), -1)
    names = [f"pixel{i}" for i in range(pixels.shape[1])]
    rows = pixels if labels is None else np.column_stack([labels, pixels])
    lines = [",".join(([] if labels is None else ["label"]) + names)] if header else []
    return end.join([*lines, *(",".join(map(str, row)) for row in rows.tolist())]) + end


def test_kaggles_mnist_is_read_and_its_test_file_said_to_have_no_labels(tmp_path):
    (images, labels), (more, other) = make_splits("mnist")
    folder = tmp_path / "digits"
    folder.mkdir()
    (folder / "train.csv").write_text(table(images, labels))
    (folder / "test.csv").write_text(table(more))
    (folder / "sample_submission.csv").write_text("ImageId,Label\n1,0\n")
    dataset, lines = warnings_of(data.load, "./digits/train.csv")
    assert lines == [
        "table digits/train.csv: test.csv has no labels (as Kaggle's test.csv) and isn't used; a "
        "part of the labelled images is held out in its place",
        "table digits/train.csv: there is no test part, so 8 of the 40 examples are held out as "
        "one, chosen at random from each class (a fraction of 0.2, seed 0)",
    ]
    assert dataset.class_names == tuple("0123456789")
    both = np.concatenate([dataset.train_images, dataset.test_images])
    assert sorted(map(bytes, both)) == sorted(map(bytes, images))
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (32, 8)
    again, same = warnings_of(data.load, "./digits")  # the folder; kept arrays
    assert (again.fingerprint, same) == (dataset.fingerprint, lines)
    assert (
        "digits/test.csv has no labels (as Kaggle's test.csv), so that nothing can be"
        in refusal(data.load, "./digits/test.csv")
    )
    (folder / "test.csv").write_text(table(more, other, end="\r\n"))  # noticed
    assert_loaded(quietly(data.load, "./digits"), make_splits("mnist"))


def test_tables_without_a_head_or_with_the_label_elsewhere_are_read(tmp_path):
    splits = (images, labels), (more, other) = make_splits("mnist")
    (tmp_path / "mnist_train.csv").write_text(table(images, labels, header=False))
    (tmp_path / "mnist_test.csv").write_text(table(more, other, header=False))
    dataset = quietly(data.load, "mnist_train.csv")
    assert_loaded(dataset, splits)
    assert "table mnist_train.csv, tested on mnist_test.csv; arrays" in dataset.provenance
    pixels = images.reshape(40, -1)
    head = "\ufeff" + ",".join([*(f'"{i}x{i}"' for i in range(784)), '"Class"'])
    lines = [",".join(map(str, row)) for row in np.column_stack([pixels, labels]).tolist()]
    (tmp_path / "last.csv").write_text("\n".join([head, "", *lines]))
    last = quietly(data.load, "last.csv:holdout=0.25,seed=3")
    assert (len(last.train_labels), len(last.test_labels)) == (30, 10)
    both = np.concatenate([last.train_images, last.test_images])
    assert sorted(map(bytes, both)) == sorted(map(bytes, images))


ROW = ",".join(["1"] * 5)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "has 1 columns, where a label and the pixels of a square"),
        ("label,a,b,c\n", "has 4 columns, where a label and the pixels of a square gray image"),
        ("label,a,b,c,d\n", "has no row of numbers"),
        (f"{ROW}\n1,2,3\n", "is not a table of whole numbers ("),
        (f"{ROW}\n1,2,3,4,300\n", "has pixels from 1 to 300, where 0 to 255 are expected"),
        (f"{ROW}\n1,2,3,4,0.5\n", "is not a table of whole numbers ("),
        (f"{ROW}\n1,2,3,4,cat\n", "is not a table of whole numbers ("),
        ("1,2,3,4\n", "has no labels"),
        ((f"{ROW}\n" + "-1,2,3,4,5\n") * 6, "labels run from -1 to 1"),
        (f"{ROW}\n99999999,2,3,4,5\n", "the label 99999999 of 2 examples has so many classes"),
        ("label,a,b,c,d\n1,2,3,4\n", "has rows of 4 numbers and 5 columns; save it anew"),
        ("a\0b,c\n", "has 2 columns"),
    ],
)
def test_a_table_that_is_none_is_a_sentence(tmp_path, content, why):
    (tmp_path / "train.csv").write_text(content)
    assert why in refusal(data.load, "train.csv")


def test_a_table_that_is_not_there_or_has_other_options_is_a_sentence(tmp_path):
    assert "none.csv does not exist; check the path" in refusal(data.load, "none.csv")
    assert "has no option 'size'; it has holdout, seed." in refusal(data.load, "a.csv:size=3")
