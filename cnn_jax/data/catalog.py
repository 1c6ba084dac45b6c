"""The data sets known by name, and `load`, the one way to all of them."""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cnn_jax.data import archives, cache, prepared
from cnn_jax.data.archives import Payload, Split
from cnn_jax.data.dataset import DataError, DataNotFoundError, Dataset, make_dataset
from cnn_jax.data.mini import load_mini
from cnn_jax.data.own import folder_files, load_folder, load_npz
from cnn_jax.data.shapes import synthetic

DEFAULT_DATA_DIR = "data"


@dataclasses.dataclass(frozen=True)
class Info:
    """What is known about a data set before it is loaded.

    Attributes:
      title: the name people use.
      image_shape: height, width, channels.
      class_names: one name per label.
      train_size: number of training examples.
      test_size: number of test examples.
      mean: of the training pixels per channel, on the scale 0 to 1.
      std: standard deviation of the training pixels per channel, on the scale 0 to 1.
      payloads: MD5 or SHA-256 of each original file after decompression.
    """

    title: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    train_size: int
    test_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    payloads: Mapping[str, str]


_CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

DATASETS: dict[str, Info] = {
    "fashion_mnist": Info(
        title="Fashion-MNIST",
        image_shape=(28, 28, 1),
        class_names=_CLOTHES,
        train_size=60_000,
        test_size=10_000,
        mean=(0.2860,),
        std=(0.3530,),
        payloads={
            "train-images-idx3-ubyte": (
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
            ),
            "train-labels-idx1-ubyte": (
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
            ),
            "t10k-images-idx3-ubyte": (
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
            ),
            "t10k-labels-idx1-ubyte": (
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
            ),
        },
    ),
    "mnist": Info(
        title="MNIST",
        image_shape=(28, 28, 1),
        class_names=tuple("0123456789"),
        train_size=60_000,
        test_size=10_000,
        mean=(0.1307,),
        std=(0.3081,),
        payloads={
            "train-images-idx3-ubyte": (
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
            ),
            "train-labels-idx1-ubyte": (
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
            ),
            "t10k-images-idx3-ubyte": (
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
            ),
            "t10k-labels-idx1-ubyte": (
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
            ),
        },
    ),
    "cifar10": Info(
        title="CIFAR-10",
        image_shape=(32, 32, 3),
        class_names=(
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ),
        train_size=50_000,
        test_size=10_000,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
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


@dataclasses.dataclass(frozen=True)
class _Format:
    """How the original files of a published set are read, decoded and written again."""

    files: str
    read: Callable[[Path], dict[str, Payload] | None]
    decode: Callable[[Mapping[str, Payload]], tuple[Split, Split]]
    encode: Callable[[Split, Split], dict[str, bytes]]
    copies_allowed: bool  # other contents in the same format are loaded, and called so


_IDX = _Format(
    files=f"{', '.join(archives.IDX_FILES)} (plain or .gz)",
    read=archives.read_idx_set,
    decode=archives.decode_idx_set,
    encode=archives.encode_idx_set,
    copies_allowed=False,
)
_CIFAR = _Format(
    files=f"{archives.CIFAR_ARCHIVE} or the folder {archives.CIFAR_FOLDER}",
    read=archives.read_cifar_set,
    decode=archives.decode_cifar_set,
    encode=archives.encode_cifar_set,
    copies_allowed=True,
)
_FORMATS = {"fashion_mnist": _IDX, "mnist": _IDX, "cifar10": _CIFAR}

NAMES = (*DATASETS, "fashion_mnist_mini", "synthetic")
_OPTIONS = {
    "synthetic": ("size", "channels", "classes", "train", "test", "noise", "seed"),
    "folder": ("size", "channels", "holdout", "seed"),
    "npz": ("holdout", "seed"),
}


def parse_name(name: str) -> tuple[str, dict[str, Any]]:
    """Splits `NAME` or `NAME:key=value,…` into the name and its options.

    >>> parse_name("synthetic:size=32,channels=3")
    ('synthetic', {'size': 32, 'channels': 3})

    Raises:
      DataError: on an unknown name or option, with the nearest right one. A path is not looked up.
    """
    kind, colon, tail = name.rpartition(":")
    if not colon or "=" not in tail:
        kind, tail = name, ""
    is_path = "/" in kind or kind.endswith(".npz") or kind in (".", "..", "~")
    if not is_path and kind not in NAMES:
        near = difflib.get_close_matches(kind, NAMES, n=1)
        raise DataError(
            f"there is no data set {kind!r}"
            + (f", did you mean {near[0]!r}?" if near else ";")
            + f" Choose from {', '.join(NAMES)}, or give a path with a / to your own."
        )
    allowed = _OPTIONS.get("npz" if kind.endswith(".npz") else "folder" if is_path else kind, ())
    options: dict[str, Any] = {}
    for item in tail.split(",") if tail else ():
        key, _, value = item.partition("=")
        if key not in allowed:
            raise DataError(
                f"data set {kind!r} has no option {key!r}; "
                + (f"it has {', '.join(allowed)}." if allowed else "it has none.")
            )
        number = float if key in ("noise", "holdout") else int
        try:
            options[key] = number(value)
        except ValueError:
            raise DataError(
                f"option {key!r} of data set {kind!r} must be "
                f"{'a number' if number is float else 'a whole number'}, got {value!r}."
            ) from None
    return kind, options


def load(name: str, data_dir: str | Path | None = None) -> Dataset:
    """Loads a data set as uint8 arrays in its canonical order.

    `name` is one of

    - `fashion_mnist`, `mnist`, `cifar10`: looked for in `data_dir` as decoded arrays that an
      earlier call kept, as a set prepared by TFDS, as the original archives, in this order. The
      canonical order is that of the original files, whichever of these is found. Nothing is ever
      downloaded here; `python -m experiments.prepare_data` does that.
    - `fashion_mnist_mini`: 2,000 + 1,000 images of Fashion-MNIST that come with the package.
    - `synthetic` or, for example, `synthetic:size=32,channels=3,train=512`: see `synthetic`.
    - the path of a folder of class folders, or of an .npz: see `load_folder` and `load_npz`, whose
      arguments may follow as in `pictures/flowers:size=64,holdout=0.1`.

    Args:
      name: the data set.
      data_dir: where published sets and decoded arrays are kept; None is `./data`.

    Raises:
      DataError: one sentence that names the file and says what to do.
    """
    kind, options = parse_name(name)
    folder = Path(DEFAULT_DATA_DIR if data_dir is None else data_dir).expanduser()
    if kind in DATASETS:
        return _load_published(kind, folder)
    if kind == "fashion_mnist_mini":
        return load_mini()
    if kind == "synthetic":
        return synthetic(**options)
    path = Path(kind).expanduser()
    if path.suffix == ".npz":
        return load_npz(path, **options)
    return _load_pictures(path, folder, options)


def _load_published(name: str, data_dir: Path) -> Dataset:
    cached = data_dir / "cache" / f"{name}.npz"
    dataset = cache.read(cached)
    if dataset is None:
        dataset, sources = _read_prepared(name, data_dir) or _read_archives(name, data_dir)
        cache.write(cached, dataset, sources)
    return dataset


def _read_prepared(name: str, data_dir: Path) -> tuple[Dataset, list[Path]] | None:
    """From a set that TFDS prepared; it is always the originals, so the checksums must agree."""
    folder = prepared.find(name, data_dir)
    if folder is None:
        return None
    info = DATASETS[name]
    train, test = prepared.read(folder)
    _check_shapes(info, train, test, folder)
    for file, content in _FORMATS[name].encode(train, test).items():
        if not archives.matches(content, info.payloads[file]):
            raise DataError(
                f"{folder} does not hold the original {info.title} ({file} differs); delete the "
                "folder and prepare it again."
            )
    origin = f"{info.title}, original files, prepared by TFDS in {folder}"
    return make_dataset(train, test, info.class_names, origin), sorted(folder.iterdir())


def _read_archives(name: str, data_dir: Path) -> tuple[Dataset, list[Path]]:
    info, form = DATASETS[name], _FORMATS[name]
    for folder in (data_dir / name, data_dir, data_dir / "downloads" / "manual"):
        payloads = form.read(folder)
        if payloads is not None:
            break
    else:
        raise DataNotFoundError(_how_to_get(name, data_dir))
    train, test = form.decode(payloads)
    _check_shapes(info, train, test, folder)
    sources = list(dict.fromkeys(payload.file for payload in payloads.values()))
    strangers = [
        n
        for n, digest in info.payloads.items()
        if not archives.matches(payloads[n].content, digest)
    ]
    if not strangers:
        what = f"{info.title}, original files"
    elif form.copies_allowed:
        contents = b"".join(payloads[n].content for n in info.payloads)
        digest = hashlib.sha256(contents).hexdigest()
        what = f"{info.title} format, payload sha256 {digest[:16]} (not the original files)"
    else:
        raise DataError(
            f"{payloads[strangers[0]].where} is not {info.title}'s {strangers[0]} (its checksum "
            "differs); delete it and fetch the original again, or load other data as an .npz."
        )
    origin = f"{what}, from {sources[0] if len(sources) == 1 else sources[0].parent}"
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


def _how_to_get(name: str, data_dir: Path) -> str:
    flag = "" if data_dir == Path(DEFAULT_DATA_DIR) else f" --data_dir={data_dir}"
    other_format = any((data_dir / name).glob("*/dataset_info.json"))
    return (
        f"{name} is not in {data_dir}"
        + (" in a form that can be read without TensorFlow" if other_format else "")
        + f"; run `python -m experiments.prepare_data {name}{flag}`, or put "
        f"{_FORMATS[name].files} into {data_dir / name}."
    )


def _load_pictures(path: Path, data_dir: Path, options: dict[str, Any]) -> Dataset:
    """A folder of pictures, kept decoded like the published sets."""
    if not path.is_dir():
        raise DataNotFoundError(
            f"{path} does not exist or is no folder; give a folder of class folders or an .npz."
        )
    identity = json.dumps([str(path.resolve()), sorted(options.items())])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    cached = data_dir / "cache" / f"{path.resolve().name}-{digest}.npz"
    dataset = cache.read(cached)
    if dataset is None:
        sources = folder_files(path)  # listed first: what changes meanwhile makes the cache stale
        dataset = load_folder(path, **options)
        cache.write(cached, dataset, sources)
    return dataset
