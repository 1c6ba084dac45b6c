"""How much memory there is, so that a data set too large is refused before any of it is taken."""

import contextlib
import pathlib
from collections.abc import Iterator

import psutil

from cnn_jax.data.dataset import DataError


def available() -> int:
    """Returns how many bytes this process can still take: of the machine, and of its own limits."""
    return max(0, min([psutil.virtual_memory().available, *_left_in_groups(), *_left_to_process()]))


def check_fits(needed: int, what: str, advice: str) -> None:
    """Raises DataError unless `needed` bytes of `what` fit; `advice` says what to do otherwise."""
    if needed > (most := available()):
        raise DataError(
            f"{what} would take {_size(needed)} of memory, more than the {_size(most)} that there "
            f"is; {advice}."
        )


def too_large(what: str) -> DataError:
    """Returns the error for data for which memory turned out too small."""
    return DataError(
        f"{what} takes more memory than there is; give it less data, or end other programs."
    )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 1 << 27 else f"{count / 2**20:.1f} MiB"


def _left_in_groups(
    root: pathlib.Path = pathlib.Path("/sys/fs/cgroup"),
    groups: pathlib.Path = pathlib.Path("/proc/self/cgroup"),
) -> Iterator[int]:
    """What the control groups of this process leave to it, where the system has such."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            base, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = base / path.lstrip("/")
        while group.is_relative_to(base):
            with contextlib.suppress(OSError, ValueError, KeyError):  # without a limit it is "max"
                limit, usage = (int((group / name).read_text()) for name in names[:2])
                rows = (row.split() for row in (group / "memory.stat").read_text().splitlines())
                yield limit - usage + int(dict(rows)[names[2]])  # kept files are given up
            group = group.parent


def _left_to_process() -> Iterator[int]:
    """What `ulimit -v` leaves, where there is such a limit."""
    with contextlib.suppress(ImportError, OSError):
        import resource  # not on Windows

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            yield limit - psutil.Process().memory_info().vms
