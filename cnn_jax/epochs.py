"""What the epochs of all runs, alone or in a population, have in common.

Steps run in calls of about half a second, between which the host shows progress, saves and stops.
"""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, TypeVar

import numpy as np

from cnn_jax import losses, processes, steps, text
from cnn_jax.errors import CheckpointError

SECONDS_PER_CALL = 0.5
# SIGUSR2 is how Slurm and submitit say that a job's time is nearly over.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)

T = TypeVar("T")


class Interrupted(Exception):
    """One of STOP_SIGNALS came, and the run was saved."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}; saved at step {step}")
        self.signum, self.step = signum, step


class Pace:
    """Runs steps in calls of about SECONDS_PER_CALL."""

    def __init__(self) -> None:
        self._seconds_per_step = math.inf

    def run(
        self,
        call: Callable[[int, int], T],
        position: int,
        count: int,
        seconds: float = 0.0,
        stops: Sequence[int] = (),
    ) -> Iterator[tuple[int, T, float]]:
        """Calls `call(start, stop)`, which waits for the device, from `position` until `count`.

        Yields after each call, also after the steps `stops`, the number of steps done, what it
        returned, and the seconds that all calls took, added to those given.
        """
        while position < count:
            longest = position + self.steps_per_call()
            stop = min(longest, count, *(stop for stop in stops if stop > position))
            begin = time.perf_counter()
            result = call(position, stop)
            elapsed = time.perf_counter() - begin
            self._seconds_per_step = elapsed / (stop - position)
            position, seconds = stop, seconds + elapsed
            yield position, result, seconds

    def steps_per_call(self) -> int:
        """Returns the number of steps of the next call, the same in every process."""
        steps_per_call = max(1, min(int(SECONDS_PER_CALL / self._seconds_per_step), 2**30))
        return int(processes.from_first(np.int32(steps_per_call)))


def find_bad_step(train: steps.Totals, test: steps.Totals, step: int) -> int | None:
    """Returns the step with a loss that is not finite, in training or, at `step`, in the test."""
    if train.bad_step >= 0:
        return int(train.bad_step)
    return None if np.isfinite(test.sums["loss"]).all() else step


def make_row(
    epoch: int,
    step: int,
    learning_rate: float,
    train: Mapping[str, Any],
    test: steps.Totals,
    seconds: float,
) -> dict[str, Any]:
    """Returns the row of metrics.jsonl for the epoch `epoch`, counted from 0, that ends at `step`.

    `train` are the sums while training, from `sums_of`, `test` the totals of the evaluation.
    """
    examples = train["examples"]
    trained = losses.means({name: train[name] for name in losses.METRICS}, examples)
    tested = losses.means(test.sums, test.examples)
    return {
        "epoch": epoch + 1,
        "step": step,
        "learning_rate": learning_rate,
        **{f"train_{name}": value for name, value in trained.items()},
        **{f"test_{name}": tested[name] for name in trained},
        "examples_per_second": examples / seconds,
        "seconds": seconds,
    }


def check_metrics(history: Sequence[Mapping[str, Any]]) -> None:
    """Raises CheckpointError if the newest row of a run has other metrics than there are here."""
    if history:
        there = {name.removeprefix("test_") for name in history[-1] if name.startswith("test_")}
        if there != set(losses.METRICS):
            raise CheckpointError(
                f"the run has the metrics {text.one_line(', '.join(sorted(there)))}, and here are "
                f"{', '.join(sorted(losses.METRICS))}; give losses.METRICS those of the run."
            )


def sums_of(totals: steps.Totals) -> dict[str, Any]:
    """Returns totals on the host, ready for JSON: sums by name, and 'examples'."""
    sums = {name: totals.sums[name].tolist() for name in losses.METRICS}
    return {**sums, "examples": float(totals.examples)}


def has_stalled(history: Sequence[Mapping[str, Any]], patience: int) -> bool:
    """Whether the last `patience` epochs brought no higher test accuracy; never if that is 0."""
    values = [row[f"test_{losses.BEST_BY}"] for row in history]
    return 0 < patience <= len(values) - 1 - values.index(max(values)) if values else False


def describe_early_stop(history: Sequence[Mapping[str, Any]], epochs: int) -> str:
    """Returns what is shown of a run of that many epochs that early stopping ended."""
    name = f"test_{losses.BEST_BY}"
    values = [row[name] for row in history]
    best = values.index(max(values))
    return (
        f"stopped early after epoch {len(values)} of {epochs}: no higher {name} than "
        f"{values[best]:.4f} of epoch {best + 1}"
    )


def is_last(row: Mapping[str, Any], epochs: int) -> bool:
    """Whether a row of metrics ends a run of that many epochs; early stopping may have ended it."""
    return row["epoch"] >= epochs or bool(row.get("stopped_early"))


def is_saved(epoch: int, every: int, last: bool) -> bool:
    """Whether a checkpoint is saved after the epoch `epoch`, counted from 1."""
    return epoch % every == 0 or last


class Signals:
    """Turns the first of STOP_SIGNALS into a request to save and stop; the same again kills."""

    def __init__(self) -> None:
        self.received = 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        for signum in STOP_SIGNALS:
            # Outside the main thread, Python sets no handlers.
            with contextlib.suppress(ValueError):
                # None: a handler that Python doesn't know, such as jax.distributed's.
                self._old[signum] = signal.signal(signum, self._receive) or signal.SIG_DFL
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._old.items():
            signal.signal(signum, handler)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self.received = signum
        signal.signal(signum, self._old[signum])
