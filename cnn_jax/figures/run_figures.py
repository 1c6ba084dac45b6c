"""All pictures of a finished run, drawn from what it left in its directory.

Kinds, in the order in which they are drawn:

curves        loss, accuracy and learning rate over the epochs
predictions   test pictures with their true and their predicted class
mistakes      the most confidently wrong ones
kernels       the kernels of the first convolution
activations   what every convolution and pooling makes of chosen pictures
fields        what an output in the middle of each layer sees of a picture
confusion     which classes are taken for which, and the accuracy of each
calibration   how far the probabilities can be believed
"""

import contextlib
import functools
import pathlib
import warnings
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from PIL import Image

from cnn_jax import data, events, files, identity, records, schema
from cnn_jax.experiment import load_dataset
from cnn_jax.figures import plots, tensorboard
from cnn_jax.inspection import layer_table, trained_network

MAX_CLASSES = 1000  # of a confusion matrix that can still be looked at
DRAWN = "drawn.json"  # the files of each kind that was drawn
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
COUNT = 32  # pictures in a grid
BOARD_DONE = "pictures_written"  # a file that says so
# Why there may be none of a kind.
NOTHING = dict.fromkeys(KINDS, "the network has no convolution.")
NOTHING |= {"curves": "no epoch is finished.", "mistakes": "there is none."}
NOTHING |= {"confusion": f"there are more than {MAX_CLASSES:,} classes."}


class Evaluated:
    """A run's network, its test set and what it makes of it; each had when it is first needed."""

    def __init__(self, run: pathlib.Path) -> None:
        self.run = run

    @functools.cached_property
    def network(self) -> trained_network.Trained:
        """The network."""
        return trained_network.load(self.run)

    @functools.cached_property
    def dataset(self) -> data.Dataset:
        """Its data set.

        Raises:
          RunDirectoryError: it isn't what the run was trained on any more.
        """
        settings = self.network.config.dataset
        keep = settings.data_dir in (None, data.DEFAULT_DATA_DIR)
        dataset = load_dataset(settings, keep=keep)
        there = identity.read_data(records.find_environment(self.run))
        if changed := identity.compare_data(there, identity.identify_data(dataset)):
            raise records.RunDirectoryError(
                f"{self.run} was trained on other data than {settings.name} is now: {changed}. Put "
                "back the data that it was trained on."
            )
        return dataset

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


def draw(
    e: Evaluated,
    kind: str,
    chosen: Sequence[tuple[str, np.ndarray]],
    folder: pathlib.Path,
    extension: str = "png",
) -> list[pathlib.Path]:
    """Draws the pictures of one kind into a folder; returns their files, none if there is nothing.

    Args:
      e: the run.
      kind: one of KINDS.
      chosen: names and uint8 pictures [H, W, C] to draw activations of.
      folder: made if need be.
      extension: 'png' or 'svg'.

    Raises:
      RunDirectoryError, CheckpointError, DataError: one sentence each.
    """
    file = folder / f"{kind}.{extension}"
    if kind == "curves":
        history = records.read_metrics(e.run)
        if not history:
            return []
        plots.learning_curves(history, e.name, file)
    elif kind in ("predictions", "mistakes"):
        return _draw_predictions(file, kind, e)
    elif kind == "kernels":
        first = e.network.first_kernels()
        if first is None:
            return []
        layer, kernels = first
        plots.kernels(kernels, f"{e.name}: {layer}", file)
    elif kind == "activations":
        return _draw_activations(file, e, chosen)
    elif kind == "fields":
        return _draw_fields(file, e)
    elif kind == "confusion":
        if len(e.network.class_names) > MAX_CLASSES:
            return []
        labels = e.dataset.test_labels
        plots.confusion(labels, e.guesses, e.network.class_names, e.title, file)
    else:
        plots.calibration(e.dataset.test_labels, e.probabilities, e.title, file)
    return [file]


def draw_curves(run: pathlib.Path) -> None:
    """Draws a run's learning curves anew, if its configuration asks for figures.

    What goes wrong is warned of; the run itself is recorded.
    """
    config, history = records.read_config(run), records.read_metrics(run)
    if config.records.figures and history:
        title = f"{config.model.name} on {config.dataset.name}"
        try:
            folder = files.make_folder(run, "figures")
            plots.learning_curves(history, title, folder / "curves.png")
        except Exception as error:
            reason = str(error).strip() or type(error).__name__
            warnings.warn(f"the learning curves were not drawn: {reason}", stacklevel=2)


def draw_missing(e: Evaluated, but: Sequence[str] = ()) -> None:
    """Draws every kind of picture that isn't whole in the run's `figures/`, except `but`.

    What goes wrong with a kind is warned of; the others are drawn.
    """
    folder = files.make_folder(e.run, "figures")
    drawn: dict[str, list[str]] = {}
    with contextlib.suppress(records.RunDirectoryError):
        drawn = schema.read_json(folder / DRAWN, dict[str, list[str]])
    for kind in KINDS:
        names = [pathlib.PurePath(name).name for name in drawn.get(kind, [])]
        if kind in but or (kind in drawn and all(_is_whole(folder / name) for name in names)):
            continue
        try:
            chosen = choose(e) if kind == "activations" else ()
            drawn[kind] = [file.name for file in draw(e, kind, chosen, folder)]
        except Exception as error:
            reason = str(error).strip() or type(error).__name__
            warnings.warn(f"the pictures called {kind} were not drawn: {reason}", stacklevel=2)
    records.write_json(folder / DRAWN, drawn)


def _is_whole(file: pathlib.Path) -> bool:
    """Whether a PNG is there from its first byte to its last."""
    try:
        with files.open_regular(file) as stream, Image.open(stream, formats=["PNG"]) as picture:
            picture.verify()
    except Exception:  # Pillow's are of many kinds
        return False
    return True


def _draw_predictions(file: pathlib.Path, kind: str, e: Evaluated) -> list[pathlib.Path]:
    """The first test pictures, or those that the network is most confidently wrong about."""
    labels, title = e.dataset.test_labels, e.title
    shown = np.arange(min(COUNT, len(labels)))
    if kind == "mistakes":
        wrong = np.flatnonzero(e.guesses != labels)
        if not len(wrong):
            return []
        shown = wrong[np.argsort(-e.probabilities[wrong].max(1), kind="stable")][:COUNT]
        title += f": the most confident of {len(wrong)} mistakes"
    plots.predictions(
        e.dataset.test_images[shown],
        labels[shown],
        e.probabilities[shown],
        e.network.class_names,
        title,
        file,
    )
    return [file]


def choose(e: Evaluated, classes: Sequence[str] = ()) -> list[tuple[str, np.ndarray]]:
    """Returns the first test picture [H, W, C] of each of some classes; of two, if none is named.

    Raises:
      DataError: there is no such class, or no picture of it.
    """
    names, labels = e.network.class_names, e.dataset.test_labels
    there = [name for i, name in enumerate(names) if (labels == i).any()]
    chosen = []
    for name in classes or there[:2]:
        label = data.match_class(name, names)
        if label is None:
            raise data.DataError(f"{name!r} is not a class of the run: {', '.join(names)}.")
        found = np.flatnonzero(labels == label)
        if not len(found):
            raise data.DataError(f"the test set has no picture of {names[label]}; give an --image.")
        chosen.append((name, e.dataset.test_images[found[0]]))
    return chosen


def choose_own(e: Evaluated, paths: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """Returns one's own pictures, scaled to the run's [H, W, C], by the names of their files.

    Raises:
      DataError: one can't be read.
    """
    height, width, channels = e.network.image_shape
    files = [pathlib.Path(path) for path in paths]
    return [(f.stem, data.decode_picture(f, channels, (height, width))) for f in files]


def _draw_activations(
    file: pathlib.Path, e: Evaluated, chosen: Sequence[tuple[str, np.ndarray]]
) -> list[pathlib.Path]:
    """One file for each chosen picture; none for a network without maps."""
    files: list[pathlib.Path] = []
    for name, image in chosen:
        maps = {k: v[0] for k, v in e.network.feature_maps(image[None]).items()}
        if not maps:
            return []
        stem = "activations_" + "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
        own = file.with_stem(stem)
        while own in files:  # another picture of that name
            own = own.with_stem(own.stem + "_again")
        plots.feature_maps(image, maps, f"{e.network.config.model.name}: {name}", own)
        files.append(own)
    return files


def _draw_fields(file: pathlib.Path, e: Evaluated) -> list[pathlib.Path]:
    """What the layers of a network see; none for a network whose outputs all see everything."""
    size = e.network.config.dataset.image_size
    height, width, channels = e.network.image_shape
    shape = (size or height, size or width, channels)
    scale = (height / shape[0], width / shape[1])
    fields = []
    for layer in layer_table.analyze(e.network.model, shape).layers:
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
    plots.receptive_field(e.dataset.test_images[0], fields, title, file)
    return [file]


def write_board(e: Evaluated) -> None:
    """Writes what TensorBoard shows besides the numbers into the run's `tensorboard/`."""
    network, step = e.network, records.read_metrics(e.run)[-1]["step"]
    writer = events.open_writer(e.run)
    try:
        tensorboard.add_configuration(writer, network.config)
        tensorboard.add_hyperparameters(writer, network.config, records.read_metrics(e.run)[-1])
        image = network.preprocess(jnp.asarray(e.dataset.test_images[:1]))
        tensorboard.add_graph(writer, network.model, network.variables, image)
        tensorboard.add_kernels(writer, network.variables["params"], network.first_kernels(), step)
        for name, picture in choose(e):
            maps = {k: v[0] for k, v in network.feature_maps(picture[None]).items()}
            tensorboard.add_pictures(writer, picture, maps, step, name)
        writer.flush()
    finally:
        events.close_writer(writer)
    files.write_bytes(e.run / "tensorboard" / BOARD_DONE, b"")
