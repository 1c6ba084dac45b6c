"""LeNet on Fashion-MNIST ("Dive into Deep Learning", section 6.6).

python -m experiments.train --config=experiments/configs/lenet.py --workdir=runs/lenet

`lenet.py:pool=max` has max pooling; `lenet.py:smoke` takes seconds, on the small set that ships
with the package.

Test accuracy: .8105 ± .0086 over 5 seeds; published .808 (experiments/reports/recipes.md).
"""

from cnn_jax.config import Config, DatasetConfig, ModelConfig, OptimizerConfig, parse_options


def get_config(options: str = "") -> Config:
    chosen = parse_options(options, pool="avg", smoke=False)
    config = Config(
        dataset=DatasetConfig(name="fashion_mnist"),
        model=ModelConfig(
            name="lenet", pool=chosen.pool, kernel_init="xavier_uniform", bias_init="torch"
        ),
        optimizer=OptimizerConfig(learning_rate=0.9),
        epochs=10,
        batch_size=256,
    )
    if chosen.smoke:
        config.dataset.name = "fashion_mnist_mini"
        config.epochs = 2
    return config
