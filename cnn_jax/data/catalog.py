"""The data sets known by name, and `load`, the one way to all of them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from cnn_jax.data import archives, cache
from cnn_jax.data.dataset import DataError, Dataset, make_dataset

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


def load(name: str, data_dir: str | Path | None = None) -> Dataset:
    """Loads a data set as uint8 arrays in its canonical order.

    Raises:
      DataError: one sentence that names the file and says what to do.
    """
    folder = Path(DEFAULT_DATA_DIR if data_dir is None else data_dir).expanduser()
    return _load_published(name, folder)


def _load_published(name: str, data_dir: Path) -> Dataset:
    cached = data_dir / "cache" / f"{name}.npz"
    dataset = cache.read(cached)
    if dataset is None:
        dataset, sources = _from_archives(name, data_dir)
        cache.write(cached, dataset, sources)
    return dataset


def _from_archives(name: str, data_dir: Path) -> tuple[Dataset, list[Path]]:
    info = DATASETS[name]
    for folder in (data_dir / name, data_dir, data_dir / "downloads" / "manual"):
        if name == "cifar10":
            for source in (folder / archives.CIFAR_FOLDER, folder / archives.CIFAR_ARCHIVE):
                if source.exists():
                    payloads = archives.read_cifar_members(source)
                    train, test = archives.decode_cifar_set(payloads, source)
                    files = (
                        [source / n for n in archives.CIFAR_FILES] if source.is_dir() else [source]
                    )
                    original = all(
                        archives.digest_matches(payloads[n], d) for n, d in info.payloads.items()
                    )
                    what = "original files" if original else "not the original files"
                    return make_dataset(
                        train, test, info.class_names, f"CIFAR-10 format ({what}) from {source}"
                    ), files
        elif all((folder / f"{n}.gz").exists() for n in archives.IDX_FILES):
            paths = {n: folder / f"{n}.gz" for n in archives.IDX_FILES}
            payloads = {n: archives.read_bytes(p) for n, p in paths.items()}
            train, test = archives.decode_idx_set(payloads, paths)
            return make_dataset(train, test, info.class_names, f"{info.title} from {folder}"), list(
                paths.values()
            )
    raise DataError(
        f"{name} is not in {data_dir}; run `python -m experiments.prepare_data {name}`."
    )
