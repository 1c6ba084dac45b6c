"""Which of two forms of an operation to trace: the one that is fast on CPUs, or the plain one.

Only speed depends on the choice, which is made while tracing.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
T = TypeVar("T")

_forced: ContextVar[str | None] = ContextVar("forced_platform", default=None)


def on_cpu() -> bool:
    """Whether computations traced now are expected to run on a CPU."""
    return (_forced.get() or jax.default_backend()) == "cpu"


@contextlib.contextmanager
def forced(platform: str) -> Iterator[None]:
    """Traces as if `platform` ('cpu', 'gpu', 'tpu') were the default backend.

    A function that `jax.jit` has already traced keeps the form it was traced with.
    """
    token = _forced.set(platform)
    try:
        yield
    finally:
        _forced.reset(token)


def traced_for(platform: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Returns a decorator of functions that are compiled for a platform that needn't be here."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def traced(*args: P.args, **kwargs: P.kwargs) -> T:
            with forced(platform):
                return function(*args, **kwargs)

        return traced

    return decorate
