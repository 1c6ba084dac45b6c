"""What of the processor decides the last bits of a run: its threads, instructions and caches.

XLA shares the work of an operation out to a pool of threads, and rounds differently for another
number of them. The pool has as many threads as this process may use cores, or as the environment
variable NPROC says, and at least one for each device of the CPU; it starts with JAX's first
computation.
"""

import os
import pathlib
import platform
import re

import jax

from cnn_jax.errors import ConfigError

# What XLA knows of x86, from the lowest, with the flag of /proc/cpuinfo that shows it.
INSTRUCTION_SETS = {
    "SSE4_2": "sse4_2",
    "AVX": "avx",
    "AVX2": "avx2",
    "AVX512": "avx512f",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
    "AMX": "amx_tile",
    "AMX_FP16": "amx_fp16",
}
_LIMIT = "--xla_cpu_max_isa"
_DEVICES = "jax_num_cpu_devices"
_POOL = "tf_XLAEigen"  # the name of its threads


def count_cores() -> int:
    """Returns how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def pool_size() -> int:
    """Returns how many threads the pool has, or will have if JAX hasn't started."""
    return running_pool() or _expected_size()


def running_pool() -> int:
    """Returns how many threads of it run; 0 if JAX hasn't started, or they can't be seen."""
    tasks = pathlib.Path("/proc/self/task")
    count = 0
    for task in tasks.glob("*/comm"):
        try:
            count += task.read_text().strip() == _POOL
        except OSError:  # it has just ended
            continue
    return count


def use_threads(count: int) -> None:
    """Makes the pool have so many threads.

    Raises:
      ConfigError: JAX has started with another number, or there are more devices.
    """
    running = running_pool()
    if running == count:
        return
    if running:
        raise ConfigError(
            f"the run needs a pool of {count} threads, on whose number its bits depend, and JAX "
            f"has started with {running}. Train it in a process of its own, or start this one with "
            f"NPROC={count}."
        )
    os.environ["NPROC"] = str(count)
    if (size := _expected_size()) != count:
        raise ConfigError(
            f"the run needs a pool of {count} threads, on whose number its bits depend, and there "
            f"are {size} devices of the CPU, each with a thread of its own; take at most {count}."
        )


def instruction_set() -> str:
    """Returns the highest instruction set that XLA compiles for, or the kind of the machine."""
    known = [name for name, flag in INSTRUCTION_SETS.items() if flag in _cpu_flags()]
    if not known:
        return platform.machine()
    limit = re.findall(rf"{_LIMIT}=(\w+)", os.environ.get("XLA_FLAGS", ""))
    if limit and limit[-1] in known:
        return limit[-1]
    return known[-1]


def use_instruction_set(name: str) -> None:
    """Makes XLA compile for a lower instruction set than the processor has, if it is one.

    Has an effect before JAX's first computation only.
    """
    names = list(INSTRUCTION_SETS)
    here = instruction_set()
    if name in names and here in names and names.index(name) < names.index(here):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_LIMIT}={name}".strip()


def cache_sizes() -> list[str]:
    """Returns the sizes of the data caches, from the first level, by which products are blocked."""
    found = []
    for index in sorted(pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            if (index / "type").read_text().strip() != "Instruction":
                found.append((index / "size").read_text().strip())
        except OSError:
            continue
    return found


def _expected_size() -> int:
    asked = os.environ.get("NPROC", "")
    forced = re.findall(
        r"--xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", "")
    )
    devices = max(getattr(jax.config, _DEVICES), *map(int, forced[-1:]), 1)
    return max(int(asked) if asked.isdecimal() else count_cores(), devices)


def _cpu_flags() -> set[str]:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else set()
