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


class Evaluated:
    """A trained network with its test set and what it makes of it."""

    def __init__(self, run: pathlib.Path) -> None:
        self.network = trained.load(run)
        self.dataset = train.load_dataset(self.network.config.dataset)
        self.images, self.labels = self.dataset.test_images, self.dataset.test_labels
        self.probabilities = self.network.probabilities(self.images)
        self.guesses = self.probabilities.argmax(1)
        settings = self.network.config
        accuracy = (self.guesses == self.labels).mean()
        self.title = f"{settings.model.name} on {settings.dataset.name}, accuracy {accuracy:.4f}"


def main() -> int:
    """Runs the command."""
    if RUN.value is None:
        return launch.fail("give the directory of a run, --run=runs/lenet say.")
    run = pathlib.Path(RUN.value)
    kinds = KINDS if KIND.value == "all" else (KIND.value,)
    evaluated = Evaluated(run)
    for kind in kinds:
        for file in draw(run, kind, evaluated):
            print(f"wrote {file}")
    return 0


def draw(run: pathlib.Path, kind: str, e: Evaluated) -> list[pathlib.Path]:
    """Draws the pictures of one kind; returns their files."""
    file = run / "figures" / f"{kind}.{FORMAT.value}"
    names = e.network.class_names
    if kind == "curves":
        figures.learning_curves(records.read_metrics(run), e.title, file)
    elif kind == "predictions":
        first = slice(COUNT)
        figures.predictions(
            e.images[first], e.labels[first], e.probabilities[first], names, e.title, file
        )
    elif kind == "mistakes":
        wrong = np.flatnonzero(e.guesses != e.labels)
        if not len(wrong):
            return []
        worst = wrong[np.argsort(-e.probabilities[wrong].max(1), kind="stable")][:COUNT]
        title = f"{e.title}: the most confident of {len(wrong)} mistakes"
        figures.predictions(
            e.images[worst], e.labels[worst], e.probabilities[worst], names, title, file
        )
    elif kind == "kernels":
        kernels = e.network.first_kernels()
        if kernels is None:
            return []
        figures.kernels(kernels, e.title, file)
    elif kind == "activations":
        return draw_activations(run, e)
    elif kind == "fields":
        return draw_fields(file, e)
    elif kind == "confusion":
        figures.confusion(e.labels, e.guesses, names, e.title, file)
    else:
        figures.calibration(e.labels, e.probabilities, e.title, file)
    return [file]


def draw_activations(run: pathlib.Path, e: Evaluated) -> list[pathlib.Path]:
    """One file for each chosen class or picture; none for a network without maps."""
    height, width, channels = e.network.image_shape
    if IMAGE.value:
        paths = [pathlib.Path(path) for path in IMAGE.value]
        chosen = {p.stem: data.decode_picture(p, channels, (height, width)) for p in paths}
    else:
        chosen = {name: first_of(name, e) for name in CLASSES.value or e.network.class_names[:2]}
    files = []
    for name, image in chosen.items():
        maps = {k: v[0] for k, v in e.network.feature_maps(image[None]).items()}
        if maps:
            safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
            file = run / "figures" / f"activations_{safe}.{FORMAT.value}"
            figures.feature_maps(image, maps, f"{e.network.config.model.name}: {name}", file)
            files.append(file)
    return files


def first_of(name: str, e: Evaluated) -> np.ndarray:
    """Returns the first test picture of a class.

    Raises:
      DataError: there is no such class.
    """
    names: Sequence[str] = e.network.class_names
    lower = [n.lower() for n in names]
    if name.lower() not in lower:
        raise data.DataError(f"{name!r} is not a class of the run: {', '.join(names)}.")
    return e.images[np.flatnonzero(e.labels == lower.index(name.lower()))[0]]


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
    figures.receptive_field(e.images[0], fields, title, file)
    return [file]


if __name__ == "__main__":
    launch.run(main)
