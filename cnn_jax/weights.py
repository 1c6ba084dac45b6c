"""Files of weights, and the initial weights of a run.

A file is safetensors, with arrays named by their paths in the network's variables
('params/Conv_0/kernel').
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors.numpy import load_file
from safetensors.numpy import save as save_bytes

from cnn_jax import checkpoints, files
from cnn_jax.errors import ConfigError


def save(
    file: str | Path, variables: Mapping[str, Any], about: Mapping[str, str] | None = None
) -> None:
    """Writes variables, with `about` as the file's metadata."""
    leaves = flax.traverse_util.flatten_dict(flax.core.unfreeze(dict(variables)), sep="/")
    state = {path: np.ascontiguousarray(np.asarray(leaf)) for path, leaf in leaves.items()}
    files.write_bytes(Path(file), save_bytes(state, metadata=dict(about or {})))


def load(file: str | Path) -> dict[str, Any]:
    """Returns the variables that `save` wrote."""
    leaves = {path: jnp.asarray(leaf) for path, leaf in load_file(file).items()}
    return flax.traverse_util.unflatten_dict(leaves, sep="/")


def load_initial(source: str) -> dict[str, Any]:
    """Returns the variables {'params': …, 'batch_stats': …} that `config.init_from` names.

    `source` is a run's directory, for its newest checkpoint or, with '@step=N' behind it, that of
    step N; a checkpoint's directory; or a file of weights. If a run keeps averages, these are used.

    Raises:
      ConfigError: it is none of these.
      CheckpointError: the checkpoint doesn't exist or can't be read.
    """
    name, _, at = source.partition("@")
    path = Path(name).expanduser()
    chosen = re.fullmatch(r"step=(\d+)", at)
    if at and not chosen:
        raise ConfigError(f"config.init_from={source!r}: after the @ must come step=NUMBER.")
    if path.suffix == ".safetensors":
        try:
            with files.open_regular(path):
                return load(path)
        except (OSError, safetensors.SafetensorError) as error:
            raise ConfigError(f"config.init_from={source!r} can't be read: {error}.") from error
    if path.name.isdecimal() and path.parent.name == "checkpoints":
        return checkpoints.restore_variables(path.parent.parent, step=int(path.name))
    if not (path / "checkpoints").is_dir():
        raise ConfigError(
            f"config.init_from={source!r} is no run's directory, no checkpoint and no .safetensors "
            "file; give one of these."
        )
    return checkpoints.restore_variables(path, step=int(chosen[1]) if chosen else None)


def fingerprint(variables: Mapping[str, Any]) -> str:
    """Returns the first 16 digits of the SHA-256 of names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for name, value in sorted(flax.traverse_util.flatten_dict(dict(variables), sep="/").items()):
        array = np.ascontiguousarray(np.asarray(value))
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
