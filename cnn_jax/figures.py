"""Pictures of a run. Only matplotlib's object interface is used: no display, no global state."""

import pathlib
from typing import Any

# Okabe and Ito's colors, told apart by every kind of color vision.
TRAIN, TEST, RATE = "#0072B2", "#D55E00", "#666666"


def learning_curves(history: list[dict[str, Any]], title: str, file: pathlib.Path) -> None:
    """Draws loss, accuracy and learning rate over the epochs, from the rows of metrics.jsonl."""
    from matplotlib.figure import Figure  # slow to import

    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) <= 20 else ""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        for part, color in (("train", TRAIN), ("test", TEST)):
            values = [row[f"{part}_{name}"] for row in history]
            axes.plot(epochs, values, color=color, marker=marker, markersize=4, label=part)
        axes.set_title(name)
        axes.legend(frameon=False)
    rates = [row["learning_rate"] for row in history]
    rate.plot(epochs, rates, color=RATE, marker=marker, markersize=4)
    rate.set_title("learning rate")
    rate.set_ylim(bottom=0)
    for axes in (loss, accuracy, rate):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
