"""Files of weights, and the initial weights of a run.

A file is safetensors, with arrays named by their paths in the network's variables
('params/Conv_0/kernel'), or a PyTorch state dict under torchvision's or timm's names.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import linen as nn
from safetensors.numpy import load_file
from safetensors.numpy import save as save_bytes

from cnn_jax import checkpoints, files, parts, records, text, torch_weights
from cnn_jax.errors import ConfigError, RunDirectoryError, UserError

PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")
PICKLED = (b"\x80", b"PK")  # how pickles, and zip files of them, begin


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

    `source` is a run's directory, for its newest checkpoint or, with '@best' or '@step=N' behind
    it, another ('@last' is the newest); a checkpoint's directory; or a file of weights. If a run
    keeps averages, these are used. A file that isn't of this package is returned as the state dict
    that it is, which `fit_initial` reads.

    Raises:
      ConfigError: it is none of these.
      CheckpointError: the checkpoint doesn't exist or can't be read.
    """
    given = f"config.init_from={source!r}"
    chosen = re.fullmatch(r"(.*)@(best|last|step=(\d+))", source, re.S)
    path = Path(chosen[1] if chosen else source).expanduser()
    if (path / "checkpoints").is_dir():
        which: Any = chosen[2] if chosen else "last"
        which = int(chosen[3]) if chosen and chosen[3] else which
        return checkpoints.restore_variables(path, checkpoint=which)
    if chosen:
        raise ConfigError(
            f"{given}: @best, @last and @step=NUMBER may stand only behind a run's directory."
        )
    if path.suffix in PICKLES or _is_pickled(path):
        raise ConfigError(
            f"{given} is a pickle, which could run any code and is never loaded; where it comes "
            "from, write its state dict with safetensors.torch.save_file, and give that file."
        )
    if path.suffix == ".safetensors":
        return _load_file(path, given)
    if path.name.isdecimal() and path.parent.name == "checkpoints":
        return checkpoints.restore_variables(path.parent.parent, checkpoint=int(path.name))
    raise ConfigError(
        f"{given} is no run's directory (which may end in @best or @step=NUMBER), no checkpoint "
        f"and no .safetensors file{'' if path.exists() else ', and nothing is there'}; give one of "
        "these."
    )


def _is_pickled(path: Path) -> bool:
    """Whether a file begins as a pickle; in safetensors JSON follows after eight bytes of size."""
    try:
        with files.open_regular(path) as file:
            start = file.read(9)
    except OSError:
        return False
    return start.startswith(PICKLED) and not start.endswith(b"{")


def _load_file(path: Path, given: str) -> dict[str, Any]:
    try:
        with files.open_regular(path):
            state = load_file(path)
        if not state:
            raise ConfigError(f"{given} holds no tensors.")
        return load(path) if any(name.startswith("params/") for name in state) else dict(state)
    except OSError as error:
        raise ConfigError(f"{given} can't be read: {files.say_reason(error)}.") from error
    except (safetensors.SafetensorError, TypeError) as error:  # also where a name is a group's too
        raise ConfigError(f"{given} can't be read: {error}.") from error


def fit_initial(
    loaded: Mapping[str, Any],
    fresh: Mapping[str, Any],
    module: nn.Module,
    input_shape: tuple[int, ...],
    source: str,
    skip: Sequence[str] = (),
) -> dict[str, Any]:
    """Returns the variables that a network starts from: loaded ones, and fresh ones for `skip`.

    Args:
      loaded: what `load_initial` returned for `source`.
      fresh: the network's random variables {'params': …, 'batch_stats': …}.
      module: the network.
      input_shape: [H, W, C] of its images.
      source: `config.init_from`.
      skip: patterns of `parts` that aren't loaded.

    Raises:
      ConfigError: what isn't skipped doesn't fit; the sentence names it.
    """
    given, others = f"config.init_from={source!r}", list[str]()
    wanted = flax.traverse_util.flatten_dict(dict(fresh))
    if "params" in loaded:
        found = flax.traverse_util.flatten_dict(dict(loaded))
    else:
        try:
            found, others = torch_weights.read_state(loaded, module, input_shape)
        except UserError as error:
            raise ConfigError(f"{given} is of another architecture: {error}.") from error
    others += ["/".join(path[1:]) for path in found if path not in wanted]
    known = ["/".join(path[1:]) for path in wanted]
    parts.check_patterns("init_from_skip", skip, [*known, *others])
    others = [name for name in others if not parts.is_chosen(skip, name)]
    wrong = {}  # what is wrong with a leaf, by its path
    values = dict(wanted)
    for path, random in wanted.items():
        if parts.is_chosen(skip, "/".join(path[1:])):
            continue
        if path not in found:
            wrong[path] = "is missing"
        elif found[path].shape != random.shape:
            there, here = ("×".join(map(str, x.shape)) for x in (found[path], random))
            wrong[path] = f"is {there} there and {here} here"
        elif found[path].dtype != random.dtype:
            wrong[path] = f"is {found[path].dtype} there and {random.dtype} here"
        else:
            values[path] = found[path]
    if wrong or others:
        raise ConfigError(f"{given} {_describe_misfit(wrong, others, len(wanted))}")
    return flax.traverse_util.unflatten_dict(values)


def _describe_misfit(
    wrong: Mapping[tuple[str, ...], str], others: Sequence[str], count: int
) -> str:
    """Ends a sentence about weights that don't fit a network of `count` arrays."""
    order = sorted(wrong, key=lambda path: (path[0] != "params", path[-1] != "kernel"))
    said = [f"{'/'.join(path[1:])} {wrong[path]}" for path in order]
    said += [f"{name} is in no layer here" for name in others]
    some = text.list_some(said, 4)
    if len(wrong) + len(others) > count / 2:
        return (
            f"is of another architecture: {some}. Choose weights of this network, or the network "
            "that they are of."
        )
    layers = dict.fromkeys("/".join(path[1:-1]) for path in sorted(wrong))
    skipped = ",".join([*layers, *others])
    return (
        f"doesn't fit the network: {some}. Choose weights of this network, or have these start "
        f"anew, with --config.init_from_skip={skipped}."
    )


def check_source(source: str, run: Path) -> None:
    """Raises RunDirectoryError if a run that was begun started from other weights than `source`.

    One that can't be read says nothing: a run that has checkpoints needs it no longer.
    """
    recorded = records.find_environment(run).get("initial_weights", {}).get("fingerprint")
    try:
        now = fingerprint(load_initial(source))
    except UserError:
        return
    if recorded not in (None, now):
        raise RunDirectoryError(
            f"{run} started from other weights than config.init_from={source!r} holds now: their "
            f"SHA-256 was {text.one_line(recorded)}…, now {now}…. Put back what it was or move it "
            "away, or choose another --workdir."
        )


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
