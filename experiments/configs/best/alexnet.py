"""A modern recipe for AlexNet on Fashion-MNIST in 10 epochs. For a GPU.

python -m experiments.train --config=experiments/configs/best/alexnet.py --workdir=runs/best_alexnet

Its values are usual ones, not tuned (experiments/reports/recipes.md).
"""

from cnn_jax.config import AugmentConfig, Config, OptimizerConfig, parse_options
from experiments.configs import alexnet


def get_config(options: str = "") -> Config:
    parse_options(options, smoke=False)
    config = alexnet.get_config(options)
    config.model.kernel_init = "he_normal"
    config.model.bias_init = "zeros"
    config.dataset.normalization = "standardize"
    config.augment = AugmentConfig(flip=True)
    config.label_smoothing = 0.1
    config.optimizer = OptimizerConfig(
        learning_rate=0.01,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.0005,
        schedule="cosine",
        warmup_epochs=config.epochs / 10,
    )
    return config
