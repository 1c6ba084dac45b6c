"""How good a trained network is: for each class and over all, on the run's data or on others.

python -m experiments.evaluate --run=runs/lenet
python -m experiments.evaluate --run=runs/lenet --split=train --checkpoint=best --format=markdown
python -m experiments.evaluate --run=runs/lenet --dataset=./clothes:size=28 --json

Of each class: precision (right / predicted as it), recall (right / its images) and F1, their
harmonic mean; below, plain means over the classes. What is undefined, such as the precision of a
class that is never predicted, is shown as "–" (null in JSON, empty in CSV) and not averaged.

Over all: the metrics of every run; how often the label is the likeliest class and among the --top
likeliest; and the expected calibration error (Guo et al., 2017), the mean over the images of
|accuracy − mean confidence| in the image's one of 15 equally wide bins of confidence.

--split=test is the data set's test part, also of a run that held out a part of its training set;
holdout is the part held out; train is what was trained on. --dataset takes another data set, of
images of the same size and of classes with the run's names, in any order.
"""

import csv
import dataclasses
import io
import json
import pathlib
from typing import Any

import numpy as np
from absl import flags

from cnn_jax import checkpoints, data, text
from cnn_jax.errors import ConfigError, DataError
from cnn_jax.experiment import load_dataset
from cnn_jax.inspection import trained_network
from cnn_jax.inspection.evaluation import Evaluation, Scores, evaluate
from experiments import launch

RUN = launch.define_path("run", None, "The directory of a run.")
DATASET = flags.DEFINE_string("dataset", None, "Another data set than the run's: a name or path.")
flags.DEFINE_alias("data", "dataset")
SPLIT = flags.DEFINE_enum("split", "test", ("test", "holdout", "train"), "Which part of it.")
CHECKPOINT = launch.define_checkpoint()
TOP = flags.DEFINE_integer("top", 5, "Also count labels among so many classes.", lower_bound=1)
FLIP = flags.DEFINE_bool(
    "flip", None, "Average with mirrored images, or not; else as the run's test_flip says."
)
FORMAT = flags.DEFINE_enum("format", "text", ("text", "markdown", "csv", "json"), "How to print.")
JSON = flags.DEFINE_bool("json", False, "The same as --format=json.")

SCORES = ("precision", "recall", "f1")
PARTS = {"test": "test part", "holdout": "held-out part", "train": "training part"}


def main() -> int:
    launch.require(run=RUN.value)
    run = pathlib.Path(RUN.value)
    network = trained_network.load(run, CHECKPOINT.value)
    step = checkpoints.find_step(run, CHECKPOINT.value)
    settings = network.config
    if FLIP.value is not None:
        settings = dataclasses.replace(settings, test_flip=FLIP.value)
    network = dataclasses.replace(network, config=settings)
    classes = len(network.class_names)
    if flags.FLAGS["top"].present and TOP.value > classes:
        raise ConfigError(f"--top={TOP.value} is more than the {classes} classes of the run.")
    name, part, labels = load_part(run, network, DATASET.value, SPLIT.value)
    found = evaluate(network.logits(part), labels, network.class_names, TOP.value)
    about = {
        "run": str(run),
        "model": network.config.model.name,
        "checkpoint": step,
        "dataset": name,
        "split": SPLIT.value,
        "flip": settings.test_flip,
    }
    print(FORMATS["json" if JSON.value else FORMAT.value](about, found))
    return 0


def load_part(
    run: pathlib.Path, network: trained_network.Trained, other: str | None, split: str
) -> tuple[str, data.Stream, np.ndarray]:
    """Returns the name of a data set, a part of it, and its labels [N] as those of the run.

    Raises:
      ConfigError, DataError, RunDirectoryError: there is no such part, or it doesn't fit the run.
    """
    settings = network.config.dataset
    if split == "holdout" and (other or not settings.holdout):
        raise ConfigError(
            f"--split=holdout is the part of its training set that a run held out, and "
            f"{f'{other} is another data set' if other else f'{run} held out none'}; choose test "
            "or train."
        )
    whole = {"holdout": 0.0, "train_examples": 0}
    if other:
        settings = dataclasses.replace(settings, name=other, **whole)  # type: ignore[arg-type]
        dataset = load_dataset(settings)
    else:
        if split == "test":
            settings = dataclasses.replace(settings, **whole)  # type: ignore[arg-type]
        dataset = trained_network.load_data(run, settings)
    part = dataset.train if split == "train" else dataset.test
    if part.image_shape != network.image_shape:
        sizes = ("×".join(map(str, shape)) for shape in (part.image_shape, network.image_shape))
        raise DataError(
            "the images of {} are {}, and the run's {} (height, width, channels); folders are "
            "brought to a size by ':size=…' behind their path.".format(settings.name, *sizes)
        )
    return settings.name, part, match_labels(dataset, part.labels, network.class_names)


def match_labels(
    dataset: data.AnyDataset, labels: np.ndarray, class_names: tuple[str, ...]
) -> np.ndarray:
    """Returns labels of a data set as those of classes with other places, or fewer names.

    Raises:
      DataError: a class of the data set has no name of these, or two have one.
    """
    places = [data.match_class(name, class_names) for name in dataset.class_names]
    unknown = [n for n, place in zip(dataset.class_names, places, strict=True) if place is None]
    if unknown or len(set(places)) < len(places):
        raise DataError(
            f"the classes of the data set aren't the run's: it has {text.list_some(unknown)}"
            f"{'' if unknown else 'several classes of one name'}, the run "
            f"{text.list_some(class_names)}; name them alike."
        )
    return np.asarray(places, np.int32)[labels]


def list_metrics(found: Evaluation) -> dict[str, float | None]:
    """Returns the numbers over all images by their names."""
    top = {f"top-{k} accuracy": share for k, share in found.top.items()}
    single = {n: value for n, value in found.metrics.items() if not isinstance(value, list)}
    del single["accuracy"]  # the top-1 accuracy
    return {**single, **top, "expected calibration error": found.calibration_error}


def format_json(about: dict[str, Any], found: Evaluation) -> str:
    """Returns everything as one object."""

    def scores(of: Scores) -> dict[str, Any]:
        return {"name": of.name, "images": of.images, **{s: getattr(of, s) for s in SCORES}}

    result = {
        **about,
        "n": found.images,
        "metrics": found.metrics,
        "top": {str(k): share for k, share in found.top.items()},
        "expected_calibration_error": found.calibration_error,
        "classes": [scores(of) for of in found.classes],
        "macro": scores(found.macro),
    }
    return json.dumps(result, indent=2)


def format_csv(about: dict[str, Any], found: Evaluation) -> str:
    """Returns a row for each class, for their averages and for each number over all."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("kind", "name", "images", *SCORES, "value"))
    kinds = [("class", of) for of in found.classes] + [("macro", found.macro)]
    for kind, of in kinds:
        writer.writerow((kind, *of, None))
    for name, value in list_metrics(found).items():
        writer.writerow(("metric", name, found.images, None, None, None, value))
    return lines.getvalue().rstrip("\n")


def format_text(about: dict[str, Any], found: Evaluation) -> str:
    """Returns a table in aligned columns, with the numbers over all below it."""
    rows = make_rows(found)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.insert(1, "─" * len(lines[0]))
    numbers = [f"{name} {show(value)}" for name, value in list_metrics(found).items()]
    return "\n".join([describe(about, found), "", *lines, "", ", ".join(numbers), *notes(found)])


def format_markdown(about: dict[str, Any], found: Evaluation) -> str:
    """Returns the table and the numbers over all as Markdown."""
    head, *rows = make_rows(found)
    lines = [f"| {' | '.join(head)} |", f"|---|{'--:|' * (len(head) - 1)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    numbers = [f"- {name}: {show(value)}" for name, value in list_metrics(found).items()]
    return "\n".join([describe(about, found), "", *lines, "", *numbers, *notes(found)])


FORMATS = {
    "text": format_text,
    "markdown": format_markdown,
    "csv": format_csv,
    "json": format_json,
}


def make_rows(found: Evaluation) -> list[tuple[str, ...]]:
    """Returns the table as text, its head first."""
    head = ("class", "images", "precision", "recall", "F1")
    rows = [
        (text.one_line(of.name), f"{of.images:,}", *(show(getattr(of, s)) for s in SCORES))
        for of in (*found.classes, found.macro)
    ]
    return [head, *rows]


def show(value: float | None) -> str:
    """Returns a number with four digits behind the point; one that is undefined as a dash."""
    return "–" if value is None else f"{value:.4f}"


def describe(about: dict[str, Any], found: Evaluation) -> str:
    """Returns a line about what was evaluated."""
    name = text.one_line(about["dataset"])
    return (
        f"{about['model']}, weights of step {about['checkpoint']}, on {found.images:,} images: "
        f"{name}, {PARTS[about['split']]}{', mirrored too' * about['flip']}"
    )


def notes(found: Evaluation) -> list[str]:
    """Returns a line for each score that isn't defined for some classes."""
    why = {
        "precision": "never predicted",
        "recall": "without images",
        "f1": "neither there nor predicted",
    }
    lines = []
    for score, reason in why.items():
        missing = [of.name for of in found.classes if getattr(of, score) is None]
        if missing:
            name = "F1" if score == "f1" else score
            lines.append(f"{name} is undefined for classes {reason}: {text.list_some(missing)}")
    return ["", *lines] if lines else []


if __name__ == "__main__":
    launch.run(main)
