"""From run directories to tables: which runs belong together, their statistics, published numbers.

Runs that differ only in the seed, or in what changes no number, make a group; a group's accuracy is
that of the last epoch, as mean ± sample standard deviation over its seeds. Unfinished runs are
listed and never averaged.
"""

import dataclasses
import json
import logging
import os
import pathlib
import shlex
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cnn_jax import config as config_lib
from cnn_jax import models, records, sweeps
from cnn_jax.config import Config

PUBLISHED = pathlib.Path(__file__).with_name("published.json")
# What changes a result by rounding at most: no part of a published recipe.
ROUNDING = ("eval_batch_size", "parallel", "model.dtype")


class ReportError(ValueError):
    """Nothing to report on; the message is one sentence for the user."""


class Run(NamedTuple):
    """A run directory, read."""

    path: pathlib.Path
    config: Config
    rows: list[dict[str, Any]]  # of metrics.jsonl
    environment: dict[str, Any]
    error: str | None  # a failed trial's

    @property
    def finished(self) -> bool:
        """Whether all epochs were trained."""
        return len(self.rows) >= self.config.epochs


class Group(NamedTuple):
    """Finished runs of one configuration, one for each seed, in the order of the seeds."""

    config: Config  # of the first seed
    runs: tuple[Run, ...]
    unfinished: tuple[Run, ...]  # of the same configuration

    def values(self, name: str) -> list[float]:
        """Returns one value for each run: that of the last epoch."""
        return [run.rows[-1][name] for run in self.runs]


class Statistics(NamedTuple):
    """Of a list of numbers; `sd` is the sample standard deviation (n − 1), None for n = 1."""

    n: int
    mean: float
    sd: float | None
    minimum: float
    maximum: float


class Comparison(NamedTuple):
    """A group against a baseline, by the differences of the accuracies of their common seeds."""

    n: int  # seeds in common
    difference: float  # mean; positive if the group is better than the baseline
    low: float  # ends of its 95 % confidence interval
    high: float
    p: float  # paired t-test, two-sided, by Holm's method for all comparisons of the table


class Published(NamedTuple):
    """A number somebody published for a recipe, with its spread over their builds."""

    value: float
    what: str
    source: str
    minimum: float | None = None
    maximum: float | None = None
    n: int | None = None


# Reading -----------------------------------------------------------------------------------------


def find_runs(directories: Sequence[str | os.PathLike[str]]) -> list[Run]:
    """Returns the runs in these directories and below them, each once, in the order of the paths.

    Raises:
      ReportError: a directory doesn't exist, or there is no run in any of them.
      RunDirectoryError: a run's records can't be read.
    """
    paths: dict[pathlib.Path, pathlib.Path] = {}
    for directory in map(pathlib.Path, directories):
        if not directory.is_dir():
            raise ReportError(f"{directory} is not a directory; give one that holds runs.")
        for root, below, files in os.walk(directory):
            below.sort()
            if "config.json" in files and ({"metrics.jsonl", ".lock"} & set(files)):
                below.clear()
                path = pathlib.Path(root)
                paths.setdefault(path.resolve(), path)
    if not paths:
        where = ", ".join(map(str, directories))
        raise ReportError(
            f"no run found in {where}; experiments.train and experiments.sweep make them."
        )
    return [read_run(path) for path in paths.values()]


def read_run(path: pathlib.Path) -> Run:
    """Reads a run directory, finished or not; one with damaged metrics counts as unfinished.

    Raises:
      RunDirectoryError: its configuration can't be read.
    """
    config = records.read_config(path)
    failed = sweeps.read_error(path)
    error = failed["error"] if failed else None
    rows = []
    try:
        if (path / "metrics.jsonl").exists():
            rows = records.read_metrics(path)
    except records.RunDirectoryError as damage:
        error = str(damage)
    try:
        environment = json.loads((path / "environment.json").read_text())
    except (OSError, ValueError):
        environment = {}
    return Run(path, config, rows, environment, error)


# Grouping and statistics -------------------------------------------------------------------------


def recipe_key(config: Config) -> tuple[tuple[str, Any], ...]:
    """Returns what two runs must share to belong together: all but the seed and what is free."""
    leaves = config_lib.flatten(config)
    return tuple((p, v) for p, v in leaves.items() if p != "seed" and not _free(p))


def group_runs(runs: Iterable[Run]) -> tuple[list[Group], list[tuple[Run, Run]]]:
    """Groups runs that differ only in the seed.

    Returns:
      The groups with at least one finished run, in the order in which they were found, and the
      repetitions: pairs (left out, counted) of finished runs with the same configuration and seed.
    """
    found: dict[tuple[tuple[str, Any], ...], tuple[dict[int, Run], list[Run]]] = {}
    repeated = []
    for run in runs:
        seeds, unfinished = found.setdefault(recipe_key(run.config), ({}, []))
        if not run.finished:
            unfinished.append(run)
        elif run.config.seed in seeds:
            repeated.append((run, seeds[run.config.seed]))
        else:
            seeds[run.config.seed] = run
    groups = []
    for seeds, unfinished in found.values():
        ordered = tuple(seeds[seed] for seed in sorted(seeds))
        if ordered:
            groups.append(Group(ordered[0].config, ordered, tuple(unfinished)))
    return groups, repeated


def summarize(values: Sequence[float]) -> Statistics:
    """Returns n, mean, sample standard deviation, minimum and maximum."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return Statistics(len(values), statistics.fmean(values), sd, min(values), max(values))


def find_baseline(groups: Sequence[Group], chosen: str) -> Group:
    """Returns the group that 'optimizer.learning_rate=0.1,model.activation=relu' means.

    The values are any that tell it from the others, written as on the command line.

    Raises:
      ReportError, ConfigError: no group has these values, or several have.
    """
    values = sweeps.parse_values("baseline", chosen)
    fitting = [
        group
        for group in groups
        if all(config_lib.flatten(group.config)[path] == v for path, v in values.items())
    ]
    if len(fitting) != 1:
        raise ReportError(
            f"--baseline={chosen} fits {len(fitting)} configurations of the {len(groups)}; it must "
            "fit one."
        )
    return fitting[0]


def compare(groups: Sequence[Group], baseline: Group) -> list[Comparison | None]:
    """Compares each group with the baseline by a paired t-test over their common seeds.

    Runs of one seed see the same order of examples, so they are pairs. None for the baseline itself
    and for groups with fewer than two seeds in common with it. The p values are adjusted by Holm's
    method: among groups that are all as good as the baseline, the chance that any p is below 0.05
    is at most 5 %.
    """
    from scipy import stats  # slow to import

    reference = {run.config.seed: run.rows[-1]["test_accuracy"] for run in baseline.runs}
    found: list[Comparison | None] = []
    for group in groups:
        own = {run.config.seed: run.rows[-1]["test_accuracy"] for run in group.runs}
        differences = [own[seed] - reference[seed] for seed in own if seed in reference]
        if group is baseline or len(differences) < 2:
            found.append(None)
            continue
        mean, sd = statistics.fmean(differences), statistics.stdev(differences)
        error = sd / len(differences) ** 0.5
        half = float(stats.t.ppf(0.975, len(differences) - 1)) * error
        t = mean / error if error else float("inf") if mean else 0.0
        p = 2 * float(stats.t.sf(abs(t), len(differences) - 1))
        found.append(Comparison(len(differences), mean, mean - half, mean + half, p))
    ordered = sorted((c.p, i) for i, c in enumerate(found) if c)
    adjusted = 0.0
    for rank, (p, i) in enumerate(ordered):
        adjusted = max(adjusted, min(1.0, p * (len(ordered) - rank)))
        comparison = found[i]
        assert comparison
        found[i] = comparison._replace(p=adjusted)
    return found


def speed(group: Group) -> float:
    """Returns the median over the runs of the median over the epochs, in examples/s."""
    return statistics.median(
        statistics.median(row["examples_per_second"] for row in run.rows) for run in group.runs
    )


def seconds(group: Group) -> float:
    """Returns the median over the runs of the seconds spent in training steps."""
    return statistics.median(sum(row["seconds"] for row in run.rows) for run in group.runs)


def differing_paths(configs: Sequence[Config]) -> list[str]:
    """Returns the paths in which the configurations differ, apart from seed and what is free.

    Options of a network count only where two configurations of the same network differ in them.
    """
    flat = [config_lib.flatten(config) for config in configs]

    def differs(path: str, among: Sequence[Mapping[str, Any]]) -> bool:
        return any(leaves[path] != among[0][path] for leaves in among)

    names = dict.fromkeys(leaves["model.name"] for leaves in flat)
    same_network = [[leaves for leaves in flat if leaves["model.name"] == n] for n in names]
    paths = []
    for path in flat[0] if flat else ():
        if path == "seed" or _free(path):
            continue
        option = path.startswith("model.") and path != "model.name"
        if any(differs(path, among) for among in (same_network if option else [flat])):
            paths.append(path)
    return paths


def part_name(config: Config) -> str:
    """Returns what `test_accuracy` is measured on: 'test', or 'held-out' training examples."""
    return "held-out" if config.dataset.holdout else "test"


def _free(path: str) -> bool:
    return path.startswith(config_lib.FREE)


# Published numbers -------------------------------------------------------------------------------


def published(config: Config) -> tuple[Published, ...]:
    """Returns the numbers published for this recipe, the most comparable first; () if none is.

    A recipe of published.json gives some values; all others must be the defaults. The initial
    biases, and what changes only rounding, may differ.
    """
    for recipe, numbers in _published():
        if recipe == _recipe(config):
            return numbers
    return ()


def _published() -> list[tuple[Any, tuple[Published, ...]]]:
    entries = json.loads(PUBLISHED.read_text(encoding="utf-8"))["recipes"]
    return [
        (
            _recipe(sweeps.with_values(Config(), _tuples(entry["recipe"]))),
            tuple(Published(**number) for number in entry["published"]),
        )
        for entry in entries
    ]


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {path: tuple(v) if isinstance(v, list) else v for path, v in values.items()}


def _recipe(config: Config) -> Any:
    """What a recipe is compared by; two names of one network are the same."""
    same = {"bias_init": "zeros", "class_bias_init": "zeros", "dtype": "float32"}
    options = config_lib.model_options(config.model)
    options |= {k: v for k, v in same.items() if hasattr(models.create(config.model.name), k)}
    network = models.create(config.model.name, **options)
    fields = {f.name: getattr(network, f.name) for f in dataclasses.fields(network)}
    own = {k: sweeps.format_value(v) for k, v in fields.items() if k not in ("parent", "name")}
    rest = {
        path: value
        for path, value in recipe_key(config)
        if not path.startswith("model.") and path not in ROUNDING
    }
    return type(network), own, rest


# The command that made a run ---------------------------------------------------------------------


def recorded_command(run: Run) -> tuple[str, list[str]] | None:
    """Returns (configuration file, ['--config.a=b', …]) as recorded, without seed and free paths.

    None if the run was started by something else than experiments.train or experiments.sweep.
    """
    try:
        sweep = sweeps.read_record(run.path.parent)
    except records.RunDirectoryError:
        sweep = None
    if sweep and run.path.name in sweep.trials:
        values = {**sweep.overrides, **sweep.trials[run.path.name]}
        options = {p: sweeps.format_value(v) for p, v in values.items() if v is not None}
        return sweep.config, _without_free(options)
    arguments = list(run.environment.get("command", []))
    if "experiments.train" not in arguments:
        return None
    flags: dict[str, str] = {}
    while arguments:
        name, equals, value = arguments.pop(0).partition("=")
        if name.startswith("-") and not equals and arguments and not arguments[0].startswith("-"):
            value = arguments.pop(0)
        flags[name.lstrip("-")] = value or "true"
    if "config" not in flags:
        return None
    options = {k.removeprefix("config."): v for k, v in flags.items() if k.startswith("config.")}
    return flags["config"], _without_free(options)


def _without_free(options: Mapping[str, str]) -> list[str]:
    return [f"--config.{p}={v}" for p, v in options.items() if p != "seed" and not _free(p)]


def config_name(group: Group) -> str | None:
    """Returns the configuration file that the group's runs were started with, if it is known."""
    recorded = next(filter(None, map(recorded_command, group.runs)), None)
    return _short(recorded[0]) if recorded else None


def command(group: Group) -> str | None:
    """Returns one command that trains the group's runs anew, if their start is known."""
    recorded = next(filter(None, map(recorded_command, group.runs)), None)
    if recorded is None:
        return None
    file, options = _short(recorded[0]), recorded[1]
    seeds = ",".join(str(run.config.seed) for run in group.runs)
    stem = pathlib.Path(file.partition(":")[0]).stem
    module = ["experiments.train", f"--config={file}", *options, f"--config.seed={seeds}"]
    if len(group.runs) > 1:
        module = ["experiments.sweep", f"--config={file}", *options, f"--grid=seed={seeds}"]
    return shlex.join(["python", "-m", *module, f"--workdir=runs/{stem}_again"])


def _short(file: str) -> str:
    """A file of this tree by its path in it, wherever the tree was."""
    _, found, rest = file.rpartition("experiments/configs/")
    return found + rest if found else file


# Rows for programs -------------------------------------------------------------------------------


def result_rows(
    groups: Sequence[Group], count_parameters: Callable[[Run], int | None]
) -> list[dict[str, Any]]:
    """Returns one JSON object for each group; `test_accuracy_sd` is null for a single run.

    `seconds` are those spent in training steps, the median over the runs.
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
            "published": next((number.value for number in published(group.config)), None),
            "command": command(group),
            "device": devices(group),
            "versions": versions(group),
            "seconds": seconds(group),
        }
        for group in groups
    ]


def count_parameters(run: Run) -> int | None:
    """Returns the number of trained parameters in a run's newest checkpoint, if it has one."""
    from cnn_jax import checkpoints  # slow to import

    # Orbax warns that it restores without knowing the devices; the arrays are only counted.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        variables = checkpoints.restore_variables(run.path)
    except checkpoints.CheckpointError:
        return None
    return count_leaves(variables["params"])


def count_leaves(tree: Mapping[str, Any]) -> int:
    """Returns how many numbers there are in a tree of arrays."""
    return sum(count_leaves(x) if isinstance(x, Mapping) else x.size for x in tree.values())


def devices(group: Group) -> str:
    """Returns what the runs were trained on; several are joined by '; '."""
    return "; ".join(dict.fromkeys(_device(run.environment) for run in group.runs))


def _device(environment: Mapping[str, Any]) -> str:
    kinds = environment.get("devices")
    if not kinds:
        return "unknown"
    if set(kinds) == {"cpu"}:
        return f"{environment.get('processor') or 'CPU'}, {environment.get('cores')} cores"
    return ", ".join(f"{kinds.count(kind)} × {kind}" for kind in dict.fromkeys(kinds))


def versions(group: Group) -> dict[str, str]:
    """Returns the versions of the packages, of Python and of the source; several are joined."""
    seen: dict[str, dict[str, None]] = {}
    for run in group.runs:
        environment = run.environment
        source = environment.get("source") or {}
        found = {
            **environment.get("packages", {}),
            "python": environment.get("python"),
            "commit": source.get("commit"),
        }
        if found["commit"] and source.get("clean") is False:
            found["commit"] += " with changes"
        for name, version in found.items():
            if version:
                seen.setdefault(name, {})[version] = None
    return {name: ", ".join(all_versions) for name, all_versions in seen.items()}


# Tables for people -------------------------------------------------------------------------------


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 0) -> str:
    """Returns a table; the first `words` columns are aligned left, the others right."""
    cells = [[text.replace("|", "\\|") for text in row] for row in (header, *rows)]
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


def best_first(groups: Iterable[Group]) -> list[Group]:
    """Returns the groups by falling mean accuracy."""
    return sorted(groups, key=lambda g: -summarize(g.values("test_accuracy")).mean)


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
        lines += _comparisons_legend() if baseline else []
        lines += _sources(groups)
    else:
        lines += ["No run is finished yet."]
    if repeated:
        lines += ["", "Counted once, as configuration and seed are the same:", ""]
        lines += [_repetition(run, kept) for run, kept in repeated]
    unfinished = [run for run in runs if not run.finished]
    if unfinished:
        lines += ["", f"Unfinished, and not in the table: {len(unfinished)}.", ""]
        lines += [f"- {_unfinished(run)}" for run in unfinished]
    return "\n".join(lines) + "\n"


def _group_table(groups: Sequence[Group], baseline: Group | None) -> str:
    paths = differing_paths([group.config for group in groups])
    names = column_names(paths)
    files = [config_name(group) for group in groups]
    several_files = len(set(files)) > 1
    numbers = [published(group.config) for group in groups]
    unfinished = any(group.unfinished for group in groups)
    order = list(dict.fromkeys(n for group_numbers in numbers for n in group_numbers[:1]))
    header = ["configuration"] * several_files + [names[path] for path in paths]
    words = len(header)
    header += ["n"] + ["unfinished"] * unfinished
    header += [f"{_parts(groups)} accuracy", "min", "max", "loss", "examples/s"]
    comparisons = compare(groups, baseline) if baseline else [None] * len(groups)
    header += ["difference", "95 % interval", "p"] if baseline else []
    header += ["published"] * any(numbers)
    rows = []
    for group, file, known, compared in zip(groups, files, numbers, comparisons, strict=True):
        leaves = config_lib.flatten(group.config)
        accuracy = summarize(group.values("test_accuracy"))
        row = [pathlib.Path(file).name if file else "–"] * several_files
        row += ["–" if leaves[path] is None else cell(leaves[path]) for path in paths]
        row += [str(accuracy.n)] + [str(len(group.unfinished))] * unfinished
        row += [format_mean(accuracy), f"{accuracy.minimum:.4f}", f"{accuracy.maximum:.4f}"]
        row += [f"{summarize(group.values('test_loss')).mean:.4f}", f"{speed(group):,.0f}"]
        if baseline:
            row += ["baseline", "", ""] if group is baseline else comparison_cells(compared)
        if any(numbers):
            row += [_number(known[0], order.index(known[0]) + 1) if known else "–"]
        rows.append(row)
    return markdown_table(header, rows, words)


def comparison_cells(compared: Comparison | None) -> list[str]:
    """Returns difference, interval and p as a table shows them; dashes for None."""
    if compared is None:
        return ["–", "–", "–"]
    interval = f"{compared.low:+.4f} to {compared.high:+.4f}"
    p = f"{compared.p:.3f}" if compared.p >= 0.001 else "< 0.001"
    return [f"{compared.difference:+.4f}", interval, p]


def _comparisons_legend() -> list[str]:
    return [
        "Difference: mean over the seeds that a configuration and the baseline share; its interval "
        "for each comparison by itself; p: paired t-test, adjusted by Holm's method for all rows."
    ]


def _common(groups: Sequence[Group]) -> str:
    leaves = config_lib.flatten(groups[0].config)
    differing = differing_paths([group.config for group in groups])
    facts = ["model.name", "dataset.name", "epochs", "batch_size", "optimizer.learning_rate"]
    facts += [p for p in ("dataset.train_examples", "dataset.holdout") if leaves[p]]
    said = [f"{path}={cell(leaves[path])}" for path in facts if path not in differing]
    where = "; ".join(dict.fromkeys(devices(group) for group in groups))
    return f"{'All runs: ' if said else ''}{', '.join([*said, f'on {where}'])}."


def _legend(groups: Sequence[Group]) -> str:
    text = (
        "Accuracy after the last epoch, mean ± sample standard deviation over n seeds, best first; "
        "loss: mean; examples/s: median, training only."
    )
    if any(group.config.dataset.holdout for group in groups):
        text += " Held-out: on training examples that were set aside, not on the test set."
    if any(group.unfinished for group in groups):
        text += " Seeds that failed or aren't finished are not in the mean, which flatters it."
    return text


def _parts(groups: Sequence[Group]) -> str:
    return " or ".join(sorted({part_name(group.config) for group in groups}, reverse=True))


def cell(value: Any) -> str:
    """Returns a value of the configuration as tables and pictures show it."""
    return f"{value:g}" if isinstance(value, float) else sweeps.format_value(value)


def _number(number: Published, mark: int) -> str:
    text = f"{number.value:.3f}"
    if number.minimum is not None:
        text += f" ({number.minimum:.3f} to {number.maximum:.3f})"
    return f"{text} [{mark}]"


def _sources(groups: Sequence[Group]) -> list[str]:
    known = list(dict.fromkeys(filter(None, (published(group.config) for group in groups))))
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


def _unfinished(run: Run) -> str:
    done = f"{run.path}: {len(run.rows)} of {run.config.epochs} epochs"
    return f"{done}; {run.error}" if run.error else done


def trial_table(outcomes: Sequence[sweeps.Outcome]) -> str:
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
        row = [cell(outcome.trial.values[path]) for path in paths]
        row += [str(epochs[outcome.trial.name])] * stopped
        if outcome.row:
            row += [f"{outcome.row[f'test_{name}']:.4f}" for name in ("accuracy", "loss")]
            row += [f"{outcome.row['train_loss']:.4f}"]
        else:
            row += ["failed", "–", "–"]
        rows.append(row)
    header = [names[path] for path in paths] + ["epochs"] * stopped
    header += [f"{part} accuracy", f"{part} loss", "train loss"]
    lines = [markdown_table(header, rows, len(paths))]
    lines += ["", *(f"{o.trial.name}: {o.error}" for o in ordered if o.error)]
    if part == "test":
        lines.append(
            "Accuracy of the test set after the last epoch; to choose hyperparameters, set "
            "--config.dataset.holdout=0.1."
        )
    else:
        lines.append("Accuracy of held-out training examples after the last epoch.")
    return "\n".join(lines)
