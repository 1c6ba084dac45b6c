"""AlexNet on Fashion-MNIST, as "Dive into Deep Learning", section 7.1 (8.1 in English), has it.

python -m experiments.train --config=experiments/configs/alexnet.py --workdir=runs/alexnet

Options: `alexnet.py:notes=true` for the study notes' version with one hidden dense layer;
`alexnet.py:smoke` for a narrow network on small pictures, under a minute on two CPU cores.

Pictures are enlarged to 224×224 on the device. Published test accuracy: median .881 of 82 builds of
the book (.860 to .886), .895 with MXNet; .902 with Adam. Meant for a GPU: a CPU needs about a day.
"""

from cnn_jax.config import Config, DatasetConfig, ModelConfig, OptimizerConfig, parse_options


def get_config(options: str = "") -> Config:
    """Returns the experiment."""
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
