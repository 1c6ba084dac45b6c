"""Softmax regression on Fashion-MNIST ("Dive into Deep Learning", section 3.7).

python -m experiments.train --config=experiments/configs/softmax.py --workdir=runs/softmax

`softmax.py:smoke` takes seconds, on the small set that ships with the package.

Test accuracy: .8319 ± .0040 over 5 seeds; published .831 (experiments/reports/recipes.md).
"""

from cnn_jax.config import Config, DatasetConfig, ModelConfig, OptimizerConfig, parse_options


def get_config(options: str = "") -> Config:
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
