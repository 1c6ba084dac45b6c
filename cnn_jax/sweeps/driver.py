"""How the trials of a sweep or a study are trained: each once, in groups, until all are finished.

Several processes, on several machines that share the file system, may train the same trials: the
one that trains in a run directory locks it, and the others pass it over.
"""

import datetime
import pathlib
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from cnn_jax import config as config_lib
from cnn_jax import data, identity, pool, records, text, train
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
from cnn_jax.sweeps import own_process, sweep_record
from cnn_jax.sweeps.spaces import Trial

WAIT_SECONDS = 2.0  # between two looks at trials that other processes hold


class Outcome(NamedTuple):
    """The result of a trial: the last row of its metrics, or why there is none."""

    trial: Trial
    row: dict[str, Any] | None
    error: str | None
    seconds: float | None  # of training here; None: it was done before, or by another process
    diverged: bool = False  # the loss stopped being a number: this configuration can't be trained
    blocked: bool = False  # files or data kept it from training; another configuration would too


# Trains some trials; for each its outcome, or None if another process holds it.
Attempt = Callable[[Sequence[Trial]], Sequence[Outcome | None]]
MakeDisplay = Callable[[Sequence[Trial]], Display]  # for trials that are trained together
Grouping = Callable[[Sequence[Trial]], Sequence[Sequence[Trial]]]


def separate_trials(trials: Sequence[Trial]) -> Sequence[Sequence[Trial]]:
    """Returns groups of one trial each."""
    return [[trial] for trial in trials]


def run_trials(
    trials: Sequence[Trial],
    directory: pathlib.Path,
    attempt: Attempt,
    group: Grouping = separate_trials,
    wait: Callable[[int], None] = lambda count: None,
    until: int | None = None,
) -> Iterator[Outcome]:
    """Trains what is not finished yet, group after group; yields every trial's outcome.

    Finished trials, and trials that diverged (they would again), are not trained a second time;
    other failures are, if they were recorded before this call. A failure is recorded in the
    trial's directory, as error.json, and the next group goes on.

    Args:
      trials: of a sweep or a study.
      directory: where their run directories are.
      attempt: trains a group; `train_alone` for groups of one.
      group: which trials are attempted together.
      wait: called once, with their number, when other processes hold all the trials left.
      until: the epoch after which a trial is finished here; None: its configuration's last.

    Raises:
      Interrupted, KeyboardInterrupt: the trial has been saved; the others wait for the next call.
    """
    begin = time.time()
    waiting = False
    left = []
    trials = sweep_record.identify_trials(trials)
    for trial in trials:
        outcome = _known(trial, directory, begin, until)
        if outcome:
            yield outcome
        else:
            left.append(trial)
    while left:
        held = []
        for together in group(left):
            outcomes = {trial.name: _known(trial, directory, begin, until) for trial in together}
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
    trial: Trial, directory: pathlib.Path, begin: float, until: int | None
) -> Outcome | None:
    if row := sweep_record.find_result(directory, trial, until):
        return Outcome(trial, row, None, None)
    error = sweep_record.read_error(directory / trial.name)
    if error and not _belongs_to(trial, directory / trial.name):
        return None
    diverged = sweep_record.has_diverged(error)
    if error and (diverged or error["time"] >= begin):
        return Outcome(trial, None, error["error"], None, diverged)
    return None


def _belongs_to(trial: Trial, run: pathlib.Path) -> bool:
    """Whether what a directory holds, if anything, belongs to the trial's configuration."""
    try:
        config = records.read_config(run)
    except RunDirectoryError:
        return True  # it failed before there was a configuration
    return not identity.compare_configs(config, config_lib.resolve(trial.config))


def train_alone(
    directory: pathlib.Path, make_display: MakeDisplay, stop: train.Stop | None = None
) -> Attempt:
    """Returns an Attempt that trains each trial by `train_and_evaluate`, which `stop` may end."""
    return lambda group: [_attempt(trial, directory, make_display, stop) for trial in group]


def stop_at_epoch(until: int | None) -> train.Stop | None:
    """Returns a Stop after an epoch; None for None."""
    return None if until is None else lambda row: row["epoch"] >= until


def _attempt(
    trial: Trial, directory: pathlib.Path, make_display: MakeDisplay, stop: train.Stop | None
) -> Outcome | None:
    """Trains one trial; None if another process holds it."""
    run_directory = directory / trial.name
    begin = time.monotonic()
    display = make_display([trial])
    try:
        dataset = load_trial_data(trial)
        if pool.fits_run(trial.config.threads, run_directory):
            row = train.train_and_evaluate(trial.config, run_directory, display, stop, dataset)
        else:
            row = own_process.train_and_evaluate(trial.config, run_directory, stop)
    except RunDirectoryBusyError:
        return None
    except RunDirectoryError as error:
        return Outcome(trial, None, str(error), time.monotonic() - begin, blocked=True)
    except (train.Interrupted, SearchError):  # the study that asked for the trial can't be used
        raise
    except Exception as error:  # whatever it was, the other trials go on
        return record_failure(trial, run_directory, error, time.monotonic() - begin)
    finally:
        display.close()
    (run_directory / "error.json").unlink(missing_ok=True)
    run_figures.draw_curves(run_directory)
    return Outcome(trial, row, None, time.monotonic() - begin)


def load_trial_data(trial: Trial) -> data.AnyDataset:
    """Returns the data set of a trial.

    Raises:
      DataError: it can't be loaded, or it isn't what the trial must be trained on.
    """
    dataset = load_dataset(trial.config.dataset, seed=trial.config.seed)
    if changed := identity.compare_data(trial.data, identity.identify_data(dataset)):
        raise DataError(
            f"{trial.config.dataset.name} has changed since the other trials began: {changed}. Put "
            "back what it was."
        )
    return dataset


def record_failure(trial: Trial, path: pathlib.Path, error: Exception, seconds: float) -> Outcome:
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
