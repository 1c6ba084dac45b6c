"""Softmax regression on Fashion-MNIST, as "Dive into Deep Learning", section 3.7, has it.

python -m experiments.train --config=experiments/configs/softmax.py --workdir=runs/softmax

`softmax.py:smoke` runs a few seconds on the small set that ships with the package.

Published test accuracy: median .831 of the book's builds (.808 to .836). The study notes ask for a
loss below 0.5 and accuracies in (0.7, 1].

Here: .8319 ± .0040 over 5 seeds, 2 s of training steps a run, on two shared CPU cores
(experiments/reports/results.md).
"""

from cnn_jax.config import Config, DatasetConfig, ModelConfig, OptimizerConfig, parse_options


def get_config(options: str = "") -> Config:
    """Returns the experiment."""
    chosen = parse_options(options, smoke=False)
    config = Config(
        dataset=DatasetConfig(name="fashion_mnist"),
        model=ModelConfig(name="softmax", kernel_init="normal_0.01", bias_init="zeros"),
        optimizer=OptimizerConfig(learning_rate=0.1),
        epochs=10,
        batch_size=256,
    )
    if chosen.smoke:
        config.dataset.name = "fashion_mnist_mini"
        config.epochs = 3
    return config
