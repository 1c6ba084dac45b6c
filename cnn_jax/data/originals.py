"""The published data sets: the facts about each, and how it is found on disk and checked."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from cnn_jax.data import archives, cache, tfds
from cnn_jax.data.archives import Payload, Split
from cnn_jax.data.dataset import Dataset, make_dataset
from cnn_jax.errors import DataError, DataNotFoundError

DEFAULT_DATA_DIR = "data"


@dataclasses.dataclass(frozen=True)
class Format:
    """How the original files of a published set are read, decoded and written again."""

    files: str
    names: tuple[str, ...]  # of all files that may be read, in their folder
    read: Callable[[Path], dict[str, Payload] | None]
    decode: Callable[[Mapping[str, Payload]], tuple[Split, Split]]
    encode: Callable[[Split, Split], dict[str, bytes]]
    copies_allowed: bool  # other contents in the same format are loaded, and described as such
    refused: tuple[str, ...] = ()  # variants that cannot be read safely


_IDX = Format(
    files=f"{', '.join(archives.IDX_FILES)} (plain or .gz)",
    names=(*archives.IDX_FILES, *(f"{name}.gz" for name in archives.IDX_FILES)),
    read=archives.read_idx_set,
    decode=archives.decode_idx_set,
    encode=archives.encode_idx_set,
    copies_allowed=False,
)
_CIFAR = Format(
    files=f"{archives.CIFAR_ARCHIVE} or the folder {archives.CIFAR_FOLDER}",
    names=(
        archives.CIFAR_ARCHIVE,
        *(f"{archives.CIFAR_FOLDER}/{name}" for name in archives.CIFAR_FILES),
    ),
    read=archives.read_cifar_set,
    decode=archives.decode_cifar_set,
    encode=archives.encode_cifar_set,
    copies_allowed=True,
    refused=archives.CIFAR_PICKLES,
)


@dataclasses.dataclass(frozen=True)
class Info:
    """The facts about a data set before it is loaded."""

    title: str
    image_shape: tuple[int, int, int]  # height, width, channels
    class_names: tuple[str, ...]
    train_size: int
    test_size: int
    format: Format
    payloads: Mapping[str, str]  # MD5 or SHA-256 of each original file, decompressed


_CLOTHES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
_CIFAR10 = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"


def _idx_payloads(*digests: str) -> dict[str, str]:
    return dict(zip(archives.IDX_FILES, digests, strict=True))


DATASETS: dict[str, Info] = {
    "fashion_mnist": Info(
        title="Fashion-MNIST",
        image_shape=(28, 28, 1),
        class_names=tuple(_CLOTHES.split(",")),
        train_size=60_000,
        test_size=10_000,
        format=_IDX,
        payloads=_idx_payloads(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
    "mnist": Info(
        title="MNIST",
        image_shape=(28, 28, 1),
        class_names=tuple("0123456789"),
        train_size=60_000,
        test_size=10_000,
        format=_IDX,
        payloads=_idx_payloads(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "cifar10": Info(
        title="CIFAR-10",
        image_shape=(32, 32, 3),
        class_names=tuple(_CIFAR10.split(",")),
        train_size=50_000,
        test_size=10_000,
        format=_CIFAR,
        payloads={
            "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
            "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
            "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
            "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
            "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
            "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
        },
    ),
}


def load_published(name: str, data_dir: Path, keep: bool = True) -> Dataset:
    """Loads a set of `DATASETS` from kept arrays, a TFDS set or original files in `data_dir`.

    With `keep`, decoded arrays are written there.
    """
    cached = data_dir / "cache" / f"{name}.npz"
    if (kept := cache.read(cached)) is not None:
        return kept.dataset
    dataset, sources = _read_prepared(name, data_dir) or _read_archives(name, data_dir)
    if keep:
        cache.write(cached, cache.Kept(dataset), sources)
    return dataset


def _read_prepared(name: str, data_dir: Path) -> tuple[Dataset, cache.Snapshot] | None:
    """Reads a set that TFDS prepared, which must have the checksums of the originals."""
    folder = tfds.find(name, data_dir)
    if folder is None:
        return None
    info = DATASETS[name]
    sources = cache.snapshot(sorted(folder.iterdir()))
    train, test = tfds.read(folder)
    _check_shapes(info, train, test, folder)
    for file, content in info.format.encode(train, test).items():
        if not archives.matches(content, info.payloads[file]):
            raise DataError(
                f"{folder} does not hold the original {info.title} ({file} differs); prepare it "
                "again in another data_dir."
            )
    origin = f"{info.title}, original files, prepared by TFDS in {folder}"
    return make_dataset(train, test, info.class_names, origin), sources


def _read_archives(name: str, data_dir: Path) -> tuple[Dataset, cache.Snapshot]:
    info = DATASETS[name]
    folders = (data_dir / name, data_dir, data_dir / "downloads" / "manual")
    for folder in folders:
        states = cache.snapshot(folder / n for n in info.format.names)
        payloads = info.format.read(folder)
        if payloads is not None:
            break
    else:
        refused = [f / n for f in folders for n in info.format.refused if (f / n).exists()]
        raise DataNotFoundError(
            f"{refused[0]} is the pickled variant of {info.title}, which could run any code when "
            f"it is read and is refused; put {info.format.files} into {data_dir / name} instead."
            if refused
            else _how_to_get(name, info, data_dir)
        )
    files = list(dict.fromkeys(payload.file for payload in payloads.values()))
    sources = {file: states[file] for file in files}
    train, test = info.format.decode(payloads)
    _check_shapes(info, train, test, folder)
    strangers = [
        n
        for n, digest in info.payloads.items()
        if not archives.matches(payloads[n].content, digest)
    ]
    if not strangers:
        what = f"{info.title}, original files"
    elif info.format.copies_allowed:
        contents = b"".join(payloads[n].content for n in info.payloads)
        digest = hashlib.sha256(contents).hexdigest()
        what = f"{info.title} format, payload sha256 {digest[:16]} (not the original files)"
    else:
        raise DataError(
            f"{payloads[strangers[0]].where} is not {info.title}'s {strangers[0]} (its checksum "
            "differs); fetch the original again, or load other data as an .npz."
        )
    origin = f"{what}, from {files[0] if len(files) == 1 else files[0].parent}"
    return make_dataset(train, test, info.class_names, origin), sources


def _check_shapes(info: Info, train: Split, test: Split, where: Path) -> None:
    for part, (images, _), size in (
        ("training", train, info.train_size),
        ("test", test, info.test_size),
    ):
        if images.shape != (size, *info.image_shape):
            raise DataError(
                f"{where} holds {part} images of shape {list(images.shape)}, but {info.title} has "
                f"{[size, *info.image_shape]}; fetch the original files again."
            )


def _how_to_get(name: str, info: Info, data_dir: Path) -> str:
    flag = "" if data_dir == Path(DEFAULT_DATA_DIR) else f" --data_dir={data_dir}"
    other_format = any((data_dir / name).glob("*/dataset_info.json"))
    return (
        f"{name} is not in {data_dir}"
        + (" in a form that can be read without TensorFlow" if other_format else "")
        + f"; run `python -m experiments.prepare_data {name}{flag}`, or put "
        f"{info.format.files} into {data_dir / name}."
    )
