"""Every hyperparameter of an experiment, in one typed tree, and what can be wrong with it.

A config file under `experiments/configs/` returns a `Config`; a launcher overrides single values
(`--config.optimizer.learning_rate=0.1`). No other module gives a hyperparameter a default: a
network's own (None below) are its constructor's, and `resolve` writes them into the tree.
"""

import dataclasses
import itertools
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cnn_jax import data, models, ops, option_names, ranges, text
from cnn_jax.errors import ConfigError as ConfigError
from cnn_jax.schema import is_a as is_a
from cnn_jax.schema import show
from cnn_jax.schema import type_name as type_name


@dataclass
class DatasetConfig:
    """What is trained on, and how a picture becomes the network's input."""

    # fashion_mnist, mnist, cifar10, fashion_mnist_mini, synthetic[:options], or the path of a
    # folder of class folders or of an .npz file.
    name: str = "fashion_mnist"
    # The folder of the prepared data sets; None: ./data.
    data_dir: str | None = None
    # A stratified subset of so many training examples; 0: all of them.
    train_examples: int = 0
    # This fraction of the training set is held out and evaluated in place of the test set: the
    # way to choose hyperparameters without looking at the test set. 0: the real test set.
    holdout: float = 0.0
    # Decides which examples `train_examples` and `holdout` take; the same for all seeds of a run.
    split_seed: int = 0
    # Pictures are resized to so many pixels square, on the device; 0: left as they are.
    image_size: int = 0
    # 'unit': pixels / 255. 'standardize': also minus the mean, over the standard deviation, of
    # the training pixels of each channel. 'whiten': minus the mean training picture, then each
    # spatial frequency over √(its variance + whiten_epsilon), then to variance 1; after
    # augmentation, before resizing.
    normalization: str = "unit"
    # The variances grow with the number of pixels; Fashion-MNIST's fall from 12 to 0.001, 11 of 784
    # are above 1. So 1 damps the few low frequencies that are most of a picture there, and less
    # whitens more.
    whiten_epsilon: float = 1.0


@dataclass
class AugmentConfig:
    """Random changes of the training pictures, drawn anew for each; all off by default."""

    # Pad with so many zero pixels on each side and crop back at a random place, ...
    pad: int = 0
    # ... a picture with this probability; else it stays where it is.
    pad_probability: float = 1.0
    # Mirror left and right with probability 1/2.
    flip: bool = False
    # Blank a square of this side at a random place (DeVries and Taylor, 2017).
    cutout: int = 0
    # Probability of erasing a random rectangle (Zhong et al., 2017).
    erase: float = 0.0


@dataclass
class ModelConfig:
    """The network and its options; None is the network's own value."""

    # One of cnn_jax.models.MODELS.
    name: str = "lenet"
    # Activation of the hidden layers, one of cnn_jax.ops.ACTIVATIONS.
    activation: str | None = None
    # Pooling: 'max' or 'avg'.
    pool: str | None = None
    # Normalization before each activation: 'none' or 'batch'.
    norm: str | None = None
    # For each dropout layer the probability that an activation is zeroed.
    dropout: tuple[float, ...] | None = None
    # Multiplies the channels of every convolution.
    width: float | None = None
    # One entry for each convolution; kernel sizes and paddings may have one for all.
    channels: tuple[int, ...] | None = None
    kernel_sizes: tuple[int, ...] | None = None
    paddings: tuple[int, ...] | None = None
    # Units of each dense layer before the logits.
    hidden: tuple[int, ...] | None = None
    # VGG: (convolutions, channels) of each block.
    arch: tuple[tuple[int, int], ...] | None = None
    # GoogLeNet: auxiliary classifiers while training.
    auxiliary: bool | None = None
    # Initial kernels and biases, named as in cnn_jax.layers.
    kernel_init: str | None = None
    bias_init: str | None = None
    # NiN: biases of its class maps.
    class_bias_init: str | None = None
    # What the layers compute in, float32 or bfloat16; parameters are always float32.
    dtype: str = "float32"


@dataclass
class OptimizerConfig:
    """Stochastic gradient descent."""

    # The peak of the schedule.
    learning_rate: float = 0.1
    # v ← momentum v + g, w ← w − η v; 0 is plain SGD.
    momentum: float = 0.0
    nesterov: bool = False
    # λ of w ← (1 − ηλ) w − ηg on kernels; biases and normalization parameters are not decayed.
    weight_decay: float = 0.0
    # False: λw is added to the gradient before momentum (an L2 penalty, as AlexNet and VGG have
    # it). True: it is added after momentum (SGDW). The same thing without momentum.
    decoupled: bool = False
    # The learning rate over time: 'constant', 'linear' (to 0), 'cosine' (to 0), 'step'.
    schedule: str = "constant"
    # The rate rises linearly from 0 over so many epochs, before the schedule starts.
    warmup_epochs: float = 0.0
    # 'step': the rate is multiplied by `step_factor` after each of these epochs.
    step_epochs: tuple[float, ...] = ()
    step_factor: float = 0.1
    # Gradients with a larger global norm are scaled down to it; 0: never.
    clip_norm: float = 0.0
    # The network that is evaluated and used has the exponential moving average of the weights of
    # all steps, with this decay (0.999: of about the last thousand); 0: the last weights.
    ema_decay: float = 0.0


@dataclass
class RecordsConfig:
    """What a run leaves behind. None of it changes what the run computes."""

    # Save a checkpoint after every so many epochs (the last one always), ...
    checkpoint_epochs: int = 1
    # ... and within an epoch when so many seconds have passed since the last.
    checkpoint_seconds: float = 300.0
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
    epochs: int = 10
    # Examples in a training step, over all devices.
    batch_size: int = 256
    # Examples in an evaluation step, over all devices; changes no result but by rounding.
    eval_batch_size: int = 1000
    # Leave out the last, smaller batch of each epoch; False trains on it too.
    drop_last: bool = False
    # Targets are (1 − s) for the true class plus s / classes for every class.
    label_smoothing: float = 0.0
    # Start from these weights in place of random ones: a run's directory (its newest checkpoint, or
    # with @step=N behind it another), a checkpoint's, or a .safetensors file of experiments.export.
    init_from: str | None = None
    # Decides the initial parameters, the order of the examples, augmentation and dropout.
    seed: int = 0
    # 'none': one device. 'jit': all devices, the batch sharded over a mesh by the compiler.
    # 'pmap': all devices, one replica each.
    parallel: str = "none"


CHOICES = {
    "dataset.normalization": ("unit", "standardize", "whiten"),
    "optimizer.schedule": ("constant", "linear", "cosine", "step"),
    "model.dtype": ("float32", "bfloat16"),
    "parallel": ("none", "jit", "pmap"),
}

# Paths that may differ between two starts of one run, because they change no number.
FREE = ("dataset.data_dir", "records.")


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
    """Returns the configuration that `to_dict` gave `tree` for; JSON's lists become tuples.

    Raises:
      ConfigError: an unknown name or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    values = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"config.{prefix.rstrip('.')} is {tree!r}, where an object is expected.")
    for name, value in tree.items():
        if name not in hints:
            raise ConfigError(f"config.{prefix}{name} is unknown{nearest(name, hints)}")
        if dataclasses.is_dataclass(hints[name]):
            values[name] = from_dict(value, hints[name], f"{prefix}{name}.")
        else:
            values[name] = _tuples(value)
    return cls(**values)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """Ends a sentence: '; did you mean …?' by the known name most like `name`, or what is known."""
    known = list(known)
    near = text.find_nearest(str(name), known, 0.5)
    return f"; did you mean {near}?" if near else f"; it must be one of {', '.join(known)}."


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
        # What isn't changed is copied too, so that no two configurations share a part.
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
            raise ConfigError(f"config option {name!r} is unknown{nearest(name, defaults)}")
        kind = type(defaults[name])
        if kind is bool:
            if text.lower() not in ("", "true", "false", "1", "0"):
                raise ConfigError(f"config option {name}={text!r} is not true or false.")
            values[name] = text.lower() in ("", "true", "1")
        else:
            try:
                values[name] = kind(text)
            except ValueError as error:
                raise ConfigError(
                    f"config option {name}={text!r} is not of type {kind.__name__}."
                ) from error
            if not has_value:
                raise ConfigError(f"config option {name} needs a value, {name}=….")
    return types.SimpleNamespace(**values)


def resolve(config: Config) -> Config:
    """Returns the configuration with the network's own values written in place of None.

    An option that the network doesn't have stays None.
    """
    network = _create(config.model)
    fields = [f.name for f in dataclasses.fields(config.model) if f.name != "name"]
    own = {name: _tuples(getattr(network, name)) for name in fields if hasattr(network, name)}
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **own))


def _create(config: ModelConfig) -> Any:
    try:
        return models.create(config.name, **model_options(config))
    except ops.ArgumentError as error:
        raise ConfigError(f"config.model: {error}") from error


def model_options(config: ModelConfig) -> dict[str, Any]:
    """Returns the options that are set, as `models.create` takes them."""
    options = dataclasses.asdict(config)
    del options["name"]
    return {name: value for name, value in options.items() if value is not None}


def check(config: Config) -> None:
    """Says in one sentence what can't work, before anything is loaded.

    Raises:
      ConfigError: a wrong type, an unknown name, a value out of its range, or a combination that
        makes no sense.
    """
    check_types(config)
    leaves = flatten(config)
    for path, value in leaves.items():
        if problem := ranges.find_problem(path, value):
            raise ConfigError(f"config.{path}={problem}")
    for path, allowed in CHOICES.items():
        if leaves[path] not in allowed:
            raise ConfigError(
                f"config.{path}={leaves[path]!r} is unknown{nearest(leaves[path], allowed)}"
            )
    try:
        data.parse_name(config.dataset.name)
    except data.DataError as error:
        raise ConfigError(f"config.dataset.name: {error}") from error
    if config.model.name not in models.MODELS:
        name = config.model.name
        raise ConfigError(f"config.model.name={name!r} is unknown{nearest(name, models.MODELS)}")
    _create(config.model)

    _check_optimizer(config.optimizer, config.epochs)
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
    if optimizer.nesterov and optimizer.momentum == 0:
        raise ConfigError("config.optimizer.nesterov needs momentum; set it, to 0.9 say.")
    if warmup > epochs:
        raise ConfigError(
            f"config.optimizer.warmup_epochs={warmup} is longer than config.epochs={epochs}; the "
            "rate would never reach its peak."
        )


def check_types(config: Config) -> None:
    """Says which value is of another type than its option.

    Raises:
      ConfigError: one is.
    """
    leaves = flatten(config)
    for path, hint in leaf_types(Config).items():
        if not is_a(leaves[path], hint):
            raise ConfigError(
                f"config.{path}={show(leaves[path])} is of the wrong type; it must be "
                f"{type_name(hint)}."
            )


def check_path(path: str, flag: str = "") -> None:
    """Says which path of the configuration a wrong one may mean; `flag` begins the sentence.

    Raises:
      ConfigError: the configuration has no value at the path.
    """
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


def leaf_types(cls: Any = Config, prefix: str = "") -> dict[str, Any]:
    """Returns {'optimizer.learning_rate': float, …}, the type of every leaf by its path."""
    leaves: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            leaves.update(leaf_types(hint, f"{prefix}{name}."))
        else:
            leaves[prefix + name] = hint
    return leaves
