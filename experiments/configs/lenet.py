"""LeNet on Fashion-MNIST, as "Dive into Deep Learning", section 6.6, has it.

python -m experiments.train --config=experiments/configs/lenet.py --workdir=runs/lenet

Options: `lenet.py:pool=max` for max pooling; `lenet.py:smoke` for a few seconds on the small set
that ships with the package, which shows that all runs and is too short to learn anything (.1000).

The space of the book's exercises (kernel sizes, channels, activation, dense layers, initialization,
rate), as experiments/reports/lenet_space.md has it:

python -m experiments.sweep --config=experiments/configs/lenet.py --workdir=runs/lenet_space \
    --trials=48 --sample='model.kernel_sizes=choice:(3,3),(5,5),(7,5)' \
    --sample='model.channels=choice:(6,16),(10,24),(16,32)' \
    --sample=model.activation=choice:sigmoid,tanh,relu \
    --sample='model.hidden=choice:(120,84),(120,),(256,120,84)' \
    --sample=model.kernel_init=choice:xavier_uniform,he_normal \
    --sample=optimizer.learning_rate=log:0.03,1 \
    --config.dataset.holdout=0.1 --config.dataset.train_examples=20000 --config.epochs=5

The number of convolutions and of epochs, as experiments/reports/lenet_depth.md has them:

python -m experiments.sweep --config=experiments/configs/lenet.py --workdir=runs/lenet_depth \
    --grid='model.channels=(10,),(10,24),(10,24,32)' --grid=epochs=3,10 --grid=seed=0,1,2 \
    --config.model.kernel_sizes='(5,)' --config.model.paddings='(2,)' \
    --config.model.activation=tanh --config.model.kernel_init=he_normal \
    --config.optimizer.learning_rate=0.13 --config.dataset.holdout=0.1 \
    --config.dataset.train_examples=20000

Published test accuracy: .779 to .815 (study notes), median .808 of 130 rebuilds of the book
(.752 to .828); with max pooling .834 (study notes).

Here: .8105 ± .0086 over 5 seeds, 54 s of training steps a run, on two shared CPU cores
(experiments/reports/results.md).
"""

from cnn_jax.config import Config, DatasetConfig, ModelConfig, OptimizerConfig, parse_options


def get_config(options: str = "") -> Config:
    """Returns the experiment."""
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
