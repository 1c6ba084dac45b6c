"""Runs a recorded run again and compares the two, bit for bit.

python -m experiments.reproduce runs/lenet [--workdir=DIR]

Compared are every row of metrics.jsonl (without the times) and the final parameters. If anything
differs, it is printed together with what differs between the two environments. Exit codes: 0
identical, 1 different, 2 nothing to compare.
"""

import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import flax
import numpy as np

from cnn_jax import checkpoints, config, epochs, pool, processor, records, text, train, weights
from cnn_jax.inspection import trained_network
from cnn_jax.layers import count_parameters
from experiments import launch

WORKDIR = launch.define_path(
    "workdir", None, "Keep the new run in this directory, which must be new or empty."
)

TIMES = ("seconds", "examples_per_second")
# What of the environment two runs of the same thing may differ in.
INCIDENTAL = ("time", "command", "resumed")

Row = dict[str, Any]


def main(run: str) -> int:
    if WORKDIR.value is not None:
        return reproduce(pathlib.Path(run), pathlib.Path(WORKDIR.value))
    with tempfile.TemporaryDirectory(prefix="reproduce_") as directory:
        return reproduce(pathlib.Path(run), pathlib.Path(directory) / "run")


def reproduce(run: pathlib.Path, workdir: pathlib.Path) -> int:
    """Reruns `run` in `workdir`, prints the comparison and returns the exit code.

    Raises:
      ValueError: `run` is not a finished run that can be read, or `workdir` is in use.
    """
    settings = records.read_config(run)
    config.check(settings)
    recorded = records.read_metrics(run)
    if not recorded or not epochs.is_last(recorded[-1], settings.epochs):
        raise records.RunDirectoryError(
            f"{run} has {len(recorded)} of {settings.epochs} epochs; only a finished run can be "
            "compared. Resume it first."
        )
    environment = records.read_environment(run)
    use_processor_of(environment)
    use_devices_of(settings, environment)
    print(describe_expectation(environment), flush=True)
    dataset = trained_network.load_data(run, settings.dataset)
    check_initial_weights(settings, environment)
    epochs.check_metrics(recorded)
    parameters = checkpoints.restore_variables(run, evaluated=False)
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise records.RunDirectoryError(f"{workdir} is not empty; choose a new --workdir.")

    quiet = dataclasses.replace(settings.records, figures=False, tensorboard=False)
    settings = dataclasses.replace(settings, records=quiet)
    try:
        train.train_and_evaluate(settings, workdir, dataset=dataset)
    except train.DivergedError as error:
        print(f"different: the rerun failed, {error}")
        return 1
    except train.Interrupted as request:
        print(f"{request}; nothing was compared")
        return 128 + request.signum

    differences = [
        *compare_metrics(recorded, records.read_metrics(workdir)),
        *compare_parameters(parameters, checkpoints.restore_variables(workdir, evaluated=False)),
    ]
    if not differences:
        count = count_parameters(parameters)
        print(f"identical: {len(recorded)} rows of metrics and {count:,} numbers of the network")
        return 0
    print("different:", *differences, sep="\n  ")
    causes = compare_environments(environment, records.read_environment(workdir))
    if causes:
        print("and between the two environments:", *causes, sep="\n  ")
    else:
        print("and the two environments are the same")
    return 1


def check_initial_weights(settings: config.Config, environment: records.Environment) -> None:
    """Raises ConfigError if the weights that the run started from are others now."""
    recorded = environment.get("initial_weights", {}).get("fingerprint")
    if settings.init_from and recorded:
        now = weights.fingerprint(weights.load_initial(settings.init_from))
        if now != recorded:
            raise config.ConfigError(
                f"config.init_from={settings.init_from!r} holds other weights than the run started "
                f"from: their SHA-256 was {text.one_line(recorded)}…, now {now}…. Put back what it "
                "was."
            )


def use_processor_of(environment: records.Environment) -> None:
    """Gives this process the threads that the run had, and no higher instruction set."""
    if threads := pool.read_pool(environment):
        processor.use_threads(threads)
    if name := environment.get("instruction_set"):
        processor.use_instruction_set(name)


def describe_expectation(environment: records.Environment) -> str:
    """Says whether the same bits can be expected here, by what the run's environment was."""
    here = records.environment()
    reasons = []
    for name in ("jax", "jaxlib", "numpy"):
        version, now = environment.get("packages", {}).get(name), here["packages"][name]
        if version != now:
            reasons.append(f"{name} {text.one_line(str(version))} there, {now} here")
    for name, what in (
        ("backend", "the device is"),
        ("pool", "threads of the pool:"),
        ("instruction_set", "instructions:"),
        ("caches", "caches:"),
    ):
        there: Any = pool.read_pool(environment) if name == "pool" else environment.get(name)
        if there is not None and there != here[name]:
            said = [", ".join(x) if isinstance(x, list) else str(x) for x in (there, here[name])]
            reasons.append(f"{what} {text.one_line(said[0])} there, {said[1]} here")
    if not reasons:
        return "expected: the same bits, as what decides them is the same here"
    return f"expected: differences by rounding, which training amplifies ({'; '.join(reasons)})"


def use_devices_of(settings: config.Config, environment: records.Environment) -> None:
    """Gives this process as many CPU devices as the run had that shared its batches.

    Raises:
      ConfigError: the run had several processes.
    """
    if environment.get("processes", 1) > 1:
        raise config.ConfigError(
            f"the run was trained by {environment['processes']} processes; only runs of one "
            "process can be rerun and compared."
        )
    devices = len(environment.get("devices", ()))
    if settings.parallel != "none" and environment.get("backend") == "cpu" and devices > 1:
        launch.use_devices(devices)


def compare_metrics(old: list[Row], new: list[Row]) -> list[str]:
    """Returns a line on the first row that differs, and one on the last; none if all are equal."""
    lines = []
    rows = [(a, b) for a, b in zip(old, new, strict=False) if _values(a) != _values(b)]
    for a, b in rows[:1] + rows[1:][-1:]:
        a, b = _values(a), _values(b)
        names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
        changed = ", ".join(f"{name} {a.get(name)!r} → {b.get(name)!r}" for name in names)
        lines.append(f"epoch {b.get('epoch')}: {changed}")
    if len(old) != len(new):
        lines.append(f"rows of metrics: {len(old)} → {len(new)}")
    return lines


def compare_parameters(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns a line on the largest difference between the variables; none if all are equal."""
    a, b = (flax.traverse_util.flatten_dict(tree, sep=".") for tree in (old, new))
    described = [
        {name: (np.shape(x), np.asarray(x).dtype) for name, x in tree.items()} for tree in (a, b)
    ]
    if described[0] != described[1]:
        return ["the names, shapes or types of the parameters"]
    unequal = [name for name in a if np.asarray(a[name]).tobytes() != np.asarray(b[name]).tobytes()]
    if not unequal:
        return []
    largest = {name: _distance(a[name], b[name]) for name in unequal}
    worst = max(largest, key=lambda name: largest[name])
    return [
        f"{len(unequal)} of {len(a)} arrays of the network, the most by {largest[worst]:.3g} "
        f"in {worst}"
    ]


def compare_environments(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns a line for each thing that differs: versions, devices, flags, data, source."""
    a, b = (flax.traverse_util.flatten_dict(dict(tree), sep=".") for tree in (old, new))
    names = [n for n in {**a, **b} if n.split(".")[0] not in INCIDENTAL and a.get(n) != b.get(n)]
    return [f"{name}: {a.get(name)!r} → {b.get(name)!r}" for name in names]


def _values(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in TIMES}


def _distance(a: Any, b: Any) -> float:
    return float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))))


if __name__ == "__main__":
    launch.run(main, "RUN_DIR")
