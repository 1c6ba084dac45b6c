"""Searching hyperparameters with Optuna: it proposes, this package trains, every trial is a run.

A study is kept in a file or a data base, so several processes can work on it, and Optuna's own
tools read it. What a trial computes is in its run directory; the study holds its accuracy.
"""

import dataclasses
import datetime
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cnn_jax import config as config_lib
from cnn_jax import population, spaces, sweeps, train
from cnn_jax.config import Config, ConfigError
from cnn_jax.display import Display
from cnn_jax.errors import SearchError as SearchError

SAMPLERS = ("tpe", "gp", "random")
PRUNERS = ("none", "median", "halving", "hyperband")
WAIT_SECONDS = 2.0  # between two looks at trials that other processes hold


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
            return optuna.distributions.CategoricalDistribution([_text(v) for v in values])
        whole = config_lib.leaf_types()[path] is int
        of = optuna.distributions
        distribution = of.IntDistribution if whole else of.FloatDistribution
        low, high = values
        return distribution(low, high, log=kind == "log")

    def trial(self, base: Config, parameters: Mapping[str, Any]) -> spaces.Trial:
        """Returns the trial for the values that Optuna gave, whether it can work or not."""
        values = {}
        for path, (kind, choices) in self.samples.items():
            value = parameters[path]
            if kind == "choice":
                value = next(choice for choice in choices if _text(choice) == value)
            elif isinstance(value, float):
                value = float(f"{value:.4g}")  # so that the directory's name is the exact value
            values[path] = value
        return spaces.Trial(spaces.trial_name(values), values, config_lib.with_values(base, values))


def _text(value: Any) -> str:
    return spaces.format_value(value)


def open_study(
    name: str,
    storage: str,
    sampler: str = "tpe",
    pruner: str = "none",
    first_stop: int = 1,
    seed: int = 0,
) -> Any:
    """Returns the Optuna study called `name`, made if it isn't there; it maximizes.

    Args:
      name: there may be several in one storage.
      storage: the path of a journal file, or the URL of a data base, sqlite:///search.db say.
      sampler: one of SAMPLERS.
      pruner: one of PRUNERS.
      first_stop: the first epoch after which a trial may be pruned.
      seed: decides the proposals of a single process; give each process another one.

    Raises:
      SearchError: Optuna or what the sampler needs isn't installed, or the storage can't be used.
    """
    try:
        import optuna
        from optuna.storages import journal

        if sampler == "gp":
            import torch  # noqa: F401, it imports it when it is too late
    except ModuleNotFoundError as error:
        needs = (
            "the sampler gp needs PyTorch" if error.name == "torch" else "searching needs Optuna"
        )
        raise SearchError(f"{needs}, which isn't installed: pip install {error.name}.") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers = optuna.samplers
    pruners = optuna.pruners
    make_pruner: dict[str, Callable[[], Any]] = {
        "none": pruners.NopPruner,
        # Its steps are counted from 0, epochs from 1.
        "median": lambda: pruners.MedianPruner(n_warmup_steps=first_stop),
        "halving": lambda: pruners.SuccessiveHalvingPruner(min_resource=first_stop),
        "hyperband": lambda: pruners.HyperbandPruner(min_resource=first_stop),
    }
    make_sampler: dict[str, Callable[[int], Any]] = {
        "tpe": lambda seed: samplers.TPESampler(seed=seed),
        "gp": lambda seed: samplers.GPSampler(seed=seed),
        "random": lambda seed: samplers.RandomSampler(seed=seed),
    }
    try:
        place: Any = storage
        if "://" not in storage:
            pathlib.Path(storage).parent.mkdir(parents=True, exist_ok=True)
            place = optuna.storages.JournalStorage(journal.JournalFileBackend(storage))
        study = optuna.create_study(
            storage=place,
            study_name=name,
            direction="maximize",
            pruner=make_pruner[pruner](),
            load_if_exists=True,
        )
        # A search that goes on must not propose the same again.
        study.sampler = make_sampler[sampler](seed + 1000 * len(study.trials))
    except Exception as error:  # of many data bases' many kinds
        sentence = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SearchError(f"the study {name!r} in {storage} can't be used: {sentence}") from error
    return study


def search(
    study: Any,
    space: Space,
    base: Config,
    trials: int,
    directory: pathlib.Path,
    make_display: Callable[[Sequence[spaces.Trial]], Display],
    together: int = 1,
) -> Iterator[tuple[Any, sweeps.Outcome]]:
    """Asks the study for trials and trains them until there are `trials` of them in it.

    Trials that a process left behind when it was stopped or killed are taken over. One that
    diverged counts with accuracy 0, so that its neighborhood is avoided; one that can't work fails.

    Args:
      study: what `open_study` gave.
      space: what is searched.
      base: what isn't; it must hold training examples out.
      trials: how many, those of all processes together.
      directory: of the run directories.
      make_display: shows the trials of a batch.
      together: how many are asked for at a time, and trained as one population where they can be.

    Yields:
      (the trial as Optuna has it, its outcome).

    Raises:
      ConfigError: `base` holds nothing out, or pruning is to be done within populations.
      SearchError: the study is another search's.
      Interrupted, KeyboardInterrupt: the trial was saved; another call goes on with it.
    """
    import optuna

    running = optuna.trial.TrialState.RUNNING
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
    _claim(study, space, base)
    distributions = space.distributions()
    adopt = True
    while True:
        # Those of living processes are held, and passed over.
        batches = [[trial] for trial in _left_behind(study, distributions)] if adopt else []
        asked: list[Any] = []
        while len(asked) < together and len(study.get_trials(deepcopy=False)) < trials:
            asked.append(study.ask(distributions))
        if asked:
            batches.append(asked)
        if not batches and not study.get_trials(deepcopy=False, states=(running,)):
            return
        told = False
        for batch in batches:
            for pair in _train(study, space, base, batch, directory, make_display, together):
                told = True
                yield pair
        adopt = not asked
        if not told:
            time.sleep(WAIT_SECONDS)


def _claim(study: Any, space: Space, base: Config) -> None:
    """Notes in the study what it searches, or checks that it is the same.

    Raises:
      SearchError: it is another search's.
    """
    leaves = config_lib.flatten(config_lib.resolve(base))
    now = {p: _text(v) for p, v in leaves.items() if not p.startswith(config_lib.FREE)}
    now |= {p: f"{s.kind}:{','.join(map(_text, s.values))}" for p, s in space.samples.items()}
    before = study.user_attrs.get("experiment")
    if before is None:
        study.set_user_attr("experiment", now)
        return
    for path in now:
        if before.get(path) != now[path]:
            raise SearchError(
                f"the study {study.study_name!r} is another search's: there {path} is "
                f"{before.get(path)}, here {now[path]}. Choose another --study and --workdir."
            )


def _left_behind(study: Any, distributions: Mapping[str, Any]) -> list[Any]:
    """The trials that are running, or were when their process was killed, ready to be told.

    One without all its parameters is being asked for, or its process was killed doing so: after a
    minute it counts as failed.
    """
    import optuna

    states = optuna.trial.TrialState
    trials = []
    for frozen in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        if set(distributions) <= set(frozen.params):
            trials.append(optuna.Trial(study, frozen._trial_id))
        elif datetime.datetime.now() - frozen.datetime_start > datetime.timedelta(minutes=1):
            study.tell(frozen.number, state=states.FAIL, skip_if_finished=True)
    return trials


def _train(
    study: Any,
    space: Space,
    base: Config,
    batch: Sequence[Any],
    directory: pathlib.Path,
    make_display: Callable[[Sequence[spaces.Trial]], Display],
    together: int,
) -> Iterator[tuple[Any, sweeps.Outcome]]:
    """Trains what Optuna proposed and tells it; yields nothing for what other processes hold."""
    import optuna

    states = optuna.trial.TrialState
    prunes = not isinstance(study.pruner, optuna.pruners.NopPruner)
    fit = []
    for optuna_trial in batch:
        trial = space.trial(base, optuna_trial.params)
        try:
            config_lib.check(trial.config)
            fit.append((optuna_trial, trial))
        except ConfigError as error:
            frozen = study.tell(optuna_trial, state=states.FAIL, skip_if_finished=True)
            yield frozen, sweeps.Outcome(trial, None, str(error), None)
    for chunk in _chunks(fit, together):
        chosen = {trial.name: trial for _, trial in chunk}
        if together == 1:
            stop = _pruner(chunk[0][0], base.epochs) if prunes else None
            attempt = sweeps.alone(directory, lambda trial: make_display([trial]), stop)
        else:
            attempt = population.together(directory, make_display)
        outcomes = dict(zip(chosen, attempt(list(chosen.values())), strict=True))
        for optuna_trial, trial in chunk:
            outcome = outcomes[trial.name]
            if outcome is None:
                continue
            state, value = None, None
            if outcome.row is None:
                recorded = sweeps.read_error(directory / trial.name)
                if recorded and recorded["kind"] == train.DivergedError.__name__:
                    value = 0.0
                else:
                    state = states.FAIL
            elif outcome.row["epoch"] < trial.config.epochs:
                state = states.PRUNED
            else:
                value = outcome.row["test_accuracy"]
            yield study.tell(optuna_trial, value, state=state, skip_if_finished=True), outcome


def _chunks(
    pairs: Sequence[tuple[Any, spaces.Trial]], together: int
) -> Iterator[list[tuple[Any, spaces.Trial]]]:
    """Puts proposals into groups that can be a population; the same proposals into the same one."""
    unique = {trial.name: trial for _, trial in pairs}
    for group in population.grouping(together)(list(unique.values())):
        names = {trial.name for trial in group}
        yield [pair for pair in pairs if pair[1].name in names]


def _pruner(optuna_trial: Any, epochs: int) -> train.Stop:
    """Tells Optuna every epoch's accuracy, and stops the run when Optuna says so."""

    def stop(row: dict[str, Any]) -> bool:
        optuna_trial.report(row["test_accuracy"], row["epoch"])
        return row["epoch"] < epochs and optuna_trial.should_prune()

    return stop
