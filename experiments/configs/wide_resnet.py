"""WRN-28-10 on CIFAR-10 as Zagoruyko and Komodakis, 2016, trained it. For a GPU.

python -m experiments.train --config=experiments/configs/wide_resnet.py --workdir=runs/wrn28_10

`wide_resnet.py:model=wrn16_4` is smaller; `wide_resnet.py:dropout=0.3` adds the paper's dropout;
`wide_resnet.py:smoke` takes a minute on two CPU cores.

Published test accuracy: .9600; not run yet here (experiments/reports/recipes.md).
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
    chosen = parse_options(options, model="wrn28_10", dropout=0.0, smoke=False)
    config = Config(
        dataset=DatasetConfig(name="cifar10", normalization="standardize"),
        augment=AugmentConfig(pad=4, flip=True),
        model=ModelConfig(name=chosen.model, dropout=(chosen.dropout,)),
        optimizer=OptimizerConfig(
            learning_rate=0.1,
            momentum=0.9,
            nesterov=True,
            weight_decay=0.0005,
            schedule="step",
            step_epochs=(60.0, 120.0, 160.0),
            step_factor=0.2,
        ),
        epochs=200,
        batch_size=128,
    )
    if chosen.smoke:
        config.dataset.name = "synthetic:size=32,channels=3,train=256,test=256"
        config.model.stages = ((1, 32), (1, 64), (1, 128))
        config.model.width = 0.25
        config.optimizer.step_epochs = (1.0,)
        config.epochs = 2
        config.batch_size = 32
        config.eval_batch_size = 256
    return config
