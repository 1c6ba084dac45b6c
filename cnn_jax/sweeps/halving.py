"""Successive halving of a sweep: bad trials are stopped early."""

from collections.abc import Callable, Iterator, Sequence

from cnn_jax import checkpoints
from cnn_jax.config import ConfigError
from cnn_jax.sweeps.driver import Outcome
from cnn_jax.sweeps.spaces import Trial


def list_stops(epochs: int, first: int, factor: int) -> list[int]:
    """Returns the epochs at which successive halving stops trials, such as 1, 3, 9, 10.

    Raises:
      ConfigError: fewer than two, or a number that makes no sense.
    """
    if factor < 2 or not 1 <= first < epochs:
        raise ConfigError(
            f"halving needs a factor of at least 2 and a first stop between 1 and {epochs - 1} "
            f"epochs, got factor {factor} and first stop {first}."
        )
    stops = []
    while first < epochs:
        stops.append(first)
        first *= factor
    return [*stops, epochs]


def halve_trials(
    trials: Sequence[Trial],
    stops: Sequence[int],
    factor: int,
    train_until: Callable[[Sequence[Trial], int], Iterator[Outcome]],
) -> Iterator[Outcome]:
    """Successive halving (Jamieson and Talwalkar, 2016): bad trials are stopped early.

    All are trained to the first stop; the best of those that got there, 1/factor of all that began
    the stage (rounded up), go on to the next, and so on. The choice depends on the recorded
    accuracies alone, so all processes that work on a sweep make the same.

    Args:
      trials: what `expand` gave; their learning rate follows the schedule of their whole training.
      stops: what `list_stops` gave.
      factor: one of `factor` trials goes on.
      train_until: trains trials to some epoch, as `run_trials` does, and yields all their outcomes.

    Raises:
      ConfigError: a trial holds nothing out, so that the test set would choose; or the trials
        differ in their epochs.
    """
    if not all(trial.config.dataset.holdout for trial in trials):
        raise ConfigError(
            "halving chooses by accuracy, which must not be the test set's; add "
            "--config.dataset.holdout=0.1."
        )
    if any(trial.config.epochs != stops[-1] for trial in trials):
        raise ConfigError("halving stops trials by their epochs; don't sweep over epochs as well.")
    left = list(trials)
    for stop in stops:
        if not left:  # all that got this far have failed
            return
        outcomes = []
        for outcome in train_until(left, stop):
            outcomes.append(outcome)
            yield outcome
        scores = {o.trial.name: o.row[checkpoints.BEST] for o in outcomes if o.row}
        ranked = sorted((t for t in left if t.name in scores), key=lambda t: -scores[t.name])
        left = ranked[: -(-len(left) // factor)]
