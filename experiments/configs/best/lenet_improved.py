"""A modern recipe for the study notes' 'improved' LeNet on Fashion-MNIST in 20 epochs; not tuned.

python -m experiments.train --config=experiments/configs/best/lenet_improved.py \
    --workdir=runs/best_lenet_improved

`best/lenet_improved.py:smoke` runs a few seconds on the small set that ships with the package.

Beside the notes' recipe (experiments/configs/lenet_improved.py): He's initialization, standardized
pictures, mirrored ones, batches of 128, Nesterov momentum, weight decay, a rate that falls linearly
to 0 in 20 epochs, where the notes take 50.
"""

from cnn_jax.config import AugmentConfig, Config, OptimizerConfig, parse_options
from experiments.configs import lenet_improved


def get_config(options: str = "") -> Config:
    """Returns the experiment; `smoke` is the only option."""
    parse_options(options, smoke=False)
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
