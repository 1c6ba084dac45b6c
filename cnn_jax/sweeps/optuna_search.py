"""Searching hyperparameters with Optuna: it proposes, this package trains, every trial is a run.

A study is kept in a file or a database, so several processes can work on it, and Optuna's own
tools read it. What a trial computes is in its run directory; the study holds its accuracy.
"""

import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cnn_jax import checkpoints, identity, schema, text, train
from cnn_jax import config as config_lib
from cnn_jax import data as datasets
from cnn_jax import epochs as epochs_lib
from cnn_jax.config import Config, ConfigError
from cnn_jax.errors import SearchError
from cnn_jax.sweeps import driver, population, spaces, sweep_record
from cnn_jax.sweeps.optuna_study import Say, using
from cnn_jax.sweeps.spaces import format_value

ASK_SECONDS = 60.0  # for a process to choose one more value of a trial; then it was killed


@dataclasses.dataclass
class Space:
    """The distributions that are searched, for Optuna, and their values back from it."""

    samples: Mapping[str, spaces.Sample]

    def distributions(self) -> dict[str, Any]:
        """Returns Optuna's distribution for each path."""
        return {path: self._distribution(path) for path in self.samples}

    def _distribution(self, path: str) -> Any:
        import optuna

        kind, values = self.samples[path]
        if kind == "choice":  # as texts, since Optuna keeps no tuples
            return optuna.distributions.CategoricalDistribution([format_value(v) for v in values])
        whole = config_lib.leaf_types()[path] is int
        of = optuna.distributions
        distribution = of.IntDistribution if whole else of.FloatDistribution
        low, high = values
        return distribution(low, high, log=kind == "log")

    def trial(self, base: Config, parameters: Mapping[str, Any]) -> spaces.Trial:
        """Returns the trial for the values that Optuna gave, whether it can work or not.

        Raises:
          SearchError: a value is missing or isn't one that is searched.
        """
        values = {path: self._value(path, parameters.get(path)) for path in self.samples}
        return spaces.Trial(spaces.name_trial(values), values, config_lib.with_values(base, values))

    def _value(self, path: str, given: Any) -> Any:
        kind, values = self.samples[path]
        if kind == "choice":
            found = [value for value in values if format_value(value) == given]
        else:
            whole = config_lib.leaf_types()[path] is int
            fits = schema.is_a(given, int if whole else float) and values[0] <= given <= values[1]
            # Rounded, so that the directory's name is the exact value.
            found = [given if whole else float(f"{given:.4g}")] if fits else []
        if not found:
            shown = text.one_line(repr(given))[:60]
            raise SearchError(
                f"the study has a trial with {path}={shown}, which isn't in what is searched, "
                f"{self.samples[path]}. Choose another --study and --workdir."
            )
        return found[0]


def search(
    study: Any,
    space: Space,
    base: Config,
    trials: int,
    directory: pathlib.Path,
    make_display: driver.MakeDisplay,
    together: int = 1,
    say: Say = lambda line: None,
    check: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Any, driver.Outcome]]:
    """Asks the study for trials and trains them until there are `trials` of them in it.

    Trials that a process left behind when it was stopped or killed are taken over. One that
    diverged is told to Optuna with accuracy 0, so that its neighborhood is avoided, and counts for
    nothing else; one that can't work fails.

    Args:
      study: what `open_study` gave.
      space: what is searched.
      base: what isn't; it must hold training examples out.
      trials: how many, of all processes together.
      directory: of the run directories.
      make_display: shows the trials of a batch.
      together: how many are asked for at a time, and trained as one population where they can be.
      say: called with a line about what is waited for.
      check: called before trials are trained; raises KeyboardInterrupt to end the search there.

    Yields:
      (the trial as Optuna has it, its outcome).

    Raises:
      ConfigError: `base` holds nothing out, or pruning is to be done within populations.
      DataError: the data can't be loaded.
      SearchError: the study is another search's or can't be used, or a run can't be recorded; the
        trial is left as it is, and another call goes on with it.
      Interrupted, KeyboardInterrupt: the trial was saved; another call goes on with it.
    """
    import optuna

    prunes = not isinstance(study.pruner, optuna.pruners.NopPruner)
    if not base.dataset.holdout:
        raise ConfigError(
            "a search chooses by accuracy, which must not be the test set's; add "
            "--config.dataset.holdout=0.1."
        )
    if prunes and together > 1:
        raise ConfigError(
            "the trials of a population end together, so none of them can be pruned; choose "
            "--pruner=none or --population=1."
        )
    data = _claim(study, space, base)
    trainer = _Trainer(study, space, base, data, directory, make_display, together, prunes)
    left_behind = _LeftBehind(study, space.distributions(), say)
    adopt = True
    while True:
        with _using(study):
            # Those of living processes are held, and passed over.
            batches = [[trial] for trial in left_behind.find()] if adopt else []
            asked: list[Any] = []
            while len(asked) < together and len(study.get_trials(deepcopy=False)) < trials:
                asked.append(study.ask(space.distributions()))
            running = (optuna.trial.TrialState.RUNNING,)
            if not asked and not study.get_trials(deepcopy=False, states=running):
                return
        finished = False
        for batch in [*batches, asked] if asked else batches:
            check()
            for pair in trainer.run(batch):
                finished = True
                yield pair
        adopt = not asked
        if not finished:
            left_behind.say_waiting()
            time.sleep(driver.WAIT_SECONDS)


def _using(study: Any) -> contextlib.AbstractContextManager[None]:
    return using(f"the study {study.study_name!r}")


def _claim(study: Any, space: Space, base: Config) -> dict[str, identity.DataIdentity | None]:
    """Records in the study what it searches and on which data, or checks that it is the same.

    Returns:
      The identity of each data set that is trained on; None if it is searched and can't be loaded.

    Raises:
      DataError: the data can't be loaded.
      SearchError: it is another search's, or one on other data.
    """
    folder = base.dataset.data_dir
    classes, names = base.dataset.classes, (base.dataset.name,)
    if "dataset.name" in space.samples:
        names = tuple(space.samples["dataset.name"].values)
    data: dict[str, identity.DataIdentity | None]
    if "dataset.classes" in space.samples:  # the same name has many identities
        data = dict.fromkeys(names)
    elif "dataset.name" in space.samples:
        data = {name: sweep_record.find_data(name, folder, classes) for name in names}
    else:
        loaded = datasets.load(base.dataset.name, folder)
        chosen = datasets.choose_classes(loaded, classes) if classes else loaded
        data = {base.dataset.name: identity.identify_data(chosen)}
    leaves = config_lib.flatten(config_lib.resolve(base))
    now = {p: format_value(v) for p, v in leaves.items() if not p.startswith(config_lib.FREE)}
    now |= {path: str(sample) for path, sample in space.samples.items()}
    with _using(study):
        before = study.user_attrs.get("experiment", {})
    if not schema.is_a(before, dict[str, Any]) or not schema.is_a(
        recorded := before.get("data", {}), dict[str, str]
    ):
        raise SearchError(
            f"the study {study.study_name!r} doesn't say what it searches; choose another --study "
            "and --workdir."
        )
    # A hyperparameter that the record doesn't name is younger than it, and had its default.
    defaults = config_lib.flatten(config_lib.make_defaults(base.model.name))
    for path in now if before else ():
        if (there := before.get(path, format_value(defaults.get(path)))) != now[path]:
            raise SearchError(
                f"the study {study.study_name!r} is another search's: there {path} is {there}, "
                f"here {now[path]}. Choose another --study and --workdir."
            )
    here = {name: found.arrays for name, found in data.items() if found}
    for name in here:
        if recorded.get(name, here[name]) != here[name]:
            raise SearchError(
                f"the study {study.study_name!r} is of other data: images and labels of {name} had "
                f"the SHA-256 {recorded[name]}…, now {here[name]}…. Put back the data that it was "
                "begun with, or choose another --study and --workdir."
            )
    if not before or {**recorded, **here} != recorded:
        with _using(study):
            study.set_user_attr("experiment", {**now, "data": {**recorded, **here}})
    return data


class _LeftBehind:
    """Finds the trials that are running, or were when their process was killed."""

    def __init__(self, study: Any, distributions: Mapping[str, Any], say: Say) -> None:
        self._study, self._distributions, self._say = study, distributions, say
        # Of trials without all their values: (how many there were, since when), by this process's
        # own clock, as others may be ahead or behind.
        self._seen: dict[int, tuple[int, float]] = {}
        self._said = False

    def find(self) -> list[Any]:
        """Returns those that are ready to be trained and told.

        One without all its values is being asked for, or its process was killed doing so: when
        nothing came of it for ASK_SECONDS it counts as failed.
        """
        import optuna

        states = optuna.trial.TrialState
        trials = []
        for frozen in self._study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            if set(self._distributions) <= set(frozen.params):
                trials.append(optuna.Trial(self._study, frozen._trial_id))
                continue
            chosen, now = len(frozen.params), time.monotonic()
            before, since = self._seen.get(frozen.number, (-1, now))
            if before != chosen:
                self._seen[frozen.number] = chosen, now
            elif now - since > ASK_SECONDS:
                self._study.tell(frozen.number, state=states.FAIL, skip_if_finished=True)
        return trials

    def say_waiting(self) -> None:
        """Tells once which trials of other processes are waited for."""
        import optuna

        if self._said:
            return
        self._said = True
        with _using(self._study):
            running = (optuna.trial.TrialState.RUNNING,)
            numbers = [t.number + 1 for t in self._study.get_trials(deepcopy=False, states=running)]
        if numbers:
            shown = ", ".join(map(str, numbers[:8])) + (", …" if len(numbers) > 8 else "")
            self._say(f"waiting for other processes that have trials of this study: {shown}")


@dataclasses.dataclass
class _Trainer:
    """Trains what Optuna proposed, and tells it."""

    study: Any
    space: Space
    base: Config
    data: Mapping[str, identity.DataIdentity | None]
    directory: pathlib.Path
    make_display: driver.MakeDisplay
    together: int
    prunes: bool

    def run(self, batch: Sequence[Any]) -> Iterator[tuple[Any, driver.Outcome]]:
        """Yields the trials with their outcomes; nothing for what other processes hold."""
        fit = []
        for optuna_trial in batch:
            trial = self.space.trial(self.base, optuna_trial.params)
            trial = trial._replace(data=self.data[trial.config.dataset.name])
            try:
                config_lib.check(trial.config)
                fit.append((optuna_trial, trial))
            except ConfigError as error:
                outcome = driver.Outcome(trial, None, str(error), None)
                yield self._tell(optuna_trial, outcome), outcome
        for chunk in _chunks(fit, self.together):
            chosen = {trial.name: trial for _, trial in chunk}
            if self.together == 1:
                stop = self._pruner(chunk[0][0]) if self.prunes else None
                attempt = driver.train_alone(self.directory, self.make_display, stop)
            else:
                attempt = population.train_together(self.directory, self.make_display)
            outcomes = dict(zip(chosen, attempt(list(chosen.values())), strict=True))
            for optuna_trial, trial in chunk:
                if found := outcomes[trial.name]:
                    yield self._tell(optuna_trial, found), found

    def _tell(self, optuna_trial: Any, outcome: driver.Outcome) -> Any:
        """Tells Optuna the outcome and returns the trial as it has it.

        Raises:
          SearchError: not the trial but the machine is to blame.
        """
        import optuna

        state, value = None, None
        if outcome.blocked and outcome.trial.data:
            raise SearchError(
                f"trial {optuna_trial.number + 1} can't be trained: {outcome.error} The same "
                "command goes on with it."
            )
        with _using(self.study):
            if outcome.diverged:
                value = 0.0
                with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                    optuna_trial.set_user_attr("diverged", True)
            elif outcome.row is None:
                state = optuna.trial.TrialState.FAIL
            elif not epochs_lib.is_last(outcome.row, outcome.trial.config.epochs):
                state = optuna.trial.TrialState.PRUNED
            else:
                value = outcome.row[checkpoints.BEST]
            return self.study.tell(optuna_trial, value, state=state, skip_if_finished=True)

    def _pruner(self, optuna_trial: Any) -> train.Stop:
        """Returns what tells Optuna every epoch's accuracy, and stops the run if it is to prune."""
        epochs = self.space.trial(self.base, optuna_trial.params).config.epochs

        def stop(row: dict[str, Any]) -> bool:
            with _using(self.study):
                optuna_trial.report(row[checkpoints.BEST], row["epoch"])
                return row["epoch"] < epochs and optuna_trial.should_prune()

        return stop


def _chunks(
    pairs: Sequence[tuple[Any, spaces.Trial]], together: int
) -> Iterator[list[tuple[Any, spaces.Trial]]]:
    """Yields groups of proposals that can be a population; equal proposals are in the same one."""
    unique = {trial.name: trial for _, trial in pairs}
    for group in population.group_alike(together)(list(unique.values())):
        names = {trial.name for trial in group}
        yield [pair for pair in pairs if pair[1].name in names]


def rank(
    study: Any, space: Space, base: Config, directory: pathlib.Path
) -> list[tuple[Any, spaces.Trial]]:
    """Returns the trials that were trained to their end, best first, those that diverged left out.

    Raises:
      SearchError: the study can't be used.
    """
    with _using(study):
        trials = study.get_trials(deepcopy=False)
    done = []
    for frozen in trials:
        if frozen.state.name != "COMPLETE" or not _is_accuracy(frozen.values):
            continue
        trial = space.trial(base, frozen.params)
        if not _diverged(frozen, directory / trial.name):
            done.append((frozen, trial))
    return sorted(done, key=lambda pair: -pair[0].value)


def _is_accuracy(values: Any) -> bool:
    return schema.is_a(values, list[float]) and len(values) == 1 and math.isfinite(values[0])


def _diverged(frozen: Any, run: pathlib.Path) -> bool:
    if frozen.user_attrs.get("diverged"):
        return True
    # Earlier versions told accuracy 0 and nothing else.
    error = sweep_record.read_error(run) if frozen.value == 0 else None
    return sweep_record.has_diverged(error)
