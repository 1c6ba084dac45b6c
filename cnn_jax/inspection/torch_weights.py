"""`cnn_jax.torch_weights`, by the name that it had here first."""

from cnn_jax.torch_weights import from_torch, list_tensors, load_torch, save_torch, to_torch

__all__ = ["from_torch", "list_tensors", "load_torch", "save_torch", "to_torch"]
