"""Data sets as uint8 arrays in memory: where they come from, their order, their batches."""

from cnn_jax.data.arrays import load_npz
from cnn_jax.data.catalog import SOURCES, load, parse_name, read_fit, short_name
from cnn_jax.data.dataset import (
    AnyDataset,
    ArrayStream,
    Dataset,
    Stream,
    StreamedDataset,
    fingerprint,
)
from cnn_jax.data.folders import load_folder
from cnn_jax.data.listing import visible_entries
from cnn_jax.data.names import match_class
from cnn_jax.data.notes import DataWarning
from cnn_jax.data.originals import DEFAULT_DATA_DIR
from cnn_jax.data.pictures import FITS, Fit, decode_picture
from cnn_jax.data.published import DATASETS
from cnn_jax.data.sampling import batches, choose_classes, epoch_order, split, subset
from cnn_jax.data.settings import DatasetConfig
from cnn_jax.data.shapes import synthetic
from cnn_jax.data.statistics import (
    border_brightness,
    border_statistics,
    channel_statistics,
    cosines,
    spectrum_statistics,
)
from cnn_jax.data.tables import load_csv
from cnn_jax.errors import DataError, DataNotFoundError
