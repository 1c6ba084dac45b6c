"""Every hyperparameter of an experiment, in one typed tree, and what can be wrong with it.

A config file under `experiments/configs/` returns a `Config`; flags override single values
(`--config.optimizer.learning_rate=0.1`). Each part declares its options beside its code, with
types, defaults and ranges. A network's options are None until `resolve` writes its own values.
"""

import dataclasses
import itertools
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cnn_jax import data, models, ops, optimizers, option_names, options, parts
from cnn_jax.augment import AugmentConfig
from cnn_jax.data import DatasetConfig
from cnn_jax.errors import ConfigError
from cnn_jax.models import ModelConfig
from cnn_jax.optimizers import OptimizerConfig
from cnn_jax.options import BELOW_ONE, NOT_NEGATIVE, bits, option, suggest_name, whole


@dataclass
class RecordsConfig:
    """What a run leaves behind. None of it changes what the run computes."""

    # A checkpoint is saved whenever this number of epochs is finished, at the end, ...
    checkpoint_epochs: int = option(1, whole(1, 10**6))
    # ... and within an epoch when this number of seconds has passed since the last.
    checkpoint_seconds: float = option(300.0, NOT_NEGATIVE)
    # Write TensorBoard events.
    tensorboard: bool = True
    # Draw the figures when the run ends.
    figures: bool = True


@dataclass
class Config:
    """One experiment: the same configuration on the same machine gives the same numbers."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    records: RecordsConfig = field(default_factory=RecordsConfig)
    # Passes over the training set.
    epochs: int = option(10, whole(1, 10**6))
    # End after this number of epochs without a higher accuracy on the held-out part, which
    # dataset.holdout makes; 0: never.
    early_stopping: int = option(0, whole(0, 10**6))
    # Examples in a training step, over all devices.
    batch_size: int = option(256, whole(1, 10**6))
    # Examples in an evaluation step, over all devices; it affects results by rounding only.
    eval_batch_size: int = option(1000, whole(1, 10**6))
    # Evaluate with the mean of the probabilities of each image and of its mirror image; predictions
    # and figures of the run as well.
    test_flip: bool = False
    # Equal parts of a batch that are computed one after the other, to save memory: gradients are
    # added up. The numbers are those of the batch at once up to rounding, but for what is random
    # and for batch normalization, which takes the statistics of each part.
    accumulate: int = option(1, whole(1, 10**6))
    # Leave out the last, smaller batch of each epoch; False trains on it too.
    drop_last: bool = False
    # Targets are (1 − s) for the true class plus s / classes for every class.
    label_smoothing: float = option(0.0, BELOW_ONE)
    # Initial weights in place of random ones: a run's directory (its newest checkpoint, or with
    # @best or @step=N behind it another), a checkpoint's, or a .safetensors file with the names of
    # experiments.export, torchvision or timm.
    init_from: str | None = None
    # Parts of the network that start anew all the same, by patterns of their names: Dense_1,
    # stage4_*, */bias.
    init_from_skip: tuple[str, ...] = ()
    # Decides the initial parameters, the order of the examples, augmentation and dropout.
    seed: int = option(0, bits(32))
    # 'none': one device. 'jit': all devices, the batch sharded over a mesh by the compiler.
    # 'pmap': all devices, one replica each.
    parallel: Literal["none", "jit", "pmap"] = "none"
    # 'plain': sums over a batch are equal on other devices up to rounding. 'ordered': the same bits
    # on 1, 2, 4, … devices, as fixed groups of examples are summed in a fixed order; batch
    # normalization takes the statistics of each group.
    reduction: Literal["plain", "ordered"] = "plain"
    # Into how many equal groups 'ordered' divides a batch; a multiple of the number of devices.
    reduction_groups: int = option(8, whole(1, 10**6))
    # Threads of the CPU's pool, on whose number the bits depend; 0: as many as there are cores.
    threads: int = option(0, whole(0, 4096))


# Paths that may differ between two starts of one run, because they change no number.
FREE = ("dataset.data_dir", "dataset.feed", "records.")


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns {'optimizer.learning_rate': 0.1, …}, every leaf of the tree by its path."""
    leaves: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            leaves.update(flatten(value, f"{prefix}{f.name}."))
        else:
            leaves[prefix + f.name] = value
    return leaves


def to_dict(config: Config) -> dict[str, Any]:
    """Returns the tree as nested dictionaries, ready for JSON (which makes tuples lists)."""
    return dataclasses.asdict(config)


def from_dict(tree: dict[str, Any], cls: type = Config, prefix: str = "") -> Any:
    """Returns the configuration in nested dictionaries, as `to_dict` makes them.

    Raises:
      ConfigError: an unknown name, or a part that isn't an object; `check_types` checks the values.
    """
    hints = typing.get_type_hints(cls)
    values = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"config.{prefix.rstrip('.')} is {tree!r}, where an object is expected.")
    for name, value in tree.items():
        if name not in hints:
            if cls is ModelConfig and value is None:
                continue  # an option of a network that was in MODELS then
            if cls is ModelConfig and (network := tree.get("name")) not in models.MODELS:
                raise ConfigError(
                    f"config.{prefix}{name} is unknown, as the network {network!r} is, which may "
                    "have it; import the module that adds it to cnn_jax.models.MODELS first "
                    "(--import=FILE.py)."
                )
            raise ConfigError(f"config.{prefix}{name} is unknown{suggest_name(name, hints)}")
        if dataclasses.is_dataclass(hints[name]):
            values[name] = from_dict(value, hints[name], f"{prefix}{name}.")
        else:
            values[name] = as_tuples(value)
    return cls(**values)


def as_tuples(value: Any) -> Any:
    """Returns a value with its lists, at any depth, as tuples."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


def with_values(tree: Any, values: Mapping[str, Any]) -> Any:
    """Returns a copy of the configuration with other values at some paths."""
    changes: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        name, _, rest = path.partition(".")
        if rest:
            nested.setdefault(name, {})[rest] = value
        else:
            changes[name] = value
    for f in dataclasses.fields(tree):
        # Other parts are copied too, so that no two configurations share one.
        node = getattr(tree, f.name)
        if dataclasses.is_dataclass(node):
            changes[f.name] = with_values(node, nested.get(f.name, {}))
    return dataclasses.replace(tree, **changes)


def parse_options(options: str | None, **defaults: Any) -> types.SimpleNamespace:
    """Parses a config file's argument: 'pool=max,smoke' after `lenet.py:`.

    Each option has a default in `defaults`, which gives its type; a bare name sets a bool.

    Raises:
      ConfigError: an unknown option or a value of the wrong type.
    """
    values = dict(defaults)
    for item in filter(None, (options or "").split(",")):
        name, has_value, text = item.partition("=")
        if name not in defaults:
            raise ConfigError(f"config option {name!r} is unknown{suggest_name(name, defaults)}")
        kind = type(defaults[name])
        if kind is bool:
            if text.lower() not in ("", "true", "false", "1", "0"):
                raise ConfigError(f"config option {name}={text!r} is not true or false.")
            values[name] = text.lower() in ("", "true", "1")
        elif not has_value:
            raise ConfigError(f"config option {name} needs a value, {name}=….")
        else:
            try:
                values[name] = kind(text)
            except ValueError as error:
                raise ConfigError(
                    f"config option {name}={text!r} is not of type {kind.__name__}."
                ) from error
    return types.SimpleNamespace(**values)


def resolve(config: Config) -> Config:
    """Returns the configuration with the network's own values written in place of None.

    An option that the network doesn't have stays None.
    """
    network = _create(config.model)
    fields = [f.name for f in dataclasses.fields(config.model) if f.name != "name"]
    own = {name: as_tuples(getattr(network, name)) for name in fields if hasattr(network, name)}
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **own))


def make_defaults(network: str) -> Config:
    """Returns the resolved configuration of a network with every other value at its default."""
    return resolve(Config(model=ModelConfig(network)))


def _create(config: ModelConfig) -> Any:
    try:
        return models.create(config.name, **model_options(config))
    except ops.ArgumentError as error:
        raise ConfigError(f"config.model: {error}") from error


def model_options(config: ModelConfig) -> dict[str, Any]:
    """Returns the options of `models.create` that are set."""
    options = dataclasses.asdict(config)
    del options["name"]
    network = models.MODELS.get(config.name)
    if config.dtype == "float32" and network and "dtype" not in models.read_options(network):
        del options["dtype"]  # a network without the option computes in float32
    return {name: value for name, value in options.items() if value is not None}


def check(config: Config) -> None:
    """Checks a configuration before anything is loaded.

    Raises:
      ConfigError: a wrong type, an unknown name, a value out of its range, or a combination that
        makes no sense.
    """
    declared = leaf_fields()
    for path, value in flatten(config).items():
        if problem := options.find_problem(value, declared[path]):
            raise ConfigError(f"config.{path}={problem}")
    try:
        data.parse_name(config.dataset.name)
    except data.DataError as error:
        raise ConfigError(f"config.dataset.name: {error}") from error
    tables = {"model": models.MODELS, "optimizer": optimizers.OPTIMIZERS}
    for part, table in tables.items():
        if (name := getattr(config, part).name) not in table:
            raise ConfigError(f"config.{part}.name={name!r} is unknown{suggest_name(name, table)}")
    _create(config.model)

    _check_optimizer(config.optimizer, config.epochs)
    if config.optimizer.schedule == "plateau" and not config.dataset.holdout:
        raise ConfigError(
            "config.optimizer.schedule='plateau' looks at the loss of a held-out part, never at "
            "the test set; set config.dataset.holdout, for example to 0.1."
        )
    _check_reduction(config)
    if config.early_stopping and not config.dataset.holdout:
        raise ConfigError(
            f"config.early_stopping={config.early_stopping} needs a held-out part to go by, as the "
            "test set must not choose when to stop; set config.dataset.holdout, for example to 0.1."
        )
    if config.dataset.train_examples and config.batch_size > config.dataset.train_examples:
        raise batch_too_large(config.batch_size, config.dataset.train_examples)


def _check_optimizer(optimizer: OptimizerConfig, epochs: int) -> None:
    steps, warmup = optimizer.step_epochs, optimizer.warmup_epochs
    given = f"config.optimizer.step_epochs={steps!r}"
    if any(b <= a for a, b in itertools.pairwise((0, *steps))):
        raise ConfigError(f"{given} must be positive numbers in rising order, each once.")
    if optimizer.schedule == "step" and not steps:
        raise ConfigError(
            "config.optimizer.schedule='step' needs config.optimizer.step_epochs, the epochs after "
            "which the rate falls."
        )
    if optimizer.schedule == "restarts" and not optimizer.restart_epochs:
        raise ConfigError(
            "config.optimizer.schedule='restarts' needs config.optimizer.restart_epochs, the "
            "epochs of the first period."
        )
    parts.read_factors(optimizer.learning_rate_scale)
    if optimizer.nesterov and optimizer.momentum == 0:
        raise ConfigError("config.optimizer.nesterov needs momentum; set it, for example to 0.9.")
    if warmup > epochs:
        raise ConfigError(
            f"config.optimizer.warmup_epochs={warmup} is longer than config.epochs={epochs}; the "
            "rate would never reach its peak."
        )


def _check_reduction(config: Config) -> None:
    if config.batch_size % config.accumulate:
        raise ConfigError(
            f"config.batch_size={config.batch_size} can't be divided into config.accumulate="
            f"{config.accumulate} equal parts; choose a multiple of it."
        )
    if config.reduction == "plain":
        return
    if config.accumulate > 1:
        raise ConfigError(
            "config.reduction='ordered' computes the groups of a batch one after the other anyway; "
            "leave config.accumulate at 1 and raise config.reduction_groups instead."
        )
    if config.parallel == "pmap":
        raise ConfigError(
            "config.reduction='ordered' needs config.parallel='none' or 'jit'; the replicas of "
            "'pmap' draw their own random numbers, so that other devices give another run."
        )
    for name in ("batch_size", "eval_batch_size"):
        if (size := getattr(config, name)) % config.reduction_groups:
            raise ConfigError(
                f"config.{name}={size} can't be divided into config.reduction_groups="
                f"{config.reduction_groups} equal groups; choose a multiple of it."
            )


def check_types(config: Config) -> None:
    """Raises ConfigError if a value is of another type than its option."""
    declared = leaf_fields()
    for path, value in flatten(config).items():
        if problem := options.find_wrong_type(value, declared[path].type):
            raise ConfigError(f"config.{path}={problem}")


def check_path(path: str, flag: str = "") -> None:
    """Raises ConfigError, beginning with `flag`, if the configuration has no value at the path."""
    known = leaf_types()
    if path not in known:
        said = option_names.describe_unknown(path, known)
        raise ConfigError(f"{flag or f'config.{path}'} is not in the configuration; {said}")


def batch_too_large(batch_size: int, examples: int) -> ConfigError:
    """Returns the error for a batch that is larger than the training set."""
    return ConfigError(
        f"config.batch_size={batch_size} is larger than the training set of {examples} examples; "
        f"choose at most {examples}."
    )


def leaf_fields(cls: Any = Config, prefix: str = "") -> dict[str, "dataclasses.Field[Any]"]:
    """Returns the declaration of every leaf by its path: its type, default and range."""
    leaves: dict[str, dataclasses.Field[Any]] = {}
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(f.type):
            leaves.update(leaf_fields(f.type, f"{prefix}{f.name}."))
        else:
            leaves[prefix + f.name] = f
    return leaves


def leaf_types() -> dict[str, Any]:
    """Returns {'optimizer.learning_rate': float, …}, the types of files and flags."""
    return {path: options.plain_type(f.type) for path, f in leaf_fields().items()}
