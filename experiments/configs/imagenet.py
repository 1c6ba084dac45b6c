"""Networks as torchvision has them, on a folder of 1000 class folders of large pictures. For a GPU.

python -m experiments.train --config=experiments/configs/imagenet.py --workdir=runs/resnet50 \
    --config.dataset.name=data/imagenet

The recipe of torchvision's ResNets. Random crops want larger images than the network takes, as
--config.dataset.name=data/imagenet:size=256,fit=crop gives; `experiments.evaluate` tells the top-5
accuracy.
`imagenet.py:model=densenet121` is another network; AlexNet and VGG without batch normalization need
--config.optimizer.learning_rate=0.01. `imagenet.py:smoke` takes a minute or two on two CPU cores.

Published top-1 accuracies: experiments/reports/recipes.md; not run yet here.
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
    chosen = parse_options(options, model="resnet50", smoke=False)
    config = Config(
        dataset=DatasetConfig(name="data/imagenet", image_size=224, normalization="standardize"),
        augment=AugmentConfig(flip=True, crop_area=0.08),
        model=ModelConfig(name=chosen.model),
        optimizer=OptimizerConfig(
            learning_rate=0.1,
            momentum=0.9,
            weight_decay=0.0001,
            schedule="step",
            step_epochs=(30.0, 60.0),
        ),
        epochs=90,
        batch_size=256,
        eval_batch_size=256,
    )
    if chosen.smoke:
        config.dataset.name = "synthetic:size=64,channels=3,train=64,test=32"
        config.dataset.image_size = 0
        config.optimizer.learning_rate = 0.01
        config.optimizer.step_epochs = (1.0,)
        config.epochs = 2
        config.batch_size = 16
        config.eval_batch_size = 32
    return config
