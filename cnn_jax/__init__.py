"""The classic convolutional networks in JAX and Flax: exact, fast, and measured with their spread.

From the bottom up: `ops`; `layers`, `models`; `data`, `augment`, `losses`, `optimizers`; `config`;
`steps`, `programs`, `experiment`; `checkpoints`, `records`, `train`. Above these: `inspection`
explains a network, `figures` draws, `sweeps` and `reports` take many runs together.

`__all__` lists what is meant to be used from outside. Each module is imported when it is first
asked for, so that `import cnn_jax` takes no time and starts nothing:

    import cnn_jax
    network = cnn_jax.models.create("lenet", activation="relu")
"""

from typing import TYPE_CHECKING

from cnn_jax.lazy import import_when_asked

if TYPE_CHECKING:
    from cnn_jax import (
        augment,
        checkpoints,
        config,
        data,
        display,
        errors,
        experiment,
        figures,
        inspection,
        layers,
        losses,
        models,
        ops,
        optimizers,
        options,
        programs,
        records,
        reports,
        steps,
        sweeps,
        torch_weights,
        train,
        weights,
    )

__version__ = "0.1.0"
__all__ = [
    "augment",
    "checkpoints",
    "config",
    "data",
    "display",
    "errors",
    "experiment",
    "figures",
    "inspection",
    "layers",
    "losses",
    "models",
    "ops",
    "optimizers",
    "options",
    "programs",
    "records",
    "reports",
    "steps",
    "sweeps",
    "torch_weights",
    "train",
    "weights",
]
if not TYPE_CHECKING:
    __getattr__, __dir__ = import_when_asked(__name__, __all__)
