"""The small CIFAR-10 network: three 5×5 convolutions; linear as course notes have it, or ReLU.

python -m experiments.train --config=experiments/configs/cifar_quick.py --workdir=runs/cifar_quick

`cifar_quick.py:activation=relu`; `cifar_quick.py:smoke` takes seconds, on synthetic images.

Test accuracy: .5443 ± .0240 over 5 seeds, with ReLU .4727 ± .0172 over 3 seeds; published .5585
(experiments/reports/recipes.md).
"""

from cnn_jax.config import Config, DatasetConfig, ModelConfig, OptimizerConfig, parse_options


def get_config(options: str = "") -> Config:
    chosen = parse_options(options, activation="identity", smoke=False)
    config = Config(
        dataset=DatasetConfig(name="cifar10"),
        model=ModelConfig(
            name="cifar_quick",
            activation=chosen.activation,
            kernel_init="torch",
            bias_init="torch",
        ),
        optimizer=OptimizerConfig(learning_rate=0.01),
        epochs=10,
        batch_size=64,
    )
    if chosen.smoke:
        config.dataset.name = "synthetic:size=32,channels=3,train=1024,test=256"
        config.epochs = 2
        config.eval_batch_size = 256
    return config
