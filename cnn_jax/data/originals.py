"""The published data sets: how each is found on disk and checked."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from cnn_jax import text
from cnn_jax.data import archives, arrays, cache, tfds
from cnn_jax.data.archives import Payload, Split, matches
from cnn_jax.data.dataset import Dataset, make_dataset
from cnn_jax.data.published import DATASETS, Info
from cnn_jax.errors import DataError, DataNotFoundError

DEFAULT_DATA_DIR = "data"


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
        if not matches(content, info.payloads[file]):
            raise DataError(
                f"{folder} does not hold the original {info.title} ({file} differs); prepare it "
                "again in another data_dir."
            )
    origin = f"{info.title}, original files, prepared by TFDS in {folder}"
    return make_dataset(train, test, info.class_names, origin), sources


def _read_archives(name: str, data_dir: Path) -> tuple[Dataset, cache.Snapshot]:
    info = DATASETS[name]
    for folder in (data_dir / place for place in info.folders):
        states = cache.snapshot(folder / n for n in info.format.names)
        payloads = info.format.read(folder)
        if payloads is not None:
            break
    else:
        raise DataNotFoundError(_how_to_get(name, info, data_dir))
    files = list(dict.fromkeys(payload.file for payload in payloads.values()))
    sources = {file: states[file] for file in files}
    train, test = info.format.decode(payloads)
    _check_shapes(info, train, test, folder)
    origin = f"{_describe_content(name, payloads)}, from "
    origin += str(files[0] if len(files) == 1 else files[0].parent)
    return make_dataset(train, test, info.class_names, origin), sources


def _describe_content(name: str, payloads: Mapping[str, Payload]) -> str:
    """What the files are, by their checksums.

    Raises:
      DataError: they are of another set, or not the original ones where there must be no others.
    """
    info = DATASETS[name]
    if info.payloads:
        other = {n: p for n, p in payloads.items() if not matches(p.content, info.payloads[n])}
        unknown = False
    else:
        _refuse_other_sets(name, payloads)
        other = {n: p for n, p in payloads.items() if p.file.name in info.packed}
        unknown = len(other) < len(payloads)
        files = {p.file: info.packed[p.file.name] for p in other.values()}
        differ = {file for file, digest in files.items() if not archives.file_matches(file, digest)}
        other = {n: p for n, p in other.items() if p.file in differ}
    if not other and not unknown:
        return f"{info.title}, original files"
    if not info.format.copies_allowed:
        first = next(iter(other))
        raise DataError(
            f"{other[first].where} is not {info.title}'s {first} (its checksum differs); fetch the "
            "original again, or load other data as an .npz."
        )
    contents = b"".join(payload.content for payload in payloads.values())
    digest = hashlib.sha256(contents).hexdigest()
    why = "not the original files" if other else "unpacked files, whose checksums aren't published"
    return f"{info.title} format, payload sha256 {digest[:16]} ({why})"


def _refuse_other_sets(name: str, payloads: Mapping[str, Payload]) -> None:
    """Raises DataError if a file is known to be another set's of the same format."""
    for other, info in DATASETS.items():
        for file, payload in payloads.items():
            digest = info.payloads.get(file)
            if other != name and digest and matches(payload.content, digest):
                raise DataError(
                    f"{payload.where} is {info.title}'s {file}, not {DATASETS[name].title}'s; put "
                    "the original there."
                )


def load_idx_folder(folder: Path) -> Dataset | None:
    """Loads a folder that holds the four IDX files of any set; None if it holds none of them.

    The classes have names where the files are those of a set of `DATASETS`, else numbers.

    Raises:
      DataError: files are missing, damaged or don't fit together.
    """
    payloads = archives.read_idx_set(folder)
    if payloads is None:
        return None
    train, test = archives.decode_idx_set(payloads)
    shown = text.one_line(str(folder))
    for info in DATASETS.values():
        known = info.payloads.items()
        if known and all(n in payloads and matches(payloads[n].content, d) for n, d in known):
            return make_dataset(
                train, test, info.class_names, f"{info.title}, original files, from {shown}"
            )
    origin = f"IDX files in {shown}"
    class_names = arrays.number_classes([train[1], test[1]], origin)
    return make_dataset(train, test, class_names, origin)


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
        f"{info.format.files} into {data_dir / info.folders[0]}."
    )
