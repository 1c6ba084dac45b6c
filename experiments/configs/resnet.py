"""ResNet-20 on CIFAR-10 as He et al., section 4.2, trained it: 64,000 steps. For a GPU.

python -m experiments.train --config=experiments/configs/resnet.py --workdir=runs/resnet20

Options: `resnet.py:depth=56` for 20, 32, 44, 56 or 110 layers; `resnet.py:plain` for the network
without shortcuts; `resnet.py:preactivation`; `resnet.py:cpu` for half the channels and 10,000
images of Fashion-MNIST; `resnet.py:smoke` for a minute on two CPU cores.

Published test accuracy: .9125; not run yet here (experiments/reports/recipes.md).
"""

from cnn_jax.config import (
    AugmentConfig,
    Config,
    DatasetConfig,
    ModelConfig,
    OptimizerConfig,
    parse_options,
)


def get_config(options: str = "") -> Config:
    chosen = parse_options(
        options, depth=20, plain=False, preactivation=False, cpu=False, smoke=False
    )
    config = Config(
        dataset=DatasetConfig(name="cifar10", normalization="standardize"),
        augment=AugmentConfig(pad=4, flip=True),
        model=ModelConfig(name=f"{'plain' if chosen.plain else 'resnet'}{chosen.depth}"),
        optimizer=OptimizerConfig(
            learning_rate=0.1,
            momentum=0.9,
            weight_decay=0.0001,
            schedule="step",
            step_epochs=(82.0, 123.0),
            warmup_epochs=1.0 if chosen.depth >= 110 else 0.0,
        ),
        epochs=164,
        batch_size=128,
    )
    if chosen.preactivation:
        config.model.preactivation = True
    if chosen.cpu:
        config.dataset.name = "fashion_mnist"
        config.dataset.train_examples = 10000
        config.augment.pad = 2
        config.model.width = 0.5
        config.optimizer.step_epochs = (15.0, 23.0)
        config.epochs = 30
    if chosen.smoke:
        config.dataset.name = "synthetic:size=32,channels=3,train=512,test=256"
        config.model.width = 0.5
        config.optimizer.step_epochs = (1.0,)
        config.optimizer.warmup_epochs = 0.0
        config.epochs = 2
        config.batch_size = 32
        config.eval_batch_size = 256
    return config
