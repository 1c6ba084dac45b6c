"""AlexNet on Fashion-MNIST ("Dive into Deep Learning", section 7.1, 8.1 in English). For a GPU.

python -m experiments.train --config=experiments/configs/alexnet.py --workdir=runs/alexnet

`alexnet.py:notes=true` is the study notes' version with one hidden dense layer; `alexnet.py:smoke`
takes a minute on two CPU cores.

Published test accuracy: .881 (experiments/reports/recipes.md).
"""

from cnn_jax.config import Config, DatasetConfig, ModelConfig, OptimizerConfig, parse_options


def get_config(options: str = "") -> Config:
    chosen = parse_options(options, notes=False, smoke=False)
    config = Config(
        dataset=DatasetConfig(name="fashion_mnist", image_size=224),
        model=ModelConfig(
            name="alexnet_notes" if chosen.notes else "alexnet",
            kernel_init="xavier_uniform",
            bias_init="torch",
        ),
        optimizer=OptimizerConfig(learning_rate=0.01),
        epochs=10,
        batch_size=128,
        eval_batch_size=200,
    )
    if chosen.smoke:
        config.dataset = DatasetConfig(name="fashion_mnist_mini", image_size=96, train_examples=512)
        config.model.width = 0.25
        config.model.hidden = (256,) if chosen.notes else (256, 256)
        config.epochs = 2
        config.batch_size = 32
    return config
