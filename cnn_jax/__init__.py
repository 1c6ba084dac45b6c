"""The classic convolutional networks in JAX and Flax: exact, fast, and measured with their spread.

From the bottom up: `ops`; `layers`, `models`; `data`, `augment`, `losses`, `optimizers`; `config`;
`steps`, `programs`, `experiment`; `checkpoints`, `records`, `train`. Above these: `inspection`
explains a network, `figures` draws, `sweeps` and `reports` take many runs together.
"""

__version__ = "0.1.0"
