"""The best recipe found for LeNet with sigmoids and max pooling on Fashion-MNIST in 10 epochs.

python -m experiments.train --config=experiments/configs/best/lenet_max.py \
    --workdir=runs/best_lenet_max

`best/lenet_max.py:smoke` runs a few seconds on the small set that ships with the package.

It is best/lenet.py's, which is there explained, with max pooling. Chosen with
`--config.dataset.holdout=0.1`, never on the test set; experiments/reports/results.md has the test
accuracy with its spread.
"""

from cnn_jax.config import Config, parse_options
from experiments.configs.best import lenet


def get_config(options: str = "") -> Config:
    """Returns the experiment; `smoke` is the only option."""
    parse_options(options, smoke=False)
    config = lenet.get_config(options)
    config.model.name = "lenet_max"
    config.model.pool = "max"
    return config
