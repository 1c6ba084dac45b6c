"""Communication between the processes of a distributed run, one on each machine.

All run the same program on the same data. Only the first one, number 0, reads and writes the run's
directory and prints.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cnn_jax import identity
from cnn_jax.errors import DisagreementError


def from_first(tree: Any) -> Any:
    """Returns the first process's arrays in every process, to the bit, on the host.

    `tree` has the same structure, shapes and types everywhere.
    """
    if jax.process_count() == 1:
        return tree
    # JAX broadcasts by a sum with zeros, which keeps integers but not the sign of a zero.
    arrays = jax.tree.map(np.asarray, tree)
    raw = jax.tree.map(lambda x: x.reshape(-1).view(np.uint8), arrays)
    shared = multihost_utils.broadcast_one_to_all(raw)
    return jax.tree.map(lambda x, y: np.array(y).view(x.dtype).reshape(x.shape), arrays, shared)


def json_from_first(value: Any) -> Any:
    """Returns the first process's value, which JSON can hold, in every process."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(from_first(np.int64(len(text))))
    own = text if jax.process_index() == 0 else np.zeros(size, np.uint8)
    return json.loads(from_first(own).tobytes())


def in_any(flag: bool) -> bool:
    """Returns whether `flag` is true in any process."""
    return bool(find_largest(int(flag)))


def find_largest(number: int) -> int:
    """Returns the largest of the processes' numbers, which int32 can hold, in every process."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.array([number], np.int32)).max())


def check_agreement(facts: Mapping[str, Any]) -> None:
    """Raises DisagreementError in every process if their facts, which JSON can hold, differ."""
    if jax.process_count() == 1:
        return
    own = np.frombuffer(json.dumps(facts, sort_keys=True).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([len(own)], np.int32)).reshape(-1)
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(own)] = own
    gathered = multihost_utils.process_allgather(padded)
    every = [
        json.loads(np.asarray(row[:size]).tobytes())
        for row, size in zip(gathered, sizes, strict=True)
    ]
    for other in every[1:]:
        if (name := identity.find_difference(every[0], other)) is not None:
            said = identity.describe_difference(name, [facts.get(name) for facts in every])
            raise DisagreementError(
                f"the processes of this run were started with different things: {said}. Start all "
                "of them with the same command on the same data and versions."
            )
