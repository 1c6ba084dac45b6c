"""Figures of runs and networks, also for TensorBoard. What is drawn is computed elsewhere."""

from cnn_jax.lazy import import_when_asked

__all__ = [
    "evaluated",
    "gallery",
    "image_plots",
    "notebook",
    "plots",
    "run_figures",
    "style",
    "tensorboard",
]
__getattr__, __dir__ = import_when_asked(__name__, __all__)
