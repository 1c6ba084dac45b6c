"""A user's own data set: a folder of class folders of pictures, or an .npz of arrays."""

import contextlib
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from cnn_jax.data.dataset import (
    ARRAY_FILE_ERRORS,
    DataError,
    DataNotFoundError,
    Dataset,
    check_split,
    make_dataset,
)
from cnn_jax.data.sampling import holdout_mask

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # pictures, no interpreted formats
MAX_PIXELS = 64_000_000  # of one picture; a small file that announces more is a bomb or a mistake
MAX_BYTES = 16 << 30  # of the decoded set, which is held in memory
MAX_CLASSES = 100_000  # when nothing but the largest label tells their number

Split = tuple[np.ndarray, np.ndarray]


def _hold_out(images: np.ndarray, labels: np.ndarray, holdout: float, seed: int) -> list[Split]:
    """(train, test) by a seeded, stratified choice."""
    test = holdout_mask(labels, holdout, seed)
    return [(images[~test], labels[~test]), (images[test], labels[test])]


def visible_entries(folder: Path) -> list[Path]:
    """The visible entries of a folder, in the order of their names."""
    names = (name for name in os.listdir(folder) if not name.startswith((".", "__MACOSX")))
    return [folder / name for name in sorted(names)]


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The class folders of `folder` with their picture files."""
    classes = {}
    for entry in visible_entries(folder):
        if not entry.is_dir():
            raise DataError(
                f"{entry} lies beside the class folders; {folder} must hold one folder of "
                "pictures per class and nothing else."
            )
        files = visible_entries(entry)
        if not files:
            raise DataError(f"{entry} is empty; remove the folder or put this class's pictures in.")
        classes[entry.name] = files
    if len(classes) < 2:
        raise DataError(
            f"{folder} holds {len(classes)} class folders; put the pictures of each class into a "
            "folder of its own, at least two."
        )
    return classes


def _open(path: Path | BinaryIO) -> Image.Image:
    """Opens a picture, reading its header only.

    Raises:
      DataError: when it is none, or unreasonably large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # judged just below
            picture = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError:
        raise DataError(
            f"{path} announces more than {MAX_PIXELS} pixels; scale it down or remove it."
        ) from None
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{path} does not exist; check the path.") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(
            f"{path} is not a picture ({', '.join(FORMATS)}); remove it or save it as PNG."
        ) from error
    if picture.width * picture.height > MAX_PIXELS:
        raise DataError(
            f"{path} announces {picture.width}x{picture.height} pixels, more than {MAX_PIXELS}; "
            "scale it down or remove it."
        )
    # 32 bits, whose range nothing tells; but a PGM's 16 come so too.
    if picture.mode == "F" or (picture.mode == "I" and picture.format != "PPM"):
        raise DataError(f"{path} has pixels of 32 bits, not 8 or 16; save it as 8-bit PNG.")
    return picture


@contextlib.contextmanager
def _decoding(path: Path | BinaryIO) -> Iterator[None]:
    """Says in one sentence that the picture is damaged, if decoding it fails."""
    try:
        yield
    except (OSError, ValueError, SyntaxError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is truncated or damaged ({error}); replace it.") from error


def decode_picture(
    path: Path | BinaryIO, channels: int, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Decodes one picture to uint8 `[height, width, channels]`; transparency is laid on white.

    `size` is (height, width) to scale it to, whatever its proportions; None leaves its own.

    Raises:
      DataError: it is no picture, damaged, or unreasonably large.
    """
    with _open(path) as picture, _decoding(path):
        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I"):  # 16 bits
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        if upright.has_transparency_data:
            paper = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(paper, upright.convert("RGBA"))
        upright = upright.convert("L" if channels == 1 else "RGB")
        if size is not None:
            upright = upright.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return np.asarray(upright, np.uint8).reshape(upright.height, upright.width, channels)


def load_folder(
    path: str | Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    holdout: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """Reads `path/train/<class>/<picture>` and `path/test/<class>/<picture>`.

    Without `test`, or without both (`path/<class>/<picture>`), a part is held out for testing. The
    order is that of the class names, then of the file names.

    Args:
      path: the folder.
      size: height and width that every picture is scaled to; None takes them as they are, when
        they are all equal.
      channels: 1 for gray, 3 for color; None takes 1 when all pictures are gray.
      holdout: the fraction held out when there is no test part, in each class's proportion.
      seed: of the choice of the held-out part.

    Raises:
      DataError: one sentence that names the file and says what to do.
    """
    path = Path(path)
    if size is not None and not 1 <= size <= 4096:
        raise DataError(f"size must lie between 1 and 4096 pixels, got {size}.")
    if channels not in (None, 1, 3):
        raise DataError(f"channels must be 1 (gray) or 3 (color), got {channels}.")
    if not path.is_dir():
        raise DataError(f"{path} is not a folder; give a folder of class folders, or an .npz file.")
    folders = [path / part for part in ("train", "test") if (path / part).is_dir()]
    if folders == [path / "test"]:
        raise DataError(f"{path} has a test folder but no train folder; add {path / 'train'}.")
    parts = [_classes(folder) for folder in folders or [path]]
    class_names = tuple(parts[0])
    strangers = sorted(set(parts[-1]) - set(class_names))
    if strangers:
        raise DataError(
            f"{folders[-1] / strangers[0]} is a class that {folders[0]} does not have; name the "
            "class folders alike."
        )

    examples = [
        [(file, label) for label, name in enumerate(class_names) for file in part.get(name, [])]
        for part in parts
    ]
    files = [file for part in examples for file, _ in part]
    if channels is None or size is None:
        shapes: dict[tuple[int, int], Path] = {}
        gray = True
        for file in files:
            with _open(file) as picture, _decoding(file):
                shapes.setdefault(ImageOps.exif_transpose(picture).size, file)
                gray = gray and (picture.mode in ("1", "L", "LA") or picture.mode[0] == "I")
        channels = channels or (1 if gray else 3)
        if size is None and len(shapes) > 1:
            (first, one), (second, other), *_ = shapes.items()
            raise DataError(
                f"{one} is {first[0]}x{first[1]} and {other} is {second[0]}x{second[1]} pixels; "
                "choose one size for all, for example "
                f"dataset.name={'' if path.is_absolute() else './'}{path}:size=64."
            )
        width, height = next(iter(shapes)) if size is None else (size, size)
    else:
        width = height = size
    needed = len(files) * height * width * channels
    if needed > MAX_BYTES:
        raise DataError(
            f"{path} would take {needed / 2**30:.1f} GiB of memory, more than "
            f"{MAX_BYTES / 2**30:.0f}; choose a smaller size."
        )

    splits = []
    for part in examples:
        images = np.empty((len(part), height, width, channels), np.uint8)
        for index, (file, _) in enumerate(part):
            images[index] = decode_picture(file, channels, (size, size) if size else None)
        splits.append((images, np.array([label for _, label in part], np.int32)))
    origin = f"pictures in {path}"
    if len(splits) == 1:
        splits = _hold_out(*splits[0], holdout, seed)
        origin += f", {holdout} held out, seed {seed}"
    return make_dataset(splits[0], splits[1], class_names, origin)


def folder_files(path: Path) -> list[Path]:
    """Everything that a folder's data set depends on: its folders and files."""
    found = []
    for folder, _, names in os.walk(path, followlinks=True):
        found.append(Path(folder))
        found.extend(Path(folder, name) for name in names)
    return found


def load_npz(
    path: str | Path, *, holdout: float = 0.2, seed: int = 0, origin: str | None = None
) -> Dataset:
    """Reads an .npz with `train_images`, `train_labels`, `test_images`, `test_labels`.

    Images are uint8 `[n, H, W, C]` or `[n, H, W]`, labels whole numbers `[n]`. `class_names` is
    optional. Without the test arrays a part is held out for testing.

    Args:
      path: the file.
      holdout: the fraction held out when there are no test arrays, in each class's proportion.
      seed: of the choice of the held-out part.
      origin: what to call the data in `provenance`; None names the file.

    Raises:
      DataError: one sentence that names the file and says what to do.
    """
    path = Path(path)
    arrays = _read_npz(path)
    origin = origin or f"arrays in {path}"
    splits = []
    for part in ("train", "test"):
        if f"{part}_images" in arrays:
            images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
            images = images[..., None] if images.ndim == 3 else images
            check_split(part, images, labels, origin)
            splits.append((images, labels))
    if "class_names" in arrays:
        class_names = tuple(str(name) for name in arrays["class_names"].ravel())
    else:
        largest = max(int(labels.max()) for _, labels in splits)
        if largest >= MAX_CLASSES:
            raise DataError(
                f"{path} has the label {largest}, but labels count classes from 0; renumber them, "
                "or add class_names."
            )
        class_names = tuple(str(label) for label in range(largest + 1))
    if len(splits) == 1:
        splits = _hold_out(*splits[0], holdout, seed)
        origin += f", {holdout} held out, seed {seed}"
    return make_dataset(splits[0], splits[1], class_names, origin)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """Reads the known arrays; pickled objects are refused, and sizes checked before unpacking."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {i.filename.removesuffix(".npy"): i.file_size for i in archive.infolist()}
        wanted = ["train_images", "train_labels"]
        if "test_images" in sizes or "test_labels" in sizes:
            wanted += ["test_images", "test_labels"]
        missing = [name for name in wanted if name not in sizes]
        if missing:
            raise DataError(
                f"{path} lacks {', '.join(missing)}; save it with "
                "np.savez(path, train_images=…, train_labels=…, test_images=…, test_labels=…)."
            )
        wanted += ["class_names"] if "class_names" in sizes else []
        size = sum(sizes[name] for name in wanted)
        if size > MAX_BYTES:
            raise DataError(
                f"{path} announces {size / 2**30:.1f} GiB of arrays, more than "
                f"{MAX_BYTES / 2**30:.0f}; save a smaller set."
            )
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in wanted}
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{path} does not exist; check the path.") from error
    except DataError:
        raise
    except (*ARRAY_FILE_ERRORS, MemoryError) as error:
        raise DataError(
            f"{path} is not a readable .npz of plain arrays ({error}); save it with np.savez."
        ) from error
