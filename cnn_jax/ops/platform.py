"""Which form of an operation to trace: the one XLA compiles well on CPUs, or the plain one.

A few operations have two forms with equal results. The choice is made while tracing, by one
question, `on_cpu()`; correctness never depends on the answer, only speed.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_forced: ContextVar[str | None] = ContextVar("forced_platform", default=None)
_by_patches: ContextVar[bool] = ContextVar("convolve_by_patches", default=False)


def on_cpu() -> bool:
    """Whether computations traced now are expected to run on a CPU."""
    return (_forced.get() or jax.default_backend()) == "cpu"


@contextlib.contextmanager
def forced(platform: str) -> Iterator[None]:
    """Traces as if `platform` ('cpu', 'gpu', 'tpu') were the default backend; for tests.

    A function that `jax.jit` has already traced keeps the form it was traced with.
    """
    token = _forced.set(platform)
    try:
        yield
    finally:
        _forced.reset(token)


def by_patches() -> bool:
    """Whether convolutions traced now are products of matrices."""
    return _by_patches.get()


@contextlib.contextmanager
def convolving_by_patches() -> Iterator[None]:
    """Traces convolutions as products of matrices, patches by kernels; for populations."""
    token = _by_patches.set(True)
    try:
        yield
    finally:
        _by_patches.reset(token)
