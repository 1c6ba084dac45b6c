"""Pictures of a finished run: what it learned, how it errs, what its layers see.

python -m experiments.figures --run=runs/lenet
python -m experiments.figures --run=runs/lenet --kind=activations --classes=pullover,coat
python -m experiments.figures --run=runs/lenet --kind=activations --image=shirt.png --format=svg

They are written to the run's `figures/`. Kinds:

curves        loss, accuracy and learning rate over the epochs
predictions   test pictures with their true and their predicted class
mistakes      the most confidently wrong ones
kernels       the kernels of the first convolution
activations   what every convolution and pooling makes of a picture of each of --classes (the first
              of them in the test set), or of one's own --image
fields        what an output in the middle of each layer sees of a picture
confusion     which classes are taken for which, and the accuracy of each
calibration   how far the probabilities can be believed
"""

import functools
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags

from cnn_jax import analysis, data, figures, records, train, trained
from experiments import launch

KINDS = (
    "curves",
    "predictions",
    "mistakes",
    "kernels",
    "activations",
    "fields",
    "confusion",
    "calibration",
)
RUN = flags.DEFINE_string("run", None, "The directory of a run.")
KIND = flags.DEFINE_enum("kind", "all", ("all", *KINDS), "Which of them.")
CLASSES = flags.DEFINE_list(
    "classes", None, "For activations: classes; the first two if not given."
)
IMAGE = flags.DEFINE_list("image", None, "For activations: one's own pictures, instead of classes.")
FORMAT = flags.DEFINE_enum("format", "png", ("png", "svg"), "The pictures' format.")
COUNT = 32  # pictures in a grid
# Why there may be none of a kind.
NOTHING = dict.fromkeys(KINDS, "the network has no convolution.")
NOTHING |= {"curves": "no epoch is finished.", "mistakes": "there is none."}


class Evaluated:
    """A run's network, its test set and what it makes of it; each had when it is first needed."""

    def __init__(self, run: pathlib.Path) -> None:
        self.run = run

    @functools.cached_property
    def network(self) -> trained.Trained:
        """The network."""
        return trained.load(self.run)

    @functools.cached_property
    def dataset(self) -> data.Dataset:
        """Its data set."""
        return train.load_dataset(self.network.config.dataset)

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """Of the test pictures, [N, classes]."""
        return self.network.probabilities(self.dataset.test_images)

    @property
    def guesses(self) -> np.ndarray:
        """The likeliest classes, [N]."""
        return self.probabilities.argmax(1)

    @property
    def name(self) -> str:
        """What is trained on what."""
        settings = records.read_config(self.run)
        return f"{settings.model.name} on {settings.dataset.name}"

    @property
    def title(self) -> str:
        """The same with the accuracy."""
        accuracy = (self.guesses == self.dataset.test_labels).mean()
        return f"{self.name}, accuracy {accuracy:.4f}"


def main() -> int:
    """Runs the command."""
    if RUN.value is None:
        return launch.fail("give the directory of a run, --run=runs/lenet say.")
    run = pathlib.Path(RUN.value)
    evaluated = Evaluated(run)
    kinds = KINDS if KIND.value == "all" else (KIND.value,)
    chosen = choose(evaluated) if "activations" in kinds else []
    for kind in kinds:
        with records.writing(run / "figures"):
            files = draw(run, kind, evaluated, chosen)
        for file in files:
            print(f"wrote {file}")
        if not files:
            print(f"nothing to draw for {kind}: {NOTHING[kind]}")
    return 0


def draw(
    run: pathlib.Path, kind: str, e: Evaluated, chosen: Sequence[tuple[str, np.ndarray]]
) -> list[pathlib.Path]:
    """Draws the pictures of one kind, activations for those `chosen`; returns their files."""
    file = run / "figures" / f"{kind}.{FORMAT.value}"
    if kind == "curves":
        history = records.read_metrics(run)
        if not history:
            return []
        figures.learning_curves(history, e.name, file)
    elif kind in ("predictions", "mistakes"):
        return draw_predictions(file, kind, e)
    elif kind == "kernels":
        kernels = e.network.first_kernels()
        if kernels is None:
            return []
        figures.kernels(kernels, e.name, file)
    elif kind == "activations":
        return draw_activations(run, e, chosen)
    elif kind == "fields":
        return draw_fields(file, e)
    elif kind == "confusion":
        labels = e.dataset.test_labels
        figures.confusion(labels, e.guesses, e.network.class_names, e.title, file)
    else:
        figures.calibration(e.dataset.test_labels, e.probabilities, e.title, file)
    return [file]


def draw_predictions(file: pathlib.Path, kind: str, e: Evaluated) -> list[pathlib.Path]:
    """The first test pictures, or those that the network is most confidently wrong about."""
    labels, title = e.dataset.test_labels, e.title
    shown = np.arange(min(COUNT, len(labels)))
    if kind == "mistakes":
        wrong = np.flatnonzero(e.guesses != labels)
        if not len(wrong):
            return []
        shown = wrong[np.argsort(-e.probabilities[wrong].max(1), kind="stable")][:COUNT]
        title += f": the most confident of {len(wrong)} mistakes"
    figures.predictions(
        e.dataset.test_images[shown],
        labels[shown],
        e.probabilities[shown],
        e.network.class_names,
        title,
        file,
    )
    return [file]


def choose(e: Evaluated) -> list[tuple[str, np.ndarray]]:
    """Returns the names and pictures [H, W, C] to draw activations of, as the flags say.

    Raises:
      DataError: there is no such class, or no picture of it, or an own picture can't be read.
    """
    height, width, channels = e.network.image_shape
    if IMAGE.value:
        paths = [pathlib.Path(path) for path in IMAGE.value]
        return [(p.stem, data.decode_picture(p, channels, (height, width))) for p in paths]
    names = {name.lower(): name for name in e.network.class_names}
    labels = e.dataset.test_labels
    there = [name for i, name in enumerate(e.network.class_names) if (labels == i).any()]
    chosen = []
    for name in CLASSES.value or there[:2]:
        if name.lower() not in names:
            known = ", ".join(e.network.class_names)
            raise data.DataError(f"{name!r} is not a class of the run: {known}.")
        if names[name.lower()] not in there:
            raise data.DataError(f"the test set has no picture of {name}; give an --image.")
        label = e.network.class_names.index(names[name.lower()])
        chosen.append((name, e.dataset.test_images[np.flatnonzero(labels == label)[0]]))
    return chosen


def draw_activations(
    run: pathlib.Path, e: Evaluated, chosen: Sequence[tuple[str, np.ndarray]]
) -> list[pathlib.Path]:
    """One file for each chosen picture; none for a network without maps."""
    files: list[pathlib.Path] = []
    for name, image in chosen:
        maps = {k: v[0] for k, v in e.network.feature_maps(image[None]).items()}
        if not maps:
            return []
        stem = "activations_" + "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
        file = run / "figures" / f"{stem}.{FORMAT.value}"
        while file in files:  # another picture of that name
            file = file.with_stem(file.stem + "_again")
        figures.feature_maps(image, maps, f"{e.network.config.model.name}: {name}", file)
        files.append(file)
    return files


def draw_fields(file: pathlib.Path, e: Evaluated) -> list[pathlib.Path]:
    """What the layers of a network see; none for a network whose outputs all see everything."""
    size = e.network.config.dataset.image_size
    height, width, channels = e.network.image_shape
    shape = (size or height, size or width, channels)
    scale = (height / shape[0], width / shape[1])
    fields = []
    for layer in analysis.analyze(e.network.model, shape).layers:
        f, stride, start = (
            layer.receptive_field,
            layer.receptive_field_stride,
            layer.receptive_field_start,
        )
        maps = len(layer.output_shape) == 3 and layer.kind in ("Conv", "MaxPool", "AvgPool")
        if not (maps and f and stride and start):
            continue
        middle = [n // 2 for n in layer.output_shape[:2]]
        first = [(s + m * d) * k for s, m, d, k in zip(start, middle, stride, scale, strict=True)]
        seen = [round(n * k) for n, k in zip(f, scale, strict=True)]
        fields.append((layer.name, [round(x) for x in first], seen))
    if not fields:
        return []
    title = f"{e.network.config.model.name}: what an output in the middle sees"
    figures.receptive_field(e.dataset.test_images[0], fields, title, file)
    return [file]


if __name__ == "__main__":
    launch.run(main)
