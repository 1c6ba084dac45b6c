"""The base class of the networks, which reads and checks their options."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
from flax import linen as nn

from cnn_jax import layers, ops
from cnn_jax.ops.arguments import as_integer, boolean, entries, integer, is_concrete, is_number
from cnn_jax.options import read_choices

# The types of options whose values are names: keys of tables, which type checkers can't read.
if TYPE_CHECKING:
    Activation = str
    KernelInit = str
    BiasInit = str
    Norm = str
    Pool = str
else:
    Activation = Literal[tuple(ops.ACTIVATIONS)]
    KernelInit = Literal[tuple(layers.KERNEL_INITIALIZERS)]
    BiasInit = Literal[layers.BIAS_INITIALIZERS]
    Norm = Literal[layers.NORMS]
    Pool = Literal[tuple(layers.POOLS)]
DType = Literal["float32", "bfloat16"]  # what layers compute in; parameters are always float32
# Options that have one entry for each of the same layers, and those that may have one for all.
TOGETHER = (("channels", "kernel_sizes", "paddings"), ("hidden", "dropout"))
ONE_FOR_ALL = ("kernel_sizes", "paddings")


class Network(nn.Module):
    """A module whose options are checked by name and type, and kept as plain Python values.

    Options of several networks: `activation` of the hidden layers, `pool`, `norm` before each
    activation, `dropout`, the probabilities that an activation is zeroed, `width`, which multiplies
    the channels of every convolution, `channels`, `kernel_sizes` and `paddings` of each
    convolution, `hidden`, the units of each dense layer before the logits, `kernel_init` and
    `bias_init`.

    Raises:
      ArgumentError: an option's value can't work.
    """

    def __post_init__(self) -> None:
        options = {
            field.name: _read(field.name, getattr(self, field.name), read_choices(field.type))
            for field in dataclasses.fields(self)
            if field.name not in ("parent", "name")
        }
        for option, value in options.items():
            setattr(self, option, value)
        _check_lengths(type(self).__name__, options)
        super().__post_init__()


def _read(option: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """The value of one option as plain Python, whatever the types of numbers and sequences."""
    if option in READERS:
        return READERS[option](option, value)
    if choices and not (isinstance(value, str) and value in choices):
        raise ops.ArgumentError(
            f"{option}={value!r} is unknown; choose one of {', '.join(choices)}."
        )
    return value


def _width(option: str, value: Any) -> float:
    """A positive number: an int, or else a float."""
    if not is_number(value) or not is_concrete(value) or not 0 < float(value) < math.inf:
        raise ops.ArgumentError(f"{option}={value!r} must be more than 0, a finite number.")
    return value if isinstance(value, int) else float(value)


def _rates(option: str, value: Any) -> tuple[Any, ...]:
    """Probabilities; those that are traced can't be checked."""
    rates = _entries(value)
    if rates is None or not all(map(_is_rate, rates)):
        raise ops.ArgumentError(
            f"{option}={value!r} must be probabilities of zeroing, numbers from 0 to less than 1."
        )
    return tuple(
        float(rate) if isinstance(rate, np.generic | jax.Array) and is_concrete(rate) else rate
        for rate in rates
    )


def _is_rate(rate: Any) -> bool:
    return is_number(rate) and (not is_concrete(rate) or 0 <= float(rate) < 1)


def _integers(least: int) -> Callable[[str, Any], tuple[int, ...]]:
    def read(option: str, value: Any) -> tuple[int, ...]:
        numbers = _as_integers(value)
        if numbers is None or min(numbers, default=least) < least:
            raise ops.ArgumentError(
                f"{option}={value!r} must be integers of at least {least}, one for each layer."
            )
        return numbers

    return read


def _pairs(counted: str, whole: str) -> Callable[[str, Any], tuple[tuple[int, ...], ...]]:
    """Reads pairs of positive integers, at least one: how many are `counted`, and channels."""

    def read(option: str, value: Any) -> tuple[tuple[int, ...], ...]:
        pairs = [_as_integers(entry) or (0,) for entry in _entries(value) or ()]
        if not pairs or any(len(pair) != 2 or min(pair) < 1 for pair in pairs):
            raise ops.ArgumentError(
                f"{option}={value!r} must be pairs ({counted}, channels) of integers of at least "
                f"1, one for each {whole}."
            )
        return tuple(pairs)

    return read


def _positive(option: str, value: Any) -> int:
    try:
        return integer(option, value, 1)
    except ops.ArgumentError as error:
        raise ops.ArgumentError(f"{option}={value!r} must be at least 1, an integer.") from error


def _as_integers(value: Any) -> tuple[int, ...] | None:
    """Integers from a sequence of them; None if it is none."""
    numbers = _entries(value)
    try:
        return None if numbers is None else tuple(map(as_integer, numbers))
    except TypeError:
        return None


def _entries(value: Any) -> tuple[Any, ...] | None:
    """The entries of a sequence, also of an array; None if it is none."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(value)
    return entries(value) if getattr(value, "ndim", 0) > 0 else None


READERS: dict[str, Callable[[str, Any], Any]] = {
    "channels": _integers(1),
    "kernel_sizes": _integers(1),
    "paddings": _integers(0),
    "hidden": _integers(1),
    "arch": _pairs("convolutions", "block"),
    "stages": _pairs("blocks", "stage"),
    "blocks": _integers(1),
    "growth_rate": _positive,
    "groups": _positive,
    "group_width": _positive,
    "dropout": _rates,
    "width": _width,
    "classes": _positive,
    "auxiliary": boolean,
    "bottleneck": boolean,
    "preactivation": boolean,
    "zero_init": boolean,
    "bias": boolean,
}


def _check_lengths(name: str, options: dict[str, Any]) -> None:
    """Says which options of the network `name` have too few or too many entries."""
    for group in TOGETHER:
        lengths = {option: len(options[option]) for option in group if option in options}
        counted = [n for option, n in lengths.items() if n != 1 or option not in ONE_FOR_ALL]
        if len(set(counted)) > 1:
            found = ", ".join(f"{option} {length}" for option, length in lengths.items())
            either = " (or one for all)" if set(ONE_FOR_ALL) & set(lengths) else ""
            raise ops.ArgumentError(
                f"{name} needs as many entries in {' as in '.join(lengths)}{either}; they have "
                f"{found}."
            )
    if "dropout" in options and "hidden" not in options and len(options["dropout"]) != 1:
        raise ops.ArgumentError(
            f"{name} has one dropout layer; dropout={options['dropout']!r} must have one rate."
        )
