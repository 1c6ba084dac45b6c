"""RegNetX-32 on Fashion-MNIST ("Dive into Deep Learning", section 8.8 in English). For a GPU.

python -m experiments.train --config=experiments/configs/regnetx32_book.py \
    --workdir=runs/regnetx32_book

`regnetx32_book.py:smoke` takes a minute on two CPU cores.

Published test accuracy: .8895; not run yet here (experiments/reports/recipes.md).
"""

from cnn_jax.config import Config, DatasetConfig, ModelConfig, OptimizerConfig, parse_options


def get_config(options: str = "") -> Config:
    chosen = parse_options(options, smoke=False)
    config = Config(
        dataset=DatasetConfig(name="fashion_mnist", image_size=96),
        model=ModelConfig(name="regnetx32_book", bias_init="torch"),
        optimizer=OptimizerConfig(learning_rate=0.05),
        epochs=10,
        batch_size=128,
        eval_batch_size=200,
    )
    if chosen.smoke:
        config.dataset = DatasetConfig(name="fashion_mnist_mini", image_size=32, train_examples=512)
        config.model.stages = ((1, 16), (2, 32))
        config.epochs = 2
        config.batch_size = 32
    return config
