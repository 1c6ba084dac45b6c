"""A modern recipe for network in network on Fashion-MNIST in 10 epochs, at the book's resolution.

python -m experiments.train --config=experiments/configs/best/nin.py --workdir=runs/best_nin

`best/nin.py:smoke` runs a narrow network on small pictures, about a minute on two CPU cores.

Beside the book's recipe (experiments/configs/nin.py): standardized pictures, mirrored ones,
Nesterov momentum, weight decay, label smoothing, an epoch of warm-up and a rate that falls to 0 as
a cosine. Meant for a GPU; not run in full yet: the values are those that such networks are usually
trained with, and not tuned.
"""

from cnn_jax.config import AugmentConfig, Config, OptimizerConfig, parse_options
from experiments.configs import nin


def get_config(options: str = "") -> Config:
    """Returns the experiment; `smoke` is the only option."""
    parse_options(options, smoke=False)
    config = nin.get_config(options)
    config.dataset.normalization = "standardize"
    config.augment = AugmentConfig(flip=True)
    config.label_smoothing = 0.1
    config.optimizer = OptimizerConfig(
        learning_rate=0.02,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.0005,
        schedule="cosine",
        warmup_epochs=config.epochs / 10,
    )
    return config
