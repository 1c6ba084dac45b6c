"""A modern recipe for GoogLeNet on Fashion-MNIST in 10 epochs. For a GPU.

python -m experiments.train --config=experiments/configs/best/googlenet.py \
    --workdir=runs/best_googlenet

Its values are usual ones, not tuned (experiments/reports/recipes.md).
"""

from cnn_jax.config import AugmentConfig, Config, OptimizerConfig, parse_options
from experiments.configs import googlenet


def get_config(options: str = "") -> Config:
    parse_options(options, smoke=False)
    config = googlenet.get_config(options)
    config.model.norm = "batch"
    config.dataset.normalization = "standardize"
    config.augment = AugmentConfig(flip=True)
    config.label_smoothing = 0.1
    config.optimizer = OptimizerConfig(
        learning_rate=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.0005,
        schedule="cosine",
        warmup_epochs=config.epochs / 10,
    )
    return config
