"""GoogLeNet on Fashion-MNIST ("Dive into Deep Learning", section 7.4). For a GPU.

python -m experiments.train --config=experiments/configs/googlenet.py --workdir=runs/googlenet

`googlenet.py:auxiliary` adds the paper's auxiliary classifiers while training; `googlenet.py:book`
starts from the book's weights and biases; `googlenet.py:smoke` takes a minute on two CPU cores.

Published test accuracy: .888 (experiments/reports/recipes.md).
"""

from cnn_jax.config import Config, DatasetConfig, ModelConfig, OptimizerConfig, parse_options


def get_config(options: str = "") -> Config:
    chosen = parse_options(options, auxiliary=False, book=False, smoke=False)
    config = Config(
        dataset=DatasetConfig(name="fashion_mnist", image_size=96),
        model=ModelConfig(name="googlenet", auxiliary=chosen.auxiliary),
        optimizer=OptimizerConfig(learning_rate=0.1),
        epochs=10,
        batch_size=128,
        eval_batch_size=200,
    )
    if chosen.book:
        config.model.kernel_init = "xavier_uniform"
        config.model.bias_init = "torch"
    if chosen.smoke:
        config.dataset = DatasetConfig(name="fashion_mnist_mini", image_size=64, train_examples=256)
        config.model.width = 0.125
        config.epochs = 1
        config.batch_size = 32
    return config
