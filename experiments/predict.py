"""What a trained network makes of pictures: a table or JSON.

python -m experiments.predict --run=runs/lenet shirt.png boot.jpg
python -m experiments.predict --run=runs/lenet --json --top=5 pictures/

Pictures of any size and mode are scaled to the size that the network was trained on, and to gray or
color as it was; then they go the way of the run's test pictures. Fashion-MNIST shows light clothes
on black: for dark ones on white give --invert. A folder stands for all pictures in it; of a folder
of class folders, named as the run's classes, the accuracy is printed as well. In such names only
letters and digits count: t_shirt_top is the class T-shirt/top.
"""

import json
import pathlib
from typing import NamedTuple

import numpy as np
from absl import flags

from cnn_jax import data, trained
from experiments import launch

RUN = flags.DEFINE_string("run", None, "The directory of a run.")
TOP = flags.DEFINE_integer("top", 3, "How many classes to name for each picture.", lower_bound=1)
JSON = flags.DEFINE_bool("json", False, "Print JSON.")
INVERT = flags.DEFINE_bool("invert", False, "Turn the pictures' light and dark round.")


class Picture(NamedTuple):
    """A file, and its class if it lies in a class folder."""

    path: pathlib.Path
    truth: str | None


def main(*paths: str) -> int:
    """Runs the command."""
    if RUN.value is None:
        return launch.fail("give the directory of a run, --run=runs/lenet say.")
    network = trained.load(RUN.value)
    pictures = [p for path in paths for p in find(pathlib.Path(path), network.class_names)]
    height, width, channels = network.image_shape
    images = np.stack([data.decode_picture(p.path, channels, (height, width)) for p in pictures])
    probabilities = network.probabilities(255 - images if INVERT.value else images)
    print(
        as_json(pictures, probabilities, network.class_names)
        if JSON.value
        else as_table(pictures, probabilities, network.class_names)
    )
    return 0


def find(path: pathlib.Path, class_names: tuple[str, ...]) -> list[Picture]:
    """Returns the picture `path`, or those in the folder `path` and in its class folders.

    Raises:
      DataError: nothing is there, or a folder isn't named after a class.
    """
    if not path.exists():
        raise data.DataError(f"{path} does not exist; give pictures, or folders of them.")
    if not path.is_dir():
        return [Picture(path, None)]
    classes = {_letters(name): name for name in class_names}
    found = []
    for entry in data.visible_entries(path):
        if not entry.is_dir():
            found.append(Picture(entry, None))
            continue
        if _letters(entry.name) not in classes:
            raise data.DataError(
                f"{entry} is not named after a class of the run: {', '.join(class_names)}."
            )
        truth = classes[_letters(entry.name)]
        found += [Picture(file, truth) for file in data.visible_entries(entry)]
    if not found:
        raise data.DataError(f"{path} is empty; put pictures in, or folders of them.")
    return found


def _letters(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def accuracy(
    pictures: list[Picture], probabilities: np.ndarray, class_names: tuple[str, ...]
) -> tuple[int, int] | None:
    """Returns how many of the pictures whose class is known are right, and how many there are."""
    best = [class_names[i] for i in probabilities.argmax(1)]
    known = [(p.truth, b) for p, b in zip(pictures, best, strict=True) if p.truth is not None]
    return (sum(truth == guess for truth, guess in known), len(known)) if known else None


def as_json(
    pictures: list[Picture], probabilities: np.ndarray, class_names: tuple[str, ...]
) -> str:
    """Returns {"pictures": [{"file", "truth", "classes": [[name, p], …]}, …], "accuracy"}."""
    rows = []
    for picture, row in zip(pictures, probabilities, strict=True):
        order = np.argsort(-row, kind="stable")[: TOP.value]
        classes = [[class_names[i], round(float(row[i]), 6)] for i in order]
        rows.append({"file": str(picture.path), "truth": picture.truth, "classes": classes})
    counts = accuracy(pictures, probabilities, class_names)
    share = None if counts is None else counts[0] / counts[1]
    return json.dumps({"pictures": rows, "accuracy": share}, indent=2)


def as_table(
    pictures: list[Picture], probabilities: np.ndarray, class_names: tuple[str, ...]
) -> str:
    """Returns a line for each picture: its file, then classes with their probabilities."""
    width = max(len(str(picture.path)) for picture in pictures)
    lines = []
    for picture, row in zip(pictures, probabilities, strict=True):
        order = np.argsort(-row, kind="stable")[: TOP.value]
        guesses = "  ".join(f"{class_names[i]} {row[i]:.3f}" for i in order)
        wrong = picture.truth not in (None, class_names[int(row.argmax())])
        lines.append(f"{picture.path!s:<{width}}  {guesses}{'  wrong' if wrong else ''}")
    if counts := accuracy(pictures, probabilities, class_names):
        right, known = counts
        lines.append(f"accuracy {right / known:.4f}: {right} of {known} pictures")
    return "\n".join(lines)


if __name__ == "__main__":
    launch.run(main, "PICTURE…")
