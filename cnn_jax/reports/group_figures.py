"""Figures of groups of runs: learning curves with bands, and accuracy over what was swept."""

import math
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from cnn_jax import checkpoints, data
from cnn_jax import config as config_lib
from cnn_jax.figures import plots
from cnn_jax.figures.style import COLORS
from cnn_jax.reports import run_groups, tables
from cnn_jax.reports.run_groups import Group

# Line styles tell groups apart in print, too.
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))


def draw_group_curves(groups: Sequence[Group], file: pathlib.Path) -> None:
    """Draws loss and accuracy of the first groups over the epochs: mean, and ± sd as a band.

    The evaluated part is a line with its band, training a thin line of the same color.
    """
    shown = groups[: len(COLORS)]
    part = run_groups.part_names(shown)
    figure = plots.make_figure(11, 4)
    panels = figure.subplots(1, 2)
    labels = label_groups(groups)
    for axes, name in zip(panels, ("loss", "accuracy"), strict=True):
        for group, label, color, style in zip(
            shown, labels[: len(shown)], COLORS, STYLES, strict=False
        ):
            mean, sd = _over_seeds(group, f"test_{name}")
            epochs = range(1, len(mean) + 1)
            marker = "o" if len(mean) == 1 else ""
            text = f"{label} (n={len(group.runs)})"
            axes.plot(
                epochs, mean, color=color, linestyle=style, linewidth=2, marker=marker, label=text
            )
            # A loss is positive, whatever mean - sd is; also for the logarithmic scale below.
            low = [max(m - s, m / 10) for m, s in zip(mean, sd, strict=True)]
            high = [m + s for m, s in zip(mean, sd, strict=True)]
            axes.fill_between(epochs, low, high, color=color, alpha=0.2, linewidth=0)
            train, _ = _over_seeds(group, f"train_{name}")
            axes.plot(epochs, train, color=color, linewidth=0.8, alpha=0.7)
        tops = [max(_over_seeds(group, f"test_{name}")[0]) for group in shown]
        title = f"{name}: {part} (thick, band ± sd over seeds) and training (thin)"
        finish_curves(axes, name, title, tops)
    add_legend(figure, panels[0])
    if len(groups) > len(shown):
        figure.suptitle(f"the best {len(shown)} of {len(groups)}", fontsize=10)
    plots.save(figure, file)


def finish_curves(axes: Any, name: str, title: str, tops: Sequence[float]) -> None:
    """Gives a metric's curves over the epochs, with these largest values, title, axes and scale."""
    if name == "loss" and min(tops) > 0 and max(tops) > 20 * min(tops):
        axes.set_yscale("log")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    plots.style_axes(axes)


def add_legend(figure: Any, axes: Any) -> None:
    """Names the curves of all panels, as those of one of them, below the figure."""
    handles, texts = axes.get_legend_handles_labels()
    figure.legend(handles, texts, frameon=False, loc="outside lower center", ncols=2, fontsize=9)


def draw_sensitivity(groups: Sequence[Group], file: pathlib.Path) -> bool:
    """Draws accuracy over the hyperparameters in which the groups differ.

    One of them: a line with error bars. Two that were crossed: a heat map of the means. Otherwise a
    panel of points for each, which says that the others vary too.

    Returns:
      Whether there was something to draw: groups that differ in one to six hyperparameters, of one
      network.
    """
    paths = run_groups.differing_paths([group.config for group in groups])
    if not 1 <= len(paths) <= 6 or "model.name" in paths:
        return False
    if len(paths) == 2 and _are_crossed(groups, paths):
        figure = _heat_map(groups, paths)
    else:
        columns = min(3, len(paths))
        rows = math.ceil(len(paths) / columns)
        figure = plots.make_figure(max(5.5, 3.6 * columns), 3.8 * rows)
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
        for path, axes in zip(paths, panels, strict=False):
            _points(axes, groups, path, joined=len(paths) == 1)
        if len(paths) > 1:
            plots.set_title(figure, "a point for each setting; in each panel the others vary too")
        for axes in list(panels)[len(paths) :]:
            axes.set_visible(False)
    plots.save(figure, file)
    return True


def _are_crossed(groups: Sequence[Group], paths: Sequence[str]) -> bool:
    """Whether each value at one path was tried with most of those at the other.

    So that a trial that failed leaves a gap in a grid, and two runs that differ twice make none.
    """
    leaves = [config_lib.flatten(group.config) for group in groups]
    pairs = {(own[paths[0]], own[paths[1]]) for own in leaves}
    rows, columns = (set(values) for values in zip(*pairs, strict=True))
    filled = [sum(row == r for r, _ in pairs) / len(columns) for row in rows]
    filled += [sum(column == c for _, c in pairs) / len(rows) for column in columns]
    return min(filled) > 0.5


def label_groups(groups: Sequence[Group]) -> list[str]:
    """Returns a short name for each group: the values in which it differs from the others."""
    paths = run_groups.differing_paths([group.config for group in groups])
    names = tables.column_names(paths)
    labels = []
    for group in groups:
        leaves = config_lib.flatten(group.config)
        values = [f"{names[p]}={_format(p, leaves[p])}" for p in paths if leaves[p] is not None]
        labels.append(", ".join(values).replace("model.name=", "") or group.config.model.name)
    return labels


def _format(path: str, value: Any) -> str:
    """A value for a figure: of a path to data its last part."""
    return tables.format_cell(data.short_name(value) if path == "dataset.name" else value)


def _over_seeds(group: Group, name: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation (0 for one seed) of a metric at each epoch that all have."""
    # Early stopping may have ended some runs before the others.
    epochs = zip(*([row[name] for row in run.rows] for run in group.runs), strict=False)
    values = [run_groups.summarize(epoch) for epoch in epochs]
    return [v.mean for v in values], [v.sd or 0.0 for v in values]


def _axis_values(groups: Sequence[Group], path: str) -> list[Any]:
    """The values at a path; numbers and tuples in rising order, others as they come."""
    values = list(dict.fromkeys(config_lib.flatten(group.config)[path] for group in groups))
    in_order = all(_is_number(v) or (isinstance(v, tuple) and v) for v in values)
    return sorted(values) if in_order and len({type(v) for v in values}) == 1 else values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _points(axes: Any, groups: Sequence[Group], path: str, joined: bool) -> None:
    values = _axis_values(groups, path)
    numeric = all(_is_number(value) for value in values)
    positive = [value for value in values if numeric and value > 0]
    spans = numeric and min(values) >= 0 and bool(positive)
    spans = spans and max(positive) / min(positive) >= 8
    place = {value: value if numeric else i for i, value in enumerate(values)}
    ordered = sorted(groups, key=lambda g: place[config_lib.flatten(g.config)[path]])
    found = [run_groups.summarize(group.values(checkpoints.BEST)) for group in ordered]
    x = [place[config_lib.flatten(group.config)[path]] for group in ordered]
    several = any(s.n > 1 for s in found)
    axes.errorbar(
        x,
        [s.mean for s in found],
        yerr=[s.sd or 0.0 for s in found] if several else None,
        color=COLORS[0],
        marker="o",
        capsize=4,
        linestyle="-" if joined and numeric else "",
    )
    if spans and len(positive) == len(values):
        axes.set_xscale("log")
    elif spans:  # 0 stands a decade before the smallest
        axes.set_xscale("symlog", linthresh=min(positive), linscale=1.0)
    if not numeric or len(values) <= 8:
        from matplotlib import ticker

        ticks = [place[value] for value in values]
        axes.set_xticks(ticks, [_format(path, value) for value in values])
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    for part in {run_groups.part_name(group.config) for group in groups}:
        axes.set_ylabel(f"{part} accuracy, mean ± sd" if several else f"{part} accuracy")
    axes.set_xlabel(path)
    plots.style_axes(axes)


def _heat_map(groups: Sequence[Group], paths: Sequence[str]) -> Any:
    rows, columns = (_axis_values(groups, path) for path in paths)
    means = [[math.nan] * len(columns) for _ in rows]
    texts = [["no run"] * len(columns) for _ in rows]
    for group in groups:
        leaves = config_lib.flatten(group.config)
        i, j = rows.index(leaves[paths[0]]), columns.index(leaves[paths[1]])
        found = run_groups.summarize(group.values(checkpoints.BEST))
        means[i][j] = found.mean
        texts[i][j] = f"{found.mean:.4f}" + ("" if found.sd is None else f"\n± {found.sd:.4f}")
    size = max(5.0, 2.2 + 1.15 * len(columns)), max(3.2, 1.4 + 0.75 * len(rows))
    figure = plots.make_figure(*size)
    axes = figure.subplots()
    image = axes.imshow(means, cmap="cividis", aspect="auto", origin="lower")
    known = [m for row in means for m in row if not math.isnan(m)]
    middle = (min(known) + max(known)) / 2
    for i, row in enumerate(texts):
        for j, text in enumerate(row):
            color = "white" if means[i][j] < middle else "black"  # also where there is none
            axes.text(j, i, text, ha="center", va="center", color=color, fontsize=9)
    axes.set_yticks(range(len(rows)), [_format(paths[0], value) for value in rows])
    axes.set_xticks(range(len(columns)), [_format(paths[1], value) for value in columns])
    axes.set_ylabel(paths[0])
    axes.set_xlabel(paths[1])
    seeds = [len(group.runs) for group in groups]
    n = str(seeds[0]) if len(set(seeds)) == 1 else f"{min(seeds)} to {max(seeds)}"
    part = run_groups.part_name(groups[0].config)
    spread = " ± sd" if statistics.median(seeds) > 1 else ""
    figure.colorbar(image, label=f"{part} accuracy, mean{spread}, n = {n}")
    return figure
