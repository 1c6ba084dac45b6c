"""A modern recipe for AlexNet on Fashion-MNIST in 10 epochs, at the book's resolution.

python -m experiments.train --config=experiments/configs/best/alexnet.py --workdir=runs/best_alexnet

`best/alexnet.py:smoke` runs a narrow network on small pictures, about a minute on two CPU cores.

Beside the book's recipe (experiments/configs/alexnet.py): He's initialization, standardized
pictures, mirrored ones, Nesterov momentum, weight decay, label smoothing, an epoch of warm-up and a
rate that falls to 0 as a cosine. Meant for a GPU; not run in full yet: the values are those that
such networks are usually trained with, and not tuned.
"""

from cnn_jax.config import AugmentConfig, Config, OptimizerConfig, parse_options
from experiments.configs import alexnet


def get_config(options: str = "") -> Config:
    """Returns the experiment; `smoke` is the only option."""
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
