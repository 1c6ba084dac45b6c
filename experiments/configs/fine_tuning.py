"""LeNet with batch normalization, trained on half of Fashion-MNIST's classes, then on the others.

python -m experiments.train --config=experiments/configs/fine_tuning.py:source \\
    --workdir=runs/first_half
python -m experiments.train --config=experiments/configs/fine_tuning.py \\
    --workdir=runs/second_half --config.init_from=runs/first_half

`source` takes all images of five classes, clothes and shoes among them; without it there are 50
images of the other five, and the last layer starts anew. experiments/fine_tuning.md leads through
it. `fine_tuning.py:smoke` takes seconds, on the small set that ships with the package.
"""

from cnn_jax.config import Config, DatasetConfig, ModelConfig, OptimizerConfig, parse_options


def get_config(options: str = "") -> Config:
    chosen = parse_options(options, source=False, smoke=False)
    config = Config(
        dataset=DatasetConfig(name="fashion_mnist", classes=(1, 4, 6, 8, 9), train_examples=50),
        model=ModelConfig(name="lenet_bn", activation="relu", pool="max", kernel_init="he_normal"),
        optimizer=OptimizerConfig(learning_rate=0.02, momentum=0.9),
        epochs=20,
        batch_size=10,
        init_from_skip=("Dense_2",),
    )
    if chosen.source:
        config.dataset.classes, config.dataset.train_examples = (0, 2, 3, 5, 7), 0
        config.epochs, config.batch_size, config.init_from_skip = 3, 100, ()
    if chosen.smoke:
        config.dataset.name = "fashion_mnist_mini"
        config.epochs = 2
    return config
