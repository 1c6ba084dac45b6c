"""The classic convolutional networks in JAX and Flax: exact, fast, and measured with their spread.

The modules, in the way of the data (imports point upwards only): `config`, `data`, `augment`,
`ops`, `layers`, `models`, `losses`, `optimizers`, `steps`, `checkpoints`, `records`, `train`.
Beside them: `dataflow` and `analysis` explain a network, `sweeps` and `reports` take many runs
together, `interchange` exchanges weights with PyTorch.
"""

__version__ = "0.1.0"
