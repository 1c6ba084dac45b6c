"""The best recipe found for LeNet with sigmoids and max pooling on Fashion-MNIST in 10 epochs.

python -m experiments.train --config=experiments/configs/best/lenet_max.py \
    --workdir=runs/best_lenet_max

Its values were chosen on held-out training examples (experiments/reports/recipes.md).
"""

from cnn_jax.config import Config
from experiments.configs.best import lenet


def get_config(options: str = "") -> Config:
    config = lenet.get_config(options)
    config.model.name = "lenet_max"
    config.model.pool = "max"
    return config
