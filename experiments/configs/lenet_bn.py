"""LeNet with batch normalization on Fashion-MNIST ("Dive into Deep Learning", section 7.5).

python -m experiments.train --config=experiments/configs/lenet_bn.py --workdir=runs/lenet_bn

`lenet_bn.py:smoke` takes seconds, on the small set that ships with the package.

Test accuracy: .8516 ± .0346 over 5 seeds; published .843 (experiments/reports/recipes.md).
"""

from cnn_jax.config import Config, DatasetConfig, ModelConfig, OptimizerConfig, parse_options


def get_config(options: str = "") -> Config:
    chosen = parse_options(options, smoke=False)
    config = Config(
        dataset=DatasetConfig(name="fashion_mnist"),
        model=ModelConfig(name="lenet_bn", kernel_init="xavier_uniform", bias_init="torch"),
        optimizer=OptimizerConfig(learning_rate=1.0),
        epochs=10,
        batch_size=256,
    )
    if chosen.smoke:
        config.dataset.name = "fashion_mnist_mini"
        config.epochs = 2
    return config
