"""The best recipe found for LeNet with sigmoids and average pooling on Fashion-MNIST in 10 epochs.

python -m experiments.train --config=experiments/configs/best/lenet.py --workdir=runs/best_lenet

Its values were chosen on held-out training examples (experiments/reports/recipes.md).
"""

from cnn_jax.config import Config, OptimizerConfig, parse_options
from experiments.configs import lenet


def get_config(options: str = "") -> Config:
    parse_options(options, smoke=False)
    config = lenet.get_config(options)
    config.model.kernel_init = "he_normal"
    config.model.bias_init = "zeros"
    config.dataset.normalization = "standardize"
    config.batch_size = 64
    config.optimizer = OptimizerConfig(
        learning_rate=0.3, momentum=0.9, nesterov=True, schedule="cosine"
    )
    return config
