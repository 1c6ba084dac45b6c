"""A user's own data set as arrays in an .npz."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from cnn_jax import files, text
from cnn_jax.data import names, notes, npz
from cnn_jax.data.dataset import Dataset, check_split, make_dataset
from cnn_jax.data.pictures import cannot_read
from cnn_jax.data.sampling import holdout_mask
from cnn_jax.errors import DataError, DataNotFoundError

HOLDOUT = 0.2  # of the training examples, where there is no test part
VALIDATION = ("val", "valid", "validation")  # what a validation part may be called
PARTS = ("train", "test", *VALIDATION)
KERAS = {"x": "images", "y": "labels"}  # as in x_train
# Without class names the largest label tells their number, which is limited by the examples'.
MAX_CLASSES = 10_000
FEW_CLASSES = 1_000  # allowed with any number of examples

Split = tuple[np.ndarray, np.ndarray]


def split_off(
    images: np.ndarray, labels: np.ndarray, holdout: float | None, seed: int, origin: str
) -> tuple[Split, Split, str, list[str]]:
    """Holds out a stratified random part for testing.

    Returns the two parts, `origin` with what was done, and a note about it if `holdout` is None.
    """
    fraction = HOLDOUT if holdout is None else holdout
    test = holdout_mask(labels, fraction, seed)
    said = notes.describe_hold_out(origin, int(test.sum()), len(test), fraction, seed)
    return (
        (images[~test], labels[~test]),
        (images[test], labels[test]),
        f"{origin}, {fraction} held out, seed {seed}",
        [said] if holdout is None else [],
    )


def load_npz(
    path: str | Path, *, holdout: float | None = None, seed: int = 0, origin: str | None = None
) -> Dataset:
    """Reads an .npz with `train_images`, `train_labels`, `test_images`, `test_labels`.

    Images are uint8 `[n, H, W, C]` or `[n, H, W]`, labels integers `[n]` or `[n, 1]`; `class_names`
    is optional. Keras's names are understood too: `x_train`, `y_train`, `x_test`, `y_test`. Without
    test arrays a validation part, `val_images` and `val_labels`, is the test part; without that a
    part is held out.

    Args:
      path: the file.
      holdout: the fraction of each class that is held out; None is HOLDOUT, with a warning.
      seed: of the choice of the held-out part.
      origin: the name of the data in `provenance`; None names the file.

    Raises:
      DataError: one sentence that names the file and says what to do.
    """
    path = Path(path)
    origin = origin or f"arrays in {text.one_line(str(path))}"
    arrays, tested, said = _read(path, origin)
    splits = []
    for part in ("train", tested):
        if part:
            images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
            images = images[..., None] if images.ndim == 3 else images
            labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
            check_split(part, images, labels, origin)
            splits.append((images, labels))
    class_names = _class_names(arrays, [labels for _, labels in splits], origin)
    named = origin  # in notes
    if len(splits) == 1:
        train, test, origin, more = split_off(*splits[0], holdout, seed, origin)
        said += more
    else:
        train, test = splits
        origin += "" if tested == "test" else f", tested on {tested}_images"
        if holdout is not None:
            said.append(f"{named}: holdout={holdout} has no effect, as there is a test part")
    dataset = make_dataset(train, test, class_names, origin)
    said += notes.find_oddities(dataset[:2], dataset[2:4], class_names, named)
    notes.warn(said)
    return dataset


def _class_names(
    arrays: dict[str, np.ndarray], labels: Sequence[np.ndarray], origin: str
) -> tuple[str, ...]:
    """The names given, or the labels themselves."""
    if "class_names" in arrays:
        given = arrays["class_names"].ravel().tolist()
        read = (x.decode("utf-8", "replace") if isinstance(x, bytes) else str(x) for x in given)
        return names.clean(read, origin)
    return number_classes(labels, origin)


def number_classes(labels: Sequence[np.ndarray], origin: str) -> tuple[str, ...]:
    """The labels, integers [n] of each part, as the names of the classes.

    Raises:
      DataError: the largest is out of proportion to the examples.
    """
    largest = max(int(part.max()) for part in labels)
    count = sum(map(len, labels))
    if largest >= min(MAX_CLASSES, max(FEW_CLASSES, count)):
        raise DataError(
            f"{origin}: the label {largest} of {count:,} examples has so many classes below it "
            "that it must be a mistake, for labels count classes from 0; renumber them with "
            "np.unique(labels, return_inverse=True)[1], or add class_names."
        )
    return tuple(str(label) for label in range(largest + 1))


def _read(path: Path, origin: str) -> tuple[dict[str, np.ndarray], str | None, list[str]]:
    """Reads the known arrays; returns them, the name of the test part, and notes on the rest."""
    shown = text.one_line(str(path))
    try:
        with files.open_regular(path) as file:
            archive = npz.Archive(file)
            there = _understand(archive.names, shown)
            wanted, tested = _choose(there, shown)
            said = _describe_rest(there, wanted, tested, origin)
            copies = 1 if tested else 2  # what is held out is copied from the whole
            arrays = archive.read([there[name] for name in wanted], shown, copies)
            return {name: arrays[there[name]] for name in wanted}, tested, said
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{shown} does not exist; check the path.") from error
    except OSError as error:
        raise cannot_read(path, error) from error
    except DataError:
        raise
    except ValueError as error:
        raise DataError(
            f"{shown} is not a readable .npz of plain arrays ({text.one_line(str(error))}); save "
            "it with np.savez."
        ) from error


def _understand(given: Collection[str], shown: str) -> dict[str, str]:
    """The names of a file's arrays by ours: {'train_images': 'x_train', 'other': 'other', …}."""
    there: dict[str, str] = {}
    for name in given:
        kind, _, part = name.partition("_")
        ours = f"{part}_{KERAS.get(kind.lower())}"
        ours = ours if kind.lower() in KERAS and part in PARTS else name
        if ours in there:
            raise DataError(
                f"{shown} has arrays {there[ours]} and {name}, either of which could be {ours}; "
                "leave one out."
            )
        there[ours] = name
    return there


def _choose(there: Mapping[str, str], shown: str) -> tuple[list[str], str | None]:
    """Chooses the arrays to read, and which part is the test part."""

    def has(part: str) -> bool:
        return f"{part}_images" in there or f"{part}_labels" in there

    validations = [part for part in VALIDATION if has(part)]
    tested = next((part for part in ("test", *validations) if has(part)), None)
    if tested != "test" and len(validations) > 1:
        raise DataError(
            f"{shown} has arrays of both {validations[0]} and {validations[1]}, either of which "
            "could be the test part; call one test_images and test_labels."
        )
    parts = ["train", tested] if tested else ["train"]
    wanted = [f"{part}_{what}" for part in parts for what in ("images", "labels")]
    missing = [name for name in wanted if name not in there]
    if missing:
        if any(name != there[name] for name in there):
            keras = {images: kind for kind, images in KERAS.items()}
            split = [name.partition("_") for name in missing]
            missing = [f"{keras[kind]}_{part}" for part, _, kind in split]
        others = _list([there[name] for name in there if name not in wanted])
        raise DataError(
            f"{shown} lacks {', '.join(missing)}"
            + (f" (it holds {others})" if others else "")
            + "; save it with "
            "np.savez(path, train_images=…, train_labels=…, test_images=…, test_labels=…)."
        )
    return wanted + (["class_names"] if "class_names" in there else []), tested


def _describe_rest(
    there: Mapping[str, str], wanted: Collection[str], tested: str | None, origin: str
) -> list[str]:
    """A note on the arrays that aren't read, if there are any."""
    rest = [name for name in there if name not in wanted]
    if not rest:
        return []
    line = f"not read: {_list([there[name] for name in rest])}"
    if tested == "test" and any(f"{part}_images" in rest for part in VALIDATION):
        train, test = there["train_images"], there["test_images"]
        line = f"{train} are trained on, {test} tested on; {line}; {describe_validation()}"
    return [f"{origin}: {line}"]


def _list(names_: Sequence[str], most: int = 10) -> str:
    return ", ".join(map(text.one_line, names_[:most])) + (", …" if len(names_) > most else "")


def describe_validation() -> str:
    """Says how to choose hyperparameters when there is a test part too."""
    return (
        "the validation part isn't used where there is a test part; to choose hyperparameters, "
        "set dataset.holdout, which holds out training examples in the test part's place"
    )
