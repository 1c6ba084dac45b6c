"""A modern recipe for the study notes' 'improved' LeNet on Fashion-MNIST in 20 epochs.

python -m experiments.train --config=experiments/configs/best/lenet_improved.py \
    --workdir=runs/best_lenet_improved

Its values are usual ones, not tuned (experiments/reports/recipes.md).
"""

from cnn_jax.config import AugmentConfig, Config, OptimizerConfig
from experiments.configs import lenet_improved


def get_config(options: str = "") -> Config:
    config = lenet_improved.get_config(options)
    config.model.kernel_init = "he_normal"
    config.model.bias_init = "zeros"
    config.dataset.normalization = "standardize"
    config.augment = AugmentConfig(flip=True)
    config.batch_size = 128
    config.epochs = 2 if config.epochs == 2 else 20
    config.optimizer = OptimizerConfig(
        learning_rate=0.05,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.0005,
        schedule="linear",
    )
    return config
