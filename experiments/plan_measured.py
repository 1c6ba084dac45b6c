"""What a plan for this CPU predicts, beside what some steps of training take."""

import contextlib
import ctypes
import gc
import pathlib
import statistics
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from cnn_jax import config, data, experiment
from cnn_jax.errors import UserError
from cnn_jax.inspection.plan import Plan

SECONDS = 3.0  # of training, at least, for each of the rounds
ROUNDS = 3
PROCESS = pathlib.Path("/proc/self")


class Measured(NamedTuple):
    """What was measured."""

    step_seconds: float
    memory: int  # bytes that the data, the state and the program took at the most


def measure(settings: config.Config, dataset: data.Dataset) -> Measured:
    """Trains some steps on random pixels of the data's shape, and returns what they took.

    Raises:
      UserError: this system doesn't tell a process's largest memory.
    """
    if not (PROCESS / "clear_refs").exists():
        raise UserError("--measure reads /proc, which Linux has and this system doesn't.")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, dataset.train_images.shape, np.uint8)
    labels = rng.integers(0, len(dataset.class_names), len(images)).astype(np.int32)
    test = np.ascontiguousarray(dataset.test_images), np.ascontiguousarray(dataset.test_labels)
    filled = data.Dataset(images, labels, *test, dataset.class_names, "random")
    ready = experiment.build(settings, filled)
    program = ready.program
    order, totals = ready.train_order(0), ready.start_totals()
    host_state = jax.device_get(ready.init_state())
    # Compiling takes memory too, so it is done before memory is looked at.
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype),
        (host_state, totals, ready.train_data, order),
    )
    train: Any = program.train_steps
    compiled = train.lower(*shapes, np.int32(0), np.int32(1)).compile()
    _give_back_memory()
    before = _resident("VmRSS")
    (PROCESS / "clear_refs").write_text("5")  # the largest so far is forgotten
    put = program.put_data(ready.train_data), program.put_data(ready.test_data)
    state, sums = program.put_state(host_state), program.put_state(totals)
    batches = program.put_order(order)

    def run(count: int) -> float:
        nonlocal state, sums
        begin = time.perf_counter()
        for start in range(0, count, ready.steps_per_epoch):
            stop = min(ready.steps_per_epoch, count - start)
            state, sums = compiled(state, sums, put[0], batches, np.int32(0), np.int32(stop))
        jax.block_until_ready(state)
        return time.perf_counter() - begin

    run(1)
    count = max(2, round(SECONDS / run(1)))
    spent = [run(count) / count for _ in range(ROUNDS)]
    return Measured(statistics.median(spent), _resident("VmHWM") - before)


def _give_back_memory() -> None:
    """Returns what has been freed to the system, so that it doesn't hide what is taken next."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident(field: str) -> int:
    """Bytes, of a field of /proc/self/status."""
    for line in (PROCESS / "status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise UserError(f"/proc/self/status has no {field}.")


def rows(made: Plan, found: Measured) -> list[tuple[str, str]]:
    """Returns lines that compare a plan with what was measured."""
    step, memory = made.times.middle, made.memory.total
    return [
        (
            "measured step",
            f"{found.step_seconds * 1e3:.3g} ms; {step * 1e3:.3g} ms expected, "
            f"{step / found.step_seconds:.2f} times that",
        ),
        (
            "measured memory",
            f"{found.memory / 2**20:,.0f} MiB; {memory / 2**20:,.0f} MiB expected, "
            f"{memory / found.memory:.2f} times that",
        ),
    ]
