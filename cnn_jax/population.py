"""Many runs trained as one compiled program: the training step, mapped over its hyperparameters.

The members of a population differ in what can be traced: the seed and the rates in `TRACED`. Each
has its own parameters, data order, random keys, run directory and checkpoints, as if trained alone;
what it computes is what it would alone, up to rounding, as sums may be taken in another order.

Two ways to map, `how`: 'vmap' computes all members together in wider operations, 'map' one after
the other within one program. Members' convolutions become grouped ones under vmap, which a CPU runs
slowly; so 'auto' takes 'map' for networks with convolutions on a CPU, else 'vmap'.
"""

import contextlib
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cnn_jax import config as config_lib
from cnn_jax import ops, optimizers, steps, sweeps, train
from cnn_jax.checkpoints import Checkpoints, Progress
from cnn_jax.config import Config, ConfigError
from cnn_jax.display import Display, Silent
from cnn_jax.records import RunDirectory

# What members may differ in, beside the seed. A rate that is 0 leaves its part out of the program,
# so it is 0 for all members or for none.
TRACED = (
    "optimizer.learning_rate",
    "optimizer.momentum",
    "optimizer.weight_decay",
    "optimizer.clip_norm",
    "model.dropout",
    "label_smoothing",
)
HOW = ("auto", "vmap", "map")

Hyperparameters = Mapping[str, Array]  # by path, of one member or with a leading axis of members


class Member(NamedTuple):
    """What came of one run: the last row of its metrics, or why it has none."""

    row: dict[str, Any] | None
    error: str | None


def program_key(settings: Config) -> tuple[tuple[str, Any], ...]:
    """Returns what a run's program is compiled for; runs with equal keys can be one population."""
    leaves = config_lib.flatten(config_lib.resolve(settings))
    for path in TRACED:
        leaves[path] = _is_on(leaves[path])
    del leaves["seed"]
    free = (path for path in leaves if path.startswith(config_lib.FREE))
    for path in list(free):
        del leaves[path]
    return tuple(sorted(leaves.items()))


def _is_on(value: Any) -> Any:
    return tuple(map(_is_on, value)) if isinstance(value, tuple | list) else bool(value)


def traced_values(settings: Config) -> dict[str, np.ndarray]:
    """Returns the hyperparameters that the program takes as arguments, by path; those not 0."""
    leaves = config_lib.flatten(config_lib.resolve(settings))
    values = {path: leaves[path] for path in TRACED}
    return {
        path: np.asarray(value, np.float32)
        for path, value in values.items()
        if value is not None and np.any(value)
    }


def train_population(
    members: Sequence[Config],
    workdirs: Sequence[str | os.PathLike[str]],
    display: Display | None = None,
    how: str = "auto",
) -> list[Member]:
    """Trains runs together, each recorded in its own directory as if trained alone.

    A run that was begun goes on from its last finished epoch; a finished one is not trained again.
    Checkpoints are saved at the ends of epochs. `seconds` and examples per second of a member are
    for its share of the time. A member whose loss stops
    being finite ends there, with its error; the others go on.

    Args:
      members: configurations with equal `program_key`s.
      workdirs: a run directory for each.
      display: shows the members' mean loss and accuracy; nothing if None.
      how: 'auto', 'vmap' or 'map'; see the top of this file.

    Raises:
      ConfigError: the members need different programs, one can't work, or was saved within an
        epoch by a run on its own.
      DataError, RunDirectoryError, CheckpointError: as for a single run.
      Interrupted: SIGINT or SIGTERM; the finished epochs are saved.
    """
    members = [config_lib.resolve(settings) for settings in members]
    _check(members, workdirs, how)
    dataset = train.load_dataset(members[0].dataset)
    experiments = [train.build(settings, dataset) for settings in members]
    display = display or Silent()
    outcomes: list[Member | None] = [None] * len(members)
    with contextlib.ExitStack() as stack:
        runs = [
            _Run(
                experiment,
                stack.enter_context(RunDirectory(path, experiment.config)),
                stack,
                {"members": len(members), "how": how},
            )
            for experiment, path in zip(experiments, workdirs, strict=True)
        ]
        signals = stack.enter_context(train.Signals())
        states = jax.tree.map(np.asarray, _init_states(experiments))
        for i, run in enumerate(runs):
            run.restore(jax.tree.map(lambda x, i=i: x[i], states))
        # Those at the same epoch go on together.
        for epoch in sorted({run.progress.epoch for run in runs}):
            chosen = [i for i, run in enumerate(runs) if run.progress.epoch == epoch]
            group = [runs[i] for i in chosen]
            if epoch < members[0].epochs:
                _Group(group, display, signals, how).train(epoch)
            for i, run in zip(chosen, group, strict=True):
                train.draw_curves(run.experiment.config, run.record, run.progress.history)
                row = run.progress.history[-1] if run.error is None else None
                outcomes[i] = Member(row, run.error)
    return [outcome for outcome in outcomes if outcome is not None]


def together(
    directory: pathlib.Path, make_display: Callable[[Sequence[sweeps.Trial]], Display]
) -> sweeps.Attempt:
    """Returns what trains the trials of a group, grouped by `grouping`, as one population.

    If that can't be, for whatever reason, they are trained one by one, so that one bad trial harms
    no other.
    """
    alone = sweeps.alone(directory, lambda trial: make_display([trial]))

    def attempt(trials: Sequence[sweeps.Trial]) -> Sequence[sweeps.Outcome | None]:
        if len(trials) == 1:
            return alone(trials)
        paths = [directory / trial.name for trial in trials]
        begin = time.monotonic()
        display = make_display(trials)
        try:
            members = train_population([trial.config for trial in trials], paths, display)
        except train.Interrupted:
            raise
        except Exception as error:
            if isinstance(error.__cause__, BlockingIOError):  # another process holds one of them
                return [None] * len(trials)
            return alone(trials)
        finally:
            display.close()
        seconds = (time.monotonic() - begin) / len(trials)
        outcomes = []
        for trial, path, member in zip(trials, paths, members, strict=True):
            if member.error is not None:
                diverged = train.DivergedError(member.error)
                outcomes.append(sweeps.failed(trial, path, diverged, seconds))
            else:
                (path / "error.json").unlink(missing_ok=True)
                outcomes.append(sweeps.Outcome(trial, member.row, None, seconds))
        return outcomes

    return attempt


def grouping(size: int) -> sweeps.Grouping:
    """Returns what puts at most `size` trials that can share a program into a group."""

    def group(trials: Sequence[sweeps.Trial]) -> Sequence[Sequence[sweeps.Trial]]:
        alike: dict[Any, list[sweeps.Trial]] = {}
        for trial in trials:
            alike.setdefault(program_key(trial.config), []).append(trial)
        return [g[i : i + size] for g in alike.values() for i in range(0, len(g), size)]

    return group


def _check(members: Sequence[Config], workdirs: Sequence[Any], how: str) -> None:
    if how not in HOW:
        raise ConfigError(f"how={how!r} is unknown{config_lib.nearest(how, HOW)}.")
    if not members or len(members) != len(workdirs):
        raise ConfigError(
            f"a population needs a directory for each member; there are {len(members)} members and "
            f"{len(workdirs)} directories."
        )
    for settings in members:
        config_lib.check(settings)
        if settings.parallel != "none":
            raise ConfigError(
                "a population runs on one device; choose --config.parallel=none for it."
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
        experiment: train.Experiment,
        record: RunDirectory,
        stack: contextlib.ExitStack,
        population: dict[str, Any],
    ) -> None:
        self.experiment, self.record = experiment, record
        data = train.describe_data(experiment)
        record.write_environment({"data": data, "population": population})
        self.checkpoints = stack.enter_context(Checkpoints(record.path / "checkpoints"))
        self.progress = Progress(0, 0, (0.0, 0.0, 0.0), 0.0, [])
        self.error: str | None = None

    def restore(self, initial: steps.TrainState) -> None:
        """Takes the newest checkpoint that ends an epoch, or the initial state."""
        self.state = initial
        restored = self.checkpoints.restore(initial)
        if restored is not None:
            self.state, self.progress = restored
            if self.progress.position:
                raise ConfigError(
                    f"{self.record.path} was saved within an epoch, by a run on its own; resume it "
                    "alone, with experiments.train."
                )
        self.record.rewrite_metrics(self.progress.history)

    def end_epoch(self, row: dict[str, Any], state: steps.TrainState) -> None:
        """Records a finished epoch."""
        epochs = self.experiment.config.epochs
        self.progress = Progress(
            row["epoch"], 0, (0.0, 0.0, 0.0), 0.0, [*self.progress.history, row]
        )
        self.state = state
        every = self.experiment.config.records.checkpoint_epochs
        if row["epoch"] % every == 0 or row["epoch"] == epochs:
            self.save()
        self.record.append_metrics(row)

    def save(self) -> None:
        """Saves the last finished epoch, unless it is."""
        if self.progress.epoch and self.checkpoints.newest() != int(self.state.step):
            self.checkpoints.save(self.state, self.progress)


class _Group:
    """Members at the same epoch, and their program."""

    def __init__(
        self, runs: Sequence[_Run], display: Display, signals: train.Signals, how: str
    ) -> None:
        self.runs, self.display, self.signals = runs, display, signals
        self.first = runs[0].experiment
        self.train_steps, self.eval_steps = _programs(self.first, how)
        self.hyperparameters = _stack([traced_values(r.experiment.config) for r in runs])
        self.states = _stack([run.state for run in runs])
        dataset = self.first.dataset
        self.train_data = steps.Data(
            jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels)
        )
        self.test_data = steps.Data(
            jnp.asarray(dataset.test_images), jnp.asarray(dataset.test_labels)
        )
        self.test_order = jax.tree.map(jnp.asarray, self.first.test_order())
        self.seconds_per_step = float("inf")

    def train(self, epoch: int) -> None:
        """Trains all epochs from `epoch` on."""
        for next_epoch in range(epoch, self.first.config.epochs):
            if all(run.error for run in self.runs):
                return
            self._epoch(next_epoch)

    def _epoch(self, epoch: int) -> None:
        settings, count = self.first.config, self.first.steps_per_epoch
        order = _stack([run.experiment.train_order(epoch) for run in self.runs])
        totals = _stack([steps.Totals.of()] * len(self.runs))
        self.display.start_epoch(epoch + 1, settings.epochs, 0, count)
        position, seconds = 0, 0.0
        arguments = (self.train_data, order)
        if self.seconds_per_step == float("inf"):
            # No steps, but the program: its compilation is in no speed.
            self.states, totals = self.train_steps(
                self.hyperparameters, self.states, totals, *arguments, 0, 0
            )
        while position < count:
            stop = min(position + self._steps_per_call(), count)
            begin = time.perf_counter()
            self.states, totals = self.train_steps(
                self.hyperparameters, self.states, totals, *arguments, position, stop
            )
            sums = jax.device_get(totals)
            elapsed = time.perf_counter() - begin
            self.seconds_per_step = elapsed / (stop - position)
            seconds += elapsed
            self._say(stop - position, sums, seconds)
            position = stop
            if self.signals.received and position < count:
                self._interrupted(epoch)
        tests = jax.device_get(self.eval_steps(self.states, self.test_data, self.test_order))
        states = jax.device_get(self.states)
        step = (epoch + 1) * count
        for i, run in enumerate(self.runs):
            if run.error is not None:
                continue
            own = steps.Totals(*(x[i] for x in sums))
            test = steps.Totals(*(x[i] for x in tests))
            bad = int(own.bad_step) if own.bad_step >= 0 else None
            if bad is None and not np.isfinite(test.loss):
                bad = step
            if bad is not None:
                run.error = (
                    f"the loss was not finite in step {bad} (epoch {epoch + 1}); what was saved "
                    f"before is kept in {run.record.path}."
                )
                continue
            rate = float(run.experiment.schedule(step - 1))
            own_sums = (float(own.loss), float(own.correct), float(own.examples))
            share = seconds / len(self.runs)  # of the time that all took
            row = train.metrics_row(epoch, step, rate, own_sums, test, share)
            run.end_epoch(row, jax.tree.map(lambda x, i=i: np.array(x[i]), states))
        rows = [r.progress.history[-1] for r in self.runs if r.error is None]
        if rows:
            mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
            mean |= {"epoch": epoch + 1, "seconds": seconds}
            self.display.end_epoch(mean, settings.epochs)
        if self.signals.received and epoch + 1 < settings.epochs:
            self._interrupted(epoch + 1)

    def _steps_per_call(self) -> int:
        return max(1, min(int(train.SECONDS_PER_CALL / self.seconds_per_step), 2**30))

    def _say(self, done: int, sums: steps.Totals, seconds: float) -> None:
        fine = np.isfinite(sums.loss) & (sums.examples > 0)
        loss, correct, count = (float(x[fine].sum()) for x in sums[:3])
        if count:
            self.display.steps(done, loss / count, correct / count, count / seconds)

    def _interrupted(self, epoch: int) -> None:
        """Ends the population; what is saved are the finished epochs."""
        self.display.close()
        for run in self.runs:
            if run.error is None:
                run.save()
                run.checkpoints.wait()
        raise train.Interrupted(self.signals.received, epoch * self.first.steps_per_epoch)


def _programs(experiment: train.Experiment, how: str) -> tuple[Callable[..., Any], ...]:
    """Compiles training and evaluation of all members."""
    settings = experiment.config
    if how == "auto":
        convolutions = settings.model.name not in ("softmax", "mlp", "mlp_dropout")
        how = "map" if convolutions and ops.platform.on_cpu() else "vmap"

    def train_one(
        hyperparameters: Hyperparameters,
        state: steps.TrainState,
        totals: steps.Totals,
        order: steps.Order,
        data: steps.Data,
        start: Array,
        stop: Array,
    ) -> Any:
        own = sweeps.with_values(settings, hyperparameters)
        optimizer = optimizers.make(own.optimizer, experiment.steps_per_epoch, settings.epochs)
        model = _with_dropout(experiment, hyperparameters)
        step = steps.make_train_step(model, optimizer, experiment.preprocess, own.label_smoothing)
        return steps.make_train_steps(step)(state, totals, data, order, start, stop)

    eval_step = steps.make_eval_step(experiment.model, experiment.preprocess)
    eval_one = steps.make_eval_steps(eval_step)

    def train_all(
        hyperparameters: Any,
        states: Any,
        totals: Any,
        data: Any,
        orders: Any,
        start: Array,
        stop: Array,
    ) -> Any:
        def one(own: Any) -> Any:
            member, state, sums, order = own
            return train_one(member, state, sums, order, data, start, stop)

        own = (hyperparameters, states, totals, orders)
        return lax.map(one, own) if how == "map" else jax.vmap(one)(own)

    def eval_all(states: Any, data: Any, order: Any) -> Any:
        def one(state: Any) -> Any:
            return eval_one(state, data, order)

        return lax.map(one, states) if how == "map" else jax.vmap(one)(states)

    options = steps.compiler_options()
    return (
        jax.jit(train_all, donate_argnums=(1, 2), compiler_options=options),
        jax.jit(eval_all, compiler_options=options),
    )


def _with_dropout(experiment: train.Experiment, hyperparameters: Hyperparameters) -> Any:
    """The network, its dropout rates traced if they are among the hyperparameters."""
    rates = hyperparameters.get("model.dropout")
    if rates is None:
        return experiment.model
    concrete = experiment.config.model.dropout or ()
    return experiment.model.clone(
        dropout=tuple(rates[i] if rate else 0.0 for i, rate in enumerate(concrete))
    )


def _init_states(experiments: Sequence[train.Experiment]) -> steps.TrainState:
    """The states before the first step, with a leading axis of members; one compilation."""
    first = experiments[0]
    shape = first.dataset.train_images.shape[1:]

    def init(seed: Array) -> steps.TrainState:
        return steps.init_state(first.model, first.optimizer, first.preprocess, shape, seed)

    seeds = np.array([experiment.config.seed for experiment in experiments], np.uint32)
    return jax.vmap(init)(jnp.asarray(seeds))


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *trees)
