"""What a network is and what it sees: its layers, data flow, features and weights."""

from cnn_jax.lazy import import_when_asked

__all__ = [
    "attribution",
    "dataflow",
    "evaluation",
    "layer_table",
    "taps",
    "torch_weights",
    "trained_network",
]
__getattr__, __dir__ = import_when_asked(__name__, __all__)
