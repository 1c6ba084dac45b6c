"""MNIST, Fashion-MNIST and CIFAR-10 from every source, with small stand-ins of the same formats."""

import dataclasses
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from cnn_jax import data
from cnn_jax.data import archives, cache, cifar, originals
from cnn_jax.data import tfds as tfds_sets
from cnn_jax.data.dataset import fingerprint

SIZES = {"fashion_mnist": (40, 30), "mnist": (40, 30), "cifar10": (35, 7)}


def digest(content):
    return hashlib.sha256(content).hexdigest()


def gz(content):
    """Gzip without a time or a name, as a re-compressed copy may be."""
    return gzip.compress(content, mtime=0)


@dataclasses.dataclass
class StandIn:
    """A small set in the original format: its arrays and its files."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    payloads: dict[str, bytes]

    def assert_loaded(self, dataset):
        np.testing.assert_array_equal(dataset.train_images, self.train[0])
        np.testing.assert_array_equal(dataset.train_labels, self.train[1])
        np.testing.assert_array_equal(dataset.test_images, self.test[0])
        np.testing.assert_array_equal(dataset.test_labels, self.test[1])


@pytest.fixture
def stand_ins(monkeypatch):
    """Replaces each published set's sizes and checksums by those of a small random set.

    Every image occurs twice, once of them with another label: an order by content could not tell
    the copies apart.
    """
    made = {}
    for seed, (name, sizes) in enumerate(SIZES.items()):
        info = data.DATASETS[name]
        generator = np.random.default_rng(seed)
        splits = []
        for n in sizes:
            images = generator.integers(0, 256, (n, *info.image_shape), np.uint8)
            images[n // 2 : n // 2 * 2] = images[: n // 2]
            splits.append((images, generator.integers(0, 10, n, np.uint8)))
        payloads = info.format.encode(*splits)
        monkeypatch.setitem(
            originals.DATASETS,
            name,
            dataclasses.replace(
                info,
                train_size=sizes[0],
                test_size=sizes[1],
                payloads={file: digest(content) for file, content in payloads.items()},
            ),
        )
        made[name] = StandIn(*splits, payloads)
    return made


def write_idx(folder, payloads, compress=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in payloads.items():
        if compress:
            (folder / f"{name}.gz").write_bytes(gz(content))
        else:
            (folder / name).write_bytes(content)


def write_cifar_archive(path, payloads, extra=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (
            *extra,
            *((f"cifar-10-batches-bin/{n}", c) for n, c in payloads.items()),
            ("cifar-10-batches-bin/batches.meta.txt", b"a\nb\n"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_cifar_folder(folder, payloads):
    folder.mkdir(parents=True)
    for name, content in payloads.items():
        (folder / name).write_bytes(content)


# The table


@pytest.mark.parametrize("name", ["fashion_mnist", "mnist", "cifar10"])
def test_table_is_consistent(name):
    info = data.DATASETS[name]
    assert len(info.class_names) == 10
    assert len(set(info.payloads.values())) == len(info.payloads) in (4, 6)


def test_shipped_slice(mini):
    info = data.DATASETS["fashion_mnist"]
    assert mini.train_images.shape == (2000, 28, 28, 1)
    assert mini.test_images.shape == (1000, 28, 28, 1)
    assert mini.class_names == info.class_names
    np.testing.assert_array_equal(np.bincount(mini.train_labels), [200] * 10)
    np.testing.assert_array_equal(np.bincount(mini.test_labels), [100] * 10)
    mean, std = data.channel_statistics(mini.train_images)
    np.testing.assert_allclose(mean, 0.2860, atol=0.005)
    np.testing.assert_allclose(std, 0.3530, atol=0.005)
    assert fingerprint(*mini[:4])[:16] == "277bdddd3bfa815e"
    assert "277bdddd3bfa815e" in mini.provenance


# Original files


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("name", ["fashion_mnist", "mnist"])
@pytest.mark.parametrize("place", ["{name}", ".", "downloads/manual"])
def test_idx_files(stand_ins, tmp_path, name, place, compress):
    write_idx(tmp_path / place.format(name=name), stand_ins[name].payloads, compress)
    dataset = data.load(name, tmp_path)
    stand_ins[name].assert_loaded(dataset)
    assert f"{data.DATASETS[name].title}, original files, from" in dataset.provenance
    assert dataset.train_images.dtype == np.uint8
    assert dataset.train_labels.dtype == np.int32


@pytest.mark.parametrize("place", ["cifar10", ".", "downloads/manual"])
def test_cifar_archive(stand_ins, tmp_path, place):
    path = tmp_path / place / "cifar-10-binary.tar.gz"
    write_cifar_archive(path, stand_ins["cifar10"].payloads)
    dataset = data.load("cifar10", tmp_path)
    stand_ins["cifar10"].assert_loaded(dataset)
    assert f"CIFAR-10, original files, from {path}" in dataset.provenance


def test_cifar_folder(stand_ins, tmp_path):
    folder = tmp_path / "cifar10" / "cifar-10-batches-bin"
    write_cifar_folder(folder, stand_ins["cifar10"].payloads)
    dataset = data.load("cifar10", tmp_path)
    stand_ins["cifar10"].assert_loaded(dataset)
    assert f"original files, from {folder}" in dataset.provenance


def test_a_copy_of_cifar_is_loaded_and_called_so(stand_ins, tmp_path):
    payloads = dict(stand_ins["cifar10"].payloads)
    content = bytearray(payloads["test_batch.bin"])
    content[5] ^= 1
    payloads["test_batch.bin"] = bytes(content)
    write_cifar_folder(tmp_path / "cifar10" / "cifar-10-batches-bin", payloads)
    provenance = data.load("cifar10", tmp_path).provenance
    expected = digest(b"".join(payloads[n] for n in cifar.CIFAR10.files))[:16]
    assert f"CIFAR-10 format, payload sha256 {expected} (not the original files)" in provenance


def test_same_fingerprint_for_every_source(stand_ins, tmp_path):
    write_cifar_archive(tmp_path / "a" / cifar.CIFAR10.archive, stand_ins["cifar10"].payloads)
    write_cifar_folder(tmp_path / "b" / cifar.CIFAR10.folder, stand_ins["cifar10"].payloads)
    ends = {data.load("cifar10", tmp_path / f).provenance.split("; ")[1] for f in "ab"}
    assert len(ends) == 1


# Missing and damaged files: one sentence that names the file and says what to do


def fails(name, data_dir, *patterns):
    with pytest.raises(data.DataError) as caught:
        data.load(name, data_dir)
    message = str(caught.value)
    for pattern in patterns:
        assert pattern in message
    assert "\n" not in message
    assert not (data_dir / "cache" / f"{name}.npz").exists()


def test_nothing_there(tmp_path):
    for name in data.DATASETS:
        with pytest.raises(data.DataNotFoundError) as caught:
            data.load(name, tmp_path)
        message = str(caught.value)
        assert f"{name} is not in {tmp_path}; run `python -m experiments.prepare_data" in message
        assert f"{name} --data_dir={tmp_path}`" in message
        assert str(tmp_path / data.DATASETS[name].folders[0]) in message


def test_one_file_missing(stand_ins, tmp_path):
    write_idx(tmp_path / "mnist", stand_ins["mnist"].payloads)
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    fails("mnist", tmp_path, f"{tmp_path / 'mnist'} lacks t10k-labels-idx1-ubyte", "put the")
    folder = tmp_path / "cifar10" / cifar.CIFAR10.folder
    write_cifar_folder(folder, stand_ins["cifar10"].payloads)
    (folder / "data_batch_3.bin").unlink()
    fails("cifar10", tmp_path, f"{folder} lacks data_batch_3.bin", "unpack")


IMAGES = "train-images-idx3-ubyte"


@pytest.mark.parametrize(
    ("damage", "patterns"),
    [
        (lambda content: gz(content)[:-100], ("is truncated or damaged", "fetch it again")),
        (lambda content: gz(content)[:40] + b"?" + gz(content)[41:], ("is truncated or damaged",)),
        (
            lambda content: content[:-1],
            ("announces 31360 values", "holds 31359", "fetch the"),
        ),
        (lambda content: content[:3], ("is not an IDX file",)),
        (lambda content: b"", ("is not an IDX file",)),
        (lambda content: b"<html>not found</html>", ("is not an IDX file", "0x3c68746d")),
        (lambda content: content[:-1] + b"\1", ("is not MNIST's train-images", "checksum differs")),
        (lambda content: archives.idx_bytes(np.zeros((40, 28), np.uint8)), ("must have rank 3",)),
        (
            lambda content: archives.idx_bytes(np.zeros((41, 28, 28), np.uint8)),
            ("[41, 28, 28, 1]", "[40, 28, 28, 1]"),
        ),
    ],
)
def test_damaged_idx(stand_ins, tmp_path, damage, patterns):
    write_idx(tmp_path / "mnist", stand_ins["mnist"].payloads)
    damaged = damage(stand_ins["mnist"].payloads[IMAGES])
    if damaged == stand_ins["mnist"].payloads[IMAGES]:
        damaged = damaged[:-1] + b"\2"
    (tmp_path / "mnist" / f"{IMAGES}.gz").write_bytes(damaged)
    fails("mnist", tmp_path, str(tmp_path / "mnist"), *patterns)


def test_files_of_another_set(stand_ins, tmp_path):
    write_idx(tmp_path, stand_ins["fashion_mnist"].payloads)
    fails("mnist", tmp_path, f"{tmp_path / IMAGES}.gz is not MNIST's", "fetch the original again")


def test_unreadable_file(stand_ins, tmp_path):
    write_idx(tmp_path / "mnist", stand_ins["mnist"].payloads)
    path = tmp_path / "mnist" / f"{IMAGES}.gz"
    path.unlink()
    (tmp_path / "mnist" / IMAGES).symlink_to(path.parent)  # a folder in the file's place
    fails("mnist", tmp_path, f"lacks {IMAGES}")


def test_endless_file(stand_ins, tmp_path, monkeypatch):
    write_idx(tmp_path / "mnist", stand_ins["mnist"].payloads)
    monkeypatch.setattr(archives, "MAX_BYTES", 1000)
    fails("mnist", tmp_path, f"{IMAGES}.gz holds more than 1000 bytes", "fetch it")


@pytest.mark.parametrize(
    ("change", "patterns"),
    [
        (lambda c: c[:-1], ("data_batch_2.bin", "not a whole number of 3073-byte")),
        (lambda c: c[: 3073 * 6], ("[34, 32, 32, 3]", "[35, 32, 32, 3]")),
        (lambda c: b"\x0b" + c[1:], ("train_labels run from 0 to 11", "10 classes")),
        (lambda c: b"", ("data_batch_2.bin", "holds 0 bytes")),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_damaged_cifar(stand_ins, tmp_path, change, patterns, packed):
    payloads = dict(stand_ins["cifar10"].payloads)
    payloads["data_batch_2.bin"] = change(payloads["data_batch_2.bin"])
    if packed:
        write_cifar_archive(tmp_path / "cifar10" / cifar.CIFAR10.archive, payloads)
    else:
        write_cifar_folder(tmp_path / "cifar10" / cifar.CIFAR10.folder, payloads)
    fails("cifar10", tmp_path, str(tmp_path / "cifar10"), *patterns)


def test_truncated_cifar_archive(stand_ins, tmp_path):
    path = tmp_path / "cifar10" / cifar.CIFAR10.archive
    write_cifar_archive(path, stand_ins["cifar10"].payloads)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    fails("cifar10", tmp_path, f"{path} is truncated or damaged", "fetch it again")
    path.write_bytes(b"no archive")
    fails("cifar10", tmp_path, f"{path} is truncated or damaged", "fetch it again")


def test_cifar_archive_is_never_unpacked(stand_ins, tmp_path):
    """Paths that lead outside, links and huge members do nothing; only the batches are read."""
    payloads = stand_ins["cifar10"].payloads
    path = tmp_path / "data" / "cifar10" / cifar.CIFAR10.archive
    write_cifar_archive(
        path,
        payloads,
        extra=[("../../escaped.bin", b"1"), (f"{tmp_path}/absolute.bin", b"2")],
    )
    before = {p for p in tmp_path.rglob("*") if "cache" not in p.parts}
    stand_ins["cifar10"].assert_loaded(data.load("cifar10", tmp_path / "data"))
    assert {p for p in tmp_path.rglob("*") if "cache" not in p.parts} == before

    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    with pytest.raises(data.DataError, match=r"lacks cifar-10-batches-bin/data_batch_1.bin"):
        cifar.read_archive(cifar.CIFAR10, path)


def test_huge_member_is_refused_before_reading(stand_ins, tmp_path, monkeypatch):
    path = tmp_path / cifar.CIFAR10.archive
    write_cifar_archive(path, stand_ins["cifar10"].payloads)
    monkeypatch.setattr(archives, "MAX_BYTES", 1000)
    fails("cifar10", tmp_path, "data_batch_1.bin", "announces", "is no CIFAR-10 batch")


# Kept arrays


def test_second_start_reads_one_file_and_imports_little(stand_ins, tmp_path, monkeypatch):
    write_idx(tmp_path / "mnist", stand_ins["mnist"].payloads)
    first = data.load("mnist", tmp_path)
    monkeypatch.setattr(archives, "read_bytes", None)
    second = data.load("mnist", tmp_path)
    stand_ins["mnist"].assert_loaded(second)
    assert second.provenance == first.provenance
    assert second.class_names == first.class_names
    script = (
        "import sys; from cnn_jax import data; data.load('mnist', sys.argv[1]);"
        "assert not {'tensorflow_datasets', 'tensorflow', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)


def test_kept_arrays_survive_their_sources(stand_ins, tmp_path):
    write_idx(tmp_path / "mnist", stand_ins["mnist"].payloads)
    data.load("mnist", tmp_path)
    for file in (tmp_path / "mnist").iterdir():
        file.unlink()
    stand_ins["mnist"].assert_loaded(data.load("mnist", tmp_path))


def test_changed_source_makes_kept_arrays_stale(stand_ins, tmp_path):
    folder = tmp_path / "cifar10" / cifar.CIFAR10.folder
    write_cifar_folder(folder, stand_ins["cifar10"].payloads)
    before = data.load("cifar10", tmp_path)
    content = bytearray((folder / "test_batch.bin").read_bytes())
    content[1] ^= 255
    (folder / "test_batch.bin").write_bytes(content)
    after = data.load("cifar10", tmp_path)
    assert "not the original files" in after.provenance
    assert np.sum(before.test_images != after.test_images) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
        lambda content: b"",
    ],
)
def test_damaged_kept_arrays_are_made_again(stand_ins, tmp_path, damage):
    write_idx(tmp_path / "mnist", stand_ins["mnist"].payloads)
    data.load("mnist", tmp_path)
    kept = tmp_path / "cache" / "mnist.npz"
    kept.write_bytes(damage(kept.read_bytes()))
    with pytest.warns(data.DataWarning, match=r"mnist.npz can't be used \(damaged: .*again"):
        stand_ins["mnist"].assert_loaded(data.load("mnist", tmp_path))
    assert cache.read(kept) is not None


def test_other_format_of_kept_arrays_is_not_read(stand_ins, tmp_path, monkeypatch):
    write_idx(tmp_path / "mnist", stand_ins["mnist"].payloads)
    data.load("mnist", tmp_path)
    monkeypatch.setattr(cache, "_FORMAT", cache._FORMAT + 1)
    assert cache.read(tmp_path / "cache" / "mnist.npz") is None


def test_a_folder_that_cannot_be_written_is_no_obstacle(stand_ins, tmp_path, monkeypatch):
    write_idx(tmp_path / "mnist", stand_ins["mnist"].payloads)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(data.DataWarning, match=r"mnist.npz is not kept \(no space left\)"):
        stand_ins["mnist"].assert_loaded(data.load("mnist", tmp_path))
    assert list((tmp_path / "cache").iterdir()) == []


def test_very_large_sets_are_not_kept(stand_ins, tmp_path, monkeypatch):
    write_idx(tmp_path / "mnist", stand_ins["mnist"].payloads)
    monkeypatch.setattr(cache, "MAX_BYTES", 1000)
    stand_ins["mnist"].assert_loaded(data.load("mnist", tmp_path))
    assert not (tmp_path / "cache").exists()


# TensorFlow Datasets


@pytest.fixture
def tfds():
    """Imported where it is needed only: it takes seconds."""
    import tensorflow_datasets

    return tensorflow_datasets


def offer_manually(tfds, monkeypatch, name, folder, payloads):
    """Puts archives where TFDS looks for them, and registers their checksums."""
    base = getattr(tfds.image_classification, tfds_sets.CLASSES[name])
    infos = {}
    folder.mkdir(parents=True)
    if name == "cifar10":
        write_cifar_archive(folder / cifar.CIFAR10.archive, payloads)
    else:
        write_idx(folder, payloads)
    for url, known in base.url_infos.items():
        content = (folder / known.filename).read_bytes()
        infos[url] = type(known)(
            size=len(content), checksum=digest(content), filename=known.filename
        )
    monkeypatch.setattr(base, "url_infos", infos)


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_prepared_set_comes_in_file_order(tfds, stand_ins, tmp_path, monkeypatch, name):
    manual = tmp_path / "downloads" / "manual"
    offer_manually(tfds, monkeypatch, name, manual, stand_ins[name].payloads)
    folder = tfds_sets.prepare(name, tmp_path, data.DATASETS[name].class_names)
    for file in manual.iterdir():
        file.unlink()
    assert folder == tfds_sets.find(name, tmp_path)
    assert folder.parent == tmp_path / name

    # TFDS's own order is another one, under the official name.
    source = tfds.data_source(name, split="train", data_dir=tmp_path, download=False)
    labels = np.array([example["label"] for example in source])
    assert not np.array_equal(labels, stand_ins[name].train[1])

    dataset = data.load(name, tmp_path)
    stand_ins[name].assert_loaded(dataset)
    assert f"original files, prepared by TFDS in {folder}" in dataset.provenance
    assert "tensorflow" not in sys.modules

    # Anything but the values of the original files, in their order, is refused.
    changed = dict.fromkeys(data.DATASETS[name].payloads, "0" * 64)
    monkeypatch.setitem(
        originals.DATASETS, name, dataclasses.replace(data.DATASETS[name], payloads=changed)
    )
    (tmp_path / "cache" / f"{name}.npz").unlink()
    fails(name, tmp_path, f"{folder} does not hold the original", "prepare it again")

    for file in folder.glob("*train.array_record*"):
        file.write_bytes(file.read_bytes()[:100])
    fails(name, tmp_path, f"{folder} is not a readable TFDS set", "prepare it again")


def test_wrong_checksum_stops_the_preparation(tfds, stand_ins, tmp_path, monkeypatch):
    manual = tmp_path / "downloads" / "manual"
    offer_manually(tfds, monkeypatch, "mnist", manual, stand_ins["mnist"].payloads)
    (manual / f"{IMAGES}.gz").write_bytes(gz(stand_ins["mnist"].payloads[IMAGES][:-1] + b"\1"))
    with pytest.raises(
        data.DataError, match=r"TFDS could not prepare mnist.*wrong checksum"
    ) as caught:
        tfds_sets.prepare("mnist", tmp_path, data.DATASETS["mnist"].class_names)
    assert "\n" not in str(caught.value)
    assert tfds_sets.find("mnist", tmp_path) is None


def test_reading_follows_tfds_itself(tfds, tmp_path, monkeypatch):
    """TFDS's mock: its builder's features, its data source, random pictures."""
    builder = tfds.builder("mnist", data_dir=tmp_path)
    monkeypatch.setattr(tfds, "builder_from_directory", lambda folder: builder)
    with tfds.testing.mock_data(num_examples=6):
        expected = list(builder.as_data_source("train"))
        train, test = tfds_sets.read(tmp_path)
    order = tfds_sets.file_order("train", 6)
    for position, example in zip(order, expected, strict=True):
        np.testing.assert_array_equal(train[0][position], example["image"])
        assert train[1][position] == example["label"]
    assert test[0].shape == (6, 28, 28, 1)


def test_file_order_is_a_permutation_of_its_own_for_each_split():
    train, test = tfds_sets.file_order("train", 500), tfds_sets.file_order("test", 500)
    np.testing.assert_array_equal(np.sort(train), np.arange(500))
    assert not np.array_equal(train, test)


def test_a_set_prepared_for_tensorflow_is_not_taken_for_ours(
    tfds, stand_ins, tmp_path, monkeypatch
):
    manual = tmp_path / "downloads" / "manual"
    offer_manually(tfds, monkeypatch, "mnist", manual, stand_ins["mnist"].payloads)
    class_names = data.DATASETS["mnist"].class_names
    about = tfds_sets.prepare("mnist", tmp_path, class_names) / "dataset_info.json"
    about.write_text(about.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(data.DataError, match=r"only TensorFlow reads; choose another"):
        tfds_sets.prepare("mnist", tmp_path, class_names)


def test_only_readable_versions_are_found(stand_ins, tmp_path):
    for version, form in (
        ("3.0.1", "array_record"),
        ("2.9.9", "array_record"),
        ("3.0.2", "tfrecord"),
        ("10.0.0", None),
        ("incomplete.1_4.0.0", "array_record"),
    ):
        folder = tmp_path / "mnist" / version
        folder.mkdir(parents=True)
        content = "{" if form is None else json.dumps({"fileFormat": form})
        (folder / "dataset_info.json").write_text(content)
    assert tfds_sets.find("mnist", tmp_path) == tmp_path / "mnist" / "3.0.1"
    for version in ("3.0.1", "2.9.9", "incomplete.1_4.0.0"):
        (tmp_path / "mnist" / version / "dataset_info.json").unlink()
    fails("mnist", tmp_path, "in a form that can be read without TensorFlow", "prepare_data mnist")
    write_idx(tmp_path / "mnist", stand_ins["mnist"].payloads)
    stand_ins["mnist"].assert_loaded(data.load("mnist", tmp_path))


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mnist", ("mnist", {})),
        ("synthetic:size=32,noise=0.5", ("synthetic", {"size": 32, "noise": 0.5})),
        ("a/b:size=4", ("a/b", {"size": 4})),
        ("C:/pictures", ("C:/pictures", {})),
        ("own.npz:holdout=0.1,seed=2", ("own.npz", {"holdout": 0.1, "seed": 2})),
    ],
)
def test_names_and_options(name, expected):
    assert data.parse_name(name) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fashionmnist", r"no data set 'fashionmnist' \(did you mean 'fashion_mnist'\?\); choose"),
        ("", r"there is no data set ''; choose from fashion_mnist, mnist, cifar10"),
        ("synthetic:sise=3", r"'synthetic' has no option 'sise'; it has size, channels"),
        ("synthetic:size=x", r"option 'size' of data set 'synthetic' must be a whole number"),
        ("synthetic:noise=x", r"must be a number, got 'x'"),
        ("mnist:size=3", r"'mnist' has no option 'size'; it has none"),
        ("own.npz:size=3", r"has no option 'size'; it has holdout, seed"),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(data.DataError, match=message):
        data.parse_name(name)


# Statistics


def test_channel_statistics_are_exact():
    images = np.random.default_rng(0).integers(0, 256, (5000, 3, 4, 2), np.uint8)
    mean, std = data.channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-12)
    assert data.channel_statistics(np.full((2, 1, 1, 1), 51, np.uint8)) == ((0.2,), (0.0,))


def test_fingerprint_depends_on_values_shape_and_type():
    one = np.arange(6, dtype=np.int32)
    variants = [one, one.reshape(2, 3), one.astype(np.int16), one + np.int32(1)]
    assert len({data.fingerprint(v) for v in variants}) == 4
    assert data.fingerprint(one) == data.fingerprint(one.astype(">i4"))
    assert data.fingerprint(one.reshape(2, 3)) == data.fingerprint(one.reshape(3, 2).reshape(2, 3))
