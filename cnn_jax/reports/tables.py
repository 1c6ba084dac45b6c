"""Tables of results: in markdown for people, as rows for programs, with the command of each."""

import logging
import pathlib
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cnn_jax import checkpoints, layers, losses, records
from cnn_jax import config as config_lib
from cnn_jax.display import loss_text
from cnn_jax.errors import CheckpointError
from cnn_jax.reports import significance
from cnn_jax.reports.published import Published, find_published
from cnn_jax.reports.run_groups import (
    Group,
    Run,
    Statistics,
    devices,
    differing_paths,
    is_free,
    part_name,
    part_names,
    recipe_key,
    seconds,
    speed,
    summarize,
    versions,
)
from cnn_jax.sweeps import driver, spaces, sweep_record
from cnn_jax.text import one_line

# The command that made a run ---------------------------------------------------------------------


def recorded_command(run: Run) -> tuple[str, list[str]] | None:
    """Returns (configuration file, ['--config.a=b', …]) as recorded, without seed and free paths.

    None if the run was started by something else than experiments.train or experiments.sweep.
    """
    try:
        sweep = sweep_record.read_record(run.path.parent)
    except records.RunDirectoryError:
        sweep = None
    if sweep and run.path.name in sweep["trials"]:
        values = {**sweep["overrides"], **sweep["trials"][run.path.name]}
        options = {p: spaces.format_value(v) for p, v in values.items()}
        return sweep["config"], _without_free(options)
    arguments = list(run.environment.get("command", []))
    if "experiments.train" not in arguments:
        return None
    flags = _parse_flags(arguments)
    if "config" not in flags:
        return None
    options = {k.removeprefix("config."): v for k, v in flags.items() if k.startswith("config.")}
    return flags["config"], _without_free(options)


def _parse_flags(arguments: Sequence[str]) -> dict[str, str]:
    """Returns the flags of a command line as absl reads them, each as one text."""
    flags: dict[str, str] = {}
    left = list(arguments)
    while left:
        argument, equals, value = left.pop(0).partition("=")
        name = argument.lstrip("-")
        negated = name.startswith("noconfig.")
        name = name.removeprefix("no") if negated else name
        hint = config_lib.leaf_types().get(name.removeprefix("config."))
        alternatives = (hint, *typing.get_args(hint))
        if argument.startswith("-") and not equals:
            # An option's value follows it, whatever it is; of other flags nothing is known.
            follows = left and (name.startswith("config") or not left[0].startswith("-"))
            if bool in alternatives or not follows:
                value = "False" if negated else "True"
            else:
                value = left.pop(0)
        repeated = name in flags and any(typing.get_origin(h) is tuple for h in alternatives)
        flags[name] = f"{flags[name]},{value}" if repeated else value
    return flags


def _without_free(options: Mapping[str, str]) -> list[str]:
    return [f"--config.{p}={v}" for p, v in options.items() if p != "seed" and not is_free(p)]


def config_name(group: Group) -> str | None:
    """Returns the configuration file that the group's runs were started with, if it is known."""
    return found[0] if (found := _find_command(group)) else None


def make_command(group: Group) -> str | None:
    """Returns one command that trains the group's runs anew, if their start is known."""
    if (found := _find_command(group)) is None:
        return None
    file, options = found
    seeds = ",".join(str(run.config.seed) for run in group.runs)
    stem = pathlib.Path(file.partition(":")[0]).stem
    module = ["experiments.train", f"--config={file}", *options, f"--config.seed={seeds}"]
    if len(group.runs) > 1:
        module = ["experiments.sweep", f"--config={file}", *options, f"--grid=seed={seeds}"]
    return spaces.join(["python", "-m", *module, f"--workdir=runs/{stem}_again"])


def _find_command(group: Group) -> tuple[str, list[str]] | None:
    """What `recorded_command` gives, its file by the path in this tree, wherever the tree was."""
    for file, options in filter(None, map(recorded_command, group.runs)):
        _, folder, rest = file.rpartition("experiments/configs/")
        return (folder + rest if folder else file), options
    return None


# Rows for programs -------------------------------------------------------------------------------


def result_rows(
    groups: Sequence[Group], count_parameters: Callable[[Run], int | None]
) -> list[dict[str, Any]]:
    """Returns one JSON object for each group; `test_accuracy_sd` is null for a single run.

    Training accuracy and loss are means over the last epoch's steps, while it learned. `seconds`
    are those spent in training steps, the median over the runs, as of `examples_per_second`.
    """
    return [
        {
            "model": group.config.model.name,
            "config": config_name(group),
            "dataset": group.config.dataset.name,
            "part": part_name(group.config),
            "epochs": group.config.epochs,
            "parameters": count_parameters(group.runs[0]),
            "n": len(group.runs),
            "test_accuracy_mean": (accuracy := summarize(group.values("test_accuracy"))).mean,
            "test_accuracy_sd": accuracy.sd,
            "test_accuracies": group.values("test_accuracy"),
            **{
                f"test_{name}_mean": summarize(group.values(f"test_{name}")).mean
                for name in _other_metrics([group])
            },
            "train_accuracy_mean": summarize(group.values("train_accuracy")).mean,
            "train_loss_mean": summarize(group.values("train_loss")).mean,
            "published": next((number.value for number in find_published(group.config)), None),
            "command": make_command(group),
            "device": devices(group),
            "versions": versions(group),
            "seconds": seconds(group),
            "examples_per_second": speed(group),
        }
        for group in groups
    ]


def count_run_parameters(run: Run) -> int | None:
    """Returns the number of trained parameters in a run's newest checkpoint, if it has one."""
    # Orbax warns that it restores without knowing the devices; the arrays are only counted.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        variables = checkpoints.restore_variables(run.path)
    except CheckpointError:
        return None
    return layers.count_parameters(variables["params"])


# Tables for people -------------------------------------------------------------------------------


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 0) -> str:
    """Returns a table; the first `words` columns are aligned left, the others right."""
    cells = [[one_line(text).replace("|", "\\|") for text in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = [("-" * w) if i < words else "-" * (w - 1) + ":" for i, w in enumerate(widths)]

    def line(row: Sequence[str]) -> str:
        padded = [
            text.ljust(w) if i < words else text.rjust(w)
            for i, (text, w) in enumerate(zip(row, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])])


def format_mean(values: Statistics) -> str:
    """Returns '0.8123 ± 0.0045', or '0.8123 ± –' for a single value."""
    return f"{values.mean:.4f} ± {'–' if values.sd is None else f'{values.sd:.4f}'}"


def column_names(paths: Sequence[str]) -> dict[str, str]:
    """Returns short names for paths, as far as they stay different."""
    short = [path.rpartition(".")[2] for path in paths]
    return {
        path: path if name == "name" or short.count(name) > 1 else name
        for path, name in zip(paths, short, strict=True)
    }


def report(
    groups: Sequence[Group],
    repeated: Sequence[tuple[Run, Run]],
    runs: Sequence[Run],
    baseline: Group | None = None,
) -> str:
    """Returns the report in markdown: what is common, the table, sources, unfinished runs."""
    lines = ["# Report", ""]
    if groups:
        lines += [_common(groups), "", _group_table(groups, baseline), "", _legend(groups)]
        lines += [significance.LEGEND] if baseline else []
        lines += _sources(groups)
    else:
        lines += ["No run is finished yet."]
    if repeated:
        lines += ["", "Counted once, as configuration and seed are the same:", ""]
        lines += [_repetition(run, kept) for run, kept in repeated]
    unfinished = [run for run in runs if not run.finished]
    if unfinished:
        lines += ["", f"Unfinished, and not in the table: {len(unfinished)}.", ""]
        for run in unfinished:
            done = f"- {run.path}: {len(run.rows)} of {run.config.epochs} epochs"
            lines.append(f"{done}; {run.error}" if run.error else done)
    return "\n".join(lines) + "\n"


def _group_table(groups: Sequence[Group], baseline: Group | None) -> str:
    paths = differing_paths([group.config for group in groups])
    names = column_names(paths)
    several_data = len({recipe_key(group.config) for group in groups}) < len(groups)
    files = [config_name(group) for group in groups]
    several_files = len(set(files)) > 1
    numbers = [find_published(group.config) for group in groups]
    unfinished = any(group.unfinished for group in groups)
    order = list(dict.fromkeys(n for group_numbers in numbers for n in group_numbers[:1]))
    header = ["configuration"] * several_files + [names[path] for path in paths]
    header += ["SHA-256 of the data"] * several_data
    words = len(header)
    header += ["n"] + ["unfinished"] * unfinished
    header += [f"{part_names(groups)} accuracy", "min", "max", "loss", "training"]
    header += [*(more := _other_metrics(groups)), "examples/s"]
    compared_groups = significance.compare(groups, baseline) if baseline else [None] * len(groups)
    header += ["difference", "95 % interval", "p"] if baseline else []
    header += ["published"] * any(numbers)
    rows = []
    for group, file, known, compared in zip(groups, files, numbers, compared_groups, strict=True):
        leaves = config_lib.flatten(group.config)
        accuracy = summarize(group.values("test_accuracy"))
        row = [pathlib.Path(file).name if file else "–"] * several_files
        row += ["–" if leaves[path] is None else format_cell(leaves[path]) for path in paths]
        row += [group.runs[0].data.arrays if group.runs[0].data else "–"] * several_data
        row += [str(accuracy.n)] + [str(len(group.unfinished))] * unfinished
        row += [format_mean(accuracy), f"{accuracy.minimum:.4f}", f"{accuracy.maximum:.4f}"]
        row += [
            f"{summarize(group.values('test_loss')).mean:.4f}",
            f"{summarize(group.values('train_accuracy')).mean:.4f}",
            *[f"{summarize(group.values(f'test_{name}')).mean:.4f}" for name in more],
            f"{speed(group):,.0f}",
        ]
        if baseline:
            is_baseline = group is baseline
            row += ["baseline", "", ""] if is_baseline else significance.format_comparison(compared)
        if any(numbers):
            row += [_number(known[0], order.index(known[0]) + 1) if known else "–"]
        rows.append(row)
    return markdown_table(header, rows, words)


def _other_metrics(groups: Sequence[Group]) -> list[str]:
    """The names of the metrics, beside loss and accuracy, that all runs have as one number."""
    rows = [run.rows[-1] for group in groups for run in group.runs]
    return [
        name
        for name in losses.METRICS
        if name not in ("loss", "accuracy")
        and all(isinstance(row.get(f"test_{name}"), float) for row in rows)
    ]


def _common(groups: Sequence[Group]) -> str:
    leaves = config_lib.flatten(groups[0].config)
    differing = differing_paths([group.config for group in groups])
    facts = ["model.name", "dataset.name", "epochs", "batch_size", "optimizer.learning_rate"]
    facts += [
        p for p in ("dataset.classes", "dataset.train_examples", "dataset.holdout") if leaves[p]
    ]
    shared = [f"{path}={format_cell(leaves[path])}" for path in facts if path not in differing]
    where = "; ".join(dict.fromkeys(devices(group) for group in groups))
    return f"{'All runs: ' if shared else ''}{', '.join([*shared, f'on {where}'])}."


def _legend(groups: Sequence[Group]) -> str:
    text = (
        "Accuracy after the last epoch, mean ± sample standard deviation over n seeds, best first; "
        "loss: mean; training: mean accuracy on the training examples during the last epoch, with "
        "dropout and augmentation if there are any; examples/s: median, training only."
    )
    if any(group.config.dataset.holdout for group in groups):
        text += " Held-out: on training examples that were set aside, not on the test set."
    if any(group.unfinished for group in groups):
        text += " Seeds that failed or aren't finished are not in the mean, which flatters it."
    return text


def format_cell(value: Any) -> str:
    """Returns a value of the configuration as tables and figures show it."""
    return f"{value:g}" if isinstance(value, float) else spaces.format_value(value)


def _number(number: Published, mark: int) -> str:
    text = f"{number.value:.3f}"
    if number.minimum is not None:
        text += f" ({number.minimum:.3f} to {number.maximum:.3f})"
    return f"{text} [{mark}]"


def _sources(groups: Sequence[Group]) -> list[str]:
    known = list(dict.fromkeys(filter(None, (find_published(group.config) for group in groups))))
    lines = []
    for mark, (first, *others) in enumerate(known, 1):
        lines.append(f"- [{mark}] {_source(first)}")
        lines += [f"  - also {_source(other)}" for other in others]
    return ["", "Published:", "", *lines] if lines else []


def _source(number: Published) -> str:
    spread = f" ({number.minimum} to {number.maximum})" if number.minimum is not None else ""
    return f"{number.value}{spread}: {number.what}. {number.source}."


def _repetition(run: Run, kept: Run) -> str:
    same = run.rows[-1]["test_accuracy"] == kept.rows[-1]["test_accuracy"]
    return f"- {run.path} repeats {kept.path}, with {'the same' if same else 'another'} accuracy"


def trial_table(outcomes: Sequence[driver.Outcome]) -> str:
    """Returns the trials of a sweep as a table, best first; failed ones last, with their errors.

    Those that were stopped early come after those that were trained longer.
    """
    if not outcomes:
        return "No trial is finished yet."
    paths = list(outcomes[0].trial.values)
    names = column_names(paths)
    part = part_name(outcomes[0].trial.config)
    epochs = {o.trial.name: o.row["epoch"] if o.row else 0 for o in outcomes}
    stopped = len({n for n in epochs.values() if n}) > 1
    ordered = sorted(
        outcomes,
        key=lambda o: (-epochs[o.trial.name], -o.row["test_accuracy"] if o.row else 1.0),
    )
    rows = []
    for outcome in ordered:
        row = [format_cell(outcome.trial.values[path]) for path in paths]
        row += [str(epochs[outcome.trial.name])] * stopped
        if outcome.row:
            row += [f"{outcome.row['test_accuracy']:.4f}"]
            row += [loss_text(outcome.row[f"{split}_loss"]) for split in ("test", "train")]
        else:
            row += ["failed", "–", "–"]
        rows.append(row)
    header = [names[path] for path in paths] + ["epochs"] * stopped
    header += [f"{part} accuracy", f"{part} loss", "train loss"]
    lines = [markdown_table(header, rows, len(paths))]
    lines += ["", *(f"{o.trial.name}: {o.error}" for o in ordered if o.error)]
    legend = "Accuracy of held-out training examples after the last epoch."
    if part == "test":
        legend = "Accuracy of the test set after the last epoch; to choose hyperparameters, set "
        legend += "--config.dataset.holdout=0.1."
    return "\n".join([*lines, legend])
