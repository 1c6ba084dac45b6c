"""The best recipe found for the small CIFAR-10 network with ReLU in 10 epochs.

python -m experiments.train --config=experiments/configs/best/cifar_quick.py \
    --workdir=runs/best_cifar_quick

Its values were chosen on held-out training examples (experiments/reports/recipes.md).
"""

from cnn_jax.config import AugmentConfig, Config, OptimizerConfig, parse_options
from experiments.configs import cifar_quick


def get_config(options: str = "") -> Config:
    parse_options(options, smoke=False)
    config = cifar_quick.get_config(options)
    config.model.activation = "relu"
    config.model.norm = "batch"
    config.model.kernel_init = "he_normal"
    config.model.bias_init = "zeros"
    config.dataset.normalization = "standardize"
    config.augment = AugmentConfig(flip=True, pad=1)
    config.label_smoothing = 0.1
    config.optimizer = OptimizerConfig(
        learning_rate=0.02,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.002,
        schedule="linear",
    )
    return config
