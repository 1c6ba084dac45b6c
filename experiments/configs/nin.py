"""Network in network on Fashion-MNIST ("Dive into Deep Learning", section 7.3). For a GPU.

python -m experiments.train --config=experiments/configs/nin.py --workdir=runs/nin

`nin.py:book` starts from the book's weights and biases; `nin.py:smoke` takes a minute on two CPU
cores.

Published test accuracy: .844 (experiments/reports/recipes.md).
"""

from cnn_jax.config import Config, DatasetConfig, ModelConfig, OptimizerConfig, parse_options


def get_config(options: str = "") -> Config:
    chosen = parse_options(options, book=False, smoke=False)
    config = Config(
        dataset=DatasetConfig(name="fashion_mnist", image_size=224),
        model=ModelConfig(name="nin"),
        optimizer=OptimizerConfig(learning_rate=0.1),
        epochs=10,
        batch_size=128,
        eval_batch_size=200,
    )
    if chosen.book:
        config.model.kernel_init = "xavier_uniform"
        config.model.bias_init = config.model.class_bias_init = "torch"
    if chosen.smoke:
        config.dataset = DatasetConfig(name="fashion_mnist_mini", image_size=96, train_examples=512)
        config.model.width = 0.25
        config.epochs = 2
        config.batch_size = 32
    return config
