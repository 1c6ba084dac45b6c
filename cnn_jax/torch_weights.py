"""Weights from and to PyTorch, as state dicts and as safetensors files; PyTorch is not needed.

A state dict maps names to NumPy arrays in the order of the layers, as PyTorch has it: each layer's
weight and bias, and a batch norm's running mean, running variance and number of batches.

    here                                  PyTorch
    kernel of Conv    [H, W, C_in, C_out]  weight [C_out, C_in, H, W]
    kernel of Dense   [C_in, C_out]        weight [C_out, C_in]
    scale             [C]                  weight [C]

After a flattening, channels vary fastest here, slowest there: a dense kernel's rows are permuted.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from safetensors.numpy import load_file
from safetensors.numpy import save as save_bytes

from cnn_jax import files, layers, text
from cnn_jax.errors import UserError
from cnn_jax.torchvision_names import AUXILIARY, PUBLIC, Rule

State = dict[str, np.ndarray]


class Tensor(NamedTuple):
    """One entry of a state dict and where it comes from."""

    name: str  # 'Conv_0.weight'
    path: tuple[str, ...]  # ('params', 'Conv_0', 'kernel'); () for a batch norm's counter
    shape: tuple[int, ...]  # here
    flattened: tuple[int, ...]  # the maps [H, W, C] that a dense kernel's inputs were, or ()


def to_torch(
    variables: Mapping[str, Any],
    module: nn.Module,
    input_shape: tuple[int, ...],
    names: Iterable[str] | None = None,
) -> State:
    """Returns the state dict of `variables`.

    Args:
      variables: what `module.init` returns, or {'params': …, 'batch_stats': …}.
      module: the network.
      input_shape: [H, W, C] of its images.
      names: the keys of a PyTorch network's own state dict, in its order, to be used in place of
        the names of the layers here: `net.load_state_dict(…)` then takes the result, its arrays
        made tensors.

    Raises:
      UserError: `names` are not as many as the tensors, or variables don't fit the network.
    """
    tensors = list_tensors(module, input_shape)
    keys = [tensor.name for tensor in tensors] if names is None else list(names)
    if len(keys) != len(tensors):
        raise UserError(f"The network has {len(tensors)} tensors, not {len(keys)} as `names`.")
    leaves = flax.traverse_util.flatten_dict(flax.core.unfreeze(dict(variables)))
    state = {}
    for key, tensor in zip(keys, tensors, strict=True):
        if not tensor.path:
            state[key] = np.zeros((), np.int64)
            continue
        if tensor.path not in leaves or leaves[tensor.path].shape != tensor.shape:
            raise UserError(
                f"The variables lack {'/'.join(tensor.path)} of shape {list(tensor.shape)}; they "
                f"must be those of the network for images {list(input_shape)}."
            )
        state[key] = _torch_layout(np.asarray(leaves[tensor.path]), tensor)
    return state


def from_torch(
    state: Mapping[str, Any], module: nn.Module, input_shape: tuple[int, ...]
) -> dict[str, Any]:
    """Returns the variables, {'params': …} and {'batch_stats': …} if any, of a state dict.

    Names of the layers here (`to_torch`'s), torchvision's and timm's are looked up; any other state
    dict must list the network's tensors in the order of its layers, as
    `torch.nn.Module.state_dict` does. torchvision's auxiliary classifiers are left out if the
    network has none.

    Raises:
      UserError: too few or too many tensors, or one of another shape.
    """
    tensors = list_tensors(module, input_shape)
    keys = list(state)
    for names in _list_names(module, tensors):
        more = set(state) - set(names)
        if set(names) <= set(state) and all(name.startswith(AUXILIARY) for name in more):
            keys = names
    if len(keys) != len(tensors):
        raise UserError(
            f"The state dict has {len(keys)} tensors, the network {len(tensors)}: "
            f"{', '.join(tensor.name for tensor in tensors)}."
        )
    leaves = {}
    for key, tensor in zip(keys, tensors, strict=True):
        if not tensor.path:
            continue
        value = _flat(np.asarray(state[key]), tensor)
        expected = torch_shape(tensor)
        if value.shape != expected:
            raise UserError(
                f"{key} has shape {list(value.shape)}, but {tensor.name} of the network has "
                f"{list(expected)}; the tensors must be those of the same network, in its order."
            )
        leaves[tensor.path] = jnp.asarray(_layout_here(value, tensor))
    return flax.traverse_util.unflatten_dict(leaves)


def read_state(
    state: Mapping[str, Any], module: nn.Module, input_shape: tuple[int, ...]
) -> tuple[dict[tuple[str, ...], np.ndarray], list[str]]:
    """Returns the arrays of a state dict that the network has, by their paths here, and the others.

    An array of another shape than the network's has its axes as here. The others are names of the
    state dict; auxiliary classifiers that the network lacks, and numbers of batches, don't count.

    Raises:
      UserError: the names are neither those of the layers here nor torchvision's nor timm's.
    """
    tensors = list_tensors(module, input_shape)
    known = _list_names(module, tensors)
    keys = max(known, key=lambda names: len(set(names) & set(state)))
    if not set(keys) & set(state):
        expected = [text.list_some(names, 2) for names in known]
        raise UserError(
            f"its tensors are called {text.list_some(list(state), 2)}, and those of the network "
            f"{' or '.join(expected)}"
        )
    found = {}
    for key, tensor in zip(keys, tensors, strict=True):
        if tensor.path and key in state:
            value = _flat(np.asarray(state[key]), tensor)
            if value.shape != torch_shape(tensor):
                tensor = tensor._replace(flattened=())  # there is nothing to permute
            found[tensor.path] = _layout_here(value, tensor)
    spare = set(keys) | {n for n in state if n.startswith(AUXILIARY)}
    others = [n for n in state if n not in spare and not n.endswith("num_batches_tracked")]
    return found, others


def save_torch(
    file: str | Path,
    variables: Mapping[str, Any],
    module: nn.Module,
    input_shape: tuple[int, ...],
    names: Iterable[str] | None = None,
    about: Mapping[str, str] | None = None,
) -> None:
    """Writes `to_torch(…)` as a safetensors file, with `about` as its metadata."""
    state = to_torch(variables, module, input_shape, names)
    state = {name: np.ascontiguousarray(value) for name, value in state.items()}
    files.write_bytes(Path(file), save_bytes(state, metadata={"format": "pt", **(about or {})}))


def load_torch(file: str | Path, module: nn.Module, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """Returns `from_torch(…)` of a safetensors file.

    Such a file keeps no order. Names that are not this project's are sorted as a reader would:
    '2.weight' before '10.weight', a part of dense layers ('classifier') after the others
    ('features'). If that isn't the order of the layers, read the file with safetensors, put its
    tensors in order, and use `from_torch`.
    """
    state = load_file(file)
    return from_torch({name: state[name] for name in _sorted(state)}, module, input_shape)


def list_tensors(module: nn.Module, input_shape: tuple[int, ...]) -> list[Tensor]:
    """Returns the entries of a network's state dict, in order, by tracing it on [H, W, C]."""
    tensors: list[Tensor] = []
    maps: tuple[int, ...] = ()  # [H, W, C] that were flattened, until a dense layer takes them

    def record(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        nonlocal maps
        layer = context.module
        y = call(*args, **kwargs)
        if context.method_name != "__call__":
            return y
        if isinstance(layer, layers.Flatten):
            maps = args[0].shape[1:]
        entries: list[tuple[str, str, str]] = []
        if isinstance(layer, layers.Conv | layers.Dense):
            entries = [("weight", "params", "kernel")]
            entries += [("bias", "params", "bias")] * layer.use_bias
        elif isinstance(layer, layers.BatchNorm):
            entries = [
                ("weight", "params", "scale"),
                ("bias", "params", "bias"),
                ("running_mean", "batch_stats", "mean"),
                ("running_var", "batch_stats", "var"),
            ]
        for name, collection, leaf in entries:
            flattened = maps if leaf == "kernel" and isinstance(layer, layers.Dense) else ()
            shape: tuple[int, ...] = layer.get_variable(collection, leaf).shape
            path = (collection, *layer.path, leaf)
            tensors.append(Tensor(".".join((*layer.path, name)), path, shape, flattened))
        if isinstance(layer, layers.Dense):
            maps = ()
        if isinstance(layer, layers.BatchNorm):
            tensors.append(Tensor(".".join((*layer.path, "num_batches_tracked")), (), (), ()))
        return y

    x = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(module.init, jax.random.key(0), x)
    return tensors


def list_torchvision_names(module: nn.Module, input_shape: tuple[int, ...]) -> list[str] | None:
    """Returns torchvision's names of the tensors that `list_tensors` lists, None if it has none."""
    return _rename(PUBLIC["torchvision"], module, list_tensors(module, input_shape))


def _list_names(module: nn.Module, tensors: Sequence[Tensor]) -> list[list[str]]:
    """All names that the tensors of a network have: here first, then in the libraries of PUBLIC."""
    public = (_rename(rules, module, tensors) for rules in PUBLIC.values())
    return [[tensor.name for tensor in tensors], *(names for names in public if names)]


def _rename(
    rules: Mapping[type[nn.Module], Rule], module: nn.Module, tensors: Iterable[Tensor]
) -> list[str] | None:
    rule = rules.get(type(module))
    names = []
    for tensor in tensors:
        *path, leaf = tensor.name.split(".")
        layer = rule and rule(module, tuple(path))
        if layer is None:
            return None
        names.append(f"{layer}.{leaf}")
    return names


def torch_shape(tensor: Tensor) -> tuple[int, ...]:
    """Returns the shape that a tensor has in PyTorch."""
    if len(tensor.shape) < 2:
        return tensor.shape
    *window, c_in, c_out = tensor.shape
    return (c_out, c_in, *window)


def _torch_layout(value: np.ndarray, tensor: Tensor) -> np.ndarray:
    if tensor.flattened:  # [H·W·C, C_out] → [C·H·W, C_out]
        value = np.moveaxis(value.reshape(*tensor.flattened, -1), -2, 0)
        value = value.reshape(tensor.shape)
    if value.ndim < 2:
        return value
    return np.moveaxis(value, (-1, -2), (0, 1))


def _flat(value: np.ndarray, tensor: Tensor) -> np.ndarray:
    """The weight of a dense layer that is a convolution elsewhere, [C_out, C, H, W] → 2-D."""
    if value.ndim == 4 and len(tensor.shape) == 2:
        return value.reshape(len(value), -1)
    return value


def _layout_here(value: np.ndarray, tensor: Tensor) -> np.ndarray:
    if value.ndim < 2:
        return value
    value = np.moveaxis(value, (0, 1), (-1, -2))
    if tensor.flattened:  # [C·H·W, C_out] → [H·W·C, C_out]
        *pixels, channels = tensor.flattened
        value = np.moveaxis(value.reshape(channels, *pixels, -1), 0, -2)
        value = value.reshape(tensor.shape)
    return value


def _sorted(state: State) -> list[str]:
    """Returns the names in the order that the layers most likely have."""
    ranks: dict[str, int] = {}  # of the parts named before the first dot
    for name, value in state.items():
        part = name.partition(".")[0]
        ranks[part] = max(ranks.get(part, 0), value.ndim)

    def key(name: str) -> tuple[Any, ...]:
        first = name.partition(".")[0]
        *layer, leaf = name.split(".")
        leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        numbers = [
            (0, int(part), "") if part.isdigit() else (1, 0, part)
            for word in layer
            for part in re.split(r"(\d+)", word)
            if part
        ]
        is_dense = ranks[first] == 2 and not first.isdigit()
        return is_dense, numbers, leaves.index(leaf) if leaf in leaves else len(leaves), leaf

    return sorted(state, key=key)
