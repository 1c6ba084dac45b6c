"""TensorFlow Datasets without TensorFlow: prepare a published set, and read a prepared one.

TFDS's builders read archives and encode PNG through TensorFlow; subclasses made here replace these
two steps. TFDS is imported inside the functions, because that takes seconds.

A prepared set is sorted by a hash of each example's key, which is its position in the original
files; `file_order` restores that order, and the caller compares checksums with the originals'.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import numpy as np

from cnn_jax import files, text
from cnn_jax.data import archives, cifar, memory
from cnn_jax.data.archives import Split
from cnn_jax.data.pictures import cannot_read
from cnn_jax.errors import DataError

MAX_ABOUT = 1 << 24  # bytes of a dataset_info.json

CLASSES = {"fashion_mnist": "FashionMNIST", "mnist": "MNIST", "cifar10": "Cifar10"}


def find(name: str, data_dir: Path) -> Path | None:
    """The newest version of `name` that TFDS prepared under `data_dir` as array_record, or None.

    Other formats (TFRecord) cannot be read without TensorFlow.
    """
    versions: dict[tuple[int, ...], Path] = {}
    if name not in CLASSES:
        return None
    for about in (data_dir / name).glob("*/dataset_info.json"):
        parts = about.parent.name.split(".")
        try:
            content = json.loads(files.read_bytes(about, MAX_ABOUT))
            if content["fileFormat"] == "array_record":
                versions[tuple(map(int, parts))] = about.parent
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # another format, an unfinished preparation, or no set at all
    return versions[max(versions)] if versions else None


def file_order(split: str, n: int) -> np.ndarray:
    """For each record of a prepared split, its example's position in the original files `[n]`.

    TFDS sorts records by the MD5 of the split's name followed by the key.
    """
    salt = hashlib.md5(split.encode(), usedforsecurity=False)

    def hashed(key: int) -> bytes:
        digest = salt.copy()
        digest.update(str(key).encode())
        return digest.digest()

    return np.array(sorted(range(n), key=hashed), np.int64)


def read(folder: Path) -> tuple[Split, Split]:
    """Reads the set prepared in `folder` to (train, test), in the order of the original files.

    Raises:
      DataError: the files are incomplete or damaged.
    """
    import tensorflow_datasets as tfds

    def arrays(split: str) -> Split:
        source = made.as_data_source(split)
        order = file_order(split, len(source))
        shape = (len(source), *made.info.features["image"].shape)
        memory.check_fits(math.prod(shape), str(folder), "end other programs")
        images = np.empty(shape, np.uint8)
        labels = np.empty(len(source), np.uint8)
        for position, example in zip(order, source, strict=True):
            images[position], labels[position] = example["image"], example["label"]
        return images, labels

    try:
        made = tfds.builder_from_directory(folder)
        return arrays("train"), arrays("test")
    except (DataError, MemoryError):
        raise
    except Exception as error:  # TFDS and array_record raise whatever fits them
        if isinstance(error, OSError) and error.errno is not None:
            raise cannot_read(error.filename or folder, error) from error
        sentence = text.one_line(" ".join(str(error).split()))
        raise DataError(
            f"{folder} is not a readable TFDS set ({type(error).__name__}: {sentence}); prepare it "
            "again in another data_dir."
        ) from error


def url(name: str) -> str:
    """The address of the first file that TFDS would download for `name`."""
    import tensorflow_datasets as tfds

    return min(getattr(tfds.image_classification, CLASSES[name]).url_infos)


def builder(name: str, data_dir: Path, class_names: tuple[str, ...]) -> Any:
    """TFDS's builder of `name`, with its URLs, checksums and features, free of TensorFlow."""
    import PIL.Image
    import tensorflow_datasets as tfds

    def examples(split: Split, prefix: str | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, (image, label) in enumerate(zip(*split, strict=True)):
            picture = PIL.Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
            identity = {} if prefix is None else {"id": f"{prefix}_{key:05d}"}
            yield key, {"image": picture, "label": int(label), **identity}

    def idx_splits(self: Any, manager: Any) -> dict[str, Any]:
        paths = manager.download({n: urljoin(self.URL, f"{n}.gz") for n in archives.IDX_FILES})
        found = {file: Path(path) for file, path in paths.items()}
        train, test = archives.decode_idx_set(
            {n: archives.Payload(archives.read_bytes(file), file) for n, file in found.items()}
        )
        return {"train": examples(train), "test": examples(test)}

    def cifar_splits(self: Any, manager: Any) -> dict[str, Any]:
        path = Path(manager.download(self._cifar_info.url))
        self.info.features["label"].names = class_names
        train, test = cifar.decode_set(cifar.CIFAR10, cifar.read_archive(cifar.CIFAR10, path))
        return {"train": examples(train, "train"), "test": examples(test, "test")}

    base = getattr(tfds.image_classification, CLASSES[name])
    members = {
        "__module__": __name__,
        "name": name,
        "url_infos": base.url_infos,
        "_split_generators": cifar_splits if name == "cifar10" else idx_splits,
    }
    return type(base)(base.__name__, (base,), members, skip_registration=True)(data_dir=data_dir)


def prepare(name: str, data_dir: Path, class_names: tuple[str, ...]) -> Path:
    """Downloads `name` through TFDS, checks its checksums, and returns the prepared set's folder.

    Archives under their own names in `<data_dir>/downloads/manual` are taken instead of a download.

    Raises:
      DataError: the download or a checksum fails.
    """
    import tensorflow_datasets as tfds

    made = builder(name, data_dir, class_names)
    try:
        made.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(
                try_download_gcs=False, force_checksums_validation=True
            ),
        )
    except DataError:
        raise
    except Exception as error:  # network, checksum and disk errors, each of its own type
        sentence = " ".join(str(error).split())
        raise DataError(
            f"TFDS could not prepare {name} ({type(error).__name__}: {sentence}); try again, or "
            f"put the original archives into {data_dir / name}."
        ) from error
    folder = Path(made.data_dir)
    if find(name, data_dir) is None:
        raise DataError(
            f"{folder} was prepared earlier in a form that only TensorFlow reads; choose another "
            "data_dir."
        )
    return folder
