"""Taps on a network: the maps of its convolutions, activations and poolings as it computes them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from flax import linen as nn
from jax import Array

from cnn_jax import layers

MAPS = (layers.Conv, layers.MaxPool, layers.AvgPool)

Tap = Callable[[str, Array], Array | None]


@contextlib.contextmanager
def tapping(tap: Tap) -> Iterator[None]:
    """Calls `tap` with the name and the output [N, h, w, C] of every layer with maps, in order.

    Convolutions are called by their paths, 'Conv_0', and give what comes before normalization and
    activation; what its activation makes of it follows as 'Conv_0/relu'. An array that `tap`
    returns takes the output's place.
    """
    convolved = ""  # by which convolution, until its activation comes

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal convolved
        y, layer = call(*args, **kwargs), context.module
        if context.method_name != "__call__":
            return y
        name = "/".join(layer.path)
        if isinstance(layer, MAPS):
            y = _replaced(tap(name, y), y)
        if isinstance(layer, layers.Conv | layers.Dense):
            convolved = name if isinstance(layer, layers.Conv) else ""
        return y

    def observe(kind: str, y: Array) -> Array | None:
        nonlocal convolved
        name, convolved = convolved, ""
        return tap(f"{name}/{kind}", y) if name and kind != "identity" else None

    with nn.intercept_methods(intercept), layers.observing_activations(observe):
        yield


def _replaced(new: Array | None, old: Array) -> Array:
    return old if new is None else new
