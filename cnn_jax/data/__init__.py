"""Data sets as uint8 arrays in memory: where they come from, their order, their batches."""

from cnn_jax.data.catalog import DATASETS as DATASETS
from cnn_jax.data.catalog import load as load
from cnn_jax.data.dataset import DataError as DataError
from cnn_jax.data.dataset import Dataset as Dataset
from cnn_jax.data.dataset import channel_statistics as channel_statistics
from cnn_jax.data.sampling import batches as batches
from cnn_jax.data.sampling import epoch_order as epoch_order
from cnn_jax.data.sampling import split as split
from cnn_jax.data.sampling import subset as subset
