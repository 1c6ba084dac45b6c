"""What a trained network makes of pictures: a table or JSON.

python -m experiments.predict --run=runs/lenet shirt.png boot.jpg
python -m experiments.predict --run=runs/lenet --json --top=5 pictures/

Pictures of any size and mode are brought to the size that the network was trained on, and to gray
or color as it was; then they go the way of the run's test pictures. Those of other proportions are
stretched, unless the run's data set has the option fit=pad or fit=crop; --fit chooses for itself.
Fashion-MNIST shows light clothes on black: for dark ones on white give --invert; a warning says so
where a picture's border is much lighter than those of the training pictures.

A folder stands for all pictures in it; of a folder of class folders, named as the run's classes,
the accuracy is printed as well. In such names only letters and digits count, unless a class has
just that name: t_shirt_top is the class T-shirt/top.

What can't be read as a picture is named on standard error, and the others are answered; the exit
code is 2 if there are none.
"""

import json
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from cnn_jax import data, text
from cnn_jax.inspection import trained_network
from experiments import launch

RUN = launch.define_path("run", None, "The directory of a run.")
CHECKPOINT = launch.define_checkpoint()
TOP = flags.DEFINE_integer("top", 3, "How many classes to name for each picture.", lower_bound=1)
JSON = flags.DEFINE_bool("json", False, "Print JSON.")
INVERT = flags.DEFINE_bool("invert", False, "Turn the pictures' light and dark round.")
FIT = flags.DEFINE_enum(
    "fit",
    "auto",
    ["auto", *data.FITS],
    "How a picture of other proportions is brought to the network's size: auto is as the training "
    "pictures were, stretch changes its proportions, pad adds a border of its ground's color, crop "
    "keeps its middle.",
)

AT_ONCE = 2048  # pictures in memory


class Picture(NamedTuple):
    """A file, its class if it lies in a class folder, and why it can't be answered, if it can't."""

    path: pathlib.Path
    truth: str | None
    error: str | None = None


def main(*paths: str) -> int:
    launch.require(run=RUN.value)
    network = trained_network.load(RUN.value, CHECKPOINT.value)
    if (channels := network.image_shape[2]) not in (1, 3):
        return launch.fail(
            f"the network takes images of {channels} channels, which no picture has; use "
            "cnn_jax.inspection.trained_network.load and probabilities() on arrays."
        )
    found = [p for path in paths for p in find_pictures(pathlib.Path(path), network.class_names)]
    fit: data.Fit = network.fit if FIT.value == "auto" else FIT.value  # type: ignore[assignment]
    pictures, probabilities, warning = classify(network, found, INVERT.value, fit)
    for picture in pictures:
        if picture.error is not None:
            launch.fail(picture.error)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    if not len(probabilities):
        return 2
    print(
        format_json(pictures, probabilities, network.class_names)
        if JSON.value
        else format_table(pictures, probabilities, network.class_names)
    )
    return 0


def find_pictures(path: pathlib.Path, class_names: Sequence[str]) -> list[Picture]:
    """Returns the picture `path`, or those in the folder `path` and in its class folders.

    What can't be read is returned with its error.

    Raises:
      DataError: a folder's name stands for several classes, or several folders for one.
    """
    if not os.path.isdir(path):
        return [Picture(path, None)]
    entries, error = _list(path)
    if error or not entries:
        empty = f"{_show(path)} is empty; put pictures in, or folders of them."
        return [Picture(path, None, error or empty)]
    found, folders = [], dict[int, pathlib.Path]()
    for entry in entries:
        if not os.path.isdir(entry):
            found.append(Picture(entry, None))
            continue
        label = data.match_class(entry.name, class_names)
        if label is None:
            names = text.list_some(class_names)
            sentence = f"{_show(entry)} is not named after a class of the run: {names}."
            found.append(Picture(entry, None, sentence))
            continue
        if other := folders.get(label):
            raise data.DataError(
                f"{_show(other)} and {_show(entry)} both stand for the class "
                f"{class_names[label]!r}; put their pictures into one folder."
            )
        folders[label] = entry
        inside, error = _list(entry)
        found += [Picture(file, class_names[label]) for file in inside]
        found += [Picture(entry, class_names[label], error)] if error else []
    return found


def _list(folder: pathlib.Path) -> tuple[list[pathlib.Path], str | None]:
    """The visible entries of a folder, or none and why it can't be read."""
    try:
        return data.visible_entries(folder), None
    except data.DataError as error:
        return [], str(error)


def _show(path: pathlib.Path) -> str:
    return text.one_line(str(path))


def classify(
    network: trained_network.Trained,
    pictures: Sequence[Picture],
    invert: bool,
    fit: data.Fit = "stretch",
) -> tuple[list[Picture], np.ndarray, str | None]:
    """Decodes the pictures and has the network answer them.

    Returns:
      The pictures, those that can't be decoded with their errors; the probabilities of the others
      [N, classes]; and a warning if their ground isn't that of the training images.
    """
    height, width, channels = network.image_shape
    done, probabilities, brightness = [], [], []
    for start in range(0, len(pictures), AT_ONCE):
        images = []
        for picture in pictures[start : start + AT_ONCE]:
            if picture.error is None:
                try:
                    size = (height, width)
                    images.append(data.decode_picture(picture.path, channels, size, fit))
                except data.DataError as error:
                    picture = picture._replace(error=str(error))
            done.append(picture)
        if images:
            stacked = np.stack(images)
            stacked = 255 - stacked if invert else stacked
            probabilities.append(network.probabilities(stacked))
            brightness.append(data.border_brightness(stacked))
    if not probabilities:
        return done, np.zeros((0, len(network.class_names)), np.float32), None
    remedy = "leave out --invert" if invert else "give --invert"
    warning = trained_network.warn_of_ground(network.data, np.concatenate(brightness), remedy)
    return done, np.concatenate(probabilities), warning


def count_correct(
    pictures: Sequence[Picture], probabilities: np.ndarray, class_names: Sequence[str]
) -> tuple[int, int] | None:
    """Returns how many of the pictures whose class is known are right, and how many there are."""
    best = [class_names[i] for i in probabilities.argmax(1)]
    answered = [p for p in pictures if p.error is None]
    known = [(p.truth, b) for p, b in zip(answered, best, strict=True) if p.truth is not None]
    return (sum(truth == guess for truth, guess in known), len(known)) if known else None


def format_json(
    pictures: Sequence[Picture], probabilities: np.ndarray, class_names: Sequence[str]
) -> str:
    """Returns {"pictures": [{"file", "truth", "classes": [[name, p], …]}, …], "accuracy"}.

    A picture that couldn't be answered has no classes, and "error" says why. `probabilities` are
    those of the others.
    """
    rows: list[dict[str, Any]] = []
    answers = iter(probabilities)
    for picture in pictures:
        row: dict[str, Any] = {"file": str(picture.path), "truth": picture.truth, "classes": []}
        if picture.error is None:
            row["classes"] = [[name, round(p, 6)] for name, p in _likeliest(answers, class_names)]
        else:
            row["error"] = picture.error
        rows.append(row)
    counts = count_correct(pictures, probabilities, class_names)
    share = None if counts is None else counts[0] / counts[1]
    return json.dumps({"pictures": rows, "accuracy": share}, indent=2)


def _likeliest(
    answers: Iterator[np.ndarray], class_names: Sequence[str]
) -> list[tuple[str, float]]:
    """The likeliest classes of the next answer with their probabilities."""
    row = next(answers)
    return [(class_names[i], float(row[i])) for i in np.argsort(-row, kind="stable")[: TOP.value]]


def format_table(
    pictures: Sequence[Picture], probabilities: np.ndarray, class_names: Sequence[str]
) -> str:
    """Returns a line for each picture answered: its file, then classes with their probabilities."""
    answered = [picture for picture in pictures if picture.error is None]
    width = max(len(_show(picture.path)) for picture in answered)
    lines = []
    answers = iter(probabilities)
    for picture in answered:
        likeliest = _likeliest(answers, class_names)
        guesses = "  ".join(f"{text.one_line(name)} {p:.3f}" for name, p in likeliest)
        wrong = picture.truth not in (None, likeliest[0][0])
        lines.append(f"{_show(picture.path):<{width}}  {guesses}{'  wrong' if wrong else ''}")
    if counts := count_correct(pictures, probabilities, class_names):
        right, known = counts
        lines.append(f"accuracy {right / known:.4f}: {right} of {known} pictures")
    return "\n".join(lines)


if __name__ == "__main__":
    launch.run(main, "PICTURE…")
