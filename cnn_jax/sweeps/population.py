"""Many runs trained as one compiled program, each recorded as if trained alone.

The members of a population differ in what can be traced: the seed and the hyperparameters in
`population_program.TRACED`. Each has its own parameters, data order, random keys, run directory and
checkpoints, and computes what it would if trained alone, up to rounding, as sums may be taken in
another order.
"""

import contextlib
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cnn_jax import config as config_lib
from cnn_jax import data, epochs, feed, hashes, pool, steps
from cnn_jax.checkpoints import Checkpoints, Progress
from cnn_jax.config import Config, ConfigError
from cnn_jax.display import Display, Silent
from cnn_jax.errors import DivergedError, RunDirectoryBusyError
from cnn_jax.experiment import Experiment, build, describe_start, load_dataset, load_initial
from cnn_jax.figures import run_figures
from cnn_jax.options import suggest_name
from cnn_jax.programs import free_memory
from cnn_jax.records import RunDirectory
from cnn_jax.sweeps import driver, population_program, spaces

STREAMED = (
    "the members of a population see the examples in orders of their own, so the data set must be "
    "in memory, with --config.dataset.feed=memory; or train them one by one (--population=1)."
)


class Member(NamedTuple):
    """The result of one run: the last row of its metrics, or why it has none."""

    row: dict[str, Any] | None
    error: str | None


def program_key(settings: Config) -> tuple[tuple[str, Any], ...]:
    """Returns what a run's program is compiled for; runs with equal keys can be one population."""
    leaves = config_lib.flatten(config_lib.resolve(settings))
    for path in population_program.TRACED:
        leaves[path] = _is_on(leaves[path])
    fixed = {p: v for p, v in leaves.items() if p != "seed" and not p.startswith(config_lib.FREE)}
    return tuple(sorted(fixed.items()))


def _is_on(value: Any) -> Any:
    return tuple(map(_is_on, value)) if isinstance(value, tuple | list) else bool(value)


def train_population(
    members: Sequence[Config],
    workdirs: Sequence[str | os.PathLike[str]],
    display: Display | None = None,
    how: str = "auto",
    memory: float | None = None,
    until: int | None = None,
    dataset: data.AnyDataset | None = None,
) -> list[Member]:
    """Trains runs together, each recorded in its own directory as if trained alone.

    A run that was begun goes on from its last finished epoch; a finished one is not trained again.
    Checkpoints are saved at the ends of epochs. `seconds` and examples per second of a member are
    those of its share of the time. A member whose loss stops being finite ends there, with its
    error; the others go on. Members that don't fit into memory together are trained part by part.

    Args:
      members: configurations with equal `program_key`s.
      workdirs: a run directory for each.
      display: shows the members' mean loss and accuracy; nothing if None.
      how: 'auto' or one of `population_program.MAPPINGS`.
      memory: the bytes that a program may take on a device; None: most of what is free.
      until: the epoch to stop after, to be resumed later; None: train to the end.
      dataset: what `load_dataset` gives for the members, where it is loaded already.

    Raises:
      ConfigError: the members need different programs, one can't work, or was saved within an
        epoch by a run on its own.
      DataError, RunDirectoryError, CheckpointError: as for a single run.
      Interrupted: SIGINT, SIGTERM or SIGUSR2; the finished epochs are saved.
    """
    members = [config_lib.resolve(settings) for settings in members]
    _check(members, workdirs, how)
    for settings, path in zip(members, workdirs, strict=True):
        pool.use_threads_of_run(settings.threads, pathlib.Path(path))
    dataset = dataset or load_dataset(members[0].dataset)
    if not isinstance(dataset, data.Dataset):
        raise ConfigError(STREAMED)
    experiments = [build(members[0], dataset)]
    statistics = experiments[0].statistics
    experiments += [build(settings, dataset, statistics) for settings in members[1:]]
    programs = _Programs(experiments[0], how)
    fitting = programs.fitting(len(members), free_memory() if memory is None else memory)
    outcomes: list[Member] = []
    for numbers in np.array_split(np.arange(len(members)), -(-len(members) // fitting)):
        part = numbers.tolist()
        outcomes += _train_part(
            [experiments[i] for i in part],
            [workdirs[i] for i in part],
            display or Silent(),
            programs,
            members[0].epochs if until is None else min(until, members[0].epochs),
        )
    return outcomes


def _train_part(
    experiments: Sequence[Experiment],
    workdirs: Sequence[str | os.PathLike[str]],
    display: Display,
    programs: "_Programs",
    end: int,
) -> list[Member]:
    """Trains members that fit into memory together until `end` epochs are done."""
    outcomes: list[Member | None] = [None] * len(experiments)
    with contextlib.ExitStack() as stack:
        runs = [
            _Run(
                experiment,
                stack.enter_context(RunDirectory(path, experiment.config)),
                stack,
                {"members": len(experiments), "how": programs.how},
            )
            for experiment, path in zip(experiments, workdirs, strict=True)
        ]
        signals = stack.enter_context(epochs.Signals())
        states = jax.device_get(population_program.init_states(experiments))
        for i, run in enumerate(runs):
            run.restore(jax.tree.map(lambda x, i=i: np.array(x[i]), states))
        # Those at the same epoch go on together.
        for epoch in sorted({run.progress.epoch for run in runs}):
            chosen = [i for i, run in enumerate(runs) if run.progress.epoch == epoch]
            group = [runs[i] for i in chosen]
            if epoch < end:
                _Group(group, display, signals, programs.of(len(group))).train(epoch, end)
            for i, run in zip(chosen, group, strict=True):
                run_figures.draw_curves(run.record.path)
                row = run.progress.history[-1] if run.error is None else None
                outcomes[i] = Member(row, run.error)
    return [outcome for outcome in outcomes if outcome is not None]


class _Programs:
    """The program of a population for each number of members that it is run with."""

    def __init__(self, experiment: Experiment, how: str) -> None:
        self.experiment = experiment
        self.how = population_program.choose_mapping() if how == "auto" else how
        self._compiled: dict[int, population_program.Program] = {}

    def of(self, count: int) -> population_program.Program:
        """Returns the program for `count` members."""
        if count not in self._compiled:
            compiled = population_program.compile_program(self.experiment, self.how, count)
            self._compiled[count] = compiled
        return self._compiled[count]

    def fitting(self, count: int, memory: float) -> int:
        """Returns how many members, at most `count` and at least one, fit into memory."""
        parts = self.experiment.train_data, self.experiment.test_data
        shared = sum(array.nbytes for part in parts for array in part)
        while count > 1 and (need := self.of(count).bytes) > memory:
            share = (memory - shared) / (need - shared)
            count = max(1, min(count - 1, int(count * share)))
        return count


def train_together(
    directory: pathlib.Path,
    make_display: driver.MakeDisplay,
    until: int | None = None,
) -> driver.Attempt:
    """Returns an Attempt that trains trials, grouped by `group_alike`, as one population.

    They stop after the epoch `until`, if it is given. If they can't be trained together, for
    whatever reason, they are trained one by one, so that one bad trial harms no other.
    """
    alone = driver.train_alone(directory, make_display, driver.stop_at_epoch(until))

    def attempt(trials: Sequence[spaces.Trial]) -> Sequence[driver.Outcome | None]:
        if len(trials) == 1:
            return alone(trials)
        paths = [directory / trial.name for trial in trials]
        begin = time.monotonic()
        display = make_display(trials)
        try:
            configs = [trial.config for trial in trials]
            dataset = driver.load_trial_data(trials[0])
            members = train_population(configs, paths, display, until=until, dataset=dataset)
        except epochs.Interrupted:
            raise
        except Exception as error:
            if isinstance(error, RunDirectoryBusyError):  # another process holds one of them
                return [None] * len(trials)
            return alone(trials)
        finally:
            display.close()
        seconds = (time.monotonic() - begin) / len(trials)
        outcomes = []
        for trial, path, member in zip(trials, paths, members, strict=True):
            if member.error is not None:
                diverged = DivergedError(member.error)
                outcomes.append(driver.record_failure(trial, path, diverged, seconds))
            else:
                (path / "error.json").unlink(missing_ok=True)
                outcomes.append(driver.Outcome(trial, member.row, None, seconds))
        return outcomes

    return attempt


def group_alike(size: int) -> driver.Grouping:
    """Returns a Grouping of at most `size` trials that can share a program."""

    def group(trials: Sequence[spaces.Trial]) -> Sequence[Sequence[spaces.Trial]]:
        alike: dict[Any, list[spaces.Trial]] = {}
        for trial in trials:
            alike.setdefault(program_key(trial.config), []).append(trial)
        return [g[i : i + size] for g in alike.values() for i in range(0, len(g), size)]

    return group


def _check(members: Sequence[Config], workdirs: Sequence[Any], how: str) -> None:
    known = ("auto", *population_program.MAPPINGS)
    if how not in known:
        raise ConfigError(f"how={how!r} is unknown{suggest_name(how, known)}")
    if not members or len(members) != len(workdirs):
        raise ConfigError(
            f"a population needs a directory for each member; there are {len(members)} members and "
            f"{len(workdirs)} directories."
        )
    for settings in members:
        config_lib.check(settings)
        if settings.early_stopping:
            raise ConfigError(
                "config.early_stopping would end the members of a population at different epochs; "
                "train them one by one (--population=1)."
            )
        if settings.parallel != "none":
            raise ConfigError(
                "a population runs on one device; choose --config.parallel=none for it."
            )
        if settings.reduction != "plain":
            raise ConfigError(
                "the members of a population are summed plainly; choose --config.reduction=plain, "
                "or train them one by one (--population=1)."
            )
        if settings.dataset.feed == "stream":
            raise ConfigError(STREAMED)
        if settings.optimizer.schedule == "plateau":
            raise ConfigError(
                "the learning rate of a population's members can't wait for their losses; choose "
                "another config.optimizer.schedule, or train them one by one (--population=1)."
            )
    first, *others = (dict(program_key(settings)) for settings in members)
    for other in others:
        for path in first:
            if first[path] != other[path]:
                raise ConfigError(
                    f"members of a population differ in config.{path}, which the program is "
                    "compiled for; train them in different populations."
                )


class _Run:
    """One member: its records, and how far it has come."""

    def __init__(
        self,
        experiment: Experiment,
        record: RunDirectory,
        stack: contextlib.ExitStack,
        population: dict[str, Any],
    ) -> None:
        self.experiment, self.record = experiment, record
        self.initial = load_initial(experiment, record.path)
        about = describe_start(experiment, self.initial)
        record.write_environment(experiment.dataset, {**about, "population": population})
        self.checkpoints = stack.enter_context(Checkpoints(record.path / "checkpoints"))
        self.progress = Progress.between_epochs([])
        self.error: str | None = None

    def restore(self, initial: steps.TrainState) -> None:
        """Takes the newest checkpoint that ends an epoch, or the initial state."""
        self.state = self.experiment.start_from(initial, self.initial)
        restored = self.checkpoints.restore(initial)
        if restored is not None:
            self.state, self.progress = restored
            if self.progress.position:
                raise ConfigError(
                    f"{self.record.path} was saved within an epoch, by a run on its own; resume it "
                    "alone, with experiments.train."
                )
        if self.progress.epoch < self.experiment.config.epochs:
            epochs.check_metrics(self.progress.history)
        self.record.rewrite_metrics(self.progress.history)
        hashes.drop_after(self.record.path, int(self.state.step))

    def end_epoch(self, row: dict[str, Any], state: steps.TrainState, last: bool) -> None:
        """Records a finished epoch; the last one is saved in any case."""
        self.progress = Progress.between_epochs([*self.progress.history, row])
        self.state = state
        if epochs.is_saved(row["epoch"], self.experiment.config.records.checkpoint_epochs, last):
            self.save()
        self.record.append_metrics(row)
        hashes.append(self.record.path, row["step"], hashes.hash_state(state))

    def save(self) -> None:
        """Saves the last finished epoch, unless that has been done."""
        if self.progress.epoch and self.checkpoints.newest() != int(self.state.step):
            self.checkpoints.save(self.state, self.progress)


class _Group:
    """Members at the same epoch, and their program."""

    def __init__(
        self,
        runs: Sequence[_Run],
        display: Display,
        signals: epochs.Signals,
        program: population_program.Program,
    ) -> None:
        self.runs, self.display, self.signals, self.program = runs, display, signals, program
        self.first = runs[0].experiment
        values = [population_program.traced_values(run.experiment.config) for run in runs]
        self.values = program.put_members(values)
        self.states = program.put_members([run.state for run in runs])
        test_order = program.put(self.first.test_order())
        self.train_feed = feed.ResidentFeed(
            program.put(self.first.train_data), self._place_orders, program.eval_steps
        )
        self.test_feed = feed.ResidentFeed(
            program.put(self.first.test_data), lambda _: test_order, program.eval_steps
        )
        self.pace = epochs.Pace()

    def train(self, epoch: int, end: int) -> None:
        """Trains from `epoch` on until `end` epochs are done."""
        for next_epoch in range(epoch, end):
            if all(run.error for run in self.runs):
                return
            self._epoch(next_epoch, next_epoch + 1 == end)

    def _epoch(self, epoch: int, last: bool) -> None:
        settings, count = self.first.config, self.first.steps_per_epoch
        members = [self.first.start_totals()] * len(self.runs)
        self.totals = self.program.put_members(members)
        self.display.start_epoch(epoch + 1, settings.epochs, 0, count)

        def call(start: int, stop: int) -> Sequence[steps.Totals]:
            chunks = self.train_feed.chunks(epoch, start, stop)
            self.states, self.totals = feed.take_steps(
                self._train_steps, self.states, self.totals, chunks
            )
            return self._of_members(self.totals)

        shown = 0
        for position, trained, seconds in self.pace.run(call, 0, count):
            self._show(position - shown, trained, seconds)
            shown = position
            if self.signals.received and position < count:
                self._interrupted(epoch)
        self.display.evaluating()
        tests = self._of_members(self.test_feed.evaluate(self.states))
        states = self._of_members(self.states)
        step = (epoch + 1) * count
        for run, train, test, state in zip(self.runs, trained, tests, states, strict=True):
            if run.error is not None:
                continue
            bad = epochs.find_bad_step(train, test, step)
            if bad is not None:
                run.error = (
                    f"the loss was not finite in step {bad} (epoch {epoch + 1}); what was saved "
                    f"before is kept in {run.record.path}."
                )
                continue
            learning_rate = float(run.experiment.schedule(step - 1))
            share = seconds / len(self.runs)  # of the time that all took
            sums = epochs.sums_of(train)
            row = epochs.make_row(epoch, step, learning_rate, sums, test, share)
            run.end_epoch(row, state, last)
        rows = [r.progress.history[-1] for r in self.runs if r.error is None]
        if rows:
            mean = {name: _mean([row[name] for row in rows]) for name in rows[0]}
            mean |= {"epoch": epoch + 1, "seconds": seconds}
            self.display.end_epoch(mean, settings.epochs)
        if self.signals.received and not last:
            self._interrupted(epoch + 1)

    def _train_steps(
        self, states: Any, totals: Any, data: Any, orders: Any, start: int, stop: int
    ) -> Any:
        bounds = np.int32(start), np.int32(stop)
        return self.program.train_steps(self.values, states, totals, data, orders, *bounds)

    def _place_orders(self, epoch: int) -> Any:
        """Each member's batches of an epoch, on the devices."""
        return self.program.put_members([run.experiment.train_order(epoch) for run in self.runs])

    def _of_members(self, tree: Any) -> list[Any]:
        """Each run's own part of a tree of arrays with a leading axis, on the host."""
        host = jax.device_get(tree)
        return [jax.tree.map(lambda x, i=i: np.array(x[i]), host) for i in range(len(self.runs))]

    def _show(self, done: int, trained: Sequence[steps.Totals], seconds: float) -> None:
        """Shows the sums over the members that have seen examples and are finite."""
        fine = [t for t in trained if np.isfinite(t.sums["loss"]).all() and t.examples > 0]
        if fine:
            total = jax.tree.map(lambda *leaves: np.sum(leaves, 0), *fine)
            self.display.steps(done, epochs.sums_of(total), seconds)

    def _interrupted(self, epoch: int) -> None:
        """Ends the population; only the finished epochs are saved."""
        self.display.close()
        for run in self.runs:
            if run.error is None:
                run.save()
                run.checkpoints.wait()
        raise epochs.Interrupted(self.signals.received, epoch * self.first.steps_per_epoch)


def _mean(values: Sequence[Any]) -> Any:
    """The mean of numbers or arrays; None where one of them isn't finite."""
    try:
        return np.mean(values, 0).tolist()
    except TypeError:
        return None
