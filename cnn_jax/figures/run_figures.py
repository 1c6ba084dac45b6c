"""The figures of a finished run, of KINDS, drawn from what it left in its directory."""

import contextlib
import functools
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from PIL import Image

from cnn_jax import checkpoints, data, events, files, records, schema, text
from cnn_jax.figures import plots, tensorboard
from cnn_jax.inspection import layer_table, taps, trained_network

MAX_CLASSES = 1000  # of a confusion matrix that can still be looked at
DRAWN = "drawn.json"  # the files of each kind that was drawn, and of which STEP
STEP = "step"
COUNT = 32  # images in a grid
BOARD_DONE = "pictures_written"  # the step of which `write_board` has written all
Chosen = Sequence[tuple[str, np.ndarray]]  # names and uint8 images [H, W, C]
Files = list[pathlib.Path]


class Evaluated:
    """A run's network, its test set and what it makes of it; each computed when first needed."""

    def __init__(self, run: pathlib.Path, checkpoint: checkpoints.Which = "last") -> None:
        self.run, self.checkpoint = run, checkpoint

    @functools.cached_property
    def network(self) -> trained_network.Trained:
        """The network."""
        return trained_network.load(self.run, self.checkpoint)

    @functools.cached_property
    def dataset(self) -> data.Dataset:
        """Its data set; raises what `trained_network.load_data` raises."""
        return trained_network.load_data(self.run, self.network.config.dataset)

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """Those of the classes, for the test images: [N, classes]."""
        return self.network.probabilities(self.dataset.test_images)

    @property
    def guesses(self) -> np.ndarray:
        """The likeliest classes, [N]."""
        return self.probabilities.argmax(1)

    @property
    def name(self) -> str:
        """The network and the data set."""
        settings = records.read_config(self.run)
        return f"{settings.model.name} on {settings.dataset.name}"

    @property
    def title(self) -> str:
        """The same with the accuracy."""
        accuracy = (self.guesses == self.dataset.test_labels).mean()
        return f"{self.name}, accuracy {accuracy:.4f}"


def _draw_curves(file: pathlib.Path, evaluated: Evaluated, _: Chosen) -> Files:
    """Draws loss, accuracy and learning rate over the epochs."""
    if not (history := records.read_metrics(evaluated.run)):
        return []
    plots.draw_learning_curves(history, evaluated.name, file)
    return [file]


def _draw_first(file: pathlib.Path, evaluated: Evaluated, _: Chosen) -> Files:
    """Draws the first test images with their true and their predicted class."""
    shown = np.arange(min(COUNT, len(evaluated.dataset.test_labels)))
    return _draw_predictions(file, evaluated, shown, evaluated.title)


def _draw_mistakes(file: pathlib.Path, evaluated: Evaluated, _: Chosen) -> Files:
    """Draws the test images that the network is most confidently wrong about."""
    wrong = np.flatnonzero(evaluated.guesses != evaluated.dataset.test_labels)
    if not len(wrong):
        return []
    shown = wrong[np.argsort(-evaluated.probabilities[wrong].max(1), kind="stable")][:COUNT]
    title = f"{evaluated.title}: the most confident of {len(wrong)} mistakes"
    return _draw_predictions(file, evaluated, shown, title)


def _draw_predictions(file: pathlib.Path, evaluated: Evaluated, shown: Any, title: str) -> Files:
    images, labels = evaluated.dataset.test_images[shown], evaluated.dataset.test_labels[shown]
    probabilities, class_names = evaluated.probabilities[shown], evaluated.network.class_names
    plots.draw_predictions(images, labels, probabilities, class_names, title, file)
    return [file]


def _draw_kernels(file: pathlib.Path, evaluated: Evaluated, _: Chosen) -> Files:
    """Draws the kernels of the first convolution."""
    if (first := evaluated.network.first_kernels()) is None:
        return []
    plots.draw_kernels(first[1], f"{evaluated.name}: {first[0]}", file)
    return [file]


def _draw_activations(file: pathlib.Path, evaluated: Evaluated, chosen: Chosen) -> Files:
    """Draws a file for each chosen image: what every convolution and pooling makes of it."""
    drawn: Files = []
    for name, image in chosen:
        maps = {k: v[0] for k, v in evaluated.network.feature_maps(image[None]).items()}
        if not maps:
            return []
        safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
        own = file.with_stem(f"activations_{safe}")
        while own in drawn:  # another image of that name
            own = own.with_stem(own.stem + "_again")
        plots.draw_feature_maps(image, maps, f"{evaluated.network.config.model.name}: {name}", own)
        drawn.append(own)
    return drawn


def _draw_fields(file: pathlib.Path, evaluated: Evaluated, _: Chosen) -> Files:
    """Draws what an output in the middle of each layer sees, unless all see everything."""
    network = evaluated.network
    shape = network.input_shape
    scale = [size / seen for size, seen in zip(network.image_shape[:2], shape[:2], strict=True)]
    kinds = {kind.__name__ for kind in taps.MAPS}
    fields = []
    for layer in layer_table.analyze(network.model, shape).layers:
        size, stride = layer.receptive_field, layer.receptive_field_stride
        start = layer.receptive_field_start
        maps = len(layer.output_shape) == 3 and layer.kind in kinds
        if not (maps and size and stride and start):
            continue
        middle = [n // 2 for n in layer.output_shape[:2]]
        first = [(s + m * d) * k for s, m, d, k in zip(start, middle, stride, scale, strict=True)]
        seen = [round(n * k) for n, k in zip(size, scale, strict=True)]
        fields.append((layer.name, [round(x) for x in first], seen))
    if not fields:
        return []
    title = f"{network.config.model.name}: what an output in the middle sees"
    plots.draw_receptive_fields(evaluated.dataset.test_images[0], fields, title, file)
    return [file]


def _draw_confusion(file: pathlib.Path, evaluated: Evaluated, _: Chosen) -> Files:
    """Draws how often each class is mistaken for which, and its accuracy."""
    class_names = evaluated.network.class_names
    if len(class_names) > MAX_CLASSES:
        return []
    labels = evaluated.dataset.test_labels
    plots.draw_confusion(labels, evaluated.guesses, class_names, evaluated.title, file)
    return [file]


def _draw_calibration(file: pathlib.Path, evaluated: Evaluated, _: Chosen) -> Files:
    """Draws how far the probabilities can be believed."""
    labels = evaluated.dataset.test_labels
    plots.draw_calibration(labels, evaluated.probabilities, evaluated.title, file)
    return [file]


class Kind(NamedTuple):
    """A kind of figure."""

    draw: Callable[[pathlib.Path, Evaluated, Chosen], Files]
    nothing: str = "the network has no convolution."  # why there may be none


KINDS = {  # in the order in which they are drawn
    "curves": Kind(_draw_curves, "no epoch is finished."),
    "predictions": Kind(_draw_first),
    "mistakes": Kind(_draw_mistakes, "there is none."),
    "kernels": Kind(_draw_kernels),
    "activations": Kind(_draw_activations),
    "fields": Kind(_draw_fields),
    "confusion": Kind(_draw_confusion, f"there are more than {MAX_CLASSES:,} classes."),
    "calibration": Kind(_draw_calibration),
}


def draw(
    evaluated: Evaluated, kind: str, chosen: Chosen, folder: pathlib.Path, extension: str = "png"
) -> Files:
    """Draws the figures of one kind into a folder; returns their files, [] if there is nothing.

    Args:
      evaluated: the run.
      kind: one of KINDS.
      chosen: names and uint8 images [H, W, C] to draw activations of.
      folder: made if need be.
      extension: 'png' or 'svg'.

    Raises:
      RunDirectoryError, CheckpointError, DataError: one sentence each.
    """
    return KINDS[kind].draw(folder / f"{kind}.{extension}", evaluated, chosen)


def draw_curves(run: pathlib.Path) -> None:
    """Draws a run's learning curves anew, if its configuration asks for figures.

    What goes wrong is warned of; the run itself is recorded.
    """
    config, history = records.read_config(run), records.read_metrics(run)
    if config.records.figures and history:
        try:
            file = files.make_folder(run, "figures") / "curves.png"
            plots.draw_learning_curves(history, Evaluated(run).name, file)
        except Exception as error:
            reason = str(error).strip() or type(error).__name__
            warnings.warn(f"the learning curves were not drawn: {reason}", stacklevel=2)


def draw_missing(evaluated: Evaluated, skip: Sequence[str] = ()) -> None:
    """Draws every kind of figure, but those of `skip`, that isn't whole in the run's `figures/`.

    What goes wrong with a kind is warned of; the others are drawn.
    """
    folder = files.make_folder(evaluated.run, "figures")
    drawn: dict[str, list[str]] = {}
    with contextlib.suppress(records.RunDirectoryError):
        drawn = schema.read_json(folder / DRAWN, dict[str, list[str]])
    newest = [str(checkpoints.find_newest(evaluated.run))]
    if drawn.get(STEP) != newest:  # of a run that went on since
        drawn = {}
    for kind in KINDS:
        names = [pathlib.PurePath(name).name for name in drawn.get(kind, [])]
        if kind in skip or (kind in drawn and all(_is_whole(folder / name) for name in names)):
            continue
        try:
            chosen = choose_images(evaluated) if kind == "activations" else ()
            drawn[kind] = [file.name for file in draw(evaluated, kind, chosen, folder)]
        except Exception as error:
            reason = str(error).strip() or type(error).__name__
            warnings.warn(f"the figures called {kind} were not drawn: {reason}", stacklevel=2)
    records.write_json(folder / DRAWN, {STEP: newest, **drawn})


def _is_whole(file: pathlib.Path) -> bool:
    """Whether a PNG is there from its first byte to its last."""
    try:
        with files.open_regular(file) as stream, Image.open(stream, formats=["PNG"]) as image:
            image.verify()
    except Exception:  # Pillow raises many kinds
        return False
    return True


def choose_images(
    evaluated: Evaluated, classes: Sequence[str] = ()
) -> list[tuple[str, np.ndarray]]:
    """Returns the first test image [H, W, C] of each of some classes, by default the first two.

    Raises:
      DataError: there is no such class, or no image of it.
    """
    names, labels = evaluated.network.class_names, evaluated.dataset.test_labels
    there = [name for i, name in enumerate(names) if (labels == i).any()]
    chosen = []
    for name in classes or there[:2]:
        label = data.match_class(name, names)
        if label is None:
            raise data.DataError(f"{name!r} is not a class of the run: {text.list_some(names)}.")
        found = np.flatnonzero(labels == label)
        if not len(found):
            raise data.DataError(f"the test set has no image of {names[label]}; give an --image.")
        chosen.append((name, evaluated.dataset.test_images[found[0]]))
    return chosen


def read_images(evaluated: Evaluated, paths: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Returns the images of files, brought to the run's [H, W, C], by the names of the files.

    Raises:
      DataError: one can't be read.
    """
    network = evaluated.network
    height, width, channels = network.image_shape
    found = [pathlib.Path(path) for path in paths]
    return [(f.stem, data.decode_picture(f, channels, (height, width), network.fit)) for f in found]


def write_board(evaluated: Evaluated) -> None:
    """Writes what TensorBoard shows besides the metrics into the run's `tensorboard/`."""
    network, row = evaluated.network, records.read_metrics(evaluated.run)[-1]
    writer = events.open_writer(evaluated.run)
    try:
        tensorboard.add_configuration(writer, network.config)
        tensorboard.add_hyperparameters(writer, network.config, row)
        image = network.preprocess(jnp.asarray(evaluated.dataset.test_images[:1]))
        tensorboard.add_graph(writer, network.model, network.variables, image)
        tensorboard.add_kernels(
            writer, network.variables["params"], network.first_kernels(), row["step"]
        )
        for name, shown in choose_images(evaluated):
            maps = {k: v[0] for k, v in network.feature_maps(shown[None]).items()}
            tensorboard.add_images(writer, shown, maps, row["step"], name)
        writer.flush()
    finally:
        events.close_writer(writer)
    files.write_text(evaluated.run / "tensorboard" / BOARD_DONE, str(row["step"]))


def has_board(run: pathlib.Path) -> bool:
    """Whether `write_board` has been done for the run as it is; earlier versions noted no step."""
    file = run / "tensorboard" / BOARD_DONE
    last = str(records.read_metrics(run)[-1]["step"])
    return file.exists() and schema.read_record(file) in (b"", last.encode())
