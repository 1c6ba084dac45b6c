"""Figures of a run. Only matplotlib's object interface is used: no display, no global state."""

import math
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from cnn_jax import files, losses, text
from cnn_jax.figures.style import NEUTRAL, TEST, TRAIN, WRONG
from cnn_jax.inspection.evaluation import bin_confidences


def draw_learning_curves(
    history: list[dict[str, Any]], title: str, file: pathlib.Path | BinaryIO
) -> None:
    """Draws each metric and the learning rate over the epochs, from the rows of metrics.jsonl."""
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) <= 20 else ""
    names = [name for name in losses.METRICS if isinstance(history[-1].get(f"test_{name}"), float)]
    figure = make_figure((len(names) + 1) * 10 / 3, 3.2)
    *panels, last = figure.subplots(1, len(names) + 1)
    for axes, name in zip(panels, names, strict=True):
        for part, color in (("train", TRAIN), ("test", TEST)):
            values = [row.get(f"{part}_{name}", np.nan) for row in history]
            axes.plot(epochs, values, color=color, marker=marker, markersize=4, label=part)
        axes.set_title(name)
        axes.legend(frameon=False)
    rates = [row["learning_rate"] for row in history]
    last.plot(epochs, rates, color=NEUTRAL, marker=marker, markersize=4)
    last.set_title("learning rate")
    last.set_ylim(bottom=0)
    for axes in (*panels, last):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        style_axes(axes)
    figure.suptitle(title)
    save(figure, file)


def draw_predictions(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    title: str,
    file: pathlib.Path,
) -> None:
    """Draws images with their true class above the predicted one, wrong ones in red.

    Args:
      images: uint8 [N, H, W, C].
      labels: int [N].
      probabilities: [N, classes].
      class_names: one for each class.
      title: above all.
      file: .png or .svg.
    """
    columns = min(8, len(images))
    rows = math.ceil(len(images) / columns)
    figure, panels = _panels(rows, columns, 1.35, 1.75)
    for axes, image, label, p in zip(panels, images, labels, probabilities, strict=False):
        guess = int(p.argmax())
        _show(axes, image)
        right = guess == label
        axes.set_title(
            f"{class_names[label]}\n{class_names[guess]} {p[guess]:.2f}",
            fontsize=8,
            color="black" if right else WRONG,
            fontweight="normal" if right else "bold",
        )
    figure.suptitle(title)
    save(figure, file)


def make_figure(width: float, height: float) -> Any:
    """Returns a figure, its size in inches, whose parts keep clear of each other."""
    from matplotlib.figure import Figure  # slow to import

    return Figure(figsize=(width, height), layout="constrained")


def style_axes(axes: Any) -> None:
    """Gives axes a light grid, and no lines above and to the right."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw_band(axes: Any, x: Any, part: str, middle: Any, low: Any, high: Any, **line: Any) -> None:
    """Draws a curve of the part 'train' or 'test' over x, and a band from `low` to `high`."""
    looks = {"train": (TRAIN, "--", "training"), "test": (TEST, "-", "test")}
    color, dashes, label = looks[part]
    axes.plot(x, middle, dashes, color=color, label=label, **line)
    axes.fill_between(x, low, high, color=color, alpha=0.2, lw=0)


def select_visible(image: np.ndarray) -> np.ndarray:
    """Returns the first three channels of an image [H, W, C] as colors, or else the first, [H, W].

    >>> select_visible(np.zeros((5, 4, 7))).shape, select_visible(np.zeros((5, 4, 2))).shape
    ((5, 4, 3), (5, 4))
    """
    return image[..., :3] if image.shape[-1] >= 3 else image[..., 0]


def draw_kernels(kernels: np.ndarray, title: str, file: pathlib.Path) -> None:
    """Draws the kernels [h, w, C_in, C_out] of a first convolution.

    With three input channels each is a color image on its own scale; else a panel for each pair
    of channels, of the first three that come in, blue below 0, red above, on one scale.
    """
    height, width, _, features = kernels.shape
    title += f", {features} kernels {height}×{width}×{kernels.shape[2]}"
    kernels = kernels[:, :, :3]
    channels = kernels.shape[2]
    columns = min(8, features)
    rows = math.ceil(features / columns) * (1 if channels == 3 else channels)
    figure, panels = _panels(rows, columns, 1.1, 1.25)
    if channels == 3:
        for i in range(features):
            kernel = kernels[..., i]
            low, high = kernel.min(), kernel.max()
            panels[i].imshow((kernel - low) / max(high - low, 1e-12))
            panels[i].set_title(str(i), fontsize=8)
    else:
        for i, (c, f) in enumerate((c, f) for c in range(channels) for f in range(features)):
            mappable = _signed(panels[i], kernels[:, :, c, f], np.abs(kernels).max())
            panels[i].set_title(str(f), fontsize=8)
        figure.colorbar(mappable, ax=list(panels), shrink=0.8)
    figure.suptitle(title)
    save(figure, file)


def draw_feature_maps(
    image: np.ndarray, maps: dict[str, np.ndarray], title: str, file: pathlib.Path, most: int = 16
) -> None:
    """Draws an image [H, W, C] and what each layer makes of it: `maps[name]` is [h, w, c].

    A row for each layer, of its first channels at most `most`; blue below 0, red above, one scale
    for each layer.
    """
    from matplotlib.figure import Figure

    columns = min(most, max(value.shape[-1] for value in maps.values()))
    # A strip for each layer, placed by hand: hundreds of panels would take minutes.
    width, height = max(columns * 0.95, 6.0), 1.15 * (len(maps) + 1) + 0.6
    figure = Figure(figsize=(width, height))
    figure.suptitle(title, y=1 - 0.12 / height)

    def strip(number: int, tiles: float) -> Any:
        left, bottom = 0.1 / width, (height - 0.5 - 1.15 * (number + 1)) / height
        axes = figure.add_axes((left, bottom, tiles * 0.93 / width, 0.9 / height), anchor="W")
        axes.set_axis_off()
        return axes

    _show(strip(0, 1), image)
    for number, (name, value) in enumerate(maps.items(), 1):
        shown = np.asarray(value[..., :columns], np.float32)
        tiles = np.pad(shown, ((0, 0), (0, max(1, shown.shape[1] // 14)), (0, 0)), "constant")
        tiles[:, shown.shape[1] :] = np.nan  # the gaps stay white
        axes = strip(number, shown.shape[-1])
        _signed(axes, np.concatenate(list(np.moveaxis(tiles, -1, 0)), 1), np.abs(shown).max())
        size = f"{value.shape[0]}×{value.shape[1]}×{value.shape[2]}"
        axes.set_title(f"{name}  {size}", fontsize=8, loc="left", pad=3)
    save(figure, file)


def draw_confusion(
    labels: np.ndarray,
    guesses: np.ndarray,
    class_names: Sequence[str],
    title: str,
    file: pathlib.Path,
) -> None:
    """Draws how many images of each class (rows) were taken for each class (columns).

    The counts stand in the cells of up to 20 classes. Of more the most frequent mistakes are named
    below, and colors tell small shares apart; of more than 100 only some classes are named.
    """
    from matplotlib.colors import PowerNorm

    classes = len(class_names)
    many = classes > 20
    counts = confusion_matrix(labels, guesses, classes)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.5 + (max(11.0, 0.18 * min(classes, 100)) if many else 0.55 * classes)
    figure = make_figure(side + 1, side)
    axes = figure.subplots()
    mappable = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.4 if many else 1, 0, 1))
    if not many:
        for i in range(classes):
            for j in range(classes):
                if not counts[i, j] and classes > 10:
                    continue
                color = "white" if shares[i, j] > 0.5 else "black" if counts[i, j] else "#AAAAAA"
                axes.text(j, i, counts[i, j], ha="center", va="center", fontsize=8, color=color)
    shown = range(0, classes, math.ceil(classes / 100))
    short = [_shorten(name) for name in class_names]
    size = {"fontsize": 8} if many else {}
    turned = {"rotation": 90} if many else {"rotation": 45, "ha": "right"}
    axes.set_xticks(shown, [short[i] for i in shown], **turned, **size)
    axes.set_yticks(shown, [f"{short[i]} ({shares[i, i]:.2f})" for i in shown], **size)
    axes.set_xlabel(f"predicted\n{_name_mistakes(counts, short)}" if many else "predicted")
    axes.set_ylabel("true (accuracy of the class)")
    axes.set_title(title)
    figure.colorbar(mappable, ax=axes, shrink=0.8, label="share of the true class")
    save(figure, file)


def _shorten(name: str, most: int = 24) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _name_mistakes(counts: np.ndarray, names: Sequence[str], most: int = 6) -> str:
    """The most frequent mistakes of a confusion matrix, in a line or two."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [(i, j) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)]
    said = [f"{names[i]} for {names[j]} ({wrong[i, j]})" for i, j in pairs if wrong[i, j]]
    lines = [", ".join(said[at : at + 3]) for at in range(0, len(said), 3)]
    return "most often taken: " + ",\n".join(lines) if said else "no mistakes"


def confusion_matrix(labels: np.ndarray, guesses: np.ndarray, classes: int) -> np.ndarray:
    """Returns int [classes, classes]: entry (i, j) counts those of class i taken for class j."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, guesses), 1)
    return counts


def draw_calibration(
    labels: np.ndarray, probabilities: np.ndarray, title: str, file: pathlib.Path, bins: int = 10
) -> None:
    """Draws accuracy over confidence, and how many predictions have each confidence."""
    confidence, accuracy, counts, error = bin_confidences(labels, probabilities, bins)
    figure = make_figure(5, 5.4)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot(
        (0, 1), (0, 1), color=NEUTRAL, linewidth=1, linestyle="--", label="perfectly calibrated"
    )
    full = counts > 0
    top.plot(confidence[full], accuracy[full], color=TEST, marker="o", label="this network")
    top.set_ylabel("accuracy")
    top.set_ylim(0, 1)
    top.legend(frameon=False, loc="upper left")
    top.set_title(f"{title}\nexpected calibration error {error:.3f}")
    bottom.bar((np.arange(bins) + 0.5) / bins, counts, width=0.9 / bins, color=TRAIN)
    bottom.set_ylabel("images")
    bottom.set_xlabel("confidence: the largest probability")
    for axes in (top, bottom):
        axes.set_xlim(0, 1)
        style_axes(axes)
    save(figure, file)


def draw_receptive_fields(
    image: np.ndarray,
    fields: Sequence[tuple[str, Sequence[int], Sequence[int]]],
    title: str,
    file: pathlib.Path,
) -> None:
    """Draws on an image [H, W, C] what one output of each layer, in the middle of its map, sees.

    `fields` has a layer's name, the first row and column it sees, and how many. What lies outside
    of the image is padding.
    """
    from matplotlib.patches import Rectangle

    columns = min(6, len(fields))
    figure, panels = _panels(math.ceil(len(fields) / columns), columns, 1.7, 2.0)
    height, width = image.shape[:2]
    for axes, (name, first, size) in zip(panels, fields, strict=False):
        _show(axes, image)
        corner = (first[1] - 0.5, first[0] - 0.5)
        axes.add_patch(Rectangle(corner, size[1], size[0], fill=False, edgecolor=TEST, linewidth=2))
        axes.set_xlim(min(-0.5, corner[0] - 0.5), max(width - 0.5, corner[0] + size[1] + 0.5))
        axes.set_ylim(max(height - 0.5, corner[1] + size[0] + 0.5), min(-0.5, corner[1] - 0.5))
        axes.set_title(f"{name}\n{size[0]}×{size[1]}", fontsize=8)
    figure.suptitle(title)
    save(figure, file)


def _panels(rows: int, columns: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure of rows × columns panels without axes; width and height of each are in inches."""
    # A title needs some room.
    figure = make_figure(max(columns * width, 6.0), rows * height + 0.5)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.set_axis_off()
    return figure, panels


def _show(axes: Any, image: np.ndarray) -> None:
    """Shows uint8 [H, W, C], gray or color."""
    axes.imshow(select_visible(image), cmap="gray", vmin=0, vmax=255)


def _signed(axes: Any, values: np.ndarray, scale: float) -> Any:
    """Shows [h, w]: blue below 0, white at 0, red above."""
    scale = max(float(scale), 1e-12)
    return axes.imshow(values, cmap="RdBu_r", vmin=-scale, vmax=scale)


def save(figure: Any, file: pathlib.Path | BinaryIO) -> None:
    """Writes a file in the format of its name, at once or not at all; a stream as PNG.

    Texts are shown as they are: a $ in a path or in the name of a class begins no formula.

    Raises:
      RunDirectoryError: the system refused to write the file.
    """
    from matplotlib.text import Text  # slow to import

    formulas = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        if axis.get_scale() != "linear"  # whose numbers are powers of ten
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
    }
    for shown in figure.findobj(Text):
        if shown not in formulas:
            shown.set_parse_math(False)
            if not shown.get_text().isprintable():
                shown.set_text(text.printable(shown.get_text(), keep="\n"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box is shown instead
        if not isinstance(file, pathlib.Path):
            figure.savefig(file, dpi=150)
            return
        with files.writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            with files.replacing(file) as stream:
                figure.savefig(stream, dpi=150, format=file.suffix.lstrip(".") or "png")
