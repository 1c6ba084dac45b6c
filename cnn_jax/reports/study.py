"""A study: variants of a configuration, each trained once for each seed, and compared by its runs.

Its trials are ordinary ones, which `driver.run_trials` trains, stops and resumes.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from cnn_jax import config as config_lib
from cnn_jax.config import Config
from cnn_jax.reports import run_groups
from cnn_jax.sweeps import sweep_record
from cnn_jax.sweeps.spaces import Trial


class Variant(NamedTuple):
    """A configuration of a study, and the seeds it is trained with."""

    name: str  # of the group that its runs make
    config: Config
    seeds: Sequence[int]
    prefix: str  # of its run directories: PREFIXseed=0


def make_trials(variants: Sequence[Variant]) -> list[Trial]:
    """Returns each variant's trials in turn, without figures and TensorBoard's files."""
    quiet = {"records.tensorboard": False, "records.figures": False}
    return [
        Trial(
            f"{variant.prefix}seed={seed}",
            {"seed": seed},
            config_lib.with_values(variant.config, {"seed": seed, **quiet}),
        )
        for variant in variants
        for seed in variant.seeds
    ]


def read_groups(
    variants: Sequence[Variant], directory: pathlib.Path
) -> dict[str, run_groups.Group]:
    """Returns the finished runs of each variant that has any, by its name.

    Raises:
      RunDirectoryError: a run's configuration can't be read.
    """
    groups = {}
    for variant in variants:
        trials = make_trials([variant])
        done = [t for t in trials if sweep_record.find_result(directory, t) is not None]
        if runs := tuple(run_groups.read_run(directory / trial.name) for trial in done):
            groups[variant.name] = run_groups.Group(variant.config, runs, ())
    return groups
