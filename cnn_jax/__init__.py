"""The classic convolutional networks in JAX and Flax: exact, fast, and measured with their spread.

In the way of the data: `config`, `data`, `augment`, `ops`, `layers`, `models`, `losses`,
`optimizers`, `steps`, `programs`, `experiment`, `checkpoints`, `records`, `train`. What uses them:
`inspection`, `figures`, `sweeps`, `reports`.
"""

__version__ = "0.1.0"
