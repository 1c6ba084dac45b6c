"""How much memory there is, so that a data set that is too large is refused in advance."""

import contextlib
import pathlib
from collections.abc import Iterator

import psutil

from cnn_jax.errors import DataError


def available() -> int:
    """Returns how many bytes this process can still take, within the machine and its limits."""
    return max(0, min([psutil.virtual_memory().available, *_left_in_groups(), *_left_to_process()]))


def check_fits(needed: int, what: str, advice: str) -> None:
    """Raises DataError unless `needed` bytes of `what` fit; the message ends with `advice`."""
    if needed > (most := available()):
        raise DataError(
            f"{what} would take {_size(needed)} of memory, more than the {_size(most)} that there "
            f"is; {advice}."
        )


def too_large(what: str) -> DataError:
    """Returns the error for data that turned out larger than the memory."""
    return DataError(
        f"{what} takes more memory than there is; give it less data, or end other programs."
    )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 1 << 27 else f"{count / 2**20:.1f} MiB"


def _left_in_groups(
    root: pathlib.Path = pathlib.Path("/sys/fs/cgroup"),
    groups: pathlib.Path = pathlib.Path("/proc/self/cgroup"),
) -> Iterator[int]:
    """Bytes that the control groups of this process leave to it, if there are any."""
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
                yield limit - usage + int(dict(rows)[names[2]])  # the system gives up cached files
            group = group.parent


def _left_to_process() -> Iterator[int]:
    """Bytes that `ulimit -v` leaves, if it is set."""
    with contextlib.suppress(ImportError, OSError):
        import resource  # not on Windows

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            yield limit - psutil.Process().memory_info().vms
