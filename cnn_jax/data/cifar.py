"""CIFAR-10 and CIFAR-100, from their binary files or from those for Python.

A binary record is the label, in CIFAR-100 the coarse and the fine one, then the red, green and blue
planes. What is read from a pickle is made into such records, which the binary files' checksums fit.
"""

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnn_jax import text
from cnn_jax.data import archives, memory, pickles
from cnn_jax.data.archives import Payload, Split, read_bytes, reading
from cnn_jax.errors import DataError

PLANES = 3 * 32 * 32  # bytes of an image


class Form(NamedTuple):
    """The files of a set; the last is the test part's."""

    title: str
    folder: str
    archive: str
    files: tuple[str, ...]
    pickled_folder: str
    pickled_archive: str
    pickled_files: tuple[str, ...]  # in the order of `files`
    labels: tuple[str, ...]  # what a record's labels are called in a pickle; the last one counts

    @property
    def names(self) -> tuple[str, ...]:
        """All that may be read."""
        return (
            self.archive,
            *(f"{self.folder}/{name}" for name in self.files),
            self.pickled_archive,
            *(f"{self.pickled_folder}/{name}" for name in self.pickled_files),
        )


CIFAR10 = Form(
    title="CIFAR-10",
    folder="cifar-10-batches-bin",
    archive="cifar-10-binary.tar.gz",
    files=(*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"),
    pickled_folder="cifar-10-batches-py",
    pickled_archive="cifar-10-python.tar.gz",
    pickled_files=(*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"),
    labels=("labels",),
)
CIFAR100 = Form(
    title="CIFAR-100",
    folder="cifar-100-binary",
    archive="cifar-100-binary.tar.gz",
    files=("train.bin", "test.bin"),
    pickled_folder="cifar-100-python",
    pickled_archive="cifar-100-python.tar.gz",
    pickled_files=("train", "test"),
    labels=("coarse_labels", "fine_labels"),
)


def parse_records(form: Form, payload: Payload) -> Split:
    """Decodes records to images `[n, 32, 32, 3]` and labels `[n]`."""
    size, record = len(payload.content), len(form.labels) + PLANES
    if not size or size % record:
        raise DataError(
            f"{payload.where} holds {size} bytes, not a whole number of {record}-byte "
            f"{form.title} records; fetch the original again."
        )
    rows = np.frombuffer(payload.content, np.uint8).reshape(-1, record)
    images = rows[:, -PLANES:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), rows[:, len(form.labels) - 1].copy()


def make_records(form: Form, images: np.ndarray, labels: np.ndarray) -> bytes:
    """The records of uint8 images and labels: the inverse of `parse_records`.

    Of two labels the first, which `parse_records` leaves out, is 0.
    """
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    columns = np.zeros((len(images), len(form.labels)), np.uint8)
    columns[:, -1] = labels
    return np.concatenate([columns, planes], axis=1).tobytes()


def read_pickle(form: Form, content: bytes, where: str) -> bytes:
    """The records of a pickled batch, of which nothing is run.

    Raises:
      DataError: it isn't one.
    """
    try:
        batch = pickles.read(content)
        planes = batch["data"]
        labels = [np.array(batch[name]) for name in form.labels]
        if planes.dtype != np.uint8 or planes.shape[1:] != (PLANES,):
            raise ValueError(f"its data are {planes.dtype} {list(planes.shape)}")
        if any(x.shape != planes.shape[:1] or x.dtype.kind not in "iu" for x in labels):
            raise ValueError("its labels aren't one whole number for each image")
        if any(x.min(initial=0) < 0 or x.max(initial=0) > 255 for x in labels):
            raise ValueError("its labels aren't all between 0 and 255")
    except (MemoryError, RecursionError) as error:
        raise memory.too_large(where) from error
    except Exception as error:  # damage may make anything of it
        raise DataError(
            f"{where} is not a {form.title} batch ({text.one_line(str(error))[:120]}); fetch the "
            "original again."
        ) from error
    columns = np.stack(labels, 1).astype(np.uint8)
    return np.concatenate([columns, planes], axis=1).tobytes()


def read_set(form: Form, folder: Path) -> dict[str, Payload] | None:
    """Reads the files, unpacked or in their archive; None when none of them is in `folder`."""
    if (folder / form.folder).is_dir():
        found = _find_all(folder / form.folder, form.files, form.archive)
        return {name: Payload(read_bytes(file), file) for name, file in found.items()}
    if (folder / form.archive).is_file():
        return read_archive(form, folder / form.archive)
    if (folder / form.pickled_folder).is_dir():
        found = _find_all(folder / form.pickled_folder, form.pickled_files, form.pickled_archive)
        return {
            name: Payload(read_pickle(form, read_bytes(file), str(file)), file)
            for name, file in zip(form.files, found.values(), strict=True)
        }
    if (folder / form.pickled_archive).is_file():
        return read_pickled_archive(form, folder / form.pickled_archive)
    return None


def _find_all(folder: Path, names: tuple[str, ...], archive: str) -> dict[str, Path]:
    found = {name: folder / name for name in names}
    missing = [name for name, file in found.items() if not file.is_file()]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)}; unpack {archive} again.")
    return found


def read_archive(form: Form, path: Path) -> dict[str, Payload]:
    """Reads the binary files out of the tar archive, in memory."""
    contents = _read_members(form, path, form.folder, form.files)
    return {name: Payload(content, path, name) for name, content in contents.items()}


def read_pickled_archive(form: Form, path: Path) -> dict[str, Payload]:
    """As `read_archive`, of the archive for Python."""
    contents = _read_members(form, path, form.pickled_folder, form.pickled_files)
    return {
        name: Payload(read_pickle(form, contents[member], f"{member} in {path}"), path, member)
        for name, member in zip(form.files, form.pickled_files, strict=True)
    }


def _read_members(form: Form, path: Path, folder: str, names: tuple[str, ...]) -> dict[str, bytes]:
    """The named files of a folder in a tar archive; other members are never touched."""
    contents = {}
    taken = 0
    # A stream ("r|") visits each member once and never seeks.
    with reading(path) as opened, tarfile.open(fileobj=opened, mode="r|*") as archive:
        for member in archive:
            place, _, name = member.name.removeprefix("./").rpartition("/")
            if place != folder or name not in names or not member.isfile():
                continue
            if member.size > archives.MAX_BYTES:
                raise DataError(
                    f"{name} in {path} announces {member.size} bytes, which is no {form.title} "
                    "batch; fetch the original archive again."
                )
            taken += member.size
            memory.check_fits(taken, str(path), "end other programs")
            file = archive.extractfile(member)
            contents[name] = file.read() if file else b""
    missing = [name for name in names if name not in contents]
    if missing:
        variant = "binary" if folder == form.folder else "Python"
        raise DataError(
            f"{path} lacks {folder}/{missing[0]}; fetch the {variant} variant of {form.title} "
            "again."
        )
    return contents


def decode_set(form: Form, payloads: Mapping[str, Payload]) -> tuple[Split, Split]:
    """Decodes the payloads to (train, test), the training batches in their order."""
    *parts, test = [parse_records(form, payloads[name]) for name in form.files]
    images, labels = zip(*parts, strict=True)
    return (np.concatenate(images), np.concatenate(labels)), test


def encode_set(form: Form, train: Split, test: Split) -> dict[str, bytes]:
    """The inverse of `decode_set`, when the training batches are of equal size."""
    count = len(form.files) - 1
    images, labels = np.split(train[0], count), np.split(train[1], count)
    parts = [make_records(form, *part) for part in (*zip(images, labels, strict=True), test)]
    return dict(zip(form.files, parts, strict=True))
