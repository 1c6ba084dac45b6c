"""Figures of numbers, and what all figures share.

Only matplotlib's object interface is used: no display, no global state.
"""

import math
import pathlib
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from cnn_jax import files, losses, text
from cnn_jax.figures.style import NEUTRAL, TEST, TRAIN
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


def make_figure(width: float, height: float) -> Any:
    """Returns a figure, its size in inches, whose parts keep clear of each other."""
    from matplotlib.figure import Figure  # slow to import

    return Figure(figsize=(width, height), layout="constrained")


def set_title(figure: Any, title: str) -> None:
    """Gives a figure a title, in several lines if it is wider than the figure."""
    width = max(30, int(figure.get_size_inches()[0] * 9.5))  # characters of the usual size
    figure.suptitle("\n".join(textwrap.fill(line, width) for line in title.splitlines()))


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
    cell = 0.18 if classes > 60 else 0.22 if many else 0.42 if classes > 10 else 0.55
    side = 2.5 + cell * min(classes, 100)
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
    else:
        for edge in range(10, classes, 10):  # which help to find a cell's row and column
            axes.axhline(edge - 0.5, color=NEUTRAL, linewidth=0.3)
            axes.axvline(edge - 0.5, color=NEUTRAL, linewidth=0.3)
    shown = range(0, classes, math.ceil(classes / 100))
    short = [shorten(name) for name in class_names]
    size = {"fontsize": 8} if many else {}
    turned = {"rotation": 90} if many else {"rotation": 45, "ha": "right"}
    axes.set_xticks(shown, [short[i] for i in shown], **turned, **size)
    axes.set_yticks(shown, [f"{short[i]} ({shares[i, i]:.2f})" for i in shown], **size)
    axes.set_xlabel(f"predicted\n{_name_mistakes(counts, short)}" if many else "predicted")
    axes.set_ylabel("true (accuracy of the class)")
    axes.set_title(title)
    figure.colorbar(mappable, ax=axes, shrink=0.8, label="share of the true class")
    save(figure, file)


def shorten(name: str, most: int = 24) -> str:
    """Returns a name of at most so many characters, as its beginning and … if it is longer."""
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
    top.text(0.98, 0.03, "below the line: too confident", ha="right", color=NEUTRAL, fontsize=9)
    top.set_title(f"{title}\nexpected calibration error {error:.3f}")
    bottom.bar((np.arange(bins) + 0.5) / bins, counts, width=0.9 / bins, color=TRAIN)
    bottom.set_ylabel("images")
    bottom.set_xlabel("confidence: the largest probability")
    for axes in (top, bottom):
        axes.set_xlim(0, 1)
        style_axes(axes)
    save(figure, file)


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
                figure.savefig(
                    stream,
                    dpi=150,
                    format=file.suffix.lstrip(".") or "png",
                    bbox_inches="tight",  # no empty margins, no cut labels
                )
