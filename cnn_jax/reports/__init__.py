"""Runs side by side: groups over seeds, significance, tables, published numbers."""

from cnn_jax.lazy import import_when_asked

__all__ = [
    "ablation",
    "comparison",
    "group_figures",
    "published",
    "results",
    "run_groups",
    "significance",
    "study",
    "tables",
]
__getattr__, __dir__ = import_when_asked(__name__, __all__)
