"""A multilayer perceptron, 784–256–10, on Fashion-MNIST ("Dive into Deep Learning", section 4.3).

python -m experiments.train --config=experiments/configs/mlp.py --workdir=runs/mlp

`mlp.py:smoke` takes seconds, on the small set that ships with the package.

Test accuracy: .8456 ± .0056 over 5 seeds; published .844 (experiments/reports/recipes.md).
"""

from cnn_jax.config import Config, DatasetConfig, ModelConfig, OptimizerConfig, parse_options


def get_config(options: str = "") -> Config:
    chosen = parse_options(options, smoke=False)
    config = Config(
        dataset=DatasetConfig(name="fashion_mnist"),
        model=ModelConfig(name="mlp", hidden=(256,), kernel_init="normal_0.01", bias_init="zeros"),
        optimizer=OptimizerConfig(learning_rate=0.1),
        epochs=10,
        batch_size=256,
    )
    if chosen.smoke:
        config.dataset.name = "fashion_mnist_mini"
        config.epochs = 3
    return config
