"""Network in network on Fashion-MNIST, as "Dive into Deep Learning", section 7.3, has it.

python -m experiments.train --config=experiments/configs/nin.py --workdir=runs/nin

`nin.py:smoke` runs a narrow network on small pictures, under a minute on two CPU cores.

Pictures are enlarged to 224×224 on the device. Published test accuracy: median .844 of 74 builds of
the book (.100 to .885), .891 with MXNet. Some builds stayed at chance with this recipe, so watch
the first epoch. Meant for a GPU.
"""

from cnn_jax.config import Config, DatasetConfig, ModelConfig, OptimizerConfig, parse_options


def get_config(options: str = "") -> Config:
    """Returns the experiment."""
    chosen = parse_options(options, smoke=False)
    config = Config(
        dataset=DatasetConfig(name="fashion_mnist", image_size=224),
        model=ModelConfig(name="nin", kernel_init="xavier_uniform", bias_init="torch"),
        optimizer=OptimizerConfig(learning_rate=0.1),
        epochs=10,
        batch_size=128,
        eval_batch_size=200,
    )
    if chosen.smoke:
        config.dataset = DatasetConfig(name="fashion_mnist_mini", image_size=96, train_examples=512)
        config.model.width = 0.25
        config.epochs = 2
        config.batch_size = 32
    return config
