"""The best recipe found for the perceptron 784–256–10 on Fashion-MNIST in 10 epochs.

python -m experiments.train --config=experiments/configs/best/mlp.py --workdir=runs/best_mlp

Its values were chosen on held-out training examples (experiments/reports/recipes.md).
"""

from cnn_jax.config import AugmentConfig, Config, OptimizerConfig
from experiments.configs import mlp


def get_config(options: str = "") -> Config:
    config = mlp.get_config(options)
    config.model.activation = "gelu"
    config.model.kernel_init = "orthogonal"
    config.dataset.normalization = "whiten"
    config.augment = AugmentConfig(pad=1, pad_probability=0.5)
    config.batch_size = 32
    config.label_smoothing = 0.05
    config.optimizer = OptimizerConfig(
        learning_rate=0.015,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.0005,
        schedule="linear",
    )
    return config
