"""Single runs side by side: what differs in their configurations, their numbers, their curves.

Nothing is averaged and nothing refused: runs on different data, of different epochs or unfinished
are compared too, and said to be so.
"""

import operator
import os
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from cnn_jax import config as config_lib
from cnn_jax import data, identity, losses
from cnn_jax.display import loss_text
from cnn_jax.errors import ReportError
from cnn_jax.figures import plots
from cnn_jax.figures.style import COLORS
from cnn_jax.reports import group_figures, run_groups, tables
from cnn_jax.reports.run_groups import Group, Run
from cnn_jax.text import one_line

MOST_VALUES = 3  # that a legend has for each run


def read_runs(directories: Sequence[str | os.PathLike[str]]) -> list[Run]:
    """Returns the runs in these directories, each once.

    Raises:
      ReportError: one isn't a run's, or there is only one run.
      RunDirectoryError: a configuration can't be read.
    """
    paths = {path.resolve(): path for path in map(pathlib.Path, directories)}
    for path in paths.values():
        if not path.is_dir():
            raise ReportError(f"{path} is not a directory; give those of runs, as runs/lenet.")
        if not (path / "config.json").is_file():
            below = sorted(file.parent.name for file in path.glob("*/config.json"))
            if below:
                raise ReportError(
                    f"{path} holds runs, and is none; name those to compare, as "
                    f"{path / below[0]}, or take experiments.report for all of them."
                )
            raise ReportError(f"{path} is not the directory of a run: it has no config.json.")
    if len(paths) < 2:
        raise ReportError("give at least two runs to compare; this is one.")
    return [run_groups.read_run(path) for path in paths.values()]


def name_runs(runs: Sequence[Run]) -> list[str]:
    """Returns the paths of runs without the folder that all of them share."""
    paths = [run.path.resolve() for run in runs]
    shared = os.path.commonpath([path.parent for path in paths])
    return [one_line(str(path.relative_to(shared))) for path in paths]


def comparison_table(runs: Sequence[Run]) -> str:
    """Returns a table in markdown with a column for each run, and remarks below it."""
    names = name_runs(runs)
    rows = _difference_rows(runs)
    lines = [] if rows else ["The configurations and the data are the same.", ""]
    lines += [tables.markdown_table(["", *names], [*rows, *_number_rows(runs)], words=1), ""]
    lines.append(
        "Final: after the last recorded epoch. Best: of all epochs, chosen by the number itself, "
        "which flatters it. Train: mean over the steps of an epoch, while the network learned."
    )
    known = [(run, name) for run, name in zip(runs, names, strict=True) if run.data]
    for run, name in known[1:]:
        if changed := identity.compare_data(known[0][0].data, run.data):
            changed = changed.replace("there", f"in {known[0][1]}").replace("here", f"in {name}")
            lines.append(
                f"Trained on different data, so that the numbers don't compare: {changed}."
            )
    for run, name in zip(runs, names, strict=True):
        lines += [f"{name} is unfinished: {_describe_progress(run)} epochs."] * (not run.finished)
        lines += [f"{name}: {run.error}"] if run.error else []
    return "\n".join(lines)


def _difference_rows(runs: Sequence[Run]) -> list[list[str]]:
    """What differs in the configurations, a row each; data, initial weights, devices."""
    leaves = [config_lib.flatten(run.config) for run in runs]
    paths = run_groups.differing_paths([run.config for run in runs])
    paths += ["seed"] * (len({run.config.seed for run in runs}) > 1)
    rows = [
        [path, *("–" if own[path] is None else tables.format_cell(own[path]) for own in leaves)]
        for path in paths
    ]
    groups = [Group(run.config, (run,), ()) for run in runs]
    others = {
        "SHA-256 of the data": [run.data.arrays if run.data else "–" for run in runs],
        "initial weights": [run.initial_weights or "random" for run in runs],
        "device": [run_groups.devices(group) for group in groups],
    }
    return rows + [[name, *own] for name, own in others.items() if len(set(own)) > 1]


def _number_rows(runs: Sequence[Run]) -> list[list[str]]:
    """The numbers of all runs: final, best, speed."""
    part = _part_name(runs)
    rows = [["epochs trained", *map(_describe_progress, runs)]]
    for key, name in (("test", part), ("train", "train")):
        for metric in _metrics(runs):
            finals = [
                loss_text(run.rows[-1][f"{key}_{metric}"]) if run.rows else "–" for run in runs
            ]
            rows.append([f"final {name} {metric}", *finals])
    rows.append([f"best {part} accuracy", *(_best(run, "test_accuracy", max) for run in runs)])
    rows.append([f"best {part} loss", *(_best(run, "test_loss", min) for run in runs)])
    seconds = [sum(row["seconds"] for row in run.rows) for run in runs]
    rows.append(["seconds of training", *(f"{s:,.1f}" if s else "–" for s in seconds)])
    speeds = [[row["examples_per_second"] for row in run.rows] for run in runs]
    rows.append(["examples/s", *(f"{statistics.median(s):,.0f}" if s else "–" for s in speeds)])
    return rows


def _best(run: Run, name: str, choose: Callable[..., dict[str, Any]]) -> str:
    """The largest or smallest value, as `choose` is max or min, with its first epoch."""
    if not run.rows:
        return "–"
    row = choose(run.rows, key=operator.itemgetter(name))
    return f"{loss_text(row[name])} (epoch {row['epoch']})"


def _part_name(runs: Sequence[Run]) -> str:
    return " or ".join(sorted({run_groups.part_name(run.config) for run in runs}, reverse=True))


def _metrics(runs: Sequence[Run]) -> list[str]:
    """The metrics that all runs with a finished epoch have as one number."""
    last = [run.rows[-1] for run in runs if run.rows]
    parts = ("train", "test")
    return [
        name
        for name in sorted(losses.METRICS, key=lambda name: name != "accuracy")
        if all(isinstance(row.get(f"{part}_{name}"), float) for row in last for part in parts)
    ]


def _describe_progress(run: Run) -> str:
    done = len(run.rows)
    if not run.finished:
        return f"{done} of {run.config.epochs}"
    return str(done) if done >= run.config.epochs else f"{done}, stopped early"


def draw_comparison(runs: Sequence[Run], file: pathlib.Path) -> None:
    """Draws each metric of all runs over the epochs: tested thick, training thin.

    The curve of an unfinished run ends in a cross.

    Raises:
      ReportError: no run has a finished epoch.
    """
    if not any(run.rows for run in runs):
        raise ReportError("none of these runs has a finished epoch, so there is nothing to draw.")
    names = [name for name in _metrics(runs) if name not in ("loss", "accuracy")]
    names = ["loss", "accuracy", *names]
    figure = plots.make_figure(5.5 * len(names), 4 + 0.11 * len(runs))
    panels = figure.subplots(1, len(names))
    part, labels = _part_name(runs), _label_runs(runs)
    for axes, name in zip(panels, names, strict=True):
        for number, (run, label) in enumerate(zip(runs, labels, strict=True)):
            color = COLORS[number % len(COLORS)]
            styles = group_figures.STYLES
            style = styles[(number + number // len(COLORS)) % len(styles)]
            epochs = [row["epoch"] for row in run.rows]
            tested = [row[f"test_{name}"] for row in run.rows]
            look = {"color": color, "linestyle": style, "linewidth": 2}
            axes.plot(epochs, tested, marker="o" if len(epochs) == 1 else "", label=label, **look)
            train = [row[f"train_{name}"] for row in run.rows]
            axes.plot(epochs, train, color=color, linewidth=0.8, alpha=0.7)
            if run.rows and not run.finished:
                axes.plot(epochs[-1:], tested[-1:], color=color, marker="x", markersize=9)
        tops = [max(row[f"test_{name}"] for row in run.rows) for run in runs if run.rows]
        title = f"{name}: {part} (thick) and training (thin)"
        group_figures.finish_curves(axes, name, title, tops)
    group_figures.add_legend(figure, panels[0])
    figure.suptitle(_title(runs))
    plots.save(figure, file)


def _label_runs(runs: Sequence[Run]) -> list[str]:
    """The names of the runs, with the values in which they differ if those are few."""
    names = name_runs(runs)
    few = 1 <= len(run_groups.differing_paths([run.config for run in runs])) <= MOST_VALUES
    values = group_figures.label_groups([Group(run.config, (run,), ()) for run in runs])
    texts = [f"{n}: {v}" if few else n for n, v in zip(names, values, strict=True)]
    unfinished = [f" ({_describe_progress(run)} epochs)" * (not run.finished) for run in runs]
    return [text + more for text, more in zip(texts, unfinished, strict=True)]


def _title(runs: Sequence[Run]) -> str:
    """What all runs share: network and data set, of own data the last part of the path."""
    names = {run.config.model.name for run in runs}
    sets = {data.short_name(run.config.dataset.name) for run in runs}
    parts = [*names] * (len(names) == 1), [*sets] * (len(sets) == 1)
    return " on ".join(one_line(name) for part in parts for name in part)
