"""The best recipe found for the perceptron with dropout on Fashion-MNIST in 10 epochs.

python -m experiments.train --config=experiments/configs/best/mlp_dropout.py \
    --workdir=runs/best_mlp_dropout

It is best/mlp.py's with a dropout that was chosen on held-out training examples
(experiments/reports/recipes.md).
"""

from cnn_jax.config import Config
from experiments.configs import mlp_dropout
from experiments.configs.best import mlp


def get_config(options: str = "") -> Config:
    recipe = mlp.get_config(options)
    recipe.model = mlp_dropout.get_config(options).model
    recipe.model.activation = "gelu"
    recipe.model.kernel_init = "orthogonal"
    recipe.model.bias_init = "zeros"
    recipe.model.dropout = (0.05, 0.05)
    recipe.optimizer.learning_rate = 0.014
    return recipe
