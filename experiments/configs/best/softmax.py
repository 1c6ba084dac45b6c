"""The best recipe found for softmax regression on Fashion-MNIST in 10 epochs.

python -m experiments.train --config=experiments/configs/best/softmax.py --workdir=runs/best_softmax

Its values were chosen on held-out training examples (experiments/reports/recipes.md).
"""

from cnn_jax.config import Config, OptimizerConfig
from experiments.configs import softmax


def get_config(options: str = "") -> Config:
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
