"""The facts about each published data set, and how its original files are read."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from cnn_jax.data import archives, cifar, emnist
from cnn_jax.data.archives import Payload, Split


@dataclasses.dataclass(frozen=True)
class Format:
    """How the original files of a published set are read, decoded and written again."""

    files: str
    names: tuple[str, ...]  # of all files that may be read, in their folder
    read: Callable[[Path], dict[str, Payload] | None]
    decode: Callable[[Mapping[str, Payload]], tuple[Split, Split]]
    encode: Callable[[Split, Split], dict[str, bytes]]
    copies_allowed: bool  # other contents in the same format are loaded, and described as such


_IDX = Format(
    files=f"{', '.join(archives.IDX_FILES)} (plain or .gz)",
    names=tuple(v for name in archives.IDX_FILES for v in archives.name_variants(name)),
    read=archives.read_idx_set,
    decode=archives.decode_idx_set,
    encode=archives.encode_idx_set,
    copies_allowed=False,
)
# Checksums are known of the packed files only.
_PACKED_IDX = dataclasses.replace(
    _IDX, read=functools.partial(archives.read_idx_set, packed_first=True), copies_allowed=True
)


def _cifar_format(form: cifar.Form) -> Format:
    return Format(
        files=f"{form.archive} (or {form.pickled_archive}) or the folder {form.folder}",
        names=form.names,
        read=functools.partial(cifar.read_set, form),
        decode=functools.partial(cifar.decode_set, form),
        encode=functools.partial(cifar.encode_set, form),
        copies_allowed=True,
    )


def _emnist_format(split: str) -> Format:
    return Format(
        files=f"{emnist.ARCHIVES[0]} (or its files emnist-{split}-…)",
        names=emnist.list_names(split),
        read=functools.partial(emnist.read_set, split),
        decode=functools.partial(emnist.decode_set, split),
        encode=functools.partial(emnist.encode_set, split),
        copies_allowed=True,
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
    # Where its files are looked for in the data folder; fetched ones go to the first.
    folders: tuple[str, ...]
    # MD5 or SHA-256 of each original file, decompressed; empty where they aren't known.
    payloads: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # MD5 or SHA-256 of files as they are published, packed.
    packed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    urls: tuple[str, ...] = ()  # of what is fetched where TFDS doesn't: files of `packed`


_CLOTHES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
_CIFAR10 = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"

_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""


def _idx_payloads(*digests: str) -> dict[str, str]:
    return dict(zip(archives.IDX_FILES, digests, strict=True))


DATASETS: dict[str, Info] = {
    "fashion_mnist": Info(
        title="Fashion-MNIST",
        folders=("fashion_mnist", ".", "downloads/manual", "FashionMNIST/raw"),
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
        folders=("mnist", ".", "downloads/manual", "MNIST/raw"),
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
        format=_cifar_format(cifar.CIFAR10),
        folders=("cifar10", ".", "downloads/manual"),
        payloads={
            "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
            "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
            "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
            "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
            "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
            "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
        },
    ),
    "cifar100": Info(
        title="CIFAR-100",
        image_shape=(32, 32, 3),
        class_names=tuple(_CIFAR100.split()),
        train_size=50_000,
        test_size=10_000,
        format=_cifar_format(cifar.CIFAR100),
        folders=("cifar100", ".", "downloads/manual"),
        packed={
            "cifar-100-binary.tar.gz": (
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"
            ),
            "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
            "train": "16019d7e3df5f24257cddd939b257f8d",  # of the archive for Python
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        },
        urls=("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
    ),
    "kmnist": Info(
        title="KMNIST",
        image_shape=(28, 28, 1),
        class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        train_size=60_000,
        test_size=10_000,
        format=_PACKED_IDX,
        folders=("kmnist", "KMNIST/raw"),
        packed={
            "train-images-idx3-ubyte.gz": (
                "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4"
            ),
            "train-labels-idx1-ubyte.gz": (
                "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17"
            ),
            "t10k-images-idx3-ubyte.gz": (
                "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5"
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c"
            ),
        },
        urls=tuple(
            f"http://codh.rois.ac.jp/kmnist/dataset/kmnist/{name}.gz" for name in archives.IDX_FILES
        ),
    ),
}


def _emnist(split: str, train_size: int, test_size: int) -> Info:
    digest = "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e"
    return Info(
        title=f"EMNIST {split}",
        image_shape=(28, 28, 1),
        class_names=tuple(emnist.CLASSES[split]),
        train_size=train_size,
        test_size=test_size,
        format=_emnist_format(split),
        folders=("emnist", "EMNIST/raw"),
        packed=dict.fromkeys(emnist.ARCHIVES, digest),
        urls=("https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",),
    )


DATASETS |= {
    "emnist": _emnist("balanced", 112_800, 18_800),
    "emnist_byclass": _emnist("byclass", 697_932, 116_323),
    "emnist_bymerge": _emnist("bymerge", 697_932, 116_323),
    "emnist_letters": _emnist("letters", 124_800, 20_800),
    "emnist_digits": _emnist("digits", 240_000, 40_000),
    "emnist_mnist": _emnist("mnist", 60_000, 10_000),
}
