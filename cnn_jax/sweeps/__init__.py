"""Many trials: spaces, the sweep's record, the driver that trains them, populations, Optuna."""

from cnn_jax.lazy import import_when_asked

__all__ = [
    "driver",
    "halving",
    "optuna_journal",
    "optuna_search",
    "optuna_study",
    "population",
    "population_program",
    "spaces",
    "sweep_record",
]
__getattr__, __dir__ = import_when_asked(__name__, __all__)
