"""The best recipe found for LeNet with sigmoids and average pooling on Fashion-MNIST in 10 epochs.

python -m experiments.train --config=experiments/configs/best/lenet.py --workdir=runs/best_lenet

`best/lenet.py:smoke` runs a few seconds on the small set that ships with the package.

Beside the book's recipe (experiments/configs/lenet.py): He's initialization, standardized pictures,
batches of 64, Nesterov momentum, a rate that falls to 0 as a cosine. Chosen with
`--config.dataset.holdout=0.1`, never on the test set; experiments/reports/results.md has the test
accuracy with its spread.
"""

from cnn_jax.config import Config, OptimizerConfig, parse_options
from experiments.configs import lenet


def get_config(options: str = "") -> Config:
    """Returns the experiment; `smoke` is the only option."""
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
