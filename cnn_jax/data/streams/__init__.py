"""Data larger than memory: where their bytes come from, and how these become images."""

from cnn_jax.data.streams.catalog import SOURCES, Kind, find_kind, is_streamed, load, open_parts
from cnn_jax.data.streams.settings import StreamConfig
from cnn_jax.data.streams.source import Parts, Source
from cnn_jax.data.streams.stream import Stream
