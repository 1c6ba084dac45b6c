"""Optuna's studies: how one is opened, and what it raises made a sentence."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from cnn_jax import text
from cnn_jax.errors import SearchError, UserError

SAMPLERS = ("tpe", "gp", "random")
PRUNERS = ("none", "median", "halving", "hyperband")

Say = Callable[[str], None]


@contextlib.contextmanager
def using(study: str) -> Iterator[None]:
    """Makes a SearchError of whatever a database or Optuna raises; `study` names the study."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # databases raise many kinds
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        sentence = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        sentence = text.one_line(text.without_secrets(sentence)).rstrip(".")
        raise SearchError(f"{study} can't be used: {sentence}.") from error


def open_study(
    name: str,
    storage: str,
    sampler: str = "tpe",
    pruner: str = "none",
    first_stop: int = 1,
    seed: int = 0,
    say: Say = lambda line: None,
) -> Any:
    """Returns the Optuna study called `name`, made if it isn't there; it maximizes.

    Args:
      name: there may be several in one storage.
      storage: the path of a journal file, or the URL of a database, such as sqlite:///search.db.
      sampler: one of SAMPLERS.
      pruner: one of PRUNERS.
      first_stop: the first epoch after which a trial may be pruned.
      seed: decides the proposals of a single process; give each process another one.
      say: called with a line about what is waited for, or repaired.

    Raises:
      SearchError: Optuna or what the sampler needs isn't installed, or the storage can't be used.
    """
    try:
        import optuna

        from cnn_jax.sweeps import optuna_journal

        if sampler == "gp":
            import torch  # noqa: F401, the sampler imports it only when it proposes
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
    with using(f"the study {name!r} in {text.without_secrets(storage)}"):
        study = optuna.create_study(
            storage=storage if "://" in storage else optuna_journal.open_journal(storage, say),
            study_name=name,
            direction="maximize",
            pruner=make_pruner[pruner](),
            load_if_exists=True,
        )
        if study.directions != [optuna.study.StudyDirection.MAXIMIZE]:
            raise SearchError(f"the study {name!r} doesn't maximize one accuracy; choose another.")
        # A search that goes on must not propose the same again.
        study.sampler = make_sampler[sampler](seed + 1000 * len(study.trials))
    return study
