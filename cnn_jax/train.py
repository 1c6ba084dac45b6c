"""The loop: from a configuration to a trained network and its records."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import jax
import numpy as np

from cnn_jax import config, data, identity, processes, records, steps
from cnn_jax.checkpoints import Checkpoints, Progress
from cnn_jax.display import Display
from cnn_jax.errors import DivergedError as DivergedError
from cnn_jax.experiment import Experiment, build, describe, describe_data, load_dataset
from cnn_jax.records import RunDirectory

SECONDS_PER_CALL = 0.5  # how often the host hears from the device

Stop = Callable[[dict[str, Any]], bool]  # whether a run ends for now, by its newest row of metrics


class Interrupted(Exception):
    """SIGINT or SIGTERM came; the run is saved and resumes with the same command."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}; saved at step {step}")
        self.signum = signum


def train_and_evaluate(
    settings: config.Config,
    workdir: str | os.PathLike[str],
    display: Display | None = None,
    stop: Stop | None = None,
    dataset: data.Dataset | None = None,
) -> dict[str, Any]:
    """Trains a network as `settings` say, recording everything under `workdir`.

    A run that was interrupted goes on where its newest checkpoint was taken; a finished one
    returns at once. After each epoch but the last `stop` is asked, with its row of metrics, whether
    to end the run there for now; it is saved, and goes on another time. `dataset` is what
    `load_dataset` gives for `settings`, where it is loaded already.

    Returns:
      The last epoch's row of metrics.jsonl.

    Raises:
      ConfigError, DataError, RunDirectoryError, CheckpointError: one sentence each.
      DisagreementError: the processes of the run have different configurations, data or versions.
      DivergedError: the loss was not finite.
      Interrupted: SIGINT or SIGTERM; the run has been saved.
    """
    config.check(settings)
    settings = config.resolve(settings)
    display = display or Display()
    first = jax.process_index() == 0
    if jax.process_count() > 1:
        processes.check_agreement(facts_of(settings))
    with RunDirectory(workdir, settings, first) as record:
        dataset = dataset or load_dataset(settings.dataset)
        processes.check_agreement(identity.identify_data(dataset)._asdict())
        experiment = build(settings, dataset)
        program = experiment.program
        state = program.get(program.put_state(experiment.init_state()))
        display.header(describe(experiment, state))
        record.write_environment(dataset, {"data": describe_data(experiment)})
        with Checkpoints(record.path / "checkpoints", first) as checkpoints, Signals() as signals:
            progress = Progress(0, 0, (0.0, 0.0, 0.0), 0.0, [])
            if restored := _from_first(checkpoints.restore(state), state):
                state, progress = restored
                where = f"epoch {progress.epoch}, step {int(state.step)}"
                finished = progress.epoch == settings.epochs
                display.note(f"{'finished' if finished else 'resuming'} at {where}")
            record.rewrite_metrics(progress.history)

            loop = _Loop(experiment, record, checkpoints, display, signals)
            ended = progress.epoch == settings.epochs
            if progress.history and stop and not ended:
                ended = stop(progress.history[-1])
            if not ended:
                loop.start(state)
            while not ended:
                progress, ended = loop.epoch(progress, stop)
    return progress.history[-1]


def facts_of(settings: config.Config) -> dict[str, Any]:
    """Returns what all processes of a run must have the same before anything of it is loaded."""
    leaves = config.flatten(settings)
    del leaves["dataset.data_dir"]  # each machine has its own
    return {
        **{f"config.{path}": value for path, value in leaves.items()},
        **records.versions(),
    }


def metrics_row(
    epoch: int,
    step: int,
    rate: float,
    train: tuple[float, float, float],
    test: steps.Totals,
    seconds: float,
) -> dict[str, Any]:
    """Returns the row of metrics.jsonl for the epoch `epoch`, counted from 0, that ends at `step`.

    `train` are the sums of loss, correct predictions and examples while training, `test` the totals
    of the evaluation.
    """
    loss, correct, count = train
    return {
        "epoch": epoch + 1,
        "step": step,
        "learning_rate": rate,
        "train_loss": loss / count,
        "train_accuracy": correct / count,
        "test_loss": float(test.loss / test.examples),
        "test_accuracy": float(test.correct) / float(test.examples),
        "examples_per_second": count / seconds,
        "seconds": seconds,
    }


class _Loop:
    """The state that stays on the devices, and the epochs it goes through."""

    def __init__(
        self,
        experiment: Experiment,
        record: RunDirectory,
        checkpoints: Checkpoints,
        display: Display,
        signals: "Signals",
    ) -> None:
        self.experiment, self.record, self.checkpoints = experiment, record, checkpoints
        self.display, self.signals = display, signals
        self.seconds_per_step = float("inf")
        self.last_save = time.monotonic()

    def start(self, state: steps.TrainState) -> None:
        """Brings state and data to the devices and compiles the step."""
        program = self.experiment.program
        self.state = program.put_state(state)
        self.train_data = program.put_data(self.experiment.train_data)
        self.test_data = program.put_data(self.experiment.test_data)
        self.test_order = program.put_order(self.experiment.test_order())
        order = program.put_order(self.experiment.train_order(0))
        totals = program.put_state(steps.Totals.of())
        # No steps, but the program for any number of them.
        self.state, _ = program.train_steps(self.state, totals, self.train_data, order, 0, 0)

    def epoch(self, progress: Progress, enough: Stop | None) -> tuple[Progress, bool]:
        """Trains one epoch, or what is left of it, and evaluates.

        Returns:
          The new progress, and whether the run ends here.
        """
        settings, program = self.experiment.config, self.experiment.program
        epoch, position, sums, seconds, history = progress
        steps_per_epoch = self.experiment.steps_per_epoch
        order = program.put_order(self.experiment.train_order(epoch))
        totals = program.put_state(steps.Totals.of(*sums))
        self.display.start_epoch(epoch + 1, settings.epochs, position, steps_per_epoch)
        while position < steps_per_epoch:
            stop = min(position + self._steps_per_call(), steps_per_epoch)
            begin = time.perf_counter()
            self.state, totals = program.train_steps(
                self.state, totals, self.train_data, order, position, stop
            )
            sums = self._host_totals(totals, epoch)
            elapsed = time.perf_counter() - begin
            self.seconds_per_step = elapsed / (stop - position)
            seconds += elapsed
            loss, correct, count = sums
            self.display.steps(stop - position, loss / count, correct / count, count / seconds)
            position = stop
            if position < steps_per_epoch:
                partial = Progress(epoch, position, sums, seconds, history)
                self._stop_if_asked(partial)
                if time.monotonic() - self.last_save > settings.records.checkpoint_seconds:
                    self._save(partial)

        self.display.evaluating()
        test = program.get(program.eval_steps(self.state, self.test_data, self.test_order))
        step = (epoch + 1) * steps_per_epoch
        if not np.isfinite(test.loss):
            raise self._diverged(step, epoch, "test")
        rate = float(self.experiment.schedule(step - 1))
        row = metrics_row(epoch, step, rate, sums, test, seconds)
        progress = Progress(epoch + 1, 0, (0.0, 0.0, 0.0), 0.0, [*history, row])
        last = epoch + 1 == settings.epochs or bool(enough and enough(row))
        if (epoch + 1) % settings.records.checkpoint_epochs == 0 or last:
            self._save(progress)
        self.record.append_metrics(row)
        self.display.end_epoch(row, settings.epochs)
        if not last:
            self._stop_if_asked(progress)
        return progress, last

    def _steps_per_call(self) -> int:
        steps_per_call = max(1, min(int(SECONDS_PER_CALL / self.seconds_per_step), 2**30))
        return int(processes.from_first(np.int32(steps_per_call)))

    def _host_totals(self, totals: steps.Totals, epoch: int) -> tuple[float, float, float]:
        loss, correct, examples, bad_step = self.experiment.program.get(totals)
        if bad_step >= 0:
            raise self._diverged(int(bad_step), epoch, "training")
        return float(loss), float(correct), float(examples)

    def _diverged(self, step: int, epoch: int, part: str) -> DivergedError:
        self.checkpoints.wait()
        kept = self.checkpoints.newest()
        keeps = "no checkpoint was saved before" if kept is None else f"step {kept} is kept"
        return DivergedError(
            f"the {part} loss was not finite in step {step} (epoch {epoch + 1}); {keeps} in "
            f"{self.record.path}. A lower config.optimizer.learning_rate, a warm-up or "
            "config.optimizer.clip_norm usually helps."
        )

    def _save(self, progress: Progress) -> None:
        self.checkpoints.save(self.experiment.program.get(self.state), progress)
        self.last_save = time.monotonic()

    def _stop_if_asked(self, progress: Progress) -> None:
        """Saves and stops if any process was told to."""
        if not processes.in_any(bool(self.signals.received)):
            return
        self.display.close()
        step = progress.epoch * self.experiment.steps_per_epoch + progress.position
        if self.checkpoints.newest() != step:
            self._save(progress)
        self.checkpoints.wait()
        processes.in_any(True)  # nobody leaves before the first process has written
        raise Interrupted(self.signals.received or signal.SIGTERM, step)


def _from_first(
    restored: tuple[steps.TrainState, Progress] | None, like: steps.TrainState
) -> tuple[steps.TrainState, Progress] | None:
    """Gives every process what the first one, which alone reads checkpoints, has restored."""
    state, progress = restored or (like, None)
    progress = processes.json_from_first(progress)
    return None if progress is None else (processes.from_first(state), Progress(*progress))


class Signals:
    """Turns the first SIGINT or SIGTERM into a request to save and stop; the second one kills."""

    def __init__(self) -> None:
        self.received = 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        for signum in (signal.SIGINT, signal.SIGTERM):
            # Elsewhere than in the main thread the caller handles signals.
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
