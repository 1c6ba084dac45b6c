"""A perceptron with dropout, 784–256–256–10 ("Dive into Deep Learning", section 4.6).

python -m experiments.train --config=experiments/configs/mlp_dropout.py --workdir=runs/mlp_dropout

`mlp_dropout.py:smoke` takes seconds, on the small set that ships with the package.

Test accuracy: .8484 ± .0081 over 5 seeds; published .856 (experiments/reports/recipes.md).
"""

from cnn_jax.config import Config, DatasetConfig, ModelConfig, OptimizerConfig, parse_options


def get_config(options: str = "") -> Config:
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
