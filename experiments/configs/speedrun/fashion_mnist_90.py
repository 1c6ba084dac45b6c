"""90 % on Fashion-MNIST as soon as two CPU cores can: LeNet with ReLU and batch normalization.

python -m experiments.speedrun --config=experiments/configs/speedrun/fashion_mnist_90.py \
    --mark=0.90 --runs=10

Its values were chosen on held-out training examples (experiments/reports/recipes.md); the numbers
are in experiments/reports/speedrun_cpu.json.
"""

from cnn_jax.config import AugmentConfig, Config, OptimizerConfig
from experiments.configs import lenet_bn


def get_config(options: str = "") -> Config:
    config = lenet_bn.get_config(options)
    config.model.activation = "relu"
    config.model.pool = "max"
    config.model.kernel_init = "he_normal"
    config.model.bias_init = "zeros"
    config.dataset.normalization = "standardize"
    config.augment = AugmentConfig(flip=True)
    config.epochs = min(config.epochs, 4)
    config.batch_size = 64
    config.optimizer = OptimizerConfig(
        learning_rate=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.0005,
        schedule="linear",
    )
    return config
