"""Certificates: a small JSON file by which others train a run again and see that it is the same.

It holds what decides a run's numbers (configuration, data, versions, processor), the rows of its
metrics, and the hashes of `cnn_jax.hashes`; no path of the machine that wrote it.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from cnn_jax import config as config_lib
from cnn_jax import epochs, hashes, records, schema
from cnn_jax.errors import RunDirectoryError

FORMAT: Literal["cnn_jax certificate 1"] = "cnn_jax certificate 1"
TIMES = ("seconds", "examples_per_second")  # of a row of metrics
# What of environment.json tells nothing about numbers, or where its machine keeps things.
LEFT_OUT = ("time", "command", "resumed", "platform", "cores", "threads")
DATA = ("fingerprint", "class_names")


class _Row(TypedDict):
    epoch: int
    step: int
    test_accuracy: float


class Certificate(TypedDict):
    """The content of the file."""

    format: Literal["cnn_jax certificate 1"]
    config: dict[str, Any]
    environment: records.Start
    metrics: list[_Row]
    hashes: list[hashes.Hash]


def portable(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what of environment.json is as true on another machine."""
    kept = {name: value for name, value in environment.items() if name not in LEFT_OUT}
    if "data" in kept:
        kept["data"] = {name: kept["data"].get(name) for name in DATA}
    return kept


def write(
    file: pathlib.Path,
    settings: config_lib.Config,
    environment: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    digests: hashes.Hashes,
) -> None:
    """Writes the certificate of a finished run."""
    tree = config_lib.to_dict(settings)
    tree["dataset"]["data_dir"] = None  # each machine has its own
    metrics = [{n: v for n, v in row.items() if n not in TIMES} for row in rows]
    listed = [{"step": step, "sha256": digest} for step, digest in digests.items()]
    content = {
        "format": FORMAT,
        "config": tree,
        "environment": portable(environment),
        "metrics": metrics,
        "hashes": listed,
    }
    records.write_json(file, content)


def read(file: pathlib.Path) -> tuple[config_lib.Config, Certificate]:
    """Returns what a certificate holds, and its configuration, checked.

    Raises:
      RunDirectoryError: it can't be read, or it is no certificate of a finished run.
    """
    found: Certificate = schema.read_json(file, Certificate)
    try:
        settings = config_lib.from_dict(found["config"])
        config_lib.check_types(settings)
        config_lib.check(settings)
    except (config_lib.ConfigError, RecursionError) as error:
        raise RunDirectoryError(f"{file} can't be read: {error}") from error
    hashed = {line["step"] for line in found["hashes"]}
    numbers, last = [row["epoch"] for row in found["metrics"]], found["metrics"][-1:]
    whole = numbers == list(range(1, len(numbers) + 1))
    if not (whole and last and epochs.is_last(last[0], settings.epochs)):
        raise RunDirectoryError(
            f"{file} has metrics of other epochs than the {settings.epochs} of its configuration; "
            "only a finished run can be compared."
        )
    if missing := [row["step"] for row in found["metrics"] if row["step"] not in hashed]:
        raise RunDirectoryError(f"{file} has no hash of step {missing[0]}, the end of an epoch.")
    return settings, found
