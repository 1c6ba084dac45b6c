"""The figures of a finished run, of KINDS, drawn from what it left in its directory."""

import contextlib
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TextIO

import jax.numpy as jnp
import numpy as np
from PIL import Image

from cnn_jax import checkpoints, events, files, records, schema
from cnn_jax.display import show_progress
from cnn_jax.figures import explanations, gallery, image_plots, plots, tensorboard
from cnn_jax.figures.evaluated import Chosen, Evaluated, choose_images, sample_over_classes
from cnn_jax.figures.gallery import Section
from cnn_jax.inspection import layer_table, taps

MAX_CLASSES = 1000  # of a confusion matrix that can still be looked at
DRAWN = "drawn.json"  # the files of each kind that was drawn, and of which STEP
STEP = "step"
COUNT = 30  # images in a grid
BOARD_DONE = "pictures_written"  # the step of which `write_board` has written all
GUESSES = 5  # classes beside feature maps
EXPLAINED = 4  # images whose guesses are explained
Images = Sequence[Chosen]
Files = list[pathlib.Path]


def _draw_curves(file: pathlib.Path, evaluated: Evaluated, _: Images) -> Files:
    """Draws loss, accuracy and learning rate over the epochs."""
    if not (history := records.read_metrics(evaluated.run)):
        return []
    plots.draw_learning_curves(history, evaluated.name, file)
    return [file]


def _draw_sample(file: pathlib.Path, evaluated: Evaluated, _: Images) -> Files:
    """Draws random test images of all classes with their class and the network's guess."""
    labels = evaluated.dataset.test_labels
    shown = sample_over_classes(labels, COUNT)
    classes, there = len(np.unique(labels[shown])), len(np.unique(labels))
    of = f"all {there}" if classes == there else f"{classes} of {there}"
    title = f"{evaluated.title}: {len(shown)} random test images of {of} classes"
    return _draw_predictions(file, evaluated, shown, title)


def _draw_mistakes(file: pathlib.Path, evaluated: Evaluated, _: Images) -> Files:
    """Draws the test images that the network is most confidently wrong about.

    Of equally confident ones the classes are random.
    """
    labels = evaluated.dataset.test_labels
    wrong = np.flatnonzero(evaluated.guesses != labels)
    if not len(wrong):
        return []
    wrong = wrong[sample_over_classes(labels[wrong], len(wrong))]
    shown = wrong[np.argsort(-evaluated.probabilities[wrong].max(1), kind="stable")][:COUNT]
    which = "all" if len(shown) == len(wrong) else f"the {len(shown)} most confident of"
    title = f"{evaluated.title}: {which} {len(wrong):,} mistakes"
    return _draw_predictions(file, evaluated, shown, title)


def _draw_predictions(file: pathlib.Path, evaluated: Evaluated, shown: Any, title: str) -> Files:
    test = evaluated.dataset.test
    images, labels = test.read(shown, None), test.labels[shown]
    probabilities, class_names = evaluated.probabilities[shown], evaluated.network.class_names
    image_plots.draw_predictions(images, labels, probabilities, class_names, title, file)
    return [file]


def _draw_kernels(file: pathlib.Path, evaluated: Evaluated, _: Images) -> Files:
    """Draws the kernels of the first convolution."""
    if (first := evaluated.network.first_kernels()) is None:
        return []
    title = f"{evaluated.name}\nthe first convolution, {first[0]}"
    image_plots.draw_kernels(first[1], title, file)
    return [file]


def _draw_activations(file: pathlib.Path, evaluated: Evaluated, chosen: Images) -> Files:
    """Draws a file for each chosen image: what every convolution and pooling makes of it."""
    drawn: Files = []
    network = evaluated.network
    for name, image, truth in chosen:
        maps = {k: v[0] for k, v in network.feature_maps(image[None]).items()}
        if not maps:
            return []
        p = network.probabilities(image[None])[0]
        likeliest = np.argsort(-p, kind="stable")[:GUESSES]
        guesses = [(network.class_names[i], float(p[i])) for i in likeliest]
        safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
        own = file.with_stem(f"activations_{safe}")
        while own in drawn:  # another image of that name
            own = own.with_stem(own.stem + "_again")
        of = f"truth: {truth}" if truth else name
        title = f"Feature maps of {network.config.model.name}\n{of}, guess: {guesses[0][0]}"
        image_plots.draw_feature_maps(image, maps, title, own, guesses)
        drawn.append(own)
    return drawn


def _draw_fields(file: pathlib.Path, evaluated: Evaluated, _: Images) -> Files:
    """Draws the receptive field of a unit in the middle of each convolution's or pooling's map."""
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
    title = f"{network.config.model.name}: receptive fields in the middle of the maps"
    image = choose_images(evaluated)[0].image
    image_plots.draw_receptive_fields(image, fields, title, file)
    return [file]


def _draw_explanations(file: pathlib.Path, evaluated: Evaluated, _: Images) -> Files:
    """Draws what speaks for the guesses of a few random test images of different classes."""
    network, labels = evaluated.network, evaluated.dataset.test_labels
    if not explanations.list_layers(network):
        return []
    shown = sample_over_classes(labels, EXPLAINED)
    images, guesses = evaluated.dataset.test.read(shown, None), evaluated.guesses[shown]
    title = f"{evaluated.name}: what speaks for the guess, red, and against it, blue"
    explanations.draw_explanations(
        network, images, labels[shown].tolist(), guesses.tolist(), title, file
    )
    return [file]


def _draw_confusion(file: pathlib.Path, evaluated: Evaluated, _: Images) -> Files:
    """Draws how often each class is mistaken for which, and its accuracy."""
    class_names = evaluated.network.class_names
    if len(class_names) > MAX_CLASSES:
        return []
    labels = evaluated.dataset.test_labels
    plots.draw_confusion(labels, evaluated.guesses, class_names, evaluated.title, file)
    return [file]


def _draw_calibration(file: pathlib.Path, evaluated: Evaluated, _: Images) -> Files:
    """Draws how far the probabilities can be believed."""
    labels = evaluated.dataset.test_labels
    plots.draw_calibration(labels, evaluated.probabilities, evaluated.title, file)
    return [file]


class Kind(NamedTuple):
    """A kind of figure."""

    draw: Callable[[pathlib.Path, Evaluated, Images], Files]
    about: Section
    nothing: str = "the network has no convolution."  # why there may be none


KINDS = {  # in the order in which they are drawn
    "curves": Kind(
        _draw_curves,
        Section(
            "Learning curves",
            "Loss, accuracy and learning rate over the epochs: a test curve that turns back while "
            "the training curve goes on shows overfitting.",
        ),
        "no epoch is finished.",
    ),
    "predictions": Kind(
        _draw_sample,
        Section(
            "Predictions",
            "Random test images, each class as often as the others: truth is an image's class, "
            "guess the network's, with its probability; wrong ones are framed in red.",
        ),
    ),
    "mistakes": Kind(
        _draw_mistakes,
        Section(
            "Mistakes",
            "The test images that the network is most confidently wrong about: some are hard, and "
            "some may be labelled wrong.",
        ),
        "there is none.",
    ),
    "kernels": Kind(
        _draw_kernels,
        Section(
            "Kernels",
            "The weights of the first convolution: red and blue side by side find an edge, and "
            "one color all over finds brightness.",
        ),
    ),
    "activations": Kind(
        _draw_activations,
        Section(
            "Feature maps",
            "What each layer makes of the image at the top, a row for each: a map is red where "
            "its kernel finds what it looks for, and blue where it finds the opposite.",
        ),
    ),
    "fields": Kind(
        _draw_fields,
        Section(
            "Receptive fields",
            "The frame is all that a unit in the middle of the layer's map sees of the image: it "
            "grows with depth.",
        ),
    ),
    "explanations": Kind(
        _draw_explanations,
        Section(
            "What speaks for a guess",
            "Grad-CAM shows where the last maps speak for it, the input gradient (saliency) which "
            "pixels would move it, and occlusion where covering the image takes it away.",
        ),
    ),
    "confusion": Kind(
        _draw_confusion,
        Section(
            "Confusion matrix",
            "A row for each true class: dark off the diagonal is a class often taken for the one "
            "of the column.",
        ),
        f"there are more than {MAX_CLASSES:,} classes.",
    ),
    "calibration": Kind(
        _draw_calibration,
        Section(
            "Calibration",
            "Of the images that the network is 80 % sure of, 80 % should be right: below the "
            "dashed line it is too confident, above it too cautious.",
        ),
    ),
}


def draw(
    evaluated: Evaluated, kind: str, chosen: Images, folder: pathlib.Path, extension: str = "png"
) -> Files:
    """Draws the figures of one kind into a folder; returns their files, [] if there is nothing.

    Args:
      evaluated: the run.
      kind: one of KINDS.
      chosen: images to draw activations of.
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


def draw_missing(
    evaluated: Evaluated, skip: Sequence[str] = (), stream: TextIO | None = None
) -> None:
    """Draws every kind of figure, but those of `skip`, that isn't whole in the run's `figures/`.

    What goes wrong with a kind is warned of; the others are drawn. A page shows them all. The
    stream, if it is a terminal, shows which kind is being drawn.
    """
    folder = files.make_folder(evaluated.run, "figures")
    drawn: dict[str, list[str]] = {}
    with contextlib.suppress(records.RunDirectoryError):
        drawn = schema.read_json(folder / DRAWN, dict[str, list[str]])
    newest = [str(checkpoints.find_newest(evaluated.run))]
    if drawn.get(STEP) != newest:  # of a run that went on since
        drawn = {}
    wanted = []
    for kind in KINDS:
        names = [pathlib.PurePath(name).name for name in drawn.get(kind, [])]
        whole = kind in drawn and all(_is_whole(folder / name) for name in names)
        wanted += [kind] * (kind not in skip and not whole)
    for kind in show_progress(wanted, "drawing", stream):
        try:
            chosen = choose_images(evaluated) if kind == "activations" else ()
            drawn[kind] = [file.name for file in draw(evaluated, kind, chosen, folder)]
        except Exception as error:
            reason = str(error).strip() or type(error).__name__
            warnings.warn(f"the figures called {kind} were not drawn: {reason}", stacklevel=2)
    records.write_json(folder / DRAWN, {STEP: newest, **drawn})
    write_gallery(evaluated, folder)


def write_gallery(evaluated: Evaluated, folder: pathlib.Path) -> pathlib.Path | None:
    """Writes a page of the figures in a folder; see `gallery.write_gallery`."""
    rows = records.read_metrics(evaluated.run)
    accuracy = f", test accuracy {rows[-1]['test_accuracy']:.4f}" if rows else ""
    sections = {kind: about for kind, (_, about, _) in KINDS.items()}
    return gallery.write_gallery(folder, evaluated.name + accuracy, sections)


def _is_whole(file: pathlib.Path) -> bool:
    """Whether a PNG is there from its first byte to its last."""
    try:
        with files.open_regular(file) as stream, Image.open(stream, formats=["PNG"]) as image:
            image.verify()
    except Exception:  # Pillow raises many kinds
        return False
    return True


def write_board(evaluated: Evaluated) -> None:
    """Writes what TensorBoard shows besides the metrics into the run's `tensorboard/`."""
    network, row = evaluated.network, records.read_metrics(evaluated.run)[-1]
    writer = events.open_writer(evaluated.run)
    try:
        tensorboard.add_configuration(writer, network.config)
        tensorboard.add_hyperparameters(writer, network.config, row)
        image = network.preprocess(jnp.asarray(evaluated.dataset.test.read(np.arange(1), None)))
        tensorboard.add_graph(writer, network.model, network.variables, image)
        tensorboard.add_kernels(
            writer, network.variables["params"], network.first_kernels(), row["step"]
        )
        for name, shown, _ in choose_images(evaluated):
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
