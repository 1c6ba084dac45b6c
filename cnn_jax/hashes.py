"""Hashes of what a run has learned, along its way, in hashes.jsonl: two runs part where they do.

Parameters and running statistics are hashed after the steps 1, 2, 4, 8, … of the first epoch, as
rounding shows early, and after each epoch.
"""

import json
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any, TypedDict

from cnn_jax import files, schema, weights
from cnn_jax.errors import RunDirectoryError
from cnn_jax.steps import TrainState

FILE = "hashes.jsonl"

Hashes = dict[int, str]  # by step, in order


class Hash(TypedDict):
    """A line of hashes.jsonl."""

    step: int
    sha256: str


def early_steps(steps_per_epoch: int) -> list[int]:
    """Returns the steps within the first epoch after which a run is hashed."""
    return [2**i for i in range(steps_per_epoch.bit_length()) if 2**i < steps_per_epoch]


def hash_state(state: TrainState) -> str:
    """Returns the SHA-256 of the parameters and running statistics of a state on the host."""
    return weights.digest({"params": state.params, **state.model_state})


def read(run: pathlib.Path) -> Hashes:
    """Returns the hashes of a run; none if they aren't recorded, as by earlier versions.

    Raises:
      RunDirectoryError: they can't be read.
    """
    file = run / FILE
    if not file.exists():
        return {}
    lines = schema.read_record(file).splitlines()
    rows = [schema.parse_json(x, Hash, file, f"line {i}: ") for i, x in enumerate(lines, 1)]
    return {row["step"]: row["sha256"] for row in rows}


def drop_after(run: pathlib.Path, step: int) -> None:
    """Drops the hashes of later steps, which will be trained again; all, if they are damaged."""
    try:
        kept = {s: digest for s, digest in read(run).items() if s <= step}
    except RunDirectoryError as error:
        warnings.warn(f"{error} The hashes so far are left out.", stacklevel=2)
        kept = {}
    files.write_text(run / FILE, "".join(map(_line, kept, kept.values())))


def append(run: pathlib.Path, step: int, sha256: str) -> None:
    """Appends a hash to hashes.jsonl."""
    path = run / FILE
    with files.writing(path), files.open_to_append(path) as file:
        file.write(_line(step, sha256))


def find_parting(a: Mapping[int, str], b: Mapping[int, str]) -> tuple[int, int] | None:
    """Returns (last step with equal hashes, 0 for the start; first with different ones).

    None if all that both have are equal.
    """
    last = 0
    for step in sorted({*a} & {*b}):
        if a[step] != b[step]:
            return last, step
        last = step
    return None


def _line(step: int, sha256: str) -> str:
    line: dict[str, Any] = {"step": step, "sha256": sha256}
    return json.dumps(line) + "\n"
