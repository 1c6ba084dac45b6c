"""Reads published.json: the numbers that others published, by the recipe that they belong to."""

import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

from cnn_jax import config as config_lib
from cnn_jax import models, ops
from cnn_jax.config import Config
from cnn_jax.reports import run_groups
from cnn_jax.sweeps import spaces

FILE = pathlib.Path(__file__).with_name("published.json")
# What changes a result by rounding at most: no part of a published recipe.
ROUNDING = ("eval_batch_size", "parallel", "threads", "model.dtype")


class Published(NamedTuple):
    """A number somebody published for a recipe, with its spread over their builds."""

    value: float
    what: str
    source: str
    minimum: float | None = None
    maximum: float | None = None
    n: int | None = None
    examples_per_second: str | None = None  # the range of their runs' speeds, and on what


def find_published(config: Config) -> tuple[Published, ...]:
    """Returns the numbers published for this recipe, the most comparable first; () if none is.

    A recipe of published.json gives some values; all others must be the defaults. The initial
    biases, and what changes only rounding, may differ.
    """
    try:
        own = _identify(config)
    except ops.ArgumentError:  # recorded of a network that this version doesn't have
        return ()
    return next((numbers for recipe, numbers in _read_recipes() if recipe == own), ())


def _read_recipes() -> list[tuple[Any, tuple[Published, ...]]]:
    recipes = []
    for entry in json.loads(FILE.read_text(encoding="utf-8"))["recipes"]:
        values = {p: config_lib.as_tuples(v) for p, v in entry["recipe"].items()}
        numbers = tuple(Published(**number) for number in entry["published"])
        recipes.append((_identify(config_lib.with_values(Config(), values)), numbers))
    return recipes


def _identify(config: Config) -> Any:
    """What two recipes are compared by; names of the same network don't count."""
    same = {"bias_init": "zeros", "class_bias_init": "zeros", "dtype": "float32"}
    options = config_lib.model_options(config.model)
    options |= {k: v for k, v in same.items() if hasattr(models.create(config.model.name), k)}
    network = models.create(config.model.name, **options)
    fields = {f.name: getattr(network, f.name) for f in dataclasses.fields(network)}
    own = {k: spaces.format_value(v) for k, v in fields.items() if k not in ("parent", "name")}
    rest = {
        path: value
        for path, value in run_groups.recipe_key(config)
        if not path.startswith("model.") and path not in ROUNDING
    }
    return type(network), own, rest
