"""Runs a recorded run again and compares the two, bit for bit.

python -m experiments.reproduce runs/lenet [--workdir=DIR] [--certificate=lenet.json]
python -m experiments.reproduce lenet.json

Compared are every row of metrics.jsonl (without the times), the hashes of the network on its way
and, of a run, the final parameters. A run that came out the same gets a certificate if asked, by
which others check it without the run. If anything differs, it is printed with the steps between
which the two part, how far apart they end, and what differs between the two environments. Exit
codes: 0 identical, 1 different, 2 nothing to compare.
"""

import contextlib
import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax
import numpy as np
from absl import flags

from cnn_jax import (
    checkpoints,
    config,
    epochs,
    hashes,
    pool,
    processor,
    records,
    schema,
    text,
    train,
    weights,
)
from cnn_jax.inspection import trained_network
from cnn_jax.layers import count_parameters
from cnn_jax.reports import certificate, results, run_groups
from experiments import launch

WORKDIR = launch.define_path(
    "workdir", None, "Keep the new run in this directory, which must be new or empty."
)
CERTIFICATE = launch.define_path(
    "certificate", None, "Write a certificate to this .json file if the two are identical."
)
DATASET = flags.DEFINE_string(
    "dataset", None, "Where the data are here, if the run has them from another folder."
)
DATA_DIR = launch.define_path("data_dir", None, "Where data sets are kept; else as in the run.")

# What of the environment two runs of the same thing may differ in.
INCIDENTAL = ("time", "command", "resumed")
RECORDED = launch.ROOT / "experiments/reports/results.json"

Row = dict[str, Any]


class Recorded(NamedTuple):
    """A finished run, or its certificate."""

    config: config.Config
    environment: records.Environment
    rows: list[Row]
    digests: hashes.Hashes
    variables: dict[str, Any] | None  # None: a certificate, which has their hashes only
    folder: pathlib.Path | None  # where runs of other seeds may be


def main(source: str) -> int:
    file = CERTIFICATE.value and pathlib.Path(CERTIFICATE.value)
    if file and file.suffix != ".json":
        raise config.ConfigError(f"--certificate={file} must end in .json.")
    launch.check_folder("certificate")
    if WORKDIR.value is not None:
        return reproduce(pathlib.Path(source), pathlib.Path(WORKDIR.value), file)
    with tempfile.TemporaryDirectory(prefix="reproduce_") as directory:
        return reproduce(pathlib.Path(source), pathlib.Path(directory) / "run", file)


def reproduce(
    source: pathlib.Path, workdir: pathlib.Path, certified: pathlib.Path | None = None
) -> int:
    """Reruns a run or a certificate in `workdir`, prints the comparison, returns the exit code.

    `certified` is the file of a new certificate.

    Raises:
      ValueError: `source` is no finished run or certificate that can be read, or `workdir` is in
        use.
    """
    # The processor is chosen by what was recorded, before anything starts JAX.
    there = read_certificate(source) if source.is_file() else read_run(source)
    settings, environment = there.config, there.environment
    use_processor_of(environment)
    use_devices_of(settings, environment)
    print(describe_expectation(environment), flush=True)
    settings = with_data_here(settings)
    dataset = trained_network.load_data_of(source, environment, settings.dataset)
    check_initial_weights(settings, environment)
    epochs.check_metrics(there.rows)
    if source.is_dir():
        there = there._replace(variables=checkpoints.restore_variables(source, evaluated=False))
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
    here = read_run(workdir)
    here = here._replace(variables=checkpoints.restore_variables(workdir, evaluated=False))
    if not report(there, here):
        if certified:
            print(f"{certified} was not written: only what came out the same is certified")
        return 1
    if certified:
        certificate.write(certified, there.config, here.environment, here.rows, here.digests)
        print(f"wrote {certified}")
    return 0


def read_run(run: pathlib.Path) -> Recorded:
    """Returns what a run recorded, without the network's variables.

    Raises:
      RunDirectoryError: it can't be read, or it isn't finished.
    """
    settings = records.read_config(run)
    config.check(settings)
    rows = records.read_metrics(run)
    if not rows or not epochs.is_last(rows[-1], settings.epochs):
        raise records.RunDirectoryError(
            f"{run} has {len(rows)} of {settings.epochs} epochs; only a finished run can be "
            "compared. Resume it first."
        )
    folder = run.absolute().parent
    return Recorded(settings, records.read_environment(run), rows, hashes.read(run), None, folder)


def read_certificate(file: pathlib.Path) -> Recorded:
    """Returns what a certificate says of its run.

    Raises:
      RunDirectoryError: it can't be read.
    """
    settings, found = certificate.read(file)
    digests = {line["step"]: line["sha256"] for line in found["hashes"]}
    rows = [dict(row) for row in found["metrics"]]
    return Recorded(settings, {**found["environment"]}, rows, digests, None, None)


def with_data_here(settings: config.Config) -> config.Config:
    """Returns the configuration with the data from where --dataset and --data_dir say."""
    place = {"name": DATASET.value, "data_dir": DATA_DIR.value}
    given = {name: value for name, value in place.items() if value is not None}
    dataset = dataclasses.replace(settings.dataset, **given)
    return dataclasses.replace(settings, dataset=dataset)


def report(there: Recorded, here: Recorded) -> bool:
    """Prints how two runs compare, and returns whether they are the same."""
    parting = hashes.find_parting(there.digests, here.digests)
    lines = compare_metrics(there.rows, here.rows)
    if parting:
        lines.append(describe_parting(*parting, there.rows[-1]["step"]))
    if there.variables is not None and here.variables is not None:
        lines += compare_parameters(there.variables, here.variables)
    if not lines:
        what = f"identical: {len(here.rows)} rows of metrics"
        if there.variables is None:
            print(f"{what} and {len(there.digests)} hashes of the network")
        else:
            count = count_parameters(there.variables)
            print(f"{what} and {count:,} numbers of the network")
        return True
    print("different:", *lines, compare_ends(there, here), sep="\n  ")
    old, new = there.environment, here.environment
    if there.variables is None:
        old, new = certificate.portable(old), certificate.portable(new)  # type: ignore[assignment]
    if causes := compare_environments(old, new):
        print("and between the two environments:", *causes, sep="\n  ")
    else:
        print("and the two environments are the same")
    return False


def describe_parting(last: int, first: int, total: int) -> str:
    """Says between which steps two runs part."""
    if first == last + 1:
        return f"they part in step {first} of {total:,}"
    return f"they part after step {last}, in step {first} of {total:,} at the latest"


def read_runs(folder: pathlib.Path) -> Iterator[run_groups.Run]:
    """Yields the runs in a folder that can be read."""
    for file in sorted(folder.glob("*/config.json")):
        with contextlib.suppress(records.RunDirectoryError):
            yield run_groups.read_run(file.parent)


def compare_ends(there: Recorded, here: Recorded) -> str:
    """Says how far apart the two end, beside the spread over seeds, if that is known."""
    a, b = (run.rows[-1]["test_accuracy"] for run in (there, here))
    line = f"test_accuracy after the last epoch: {a:.4f} → {b:.4f} ({b - a:+.4f}"
    accuracies = find_accuracies(there)
    if len(accuracies) < 2:
        return f"{line}; its spread over seeds isn't known, as no runs of other seeds are recorded)"
    spread = run_groups.summarize(accuracies)
    return f"{line}; the standard deviation over {spread.n} seeds is {spread.sd:.4f})"


def find_accuracies(there: Recorded) -> list[float]:
    """Returns the last accuracies of a recipe's seeds: of the runs beside, or of the results."""
    recipe = run_groups.recipe_key(config.resolve(there.config))
    beside = read_runs(there.folder) if there.folder else ()
    same = [run for run in beside if run_groups.recipe_key(run.config) == recipe]
    groups, _ = run_groups.group_runs(same)
    found = [group.values("test_accuracy") for group in groups]
    if RECORDED.exists():
        plain = json.loads(json.dumps(dict(recipe)))
        entries = schema.read_json(RECORDED, results.Results)["rows"]
        found += [e["test_accuracies"] for e in entries if e.get("recipe") == plain]
    return max(found, key=len, default=[])


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
    return {name: value for name, value in row.items() if name not in certificate.TIMES}


def _distance(a: Any, b: Any) -> float:
    return float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))))


if __name__ == "__main__":
    launch.run(main, "RUN_DIR")
