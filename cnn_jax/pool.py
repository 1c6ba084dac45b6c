"""The pool of threads of a run or a sweep: what it was begun with is used again.

`cnn_jax.processor` says why its size matters.
"""

import contextlib
import pathlib

from cnn_jax import processor, records
from cnn_jax.errors import RunDirectoryError


def read_pool(environment: records.Start) -> int | None:
    """Returns how many threads the CPU's pool had; None if that isn't known, or not on a CPU."""
    if "pool" in environment:
        return environment["pool"]
    cores = environment.get("threads")
    if environment.get("backend") != "cpu" or not cores:
        return None
    devices = len(environment.get("devices", ())) // environment.get("processes", 1)
    return max(cores, devices)  # as earlier versions had it


def use_threads_of_run(threads: int, run: pathlib.Path) -> None:
    """Gives the CPU's pool the threads of a run, before JAX starts.

    Args:
      threads: config.threads, 0 for those that the run was begun with, or as many as cores.
      run: its directory.

    Raises:
      RunDirectoryError: it was begun with a pool of another size than `threads` says.
      ConfigError: JAX has started with another one.
    """
    begun = records.was_trained(run)
    _use(threads, read_pool(records.find_environment(run)) if begun else None, run)


def use_threads_of_sweep(threads: int, directory: pathlib.Path) -> None:
    """As `use_threads_of_run`; a sweep goes on with the pool of its first trial."""
    _use(threads, _find_in_trials(directory), directory)


def fits_run(threads: int, run: pathlib.Path) -> bool:
    """Whether this process can train a run: JAX hasn't started, or it has the pool that is needed.

    Arguments as of `use_threads_of_run`, whose errors another process would have too.
    """
    begun = records.was_trained(run)
    wanted = threads or (read_pool(records.find_environment(run)) if begun else None)
    return not wanted or processor.running_pool() in (0, wanted)


def _find_in_trials(directory: pathlib.Path) -> int | None:
    for file in sorted(directory.glob("*/environment.json")):
        with contextlib.suppress(RunDirectoryError):  # damaged: what trains the trial says so
            if pool := read_pool(records.read_environment(file.parent)):
                return pool
    return None


def _use(threads: int, recorded: int | None, directory: pathlib.Path) -> None:
    if recorded and threads not in (0, recorded):
        raise RunDirectoryError(
            f"{directory} holds what was trained with a pool of {recorded} threads, here "
            f"config.threads={threads}. Choose another --workdir, or leave config.threads out."
        )
    if wanted := threads or recorded:
        processor.use_threads(wanted)
