"""A perceptron with dropout, 784–256–256–10 ("Dive into Deep Learning", section 4.6).

python -m experiments.train --config=experiments/configs/mlp_dropout.py --workdir=runs/mlp_dropout

Dropout zeroes 0.2 of the first hidden layer and 0.5 of the second. `mlp_dropout.py:smoke` runs a
few seconds on the small set that ships with the package.

Published test accuracy: median .856 of the book's builds (.844 to .867) with this initialization,
.860 (.845 to .867) with PyTorch's.

Here: .8484 ± .0081 over 5 seeds, 21 s of training steps a run, on two shared CPU cores
(experiments/reports/results.md).
"""

from cnn_jax.config import Config, DatasetConfig, ModelConfig, OptimizerConfig, parse_options


def get_config(options: str = "") -> Config:
    """Returns the experiment."""
    chosen = parse_options(options, smoke=False)
    config = Config(
        dataset=DatasetConfig(name="fashion_mnist"),
        model=ModelConfig(
            name="mlp_dropout",
            hidden=(256, 256),
            dropout=(0.2, 0.5),
            kernel_init="normal_0.01",
            bias_init="torch",  # the book sets the weights and leaves the biases as they are
        ),
        optimizer=OptimizerConfig(learning_rate=0.5),
        epochs=10,
        batch_size=256,
    )
    if chosen.smoke:
        config.dataset.name = "fashion_mnist_mini"
        config.epochs = 3
    return config
