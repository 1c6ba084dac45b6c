"""Figures made of images: predictions, kernels, feature maps, receptive fields."""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnn_jax.figures import plots
from cnn_jax.figures.style import COLORS, NEUTRAL, SIGN, SIGNED, TEST, WRONG, measure_scale

MOST_KERNELS = 64
MOST_MAPS = 16  # of a layer
WIDTH = 8.0  # of a row of feature maps, in inches
LARGEST = 1.2  # side of a feature map, in inches
HEAD = 0.6  # for the title, in inches


def draw_predictions(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    title: str,
    file: pathlib.Path,
) -> None:
    """Draws images with their class and the network's guess; wrong ones are framed in red.

    Args:
      images: uint8 [N, H, W, C].
      labels: int [N].
      probabilities: [N, classes].
      class_names: one for each class.
      title: above all.
      file: .png or .svg.
    """
    guesses = probabilities.argmax(1)
    short = [plots.shorten(name) for name in class_names]
    texts = [
        f"truth: {short[label]}\nguess: {short[guess]}, {p[guess]:.2f}"
        for label, guess, p in zip(labels, guesses, probabilities, strict=True)
    ]
    longest = max(len(line) for text in texts for line in text.splitlines())
    width = max(1.45, 0.066 * longest + 0.15)  # at a size of 8 points
    most = min(8, len(images), int(12 / width))
    # The number of columns that leaves the last row least empty.
    columns = min(range(most, max(0, most - 3), -1), key=lambda n: -len(images) % n)
    height = width * images.shape[1] / images.shape[2] + 0.4
    figure, panels = _panels(math.ceil(len(images) / columns), columns, width, height)
    for axes, image, text, right in zip(panels, images, texts, guesses == labels, strict=False):
        _show(axes, image)
        axes.set_title(text, fontsize=8, color="black" if right else WRONG)
        if not right:
            axes.set_axis_on()
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color=WRONG, linewidth=2)
    plots.set_title(figure, title)
    plots.save(figure, file)


def draw_kernels(kernels: np.ndarray, title: str, file: pathlib.Path) -> None:
    """Draws the first kernels, at most MOST_KERNELS, of a convolution [h, w, C_in, C_out].

    With three input channels each is a color image on its own scale; else a panel for each pair
    of channels, of the first three that come in, on one scale with a color bar.
    """
    height, width, entering, features = kernels.shape
    kernels = kernels[:, :, :3, :MOST_KERNELS]
    channels, shown = kernels.shape[2:]
    title += f", {_count(shown, features, 'kernel')} {height}×{width}×{entering}"
    columns = min(8, shown)
    rows = math.ceil(shown / columns) * (1 if channels == 3 else channels)
    figure, panels = _panels(rows, columns, 1.1, 1.1 * height / width + 0.2)
    if channels == 3:
        title += "\nas colors, each on its own scale"
        for i in range(shown):
            kernel = kernels[..., i]
            low, high = kernel.min(), kernel.max()
            panels[i].imshow((kernel - low) / max(high - low, 1e-12))
            panels[i].set_title(str(i), fontsize=8)
    else:
        scale = measure_scale(kernels)
        for i, (c, f) in enumerate((c, f) for c in range(channels) for f in range(shown)):
            mappable = _signed(panels[i], kernels[:, :, c, f], scale)
            of = f" of channel {c}" if entering > 1 else ""
            panels[i].set_title(f"{f}{of}", fontsize=8)
        figure.colorbar(mappable, ax=list(panels), fraction=0.05, aspect=12, label="weight")
    plots.set_title(figure, title)
    plots.save(figure, file)


def draw_feature_maps(
    image: np.ndarray,
    maps: dict[str, np.ndarray],
    title: str,
    file: pathlib.Path,
    guesses: Sequence[tuple[str, float]] = (),
) -> None:
    """Draws an image [H, W, C] and what each layer makes of it: `maps[name]` is [h, w, c].

    A row with a color bar for each layer, of its first channels at most MOST_MAPS. Beside the image
    stand the likeliest classes with their probabilities.
    """
    from matplotlib.figure import Figure

    most = max(min(value.shape[-1], MOST_MAPS) for value in maps.values())
    across = min(WIDTH, max(5.0, LARGEST * most))
    rows = {name: _join(value[..., :MOST_MAPS]) for name, value in maps.items()}
    wide = {k: min(across, LARGEST * min(v.shape[-1], MOST_MAPS)) for k, v in maps.items()}
    high = {name: wide[name] * row.shape[0] / row.shape[1] for name, row in rows.items()}
    # All is placed by hand in one panel, in inches: hundreds of panels would take minutes.
    width, height = across + 0.8, HEAD + LARGEST + 0.15 + sum(high.values()) + 0.32 * len(maps)
    figure = Figure(figsize=(width, height))
    figure.suptitle(title, y=1 - 0.1 / height, va="top")
    sheet = figure.add_axes((0, 0, 1, 1))
    sheet.set_axis_off()
    fit = LARGEST / max(image.shape[:2])
    _show(sheet, image, (0.1, 0.1 + fit * image.shape[1], HEAD + fit * image.shape[0], HEAD))
    top = HEAD + LARGEST + 0.35
    for name, row in rows.items():
        right, bottom, scale = 0.1 + wide[name], top + high[name], measure_scale(row)
        _signed(sheet, row, scale, (0.1, right, bottom, top))
        h, w, channels = maps[name].shape
        said = f"{name}: {_count(min(channels, MOST_MAPS), channels, 'map')} {h}×{w}"
        sheet.text(0.1, top - 0.05, said, fontsize=9)
        bar = np.linspace(scale, -scale, 65)[:, None]
        _signed(sheet, bar, scale, (right + 0.1, right + 0.19, bottom, top))
        for i, mark in enumerate((scale, 0, -scale)):
            number = f"{mark:.2g}".replace("-", "−")
            sheet.text(right + 0.24, top + i * high[name] / 2, number, fontsize=7, va="center")
        top = bottom + 0.32
    sheet.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    _list_guesses(figure, guesses, (LARGEST + 0.2, HEAD, across - LARGEST - 0.1, LARGEST))
    plots.save(figure, file)


def _join(maps: np.ndarray) -> np.ndarray:
    """Puts maps [h, w, n] side by side, with NaN between them, which is shown white."""
    gap = max(1, maps.shape[1] // 14)
    tiles = np.pad(np.asarray(maps, np.float32), ((0, 0), (0, gap), (0, 0)), "constant")
    tiles[:, maps.shape[1] :] = np.nan
    return np.concatenate(list(np.moveaxis(tiles, -1, 0)), 1)[:, :-gap]


def _list_guesses(
    figure: Any, guesses: Sequence[tuple[str, float]], place: tuple[float, ...]
) -> None:
    """Lists classes with bars of their probabilities, and explains the colors of the maps.

    `place` is the left, top, width and height in inches.
    """
    width, height = figure.get_size_inches()
    left, top, wide, high = place
    axes = figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(6.8, -0.5))
    names = [plots.shorten(name) for name, _ in guesses]
    start = min(0.6, 0.018 * max(map(len, names), default=0) + 0.02)
    for i, (name, (_, p)) in enumerate(zip(names, guesses, strict=True)):
        axes.text(start - 0.01, i, name, ha="right", va="center", fontsize=9)
        axes.barh(i, p * (0.9 - start), left=start, height=0.6, color=COLORS[0])
        axes.text(start + 0.01 + p * (0.9 - start), i, f"{p:.2f}", va="center", fontsize=9)
    said = f"Maps: {SIGN};\none scale for each layer."
    axes.text(0, 6.8, said, va="bottom", fontsize=8, color=NEUTRAL)


def draw_receptive_fields(
    image: np.ndarray,
    fields: Sequence[tuple[str, Sequence[int], Sequence[int]]],
    title: str,
    file: pathlib.Path,
) -> None:
    """Draws on an image [H, W, C] the receptive field of a unit in the middle of each layer's map.

    `fields` has a layer's name, the first row and column it sees, and how many. What lies outside
    of the image is padding.
    """
    from matplotlib.patches import Rectangle

    columns = min(6, len(fields))
    height, width = image.shape[:2]
    figure, panels = _panels(
        math.ceil(len(fields) / columns), columns, 1.7, 1.7 * height / width + 0.35
    )
    outside = False
    for axes, (name, first, size) in zip(panels, fields, strict=False):
        _show(axes, image)
        corner = (first[1] - 0.5, first[0] - 0.5)
        axes.add_patch(Rectangle(corner, size[1], size[0], fill=False, edgecolor=TEST, linewidth=2))
        right, bottom = corner[0] + size[1], corner[1] + size[0]
        outside |= min(corner) < -0.5 or right > width - 0.5 or bottom > height - 0.5
        axes.set_xlim(min(-0.5, corner[0] - 0.5), max(width - 0.5, right + 0.5))
        axes.set_ylim(max(height - 0.5, bottom + 0.5), min(-0.5, corner[1] - 0.5))
        axes.set_title(f"{name}\n{size[0]}×{size[1]} pixels", fontsize=8)
    plots.set_title(figure, title + "; outside of the image is padding" * outside)
    plots.save(figure, file)


def _count(shown: int, there: int, noun: str) -> str:
    number = str(there) if shown == there else f"{shown} of {there}"
    return f"{number} {noun}" if there == 1 else f"{number} {noun}s"


def _panels(rows: int, columns: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure of rows × columns panels without axes; width and height of each are in inches."""
    # A title needs some room.
    figure = plots.make_figure(max(columns * width, 6.0), rows * height + 0.5)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.set_axis_off()
    return figure, panels


Extent = tuple[float, float, float, float]  # left, right, bottom, top


def _show(axes: Any, image: np.ndarray, extent: Extent | None = None) -> None:
    """Shows uint8 [H, W, C], gray or color."""
    axes.imshow(plots.select_visible(image), cmap="gray", vmin=0, vmax=255, extent=extent)


def _signed(axes: Any, values: np.ndarray, scale: float, extent: Extent | None = None) -> Any:
    """Shows [h, w] in the colors of numbers with a sign."""
    from matplotlib.colors import LinearSegmentedColormap

    colors = LinearSegmentedColormap.from_list("signed", SIGNED)
    return axes.imshow(values, cmap=colors, vmin=-scale, vmax=scale, extent=extent)
