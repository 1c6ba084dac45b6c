"""What a sweep's directory holds: the record of what is swept, and the results of its trials.

A sweep directory holds one run directory for each trial, named by its values
(`optimizer.learning_rate=0.1,seed=0`), and sweep.json, which says what is swept. Several processes,
on several machines that share the file system, may work on it.
"""

import fcntl
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from cnn_jax import config as config_lib
from cnn_jax import data, epochs, files, identity, records, schema, text, weights
from cnn_jax.config import Config, ConfigError
from cnn_jax.errors import DataError, DivergedError, RunDirectoryError
from cnn_jax.sweeps.spaces import Trial


class Record(TypedDict):
    """What sweep.json holds."""

    config: str  # the configuration file, with its options
    overrides: dict[str, Any]  # of single values, on the command line
    base: dict[str, Any]  # the configuration with these, as a tree
    trials: dict[str, dict[str, Any]]  # what is swept, by the name of the trial
    # What each data set was when the sweep began, by `dataset.name`; not in those of old versions.
    data: NotRequired[dict[str, str]]


class Failure(TypedDict):
    """What error.json holds: why a trial failed."""

    kind: str
    error: str
    time: float  # seconds since 1970
    date: NotRequired[str]
    traceback: NotRequired[str]


def identify_trials(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the trials with the identity of the data that each must be trained on.

    Each data set is loaded once. One that can't be has no identity: its trials fail by themselves.
    """
    find = functools.cache(find_data)
    chosen = [trial.config.dataset for trial in trials]
    return [
        trial._replace(data=trial.data or find(given.name, given.data_dir, given.classes))
        for trial, given in zip(trials, chosen, strict=True)
    ]


def find_data(
    name: str, data_dir: str | None, classes: tuple[int, ...] = ()
) -> identity.DataIdentity | None:
    """Returns the identity of a data set, or of some of its classes; None if it can't be loaded."""
    try:
        dataset = data.load(name, data_dir)
        return identity.identify_data(data.choose_classes(dataset, classes) if classes else dataset)
    except DataError:
        return None


def make_record(
    file: str, overrides: Mapping[str, Any], base: Config, trials: Sequence[Trial]
) -> Record:
    """Returns the record of a sweep, as JSON gives it back."""
    record: Record = {
        "config": file,
        "overrides": dict(overrides),
        "base": config_lib.to_dict(base),
        "trials": {t.name: t.values for t in trials},
        "data": {t.config.dataset.name: t.data.arrays for t in trials if t.data},
    }
    return json.loads(json.dumps(record))


def claim_directory(directory: pathlib.Path, record: Record) -> None:
    """Makes the sweep's directory, or checks that it holds the same sweep.

    Raises:
      RunDirectoryError: it holds another sweep, or one on other data, it is a run directory, or it
        can't be written.
    """
    records.check_apart(directory, config_lib.from_dict(record["base"]).dataset)
    if (directory / "config.json").exists():
        raise RunDirectoryError(
            f"{directory} is the directory of a single run; choose another --workdir for a sweep."
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with files.open_to_append(directory / ".lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # other processes may start at the same moment
            if not (directory / "sweep.json").exists():
                records.write_json(directory / "sweep.json", record)
                return
    except OSError as error:
        raise RunDirectoryError(
            f"can't write to the sweep directory {directory}: {files.say_reason(error)}. Choose "
            "another --workdir."
        ) from error
    old = read_record(directory)
    before_trials, now_trials = old["trials"], record["trials"]
    if before_trials != now_trials:
        more = [name for name in now_trials if before_trials.get(name) != now_trials[name]]
        less = [name for name in before_trials if name not in now_trials]
        what = f"here is {more[0]}, not there" if more else f"there is {less[0]}, not here"
        raise RunDirectoryError(
            f"{directory} holds another sweep, of {len(before_trials)} trials, this one has "
            f"{len(now_trials)} ({what}). Choose another --workdir, or the same grid to go on."
        )
    swept = {path for values in now_trials.values() for path in values}
    before, now = (config_lib.from_dict(r["base"]) for r in (old, record))
    for path, (there, here) in identity.compare_recipes(before, now).items():
        if path not in swept:
            raise RunDirectoryError(
                f"{directory} holds a sweep of another configuration: there config.{path}="
                f"{there!r}, here {here!r}. Choose another --workdir, or the same configuration to "
                "go on."
            )
    if now.epochs > before.epochs:  # its trials go on
        records.write_json(directory / "sweep.json", {**old, "base": record["base"]})
    recorded, loaded = old.get("data", {}), record.get("data", {})
    for name in recorded:
        if name in loaded and recorded[name] != loaded[name]:
            raise RunDirectoryError(
                f"{directory} holds a sweep on other data: images and labels of "
                f"{text.one_line(name)} had the SHA-256 {text.one_line(recorded[name])}…, now "
                f"{loaded[name]}…. Put back the data that it was begun with, or choose another "
                "--workdir."
            )


def read_record(directory: pathlib.Path) -> Record:
    """Returns what the sweep.json of a directory says.

    Raises:
      RunDirectoryError: there is none, or it can't be read.
    """
    file = directory / "sweep.json"
    if not file.exists():
        raise RunDirectoryError(f"{directory} holds no sweep.json.")
    record: Record = schema.read_json(file, Record)
    try:
        config_lib.check_types(config_lib.from_dict(record["base"]))
        for path in {p for values in record["trials"].values() for p in values}:
            config_lib.check_path(path)
    except (ConfigError, RecursionError) as error:
        raise RunDirectoryError(f"{file} can't be read: {error}") from error
    return record


@functools.cache
def find_initial_weights(source: str | None) -> str | None:
    """Returns the fingerprint of the weights to start from, as this process first read them.

    Raises:
      ConfigError, CheckpointError: they can't be read.
    """
    return None if source is None else weights.fingerprint(weights.load_initial(source))


def find_result(
    directory: pathlib.Path, trial: Trial, until: int | None = None
) -> dict[str, Any] | None:
    """Returns the trial's metrics of epoch `until` (None: its last), None if it isn't there yet.

    A run that early stopping ended before has those of its last epoch.

    Raises:
      RunDirectoryError: it was trained on other data, or from other weights, than it must be.
    """
    until = until or trial.config.epochs
    run = directory / trial.name
    try:
        rows = records.read_metrics(run)
        config = records.read_config(run)
        environment = records.find_environment(run)
    except RunDirectoryError:
        return None
    ended = bool(rows) and (len(rows) >= until or epochs.is_last(rows[-1], until))
    if not ended or identity.compare_recipes(config, config_lib.resolve(trial.config)):
        return None
    if changed := identity.compare_data(identity.read_data(environment), trial.data):
        raise RunDirectoryError(
            f"{run} was trained on other data than the trials to come would be: {changed}. Put "
            "back the data that it was trained on, or choose another --workdir."
        )
    started = environment.get("initial_weights", {}).get("fingerprint")
    if started and started != (now := find_initial_weights(trial.config.init_from)):
        raise RunDirectoryError(
            f"{run} started from other weights than the trials to come would: "
            f"{text.one_line(started)}… there, {now}… here. Put back what config.init_from was, or "
            "choose another --workdir."
        )
    # The row is written before the last checkpoint is safe on the disk.
    saved = len(rows) > until or (run / "checkpoints" / str(rows[-1]["step"])).is_dir()
    return rows[:until][-1] if saved else None


def read_error(run: pathlib.Path) -> Failure | None:
    """Returns a failed trial's error.json; None if there is none that can be read."""
    try:
        return schema.read_json(run / "error.json", Failure)
    except RunDirectoryError:
        return None


def has_diverged(failure: Failure | None) -> bool:
    """Returns whether a trial failed because its loss stopped being a number."""
    return failure is not None and failure["kind"] == DivergedError.__name__
