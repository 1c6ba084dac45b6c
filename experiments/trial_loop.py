"""The loop of every command that trains many trials: a line for each, until all are done or a stop.

A trial that a signal stops is saved, and the same command goes on from there; several processes may
run it at once.
"""

import contextlib
import pathlib
import signal
import socket
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import TypeVar

from cnn_jax import epochs, pool, train
from cnn_jax.display import Display, Silent
from cnn_jax.reports import run_groups
from cnn_jax.sweeps import driver, population
from cnn_jax.sweeps.driver import Outcome
from cnn_jax.sweeps.spaces import Trial

Told = TypeVar("Told")


def run_study(trials: Sequence[Trial], directory: pathlib.Path) -> int:
    """Trains the trials of a study that aren't finished, one by one, and prints their outcomes.

    Returns:
      The exit code: 0 all finished, 1 some failed, 128 + n stopped by signal n.
    """
    pool.use_threads_of_sweep(0, directory)
    with StopSignals() as signals:
        progress = Progress(len(trials))
        training = train_trials(trials, None, directory, progress, signals)
        outcomes, signum = print_outcomes(training, progress.describe, signals)
    if failed := sum(outcome.row is None for outcome in outcomes):
        print(
            f"{failed} of {len(trials)} trials failed; error.json in their directories says why.",
            file=sys.stderr,
        )
    if signum and len(outcomes) < len(trials):
        print("stopped; the same command goes on from there.")
        return 128 + signum
    return int(failed > 0)


def train_trials(
    trials: Sequence[Trial],
    until: int | None,
    directory: pathlib.Path,
    progress: "Progress",
    signals: "StopSignals",
    size: int = 1,
) -> Iterator[Outcome]:
    """Trains trials until an epoch, or their last, up to `size` of them together; see run_trials.

    Raises:
      Interrupted, KeyboardInterrupt: a signal came; what was being trained has been saved.
    """
    progress.start(len(trials), until)
    train_group = driver.train_alone(directory, TrialDisplay, driver.stop_at_epoch(until))
    group: driver.Grouping = driver.separate_trials
    if size > 1:
        train_group = population.train_together(directory, TrialDisplay, until)
        group = population.group_alike(size)

    def attempt(together: Sequence[Trial]) -> Sequence[Outcome | None]:
        signals.check()
        outcomes = train_group(together)
        progress.pending = sum(outcome is not None for outcome in outcomes)
        return outcomes

    return driver.run_trials(trials, directory, attempt, group, _say_waiting, until)


def _say_waiting(count: int) -> None:
    print(f"waiting for {count} trials that other processes are training", flush=True)


def print_outcomes(
    outcomes: Iterable[Told], describe: Callable[[Told], str], signals: "StopSignals"
) -> tuple[list[Told], int]:
    """Prints a line for each outcome as it comes, until there are no more or a signal stops them.

    Returns:
      The outcomes, and the number of the signal, or 0.
    """
    told = []
    try:
        for outcome in outcomes:
            told.append(outcome)
            print(describe(outcome), flush=True)
    except train.Interrupted as request:
        print(request)
        return told, request.signum
    except KeyboardInterrupt:
        return told, signals.received() or signal.SIGINT
    return told, 0


def describe_outcome(outcome: Outcome, number: int, count: int) -> str:
    """Returns '[ 3/12] name  test accuracy 0.8123', or the same with why there is none."""
    line = f"[{number:>{len(str(count))}}/{count}] {outcome.trial.name}  "
    if outcome.row is None:
        return line + f"failed: {outcome.error}"
    part = run_groups.part_name(outcome.trial.config)
    return line + f"{part} accuracy {outcome.row['test_accuracy']:.4f}"


class Progress:
    """How far the trials, or one stage of them, have come."""

    def __init__(self, count: int) -> None:
        self._count, self._done = count, 0
        self._took: list[float] = []
        self.pending = 0  # outcomes of the same group that are yet to be shown

    def start(self, count: int, until: int | None) -> None:
        """Begins a stage of `count` trials, until an epoch, or to their end if that is None."""
        self._count, self._done, self._took = count, 0, []
        if until is not None:
            print(f"until epoch {until}: {count} trials", flush=True)

    def describe(self, outcome: Outcome) -> str:
        """Returns the line of the next outcome, with the time left where it can be told."""
        self._done += 1
        line = describe_outcome(outcome, self._done, self._count)
        if outcome.seconds is not None:
            self.pending -= 1
            self._took.append(outcome.seconds)
        if outcome.row is None:
            return line
        if outcome.seconds is None:
            return line + "  (finished before)"
        line += f"  {outcome.seconds:.1f} s"
        left = self._count - self._done
        if left == 0 or self.pending > 0:
            return line
        return line + f", about {_duration(statistics.mean(self._took) * left)} left"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class TrialDisplay(Silent):
    """A bar for the epoch that trials are in, on a terminal; nothing else.

    Where several are trained together, its numbers are their means.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        super().__init__()
        self._name = trials[0].name if len(trials) == 1 else f"{len(trials)} trials"

    def start_epoch(self, epoch: int, epochs: int, position: int, steps: int) -> None:
        """Shows an empty bar for the epoch, if the stream is a terminal."""
        Display.start_epoch(self, epoch, epochs, position, steps)
        if self._bar is not None:
            self._bar.set_description_str(f"{self._name}  epoch {epoch}/{epochs}")


class StopSignals:
    """Makes SIGTERM and SIGUSR2 stop the loop as Ctrl-C does, and knows what came meanwhile.

    A run takes the handlers over while it trains, and saves when a signal comes; but the last
    epoch it finishes first. The wake-up descriptor hears of every signal, whoever handles it.
    """

    def __init__(self) -> None:
        self._first = 0

    def __enter__(self) -> "StopSignals":
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._old_descriptor = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._old_handlers = {
            signum: signal.signal(signum, self._interrupt)
            for signum in (signal.SIGTERM, signal.SIGUSR2)
        }
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._old_handlers.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(self._old_descriptor)
        self._read.close()
        self._write.close()

    def received(self) -> int:
        """Returns the number of the first signal that came, or 0."""
        with contextlib.suppress(BlockingIOError):
            for number in self._read.recv(64):
                if number in epochs.STOP_SIGNALS:
                    self._first = self._first or number
        return self._first

    def check(self) -> None:
        """Raises KeyboardInterrupt if a signal came, be it too late to interrupt a run."""
        if self.received():
            raise KeyboardInterrupt

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        self._first = self._first or signum  # its byte may have been read just now
        raise KeyboardInterrupt
