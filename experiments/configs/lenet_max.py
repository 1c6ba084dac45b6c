"""LeNet with max pooling on Fashion-MNIST: lenet.py:pool=max under a name of its own.

python -m experiments.train --config=experiments/configs/lenet_max.py --workdir=runs/lenet_max

Test accuracy: .8321 ± .0062 over 5 seeds; published .834 (experiments/reports/recipes.md).
"""

from cnn_jax.config import Config
from experiments.configs import lenet


def get_config(options: str = "") -> Config:
    config = lenet.get_config(",".join(filter(None, ("pool=max", options))))
    config.model.name = "lenet_max"
    return config
