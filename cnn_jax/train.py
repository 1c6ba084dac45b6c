"""The training loop: from a configuration to a trained network and its records."""

import contextlib
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from cnn_jax import (
    config,
    data,
    epochs,
    feed,
    hashes,
    identity,
    pool,
    processes,
    processor,
    records,
    steps,
)
from cnn_jax.checkpoints import Checkpoints, Progress
from cnn_jax.display import Display
from cnn_jax.epochs import Interrupted, Signals
from cnn_jax.errors import DivergedError
from cnn_jax.experiment import (
    Experiment,
    build,
    describe,
    describe_start,
    load_dataset,
    load_initial,
)
from cnn_jax.records import RunDirectory

Row = dict[str, Any]  # of metrics.jsonl
Stop = Callable[[Row], bool]  # whether a run ends for now, by its newest row
Callback = Callable[[Row], object]  # True ends the run for now


def train_and_evaluate(
    settings: config.Config,
    workdir: str | os.PathLike[str],
    display: Display | None = None,
    stop: Stop | None = None,
    dataset: data.AnyDataset | None = None,
    callbacks: Sequence[Callback] = (),
) -> Row:
    """Trains a network and records the run in `workdir`; returns its last row of metrics.jsonl.

    An interrupted run resumes at its newest checkpoint; a finished one returns at once.

    Args:
      settings: the configuration.
      workdir: the run's directory, made if need be.
      display: None prints a header and a line for each epoch.
      stop: called with the row of each epoch but the last; if it returns true, the run is saved
        and ends for now.
      dataset: the result of `load_dataset` for `settings`, if it is loaded already.
      callbacks: each is called with the row of every epoch trained here, after it is recorded. If
        one returns True, the run is saved and ends for now; the same call goes on from there. What
        one raises ends the run too, as a kill would: it goes on from its newest checkpoint.

    Raises:
      ConfigError, DataError, RunDirectoryError, CheckpointError: something can't be used.
      DisagreementError: the processes of the run have different configurations, data or versions.
      DivergedError: the loss was not finite.
      Interrupted: SIGINT, SIGTERM or SIGUSR2; the run has been saved.
    """
    config.check(settings)
    settings = config.resolve(settings)
    pool.use_threads_of_run(settings.threads, pathlib.Path(workdir))
    display = display or Display()
    first = jax.process_index() == 0
    if jax.process_count() > 1:
        processes.check_agreement(collect_facts(settings))
    with RunDirectory(workdir, settings, first) as record:
        dataset = dataset or load_dataset(settings.dataset, seed=settings.seed)
        processes.check_agreement(identity.identify_data(dataset)._asdict())
        experiment = build(settings, dataset)
        program = experiment.program
        state = program.get(program.put_state(experiment.init_state()))
        streamed = feed.explain_streaming(settings.dataset.feed, dataset)
        described = describe(experiment, state)
        display.header(described | ({"feed": streamed} if streamed else {}))
        initial = load_initial(experiment, record.path)
        about = describe_start(experiment, initial)
        processes.check_agreement(about.get("initial_weights", {}))
        state = experiment.start_from(state, initial)
        record.write_environment(dataset, about)
        with Checkpoints(record.path / "checkpoints", first) as checkpoints, Signals() as signals:
            restored = _from_first(checkpoints.restore(state), state)
            state, progress = restored or (state, Progress.between_epochs([]))
            ended = bool(progress.history) and epochs.is_last(progress.history[-1], settings.epochs)
            if restored:
                where = f"epoch {progress.epoch}, step {int(state.step)}"
                display.note(f"{'finished' if ended else 'resuming'} at {where}")
                if ended and progress.epoch < settings.epochs:
                    display.note(epochs.describe_early_stop(progress.history, settings.epochs))
            record.rewrite_metrics(progress.history)
            if first:
                hashes.drop_after(record.path, int(state.step))

            loop = _Loop(experiment, record, checkpoints, display, signals, stop, callbacks)
            if progress.history and stop and not ended:
                ended = stop(progress.history[-1])
            if not ended:
                epochs.check_metrics(progress.history)
                with loop.feeding(bool(streamed)):
                    loop.start(state, progress)
                    while not ended:
                        progress, ended = loop.epoch(progress)
    return progress.history[-1]


def collect_facts(settings: config.Config) -> dict[str, Any]:
    """Returns what must be the same in all processes of a run, before anything is loaded."""
    leaves = config.flatten(settings)
    del leaves["dataset.data_dir"]  # each machine has its own
    facts = {f"config.{path}": value for path, value in leaves.items()} | records.versions()
    return {**facts, "the number of threads (config.threads)": processor.pool_size()}


class _Loop:
    """The epochs of a run, with its state on the devices."""

    def __init__(
        self,
        experiment: Experiment,
        record: RunDirectory,
        checkpoints: Checkpoints,
        display: Display,
        signals: Signals,
        stop: Stop | None,
        callbacks: Sequence[Callback],
    ) -> None:
        self.experiment, self.record, self.checkpoints = experiment, record, checkpoints
        self.display, self.signals = display, signals
        self.stop, self.callbacks = stop, callbacks
        self.pace = epochs.Pace()
        self.last_save = time.monotonic()

    @contextlib.contextmanager
    def feeding(self, streamed: bool) -> Iterator[None]:
        """Opens the feeds."""
        self.train_feed, self.test_feed = feed.make_feeds(self.experiment, streamed)
        try:
            yield
        finally:
            self.train_feed.close()
            self.test_feed.close()

    def start(self, state: steps.TrainState, progress: Progress) -> None:
        """Brings the state and the first examples to the devices and compiles the step."""
        program = self.experiment.program
        self.state = program.put_state(state)
        totals = program.put_state(self.experiment.start_totals())
        # No steps: this compiles the program for any number of them.
        chunks = self.train_feed.chunks(progress.epoch, progress.position, progress.position)
        self.state, _ = feed.take_steps(program.train_steps, self.state, totals, chunks)

    def epoch(self, progress: Progress) -> tuple[Progress, bool]:
        """Trains the rest of an epoch and evaluates; returns the progress and whether to end."""
        settings, program = self.experiment.config, self.experiment.program
        epoch, begin, sums, before, history = progress
        count = self.experiment.steps_per_epoch
        factor = self.experiment.rate_factor(history)
        if self.state.rate_factor is not None:
            own = program.put_state(np.float32(factor))
            self.state = self.state.replace(rate_factor=own)
        self.totals = program.put_state(self.experiment.start_totals(sums))
        self.display.start_epoch(epoch + 1, settings.epochs, begin, count)

        def call(start: int, stop: int) -> steps.Totals:
            state, totals = self.state, self.totals
            chunks = self.train_feed.chunks(epoch, start, stop)
            self.state, self.totals = feed.take_steps(program.train_steps, state, totals, chunks)
            return self._host_totals(epoch)

        shown = begin
        early = hashes.early_steps(count) if epoch == 0 else []
        for position, totals, seconds in self.pace.run(call, begin, count, before, early):
            if position == count or position in early:
                self._hash(epoch * count + position)
            sums = epochs.sums_of(totals)
            self.display.steps(position - shown, sums, seconds)
            shown = position
            if position < count:
                partial = Progress(epoch, position, sums, seconds, history)
                self._stop_if_asked(partial)
                if time.monotonic() - self.last_save > settings.records.checkpoint_seconds:
                    self._save(partial)

        self.display.evaluating()
        test = program.get(self.test_feed.evaluate(self.state))
        step = (epoch + 1) * count
        if epochs.find_bad_step(totals, test, step) is not None:
            raise self._diverged(step, epoch, "test")
        learning_rate = float(self.experiment.schedule(step - 1)) * factor
        row = epochs.make_row(epoch, step, learning_rate, sums, test, seconds)
        if epochs.has_stalled([*history, row], settings.early_stopping):
            row["stopped_early"] = True
        progress = Progress.between_epochs([*history, row])
        finished = epochs.is_last(row, settings.epochs)
        last = finished or bool(self.stop and self.stop(row))
        if epochs.is_saved(epoch + 1, settings.records.checkpoint_epochs, last):
            self._save(progress)
        self.record.append_metrics(row)
        self.display.end_epoch(row, settings.epochs)
        if finished and epoch + 1 < settings.epochs:
            self.display.note(epochs.describe_early_stop(progress.history, settings.epochs))
        ended = self._ended_by_callback(row)
        if ended and not last:
            if not epochs.is_saved(epoch + 1, settings.records.checkpoint_epochs, last):
                self._save(progress)
            where = f"epoch {epoch + 1} of {settings.epochs}"
            self.display.note(f"ended by a callback after {where}, and saved")
        elif not last:
            self._stop_if_asked(progress)
        return progress, last or ended

    def _ended_by_callback(self, row: Row) -> bool:
        """Calls every callback; whether one of them, in any process, returned True."""
        answers = [callback(dict(row)) for callback in self.callbacks]
        return processes.in_any(
            any(isinstance(answer, bool | np.bool_) and answer for answer in answers)
        )

    def _host_totals(self, epoch: int) -> steps.Totals:
        totals: steps.Totals = self.experiment.program.get(self.totals)
        if totals.bad_step >= 0:
            raise self._diverged(int(totals.bad_step), epoch, "training")
        return totals

    def _diverged(self, step: int, epoch: int, part: str) -> DivergedError:
        self.checkpoints.wait()
        kept = self.checkpoints.newest()
        keeps = "no checkpoint was saved before" if kept is None else f"step {kept} is kept"
        return DivergedError(
            f"the {part} loss was not finite in step {step} (epoch {epoch + 1}); {keeps} in "
            f"{self.record.path}. A lower config.optimizer.learning_rate, a warm-up or "
            "config.optimizer.clip_norm usually helps."
        )

    def _hash(self, step: int) -> None:
        if self.record.writer:
            state = self.experiment.program.get(self.state)
            hashes.append(self.record.path, step, hashes.hash_state(state))

    def _save(self, progress: Progress) -> None:
        self.checkpoints.save(self.experiment.program.get(self.state), progress)
        self.last_save = time.monotonic()

    def _stop_if_asked(self, progress: Progress) -> None:
        """Saves and stops if any process was told to."""
        # The same one in all processes, as a launcher goes by the largest of their exit codes.
        if not (signum := processes.find_largest(self.signals.received)):
            return
        self.display.close()
        step = progress.epoch * self.experiment.steps_per_epoch + progress.position
        if self.checkpoints.newest() != step:
            self._save(progress)
        self.checkpoints.wait()
        processes.in_any(True)  # nobody leaves before the first process has written
        raise Interrupted(signum, step)


def _from_first(
    restored: tuple[steps.TrainState, Progress] | None, like: steps.TrainState
) -> tuple[steps.TrainState, Progress] | None:
    """Returns in every process what the first one, which alone reads checkpoints, restored."""
    state, progress = restored or (like, None)
    progress = processes.json_from_first(progress)
    return None if progress is None else (processes.from_first(state), Progress(*progress))
