"""`fashion_mnist_mini`: a slice of Fashion-MNIST that comes with the package.

Fashion-MNIST is © 2017 Zalando SE, under the MIT license beside the file.
"""

from pathlib import Path

import numpy as np

from cnn_jax import files
from cnn_jax.data.arrays import load_npz
from cnn_jax.data.dataset import Dataset
from cnn_jax.data.sampling import stratified

MINI_FILE = Path(__file__).with_name("fashion_mnist_mini.npz")
TRAIN_SIZE, TEST_SIZE, SEED = 2_000, 1_000, 0


def load_mini() -> Dataset:
    """Loads the 2,000 training and 1,000 test images, each class equally often."""
    return load_npz(MINI_FILE, origin="Fashion-MNIST, the slice that comes with cnn_jax")


def write_mini(dataset: Dataset, path: str | Path = MINI_FILE) -> None:
    """Makes the file that comes with the package from the whole of Fashion-MNIST.

    Raises:
      OSError: the system refused it; the previous file is left whole.
    """
    train = stratified(dataset.train_labels, TRAIN_SIZE, SEED)
    test = stratified(dataset.test_labels, TEST_SIZE, SEED)
    with files.replacing(Path(path)) as file:
        np.savez_compressed(
            file,
            train_images=dataset.train_images[train],
            train_labels=dataset.train_labels[train].astype(np.uint8),
            test_images=dataset.test_images[test],
            test_labels=dataset.test_labels[test].astype(np.uint8),
            class_names=np.array(dataset.class_names),
        )
