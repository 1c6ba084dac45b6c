"""A modern recipe for the small CIFAR-10 network with ReLU in 10 epochs; not tuned, not run yet.

python -m experiments.train --config=experiments/configs/best/cifar_quick.py \
    --workdir=runs/best_cifar_quick

`best/cifar_quick.py:smoke` runs a few seconds on small synthetic pictures.

Beside experiments/configs/cifar_quick.py: ReLU, batch normalization, He's initialization,
standardized pictures, mirrored and shifted ones, Nesterov momentum, weight decay, a rate that falls
linearly to 0.
"""

from cnn_jax.config import AugmentConfig, Config, OptimizerConfig, parse_options
from experiments.configs import cifar_quick


def get_config(options: str = "") -> Config:
    """Returns the experiment; `smoke` is the only option."""
    parse_options(options, smoke=False)
    config = cifar_quick.get_config(options)
    config.model.activation = "relu"
    config.model.norm = "batch"
    config.model.kernel_init = "he_normal"
    config.model.bias_init = "zeros"
    config.dataset.normalization = "standardize"
    config.augment = AugmentConfig(flip=True, pad=2)
    config.optimizer = OptimizerConfig(
        learning_rate=0.05,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.0005,
        schedule="linear",
    )
    return config
