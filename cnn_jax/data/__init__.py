"""Data sets as uint8 arrays in memory: where they come from, their order, their batches."""

from cnn_jax.data.arrays import load_npz as load_npz
from cnn_jax.data.catalog import NAMES as NAMES
from cnn_jax.data.catalog import load as load
from cnn_jax.data.catalog import parse_name as parse_name
from cnn_jax.data.dataset import DataError as DataError
from cnn_jax.data.dataset import DataNotFoundError as DataNotFoundError
from cnn_jax.data.dataset import Dataset as Dataset
from cnn_jax.data.dataset import fingerprint as fingerprint
from cnn_jax.data.folders import load_folder as load_folder
from cnn_jax.data.folders import visible_entries as visible_entries
from cnn_jax.data.names import match_class as match_class
from cnn_jax.data.notes import DataWarning as DataWarning
from cnn_jax.data.originals import DATASETS as DATASETS
from cnn_jax.data.originals import DEFAULT_DATA_DIR as DEFAULT_DATA_DIR
from cnn_jax.data.originals import Info as Info
from cnn_jax.data.pictures import decode_picture as decode_picture
from cnn_jax.data.sampling import batches as batches
from cnn_jax.data.sampling import epoch_order as epoch_order
from cnn_jax.data.sampling import split as split
from cnn_jax.data.sampling import subset as subset
from cnn_jax.data.shapes import synthetic as synthetic
from cnn_jax.data.statistics import border_brightness as border_brightness
from cnn_jax.data.statistics import border_statistics as border_statistics
from cnn_jax.data.statistics import channel_statistics as channel_statistics
from cnn_jax.data.statistics import cosines as cosines
from cnn_jax.data.statistics import spectrum_statistics as spectrum_statistics
