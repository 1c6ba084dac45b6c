"""A user's own data set as picture files in class folders."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ImageOps

from cnn_jax import text
from cnn_jax.data import memory, names, notes, pictures
from cnn_jax.data.arrays import Split, split_off
from cnn_jax.data.dataset import Dataset, make_dataset
from cnn_jax.data.listing import Classes, Scan, scan
from cnn_jax.errors import DataError, PictureError


def load_folder(
    path: str | Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    holdout: float | None = None,
    seed: int = 0,
    fit: pictures.Fit = "stretch",
    skip_bad: bool = False,
) -> Dataset:
    """Reads `path/train/<class>/<picture>` and `path/test/<class>/<picture>`.

    Without `test` a folder `val` (`valid`, `validation`) is the test part. Without that, or
    without parts (`path/<class>/<picture>`), a part is held out. The order is that of the class
    names, then of the file names.

    Args:
      path: the folder.
      size: height and width to bring every picture to; None: pictures must all have one size.
      channels: 1 for gray, 3 for color; None: 1 if all pictures are gray.
      holdout: the fraction of each class that is held out; None is HOLDOUT, with a warning.
      seed: of the choice of the held-out part.
      fit: how pictures of other proportions are brought to `size`, see `pictures.Fit`.
      skip_bad: leave out files that are no pictures or damaged, with a warning that counts them.
        Files that the system refuses to read are an error all the same.

    Raises:
      DataError: one sentence that names the file and says what to do.
    """
    path = Path(path)
    dataset, said = decode(
        path,
        scan(path, skip_bad),
        size=size,
        channels=channels,
        holdout=holdout,
        seed=seed,
        fit=fit,
        skip_bad=skip_bad,
    )
    notes.warn(said)
    return dataset


def decode(
    path: Path,
    found: Scan,
    *,
    size: int | None = None,
    channels: int | None = None,
    holdout: float | None = None,
    seed: int = 0,
    fit: pictures.Fit = "stretch",
    skip_bad: bool = False,
) -> tuple[Dataset, list[str]]:
    """Reads what `scan` found, as `load_folder` does; returns notes for the user too."""
    if size is not None and not 1 <= size <= 4096:
        raise DataError(f"size must lie between 1 and 4096 pixels, got {size}.")
    if channels not in (None, 1, 3):
        raise DataError(f"channels must be 1 (gray) or 3 (color), got {channels}.")
    if fit not in pictures.FITS:
        raise DataError(f"fit must be one of {', '.join(pictures.FITS)}, got {fit!r}.")
    if fit != "stretch" and size is None:
        raise DataError(
            f"fit={fit} says how pictures are brought to one size; give that too, for example "
            f"size=64,fit={fit}."
        )
    origin = named = f"pictures in {_show(path)}"
    class_names = names.clean(found.train, origin)
    bad: dict[Path, str] | None = dict.fromkeys(found.skipped, "no picture") if skip_bad else None
    parts = [_examples(found.train, found.train)]
    if found.test is not None:
        parts.append(_examples(found.test, found.train))
    files_ = [file for part in parts for file, _ in part]
    shape = _common_shape(path, files_, size, channels, bad)
    bytes_ = sum(map(len, parts)) * int(np.prod(shape)) * (1 if found.test else 2)
    memory.check_fits(bytes_, _show(path), "choose a smaller size, as in :size=64")

    faint: list[Path] = []
    splits = [_decode_part(part, shape, size, fit, faint, bad) for part in parts]
    if bad:
        _check_left(path, splits[0], class_names, bad)
    said = [*found.notes, *_describe_faint(faint, origin)]
    said += _describe_bad(bad, len(files_) + len(found.skipped), origin) if bad else []
    if len(splits) == 1:
        train, test, origin, more = split_off(*splits[0], holdout, seed, origin)
        said += more
    else:
        train, test = splits
        origin += "" if found.tested_on == "test" else f", tested on {found.tested_on}"
        if holdout is not None:
            said.append(f"{named}: holdout={holdout} has no effect, as there is a test part")
    dataset = make_dataset(train, test, class_names, origin)
    return dataset, said + notes.find_oddities(dataset[:2], dataset[2:4], class_names, named)


def _show(path: Path) -> str:
    return text.one_line(str(path))


def _advise_skipping(error: PictureError) -> PictureError:
    return PictureError(f"{str(error).rstrip('.')} (or leave such files out with :skip_bad=true).")


def _examples(part: Classes, order: Classes) -> list[tuple[Path, int]]:
    """The pictures of a part, each with its label."""
    return [(file, label) for label, name in enumerate(order) for file in part.get(name, [])]


def _common_shape(
    path: Path,
    found: Sequence[Path],
    size: int | None,
    channels: int | None,
    bad: dict[Path, str] | None,
) -> tuple[int, int, int]:
    """Height, width and channels of all pictures, which are opened if one of these isn't given.

    Adds to `bad` the files that are no pictures; None: they are an error.
    """
    if size is not None and channels is not None:
        return size, size, channels
    shapes: dict[tuple[int, int], Path] = {}
    gray = True
    for file in found:
        try:
            with pictures.opening(file) as picture:
                shapes.setdefault(ImageOps.exif_transpose(picture).size, file)
                gray = gray and (picture.mode in ("1", "L", "LA") or picture.mode[0] == "I")
        except PictureError as error:
            if bad is None:
                raise _advise_skipping(error) from error
            bad[file] = str(error)
    if not shapes:
        raise DataError(f"{_show(path)} holds no picture that can be read; check its files.")
    channels = channels or (1 if gray else 3)
    if size is not None:
        return size, size, channels
    if len(shapes) > 1:
        (first, one), (second, other), *_ = shapes.items()
        raise DataError(
            f"{_show(one)} is {first[0]}x{first[1]} and {_show(other)} is {second[0]}x{second[1]} "
            "pixels; choose one size for all, for example "
            f"dataset.name={'' if path.is_absolute() else './'}{_show(path)}:size=64."
        )
    width, height = next(iter(shapes))
    return height, width, channels


def _decode_part(
    part: Sequence[tuple[Path, int]],
    shape: tuple[int, int, int],
    size: int | None,
    fit: pictures.Fit,
    faint: list[Path],
    bad: dict[Path, str] | None,
) -> Split:
    """Images [n, H, W, C] and labels [n].

    Adds to `faint` the files that came out black, and to `bad` those that are no pictures or
    damaged, which are left out; None: they are an error.
    """
    images = np.empty((len(part), *shape), np.uint8)
    labels: list[int] = []
    for file, label in part:
        if bad and file in bad:
            continue
        try:
            image, is_faint = pictures.decode(file, shape[2], (size, size) if size else None, fit)
        except PictureError as error:
            if bad is None:
                raise _advise_skipping(error) from error
            bad[file] = str(error)
            continue
        if image.shape != shape:
            raise DataError(f"{_show(file)} has changed while it was read; run the command again.")
        images[len(labels)] = image
        labels.append(label)
        faint += [file] if is_faint else []
    return images[: len(labels)], np.array(labels, np.int32)


def _check_left(path: Path, train: Split, class_names: Sequence[str], bad: dict[Path, str]) -> None:
    """Raises DataError if a class has lost all its training pictures."""
    counts = np.bincount(train[1], minlength=len(class_names))
    if not counts.all():
        name = class_names[int(counts.argmin())]
        first = next((file for file in bad if text.one_line(file.parent.name) == name), path)
        raise DataError(
            f"{_show(path)}: no training picture of the class {name!r} can be read (the first: "
            f"{bad.get(first, _show(first)).rstrip('.')}); replace them or remove the class."
        )


def _describe_bad(bad: dict[Path, str], count: int, origin: str, most: int = 5) -> list[str]:
    first = sorted(bad)[:most]
    names_ = ", ".join(map(_show, first)) + (", …" if len(bad) > most else "")
    return [
        f"{origin}: {len(bad):,} of the {count:,} files are no pictures or damaged and are skipped "
        f"({names_})"
    ]


def _describe_faint(found: Sequence[Path], origin: str) -> list[str]:
    if not found:
        return []
    return [
        f"{origin}: {len(found):,} pictures have 16 bits with values up to 255 only, and are read "
        f"as black; save them as 8-bit PNG (the first is {_show(found[0])})"
    ]
