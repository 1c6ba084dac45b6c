"""Run directories, read and grouped: which runs are one experiment, and their statistics.

Runs that differ only in the seed, or in what changes no number, make a group; a group's accuracy is
that of the last epoch, as mean ± sample standard deviation over its seeds. Unfinished runs are
never averaged.
"""

import os
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cnn_jax import checkpoints, epochs, identity, records
from cnn_jax import config as config_lib
from cnn_jax.config import Config
from cnn_jax.errors import ReportError
from cnn_jax.sweeps import sweep_record


class Run(NamedTuple):
    """A run directory, read."""

    path: pathlib.Path
    config: Config
    rows: list[dict[str, Any]]  # of metrics.jsonl
    environment: records.Environment
    error: str | None  # a failed trial's, or what can't be read
    damaged: bool = False  # whether that is a record of the run

    @property
    def finished(self) -> bool:
        """Whether all epochs were trained, or as many as early stopping let it."""
        return bool(self.rows) and epochs.is_last(self.rows[-1], self.config.epochs)

    @property
    def data(self) -> identity.DataIdentity | None:
        """Which data it was trained on, if that is recorded."""
        return identity.read_data(self.environment)

    @property
    def initial_weights(self) -> str | None:
        """The fingerprint of the weights that it started from; None for random ones."""
        return self.environment.get("initial_weights", {}).get("fingerprint")


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
    failed = sweep_record.read_error(path)
    error = failed["error"] if failed else None
    rows, damaged = [], False
    try:
        if (path / "metrics.jsonl").exists():
            rows = records.read_metrics(path)
    except records.RunDirectoryError as damage:
        error, damaged = str(damage), True
    environment: records.Environment = {}
    try:
        environment = records.find_environment(path)
    except records.RunDirectoryError as damage:
        error, damaged = str(damage), True
    return Run(path, config, rows, environment, error, damaged)


# Grouping and statistics -------------------------------------------------------------------------


def recipe_key(config: Config) -> tuple[tuple[str, Any], ...]:
    """Returns what two runs must share to belong together: all but the seed and what is free."""
    leaves = config_lib.flatten(config)
    return tuple((p, v) for p, v in leaves.items() if p != "seed" and not is_free(p))


def group_runs(runs: Iterable[Run]) -> tuple[list[Group], list[tuple[Run, Run]]]:
    """Groups runs that differ only in the seed, not in the data or the weights they started from.

    Returns:
      The groups with at least one finished run, in the order in which they were found, and the
      repetitions: pairs (left out, counted) of finished runs with the same configuration and seed.
    """
    runs = list(runs)
    known: dict[Any, set[identity.DataIdentity]] = {}
    for run in runs:
        known.setdefault(recipe_key(run.config), set()).update([run.data] if run.data else [])
    found: dict[Any, tuple[dict[int, Run], list[Run]]] = {}
    repeated = []
    for run in runs:
        recipe = recipe_key(run.config)
        # A run that doesn't record its data belongs to the others if they all have the same.
        data = run.data or (next(iter(known[recipe])) if len(known[recipe]) == 1 else None)
        seeds, unfinished = found.setdefault((recipe, data, run.initial_weights), ({}, []))
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


def check_same_data(runs: Sequence[Run]) -> None:
    """Raises ReportError if runs that are to be compared were trained on different data."""
    known = [run for run in runs if run.data]
    for run in known[1:]:
        if changed := identity.compare_data(known[0].data, run.data):
            changed = changed.replace("there", f"in {known[0].path}").replace(
                "here", f"in {run.path}"
            )
            raise ReportError(
                f"runs that are to be compared were trained on different data: {changed}. Train "
                "them anew on the same."
            )


def summarize(values: Sequence[float]) -> Statistics:
    """Returns n, mean, sample standard deviation, minimum and maximum."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return Statistics(len(values), statistics.fmean(values), sd, min(values), max(values))


def speed(group: Group) -> float:
    """Returns the median over the runs of the median over the epochs, in examples/s."""
    return statistics.median(
        statistics.median(row["examples_per_second"] for row in run.rows) for run in group.runs
    )


def seconds(group: Group) -> float:
    """Returns the median over the runs of the seconds spent in training steps."""
    return statistics.median(sum(row["seconds"] for row in run.rows) for run in group.runs)


def differing_paths(configs: Sequence[Config]) -> list[str]:
    """Returns the paths in which the configurations differ, apart from the seed and free ones.

    Options of a network count only where two configurations of the same network differ in them.
    """
    flat = [config_lib.flatten(config) for config in configs]

    def differs(path: str, among: Sequence[Mapping[str, Any]]) -> bool:
        return any(leaves[path] != among[0][path] for leaves in among)

    names = dict.fromkeys(leaves["model.name"] for leaves in flat)
    same_network = [[leaves for leaves in flat if leaves["model.name"] == n] for n in names]
    paths = []
    for path in flat[0] if flat else ():
        if path == "seed" or is_free(path):
            continue
        option = path.startswith("model.") and path != "model.name"
        if any(differs(path, among) for among in (same_network if option else [flat])):
            paths.append(path)
    return paths


def part_name(config: Config) -> str:
    """Returns what `test_accuracy` is measured on: 'test', or 'held-out' training examples."""
    return "held-out" if config.dataset.holdout else "test"


def part_names(groups: Iterable[Group]) -> str:
    """Returns the `part_name` of the groups, 'test or held-out' if they differ."""
    return " or ".join(sorted({part_name(group.config) for group in groups}, reverse=True))


def is_free(path: str) -> bool:
    """Returns whether a path changes no number."""
    return path.startswith(config_lib.FREE)


def best_first(groups: Iterable[Group]) -> list[Group]:
    """Returns the groups, those with the best mean first."""
    return sorted(groups, key=lambda g: -summarize(g.values(checkpoints.BEST)).mean)


def devices(group: Group) -> str:
    """Returns what the runs were trained on; several are joined by '; '."""
    return "; ".join(dict.fromkeys(_device(run.environment) for run in group.runs))


def _device(environment: records.Environment) -> str:
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
        found = {**environment.get("packages", {}), "python": environment.get("python")}
        if source := environment.get("source"):
            changed = " with changes" if source["clean"] is False else ""
            found["commit"] = source["commit"] and source["commit"] + changed
        for name, version in found.items():
            if version:
                seen.setdefault(name, {})[version] = None
    return {name: ", ".join(all_versions) for name, all_versions in seen.items()}
