"""The machines that a program is compiled for, `h100:8`, `v5e:2x4` or `cpu`, without having them.

XLA compiles for a GPU from a description of it, and for a TPU from its topology. That needs the
CUDA plugin or libtpu, which compile without a driver and without the hardware.
"""

import contextlib
import dataclasses
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from cnn_jax import text
from cnn_jax.errors import UserError
from cnn_jax.inspection.chips import CHIPS, Chip

NAMES = (*CHIPS, "cpu")
MOST = 4096  # chips
INSTALL = {
    "gpu": f"pip install jax-cuda12-plugin=={jax.__version__}",
    "tpu": f"pip install 'jax[tpu]=={jax.__version__}'",
}
# What compiling without the hardware needs. Timing candidates needs a GPU, so level 0.
ENVIRONMENT = {
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
COMPILER_OPTIONS: dict[str, dict[str, str | bool]] = {
    "gpu": {"xla_gpu_autotune_level": "0"},
    "tpu": {},
    "cpu": {},
}


class MissingCompilerError(UserError):
    """A plugin that compiles for a kind of accelerator is not installed."""


@dataclasses.dataclass(frozen=True)
class Target:
    """So many chips of a kind; `shape` is a TPU's topology, `chip` None for this CPU."""

    name: str
    chip: Chip | None
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many chips there are."""
        return math.prod(self.shape)

    @property
    def platform(self) -> str:
        """'gpu', 'tpu' or 'cpu'."""
        return self.chip.platform if self.chip else "cpu"


def parse(name: str) -> Target:
    """Reads `h100`, `h100:8`, `v5e:2x4` or `cpu`.

    >>> parse("v5e:2x4").count, parse("h100").count, parse("v5e:16").shape
    (8, 1, (4, 4))

    Raises:
      UserError: there is no such chip, or no such number or topology of them.
    """
    kind, colon, tail = name.strip().lower().partition(":")
    if kind not in NAMES:
        near = text.find_nearest(kind, NAMES)
        raise UserError(
            f"--target={text.one_line(name)}: there is no chip {text.one_line(kind)!r}"
            + (f" (did you mean {near!r}?)" if near else "")
            + f"; choose from {', '.join(NAMES)}, as in h100:8 or v5e:2x4."
        )
    chip = CHIPS.get(kind)
    numbers = tail.split("x") if colon else ["1"]
    shape = tuple(int(number) for number in numbers if re.fullmatch("[0-9]{1,5}", number))
    if len(shape) != len(numbers) or not 1 <= math.prod(shape) <= MOST:
        raise UserError(
            f"--target={text.one_line(name)} must be a chip and how many, 1 to {MOST}, as in "
            "h100:8 or v5e:2x4."
        )
    if chip is None:
        if shape != (1,):
            raise UserError(f"--target={name}: a plan is for one CPU, this one; give cpu.")
        return Target("cpu", None, (1,))
    if chip.platform == "gpu":
        if len(shape) > 1:
            raise UserError(f"--target={name}: GPUs are counted, as in {kind}:{math.prod(shape)}.")
        count = shape[0]
        if count > chip.group and count % chip.group:
            raise UserError(
                f"--target={name}: more than {chip.group} of them are machines of {chip.group}; "
                f"take a multiple of {chip.group}."
            )
        return Target(f"{kind}:{count}", chip, shape)
    shape = _torus(kind, chip, shape)
    return Target(f"{kind}:{'x'.join(map(str, shape))}", chip, shape)


def _torus(kind: str, chip: Chip, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The topology of TPUs, found for a number of them, checked.

    Raises:
      UserError: there is no such.
    """
    ones = (1,) * (chip.axes - 2)
    if len(shape) == 1:
        shape = _usual(shape[0], chip.axes) or shape
    good = len(shape) == chip.axes and math.prod(shape) <= chip.group
    # A host has 2×2 chips, of which one may be used alone.
    good = good and (set(shape) == {1} or not any(size % 2 for size in shape[:2]))
    if not good:
        examples = " or ".join(
            f"{kind}:{'x'.join(map(str, (*sizes, *ones)))}" for sizes in ((1, 1), (2, 2), (2, 4))
        )
        what = "even sides" if chip.axes == 2 else "two even sides and a third"
        raise UserError(
            f"--target={kind}:{'x'.join(map(str, shape))}: there is no such topology of a "
            f"{chip.title}; give one chip or {what}, as in {examples}, at most {chip.group:,}."
        )
    return shape


def _usual(count: int, axes: int) -> tuple[int, ...] | None:
    """The usual topology of so many chips, as near to a cube as powers of two allow."""
    if count < 1 or count & (count - 1) or count == 2:
        return None
    if count == 1:
        return (1,) * axes
    exponents = [1, 1] + [0] * (axes - 2)
    for _ in range(count.bit_length() - 3):
        # The last of the shortest axes grows: 2×2, 2×4, 4×4, and 2×2×1, 2×2×2, 2×2×4.
        shortest = min(exponents)
        exponents[axes - 1 - exponents[::-1].index(shortest)] += 1
    return tuple(sorted(2**exponent for exponent in exponents)) if axes == 2 else _cube(exponents)


def _cube(exponents: Sequence[int]) -> tuple[int, ...]:
    sizes = sorted(2**exponent for exponent in exponents)
    return (sizes[1], sizes[2], sizes[0]) if sizes[0] == 1 else tuple(sizes)


def devices(target: Target) -> list[Any]:
    """Returns the devices to compile for, one for each chip.

    Raises:
      MissingCompilerError: the plugin that compiles for them is not installed.
      UserError: it doesn't know such a topology.
    """
    chip = target.chip
    if chip is None:
        return list(jax.devices("cpu")[:1])
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    with _as_users_see(target), quiet():
        if chip.platform == "gpu":
            hosts = max(1, target.count // chip.group)
            topology = topologies.get_topology_desc(
                platform="cuda",
                target_config=target_config(chip),
                topology=f"1x{hosts}x{target.count // hosts}",
            )
        else:
            bounds = {"chips_per_host_bounds": (1, 1, 1)} if target.count == 1 else {}
            shape = "x".join(map(str, target.shape))
            topology = topologies.get_topology_desc(
                platform="tpu", topology_name=f"{chip.topology}:{shape}", **bounds
            )
    # A TPU v4 chip has two cores, which JAX uses as one device and the topology lists apart.
    return [d for d in topology.devices if getattr(d, "core_on_chip", 0) == 0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps what compilers write about missing drivers from standard error; errors are raised."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextlib.contextmanager
def _as_users_see(target: Target) -> Iterator[None]:
    """Makes the errors of plugins sentences.

    Raises:
      MissingCompilerError, UserError: as `devices`.
    """
    try:
        yield
    except Exception as error:
        reason = text.one_line(str(error).strip().split("\n")[0])
        if re.search("topology layout|divisible|topology name", reason, re.IGNORECASE):
            raise UserError(f"--target={target.name}: {reason}") from error
        raise MissingCompilerError(
            f"What compiles for {target.name} isn't installed or can't start ({reason[:200]}); "
            f"{INSTALL[target.platform]} installs it."
        ) from error


def target_config(chip: Chip) -> str:
    """Returns XLA's GpuTargetConfigProto of a GPU, as text."""
    major, minor = chip.device["cuda_compute_capability"]
    numbers = {
        **{name: value for name, value in chip.device.items() if "capability" not in name},
        "memory_bandwidth": int(chip.bandwidth),
        "device_memory_size": chip.memory,
    }
    fields = "\n".join(f"  {name}: {value}" for name, value in numbers.items())
    return (
        f"gpu_device_info {{\n{fields}\n"
        f"  cuda_compute_capability {{ major: {major} minor: {minor} }}\n}}\n"
        f'platform_name: "CUDA"\ndnn_version_info {{ major: 9 minor: 1 patch: 0 }}\n'
        f'device_description_str: "{chip.title}"\n'
    )
