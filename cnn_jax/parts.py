"""Parts of a network, chosen by patterns of the names of its parameters.

A name is a path, such as 'stage1_block2/Conv_0/kernel'. A pattern, with *, ? and [] as in names of
files, chooses a parameter if it matches its name or that of a part that the parameter lies in:
'Conv_0', 'stage1_*', '*/bias'. The running averages of a batch normalization belong to its scale
and bias.
"""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from cnn_jax import text
from cnn_jax.errors import ConfigError


def name_leaf(path: Any) -> str:
    """Returns the name of a leaf of a tree of parameters, of which JAX gives the path."""
    return "/".join(key.key for key in path)


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern chooses the parameter of this name."""
    steps = name.split("/")
    parts = ("/".join(steps[: n + 1]) for n in range(len(steps)))
    return any(fnmatch.fnmatchcase(part, pattern) for part in parts)


def is_chosen(patterns: Iterable[str], name: str) -> bool:
    """Whether one of the patterns chooses the parameter of this name."""
    return any(matches(pattern, name) for pattern in patterns)


def is_frozen(patterns: Sequence[str], path: Sequence[str]) -> bool:
    """Whether a leaf of a network's variables stays as it is when the patterns are frozen.

    `path` is that in the variables: ('params', 'Conv_0', 'kernel'). Running averages stay if scale
    and bias do.
    """
    collection, *layer, leaf = path
    leaves = (leaf,) if collection == "params" else ("scale", "bias")
    return all(is_chosen(patterns, "/".join((*layer, leaf))) for leaf in leaves)


def keep_frozen(patterns: Sequence[str], old: Any, new: Any) -> Any:
    """Returns the variables {'params': …, …} in `new`, the frozen leaves as they were in `old`."""
    if not patterns:
        return new

    def choose(path: Any, before: Any, after: Any) -> Any:
        return before if is_frozen(patterns, [key.key for key in path]) else after

    return jax.tree.map_with_path(choose, old, new)


def read_factors(values: Iterable[str]) -> dict[str, float]:
    """Returns the factor of each pattern in 'PATTERN=FACTOR'.

    Raises:
      ConfigError: one has another form, or its factor isn't a positive, finite number.
    """
    factors = {}
    for value in values:
        pattern, _, number = value.rpartition("=")
        try:
            factor = float(number)
        except ValueError:
            factor = 0.0
        if not pattern or not 0 < factor < float("inf"):
            raise ConfigError(
                f"config.optimizer.learning_rate_scale={value!r} must be PATTERN=FACTOR with a "
                "positive factor, such as Conv_*=0.1; for a factor of 0 there is "
                "config.optimizer.freeze."
            )
        factors[pattern] = factor
    return factors


def find_factor(factors: Mapping[str, float], name: str) -> float:
    """Returns the factor of a parameter: that of the last pattern that chooses it, else 1."""
    return next((factors[p] for p in reversed(list(factors)) if matches(p, name)), 1.0)


def list_names(params: Any) -> list[str]:
    """Returns the names of the parameters in a tree."""
    return [name_leaf(path) for path, _ in jax.tree.leaves_with_path(params)]


def check_trained(freeze: Sequence[str], scales: Sequence[str], params: Any) -> None:
    """Checks the options `optimizer.freeze` and `optimizer.learning_rate_scale` of a network.

    Raises:
      ConfigError: they name parts that it doesn't have, or nothing is left to train.
    """
    names = list_names(params)
    check_patterns("optimizer.freeze", freeze, names)
    check_patterns("optimizer.learning_rate_scale", read_factors(scales), names)
    if all(is_chosen(freeze, name) for name in names):
        raise ConfigError(
            f"config.optimizer.freeze={','.join(freeze)} leaves nothing of the network to train; "
            "leave one of its parts out."
        )


def check_patterns(option: str, patterns: Iterable[str], names: Sequence[str]) -> None:
    """Raises ConfigError if one of the patterns of `option` chooses none of these parameters."""
    for pattern in patterns:
        if any(matches(pattern, name) for name in names):
            continue
        layers = list(dict.fromkeys(name.rpartition("/")[0] for name in names))
        near = text.find_nearest(pattern, [*layers, *names], 0.6)
        advice = f"did you mean {near}?" if near else f"its parts are {text.list_some(layers)}."
        raise ConfigError(f"config.{option}: the network has no part {pattern!r}; {advice}")
