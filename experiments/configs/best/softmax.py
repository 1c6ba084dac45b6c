"""The best recipe found for softmax regression on Fashion-MNIST in 10 epochs.

python -m experiments.train --config=experiments/configs/best/softmax.py --workdir=runs/best_softmax

`best/softmax.py:smoke` runs a few seconds on the small set that ships with the package.

Beside the book's recipe (experiments/configs/softmax.py): standardized pictures, batches of 64,
Nesterov momentum, a little weight decay, a rate that falls linearly to 0. Chosen with
`--config.dataset.holdout=0.1`, never on the test set; experiments/reports/results.md has the test
accuracy with its spread.
"""

from cnn_jax.config import Config, OptimizerConfig, parse_options
from experiments.configs import softmax


def get_config(options: str = "") -> Config:
    """Returns the experiment; `smoke` is the only option."""
    parse_options(options, smoke=False)
    config = softmax.get_config(options)
    config.dataset.normalization = "standardize"
    config.batch_size = 64
    config.optimizer = OptimizerConfig(
        learning_rate=0.01,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.0003,
        schedule="linear",
    )
    return config
