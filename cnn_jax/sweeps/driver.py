"""Sweeps: one configuration, some of its values varied, every trial an ordinary run directory.

A sweep directory holds one run directory for each trial, named by its values
(`optimizer.learning_rate=0.1,seed=0`), and sweep.json, which says what is swept. Several processes,
on several machines that share the file system, may work on it: a run directory is locked by the
process that trains in it, and the others pass it over.
"""

import datetime
import fcntl
import functools
import json
import pathlib
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

from cnn_jax import config as config_lib
from cnn_jax import data, files, identity, records, schema, text, train
from cnn_jax.config import Config, ConfigError
from cnn_jax.display import Display
from cnn_jax.errors import (
    CheckpointError,
    DataError,
    RunDirectoryBusyError,
    RunDirectoryError,
    SearchError,
)
from cnn_jax.experiment import load_dataset
from cnn_jax.figures import run_figures
from cnn_jax.sweeps.spaces import Trial

WAIT_SECONDS = 2.0  # between two looks at trials that other processes hold


class Outcome(NamedTuple):
    """What came of a trial: the last row of its metrics, or why there is none."""

    trial: Trial
    row: dict[str, Any] | None
    error: str | None
    seconds: float | None  # that it took here; None: it was done before, or by another process
    diverged: bool = False  # the loss stopped being a number: this configuration can't be trained
    blocked: bool = False  # files or data kept it from training; another configuration would too


# The sweep's directory ---------------------------------------------------------------------------


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


def identify(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the trials with the identity of the data that each must be trained on.

    Each data set is loaded once. One that can't be has no identity: its trials fail by themselves.
    """
    find = functools.cache(find_data)
    places = [(trial.config.dataset.name, trial.config.dataset.data_dir) for trial in trials]
    return [
        trial._replace(data=trial.data or find(*place))
        for trial, place in zip(trials, places, strict=True)
    ]


def find_data(name: str, data_dir: str | None) -> identity.DataIdentity | None:
    """Returns the identity of a data set; None if it can't be loaded."""
    try:
        return identity.identify_data(data.load(name, data_dir))
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
    as_read: Record = json.loads(json.dumps(record))
    return as_read


def claim(directory: pathlib.Path, record: Record) -> None:
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
    for path, (there, here) in identity.compare_configs(before, now).items():
        if path not in swept:
            raise RunDirectoryError(
                f"{directory} holds a sweep of another configuration: there config.{path}="
                f"{there!r}, here {here!r}. Choose another --workdir, or the same configuration to "
                "go on."
            )
    recorded, loaded = old.get("data", {}), record.get("data", {})
    for name in recorded:
        if name in loaded and recorded[name] != loaded[name]:
            raise RunDirectoryError(
                f"{directory} holds a sweep on other data: images and labels of {name} had the "
                f"SHA-256 {recorded[name]}…, now {loaded[name]}…. Put back the data that it was "
                "begun with, or choose another --workdir."
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


def finished(
    directory: pathlib.Path, trial: Trial, epochs: int | None = None
) -> dict[str, Any] | None:
    """Returns the trial's metrics after so many epochs (None: all), None if it isn't there yet.

    Raises:
      RunDirectoryError: it was trained on other data than it must be.
    """
    epochs = epochs or trial.config.epochs
    run = directory / trial.name
    try:
        rows = records.read_metrics(run)
        config = records.read_config(run)
        environment = records.find_environment(run)
    except RunDirectoryError:
        return None
    if len(rows) < epochs or identity.compare_configs(config, config_lib.resolve(trial.config)):
        return None
    if changed := identity.compare_data(identity.read_data(environment), trial.data):
        raise RunDirectoryError(
            f"{run} was trained on other data than the trials to come would be: {changed}. Put "
            "back the data that it was trained on, or choose another --workdir."
        )
    # The row is written before the last checkpoint is safe on the disk.
    saved = len(rows) > epochs or (run / "checkpoints" / str(rows[-1]["step"])).is_dir()
    return rows[epochs - 1] if saved else None


def read_error(run: pathlib.Path) -> Failure | None:
    """Returns a failed trial's error.json; None if there is none that can be read."""
    try:
        failure: Failure = schema.read_json(run / "error.json", Failure)
    except RunDirectoryError:
        return None
    return failure


# Running -----------------------------------------------------------------------------------------


# Trains some trials; for each its outcome, or None if another process holds it.
Attempt = Callable[[Sequence[Trial]], Sequence[Outcome | None]]
Grouping = Callable[[Sequence[Trial]], Sequence[Sequence[Trial]]]


def one_by_one(trials: Sequence[Trial]) -> Sequence[Sequence[Trial]]:
    """Groups of one trial each."""
    return [[trial] for trial in trials]


def run(
    trials: Sequence[Trial],
    directory: pathlib.Path,
    attempt: Attempt,
    group: Grouping = one_by_one,
    wait: Callable[[int], None] = lambda count: None,
    epochs: int | None = None,
) -> Iterator[Outcome]:
    """Trains what is not finished yet, group after group; yields every trial's outcome.

    Finished trials, and trials that diverged (they would again), are not trained a second time;
    other failures are, if they were recorded before this call. A failure is recorded in the
    trial's directory, as error.json, and the next group goes on.

    Args:
      trials: what `expand` gave.
      directory: the sweep's directory, claimed.
      attempt: trains a group; `alone` for groups of one.
      group: which trials are attempted together.
      wait: called once, with their number, when other processes hold all the trials left.
      epochs: how many epochs finish a trial here; None: all of its configuration's.

    Raises:
      Interrupted, KeyboardInterrupt: the trial has been saved; the others wait for the next call.
    """
    begin = time.time()
    waiting = False
    left = []
    trials = identify(trials)
    for trial in trials:
        outcome = _known(trial, directory, begin, epochs)
        if outcome:
            yield outcome
        else:
            left.append(trial)
    while left:
        held = []
        for together in group(left):
            outcomes = {trial.name: _known(trial, directory, begin, epochs) for trial in together}
            unknown = [trial for trial in together if not outcomes[trial.name]]
            if unknown:
                attempted = zip(unknown, attempt(unknown), strict=True)
                outcomes.update({trial.name: outcome for trial, outcome in attempted})
            for trial in together:
                if outcome := outcomes[trial.name]:
                    yield outcome
                else:
                    held.append(trial)
        if len(held) == len(left):
            if not waiting:
                wait(len(held))
            waiting = True
            time.sleep(WAIT_SECONDS)
        left = held


def _known(
    trial: Trial, directory: pathlib.Path, begin: float, epochs: int | None
) -> Outcome | None:
    if row := finished(directory, trial, epochs):
        return Outcome(trial, row, None, None)
    error = read_error(directory / trial.name)
    if error and not _is_of(trial, directory / trial.name):
        return None
    diverged = error is not None and error["kind"] == train.DivergedError.__name__
    if error and (diverged or error["time"] >= begin):
        return Outcome(trial, None, error["error"], None, diverged)
    return None


def _is_of(trial: Trial, run: pathlib.Path) -> bool:
    """Whether what a directory holds, if anything, is of the trial's configuration."""
    try:
        config = records.read_config(run)
    except RunDirectoryError:
        return True  # it failed before there was a configuration
    return not identity.compare_configs(config, config_lib.resolve(trial.config))


def alone(
    directory: pathlib.Path,
    make_display: Callable[[Trial], Display],
    stop: train.Stop | None = None,
) -> Attempt:
    """Returns what trains the one trial of a group by `train_and_evaluate`, which asks `stop`."""
    return lambda group: [_attempt(trial, directory, make_display, stop) for trial in group]


def at(epoch: int | None) -> train.Stop | None:
    """Returns what stops runs after so many epochs; nothing for None."""
    return None if epoch is None else lambda row: row["epoch"] >= epoch


def _attempt(
    trial: Trial,
    directory: pathlib.Path,
    make_display: Callable[[Trial], Display],
    stop: train.Stop | None,
) -> Outcome | None:
    """Trains one trial; None if another process holds it."""
    run_directory = directory / trial.name
    begin = time.monotonic()
    display = make_display(trial)
    try:
        dataset = load_trial_data(trial)
        row = train.train_and_evaluate(trial.config, run_directory, display, stop, dataset)
    except RunDirectoryBusyError:
        return None
    except RunDirectoryError as error:
        return Outcome(trial, None, str(error), time.monotonic() - begin, blocked=True)
    except (train.Interrupted, SearchError):  # the study that asked for the trial can't be used
        raise
    except Exception as error:  # whatever it was, the other trials go on
        return failed(trial, run_directory, error, time.monotonic() - begin)
    finally:
        display.close()
    (run_directory / "error.json").unlink(missing_ok=True)
    run_figures.draw_curves(run_directory)
    return Outcome(trial, row, None, time.monotonic() - begin)


def load_trial_data(trial: Trial) -> data.Dataset:
    """Returns the data set of a trial.

    Raises:
      DataError: it can't be loaded, or it isn't what the trial must be trained on.
    """
    dataset = load_dataset(trial.config.dataset)
    if changed := identity.compare_data(trial.data, identity.identify_data(dataset)):
        raise DataError(
            f"{trial.config.dataset.name} has changed since the other trials began: {changed}. Put "
            "back what it was."
        )
    return dataset


def failed(trial: Trial, path: pathlib.Path, error: Exception, seconds: float) -> Outcome:
    """Records why a trial failed, and returns that as its outcome."""
    sentence = str(error).strip().split("\n")[0] or type(error).__name__
    sentence = text.without_secrets(sentence)
    now = time.time()
    entry = {
        "kind": type(error).__name__,
        "error": sentence,
        "time": now,
        "date": datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="seconds"),
        "traceback": text.without_secrets("".join(traceback.format_exception(error))),
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        records.write_json(path / "error.json", entry)
    except (OSError, RunDirectoryError):
        sentence += " (and its error.json can't be written)"
    diverged = isinstance(error, train.DivergedError)
    blocked = isinstance(error, OSError | RunDirectoryError | CheckpointError | DataError)
    return Outcome(trial, None, sentence, seconds, diverged, blocked)
