"""VGG with a quarter of the channels on Fashion-MNIST ("Dive into Deep Learning", section 7.2).

python -m experiments.train --config=experiments/configs/vgg.py --workdir=runs/vgg

Options: `vgg.py:depth=16` for VGG-11, -13, -16 or -19; `vgg.py:width=1.0` for the paper's channels;
`vgg.py:norm=batch`; `vgg.py:smoke` for a minute on two CPU cores.

Published test accuracy: .919 (experiments/reports/recipes.md). For a GPU.
"""

from cnn_jax.config import Config, DatasetConfig, ModelConfig, OptimizerConfig, parse_options


def get_config(options: str = "") -> Config:
    chosen = parse_options(options, depth=11, width=0.25, norm="none", smoke=False)
    config = Config(
        dataset=DatasetConfig(name="fashion_mnist", image_size=224),
        model=ModelConfig(
            name=f"vgg{chosen.depth}",
            width=chosen.width,
            norm=chosen.norm,
            kernel_init="xavier_uniform",
            bias_init="torch",
        ),
        optimizer=OptimizerConfig(learning_rate=0.05),
        epochs=10,
        batch_size=128,
        eval_batch_size=200,
    )
    if chosen.smoke:
        config.dataset = DatasetConfig(name="fashion_mnist_mini", image_size=32, train_examples=512)
        config.model.width = 0.125
        config.model.hidden = (256, 256)
        config.epochs = 2
        config.batch_size = 32
    return config
