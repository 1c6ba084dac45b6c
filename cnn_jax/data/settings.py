"""The options of the data: which set, how much of it, and how it becomes the network's input."""

from dataclasses import dataclass
from typing import Literal

from cnn_jax.options import BELOW_ONE, PIXELS, POSITIVE, bits, option, whole


@dataclass
class DatasetConfig:
    """What is trained on, and how a picture becomes the network's input."""

    # fashion_mnist, mnist, cifar10, fashion_mnist_mini, synthetic[:options], or the path of a
    # folder of class folders or of an .npz file.
    name: str = "fashion_mnist"
    # The folder of the prepared data sets; None: ./data.
    data_dir: str | None = None
    # A stratified subset of so many training examples; 0: all of them.
    train_examples: int = option(0, whole(0, 10**9))
    # This fraction of the training set is held out and evaluated in place of the test set: the
    # way to choose hyperparameters without looking at the test set. 0: the real test set.
    holdout: float = option(0.0, BELOW_ONE)
    # Decides which examples `train_examples` and `holdout` take; the same for all seeds of a run.
    split_seed: int = option(0, bits(63))
    # Pictures are resized to so many pixels square, on the device; 0: left as they are.
    image_size: int = option(0, PIXELS)
    # 'unit': pixels / 255. 'standardize': also minus the mean, over the standard deviation, of
    # the training pixels of each channel. 'whiten': minus the mean training picture, then each
    # spatial frequency over √(its variance + whiten_epsilon), then to variance 1; after
    # augmentation, before resizing.
    normalization: Literal["unit", "standardize", "whiten"] = "unit"
    # The variances grow with the number of pixels; Fashion-MNIST's fall from 12 to 0.001, 11 of 784
    # are above 1. So 1 damps the few low frequencies that are most of a picture there, and less
    # whitens more.
    whiten_epsilon: float = option(1.0, POSITIVE)
