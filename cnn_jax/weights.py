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
    given = f"config.init_from={source!r}"
    chosen = re.fullmatch(r"(.*)@step=(\d+)", source, re.S)
    path = Path(chosen[1] if chosen else source).expanduser()
    if (path / "checkpoints").is_dir():
        return checkpoints.restore_variables(path, step=int(chosen[2]) if chosen else None)
    if chosen:
        raise ConfigError(f"{given}: @step=NUMBER may stand only behind a run's directory.")
    if path.suffix == ".safetensors":
        return _load_file(path, given)
    if path.name.isdecimal() and path.parent.name == "checkpoints":
        return checkpoints.restore_variables(path.parent.parent, step=int(path.name))
    raise ConfigError(
        f"{given} is no run's directory (which may end in @step=NUMBER), no checkpoint and no "
        ".safetensors file; give one of these."
    )


def _load_file(path: Path, given: str) -> dict[str, Any]:
    try:
        with files.open_regular(path):
            variables = load(path)
    except OSError as error:
        raise ConfigError(f"{given} can't be read: {files.say_reason(error)}.") from error
    except (safetensors.SafetensorError, TypeError) as error:  # also where a name is a group's too
        raise ConfigError(f"{given} can't be read: {error}.") from error
    if "params" not in variables:
        raise ConfigError(
            f"{given} holds no 'params/…'; experiments.export writes them, without --layout=torch."
        )
    return variables


def fingerprint(variables: Mapping[str, Any]) -> str:
    """Returns the first 16 digits of the `digest`."""
    return digest(variables)[:16]


def digest(variables: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of names, types, shapes and numbers, in hexadecimal digits."""
    found = hashlib.sha256()
    for name, value in sorted(flax.traverse_util.flatten_dict(dict(variables), sep="/").items()):
        array = np.ascontiguousarray(np.asarray(value))
        found.update(f"{name} {array.dtype} {array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()
