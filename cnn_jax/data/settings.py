"""The options of the data."""

from dataclasses import dataclass, field
from typing import Literal

from cnn_jax.data.streams.settings import StreamConfig
from cnn_jax.options import BELOW_ONE, PIXELS, POSITIVE, bits, option, whole


@dataclass
class DatasetConfig:
    """The data set, and how an image becomes the network's input."""

    # fashion_mnist, mnist, cifar10, cifar100, kmnist, emnist[_SPLIT], fashion_mnist_mini,
    # synthetic[:options], or the path of a folder of class folders, of an .npz or of a .csv, with
    # options as in flowers/:size=64,fit=pad; or of records, ArrayRecord files or tars of pictures.
    name: str = "fashion_mnist"
    # 'memory': the data set is resident on the devices. 'stream': a few batches are, and the next
    # are brought from the host while they are computed. 'auto': resident if there is room for it.
    # The numbers are the same. A folder of class folders is read from its files as it is needed
    # with 'stream' alone, which then cuts images out as `stream` says.
    feed: Literal["auto", "memory", "stream"] = "auto"
    # How pictures become images where they are read from files as they are needed.
    stream: StreamConfig = field(default_factory=StreamConfig)
    # The numbers of the classes to keep, counted from 0, in the order of their new labels; all
    # other examples are left out. None given: all classes.
    classes: tuple[int, ...] = option((), whole(0, 10**6))
    # The folder of the prepared data sets; None: ./data.
    data_dir: str | None = None
    # The size of a stratified subset of the training examples; 0: all of them.
    train_examples: int = option(0, whole(0, 10**9))
    # This fraction of the training set is evaluated in place of the test set, to choose
    # hyperparameters by; 0: the real test set.
    holdout: float = option(0.0, BELOW_ONE)
    # Decides which examples `train_examples` and `holdout` take; the same for all seeds of a run.
    split_seed: int = option(0, bits(63))
    # Images are resized to squares of this side, on the device; 0: not resized.
    image_size: int = option(0, PIXELS)
    # 'unit': pixels / 255. 'standardize': also minus the mean, over the standard deviation, of
    # the training pixels of each channel. 'whiten': minus the mean training image, then each
    # spatial frequency over √(its variance + whiten_epsilon), then to variance 1; after
    # augmentation, before resizing.
    normalization: Literal["unit", "standardize", "whiten"] = "unit"
    # Less whitens more. Fashion-MNIST's variances fall from 12 to 0.001, 11 of 784 are above 1.
    whiten_epsilon: float = option(1.0, POSITIVE)
