"""The identity of a run: its configuration and its data.

Two runs with the same identity compute the same numbers.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cnn_jax import config as config_lib
from cnn_jax import data, optimizers, text

_DIGITS = 16  # of a fingerprint, the number that every version of this package has recorded


class DataIdentity(NamedTuple):
    """The data that a run was trained on."""

    arrays: str  # first digits of the SHA-256 of the whole data set, before any split
    class_names: tuple[str, ...]


def identify_data(dataset: data.AnyDataset) -> DataIdentity:
    """Returns the identity of a data set, the same for every part of it."""
    digest = dataset.fingerprint
    if isinstance(dataset, data.Dataset):
        digest = digest or data.fingerprint(*dataset[:4])
    return DataIdentity(digest[:_DIGITS], tuple(dataset.class_names))


def read_data(environment: Mapping[str, Any]) -> DataIdentity | None:
    """Returns the identity of the data in environment.json; None if it isn't recorded.

    A run that an earlier version resumed on other data has the identities of both.
    """
    starts = [environment, *environment.get("resumed", [])]
    known = [d for start in starts if (d := _of_start(start.get("data", {})))]
    if not known:
        return None
    arrays = dict.fromkeys(identity.arrays for identity in known)
    return DataIdentity("+".join(arrays), known[0].class_names)


def _of_start(described: Mapping[str, Any]) -> DataIdentity | None:
    arrays = described.get("fingerprint")
    if arrays is None:  # as earlier versions recorded it
        found = re.search(r"arrays sha256 ([0-9a-f]{16})", described.get("provenance", ""))
        arrays = found and found[1]
    if not arrays or "class_names" not in described:
        return None
    return DataIdentity(text.one_line(arrays[:_DIGITS]), tuple(described["class_names"]))


def compare_data(there: DataIdentity | None, here: DataIdentity | None) -> str | None:
    """Describes how two data sets differ; None if they don't, or if one is unknown."""
    if there is None or here is None:
        return None
    if there.class_names != here.class_names:
        return f"there the classes are {_names(there)}, here {_names(here)}"
    if there.arrays != here.arrays:
        return f"there images and labels have the SHA-256 {there.arrays}…, here {here.arrays}…"
    return None


def _names(identity: DataIdentity, most: int = 8) -> str:
    names = [text.one_line(name) for name in identity.class_names[:most]]
    return ", ".join(names) + (", …" if len(identity.class_names) > most else "")


def compare_configs(
    there: config_lib.Config, here: config_lib.Config
) -> dict[str, tuple[Any, Any]]:
    """Returns {path: (value there, value here)} of differences that can change a result.

    Not of `threads`, which says 0 for what `pool.use_threads_of_run` finds.
    """
    a, b = config_lib.flatten(there), config_lib.flatten(here)
    paths = (path for path in a if not path.startswith((*config_lib.FREE, "threads")))
    return {path: (a[path], b[path]) for path in paths if a[path] != b[path]}


def compare_recipes(
    there: config_lib.Config, here: config_lib.Config
) -> dict[str, tuple[Any, Any]]:
    """Returns `compare_configs`, without the number of epochs where one run can be part of another.

    That is where the learning rate doesn't depend on it.
    """
    changed = compare_configs(there, here)
    if here.optimizer.schedule in optimizers.OPEN_ENDED:
        changed.pop("epochs", None)
    return changed


def find_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """Returns the first name with different values in two tables, or in one table only."""
    return next((n for n in {**there, **here} if there.get(n) != here.get(n)), None)


def describe_difference(name: str, values: Sequence[Any]) -> str:
    """Describes the values of processes: 'seed is 0 in process 0, 7 in process 1'."""
    where = [f"{value!r} in process {i}" for i, value in enumerate(values)]
    return f"{name} is {', '.join(where)}"
