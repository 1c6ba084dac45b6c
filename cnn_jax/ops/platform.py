"""Which of two forms of an operation to trace: the one that is fast on CPUs, or the plain one.

Only speed depends on the choice, which is made while tracing.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_forced: ContextVar[str | None] = ContextVar("forced_platform", default=None)


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
