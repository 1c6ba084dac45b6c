"""Optimizers, each one visible chain of optax transforms, and the learning rate over time."""

import itertools
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax import Array
from optax import contrib

from cnn_jax import parts
from cnn_jax.errors import ConfigError
from cnn_jax.losses import mask_decayed
from cnn_jax.options import BELOW_ONE, NOT_NEGATIVE, POSITIVE, PROBABILITY, option, whole

Schedule = Callable[[Any], Array]

# Schedules that don't depend on the number of epochs: a shorter run is the start of a longer one.
OPEN_ENDED = ("constant", "step")


@dataclass
class OptimizerConfig:
    """The options of the optimizer."""

    # One of cnn_jax.optimizers.OPTIMIZERS.
    name: str = "sgd"
    # The peak of the schedule.
    learning_rate: float = option(0.1, POSITIVE)
    # v ← momentum v + g, w ← w − η v; 0 is plain SGD.
    momentum: float = option(0.0, BELOW_ONE)
    nesterov: bool = False
    # λ of w ← (1 − ηλ) w − ηg on kernels; biases and normalization parameters are not decayed.
    weight_decay: float = option(0.0, NOT_NEGATIVE)
    # False: λw is added to the gradient before momentum (an L2 penalty, as AlexNet and VGG have
    # it). True: it is added after momentum (SGDW). The same thing without momentum.
    decoupled: bool = False
    # The decay of the averages of gradients and of their squares, of AdamW, Lion and Muon, which
    # don't use `momentum`; None: as in their papers.
    beta1: float | None = option(None, BELOW_ONE)
    beta2: float | None = option(None, BELOW_ONE)
    # The learning rate over time: 'constant', 'linear', 'cosine', 'step', 'restarts' (cosines one
    # after the other), 'plateau' (lower when the loss of the held-out part no longer falls).
    schedule: Literal["constant", "linear", "cosine", "step", "restarts", "plateau"] = "constant"
    # Where 'linear' and each cosine end, and the least of 'plateau': a share of the peak.
    minimum_factor: float = option(0.0, PROBABILITY)
    # Epochs over which the learning rate rises linearly to its peak, before the schedule starts.
    warmup_epochs: float = option(0.0, NOT_NEGATIVE)
    # 'step': the learning rate is multiplied by `step_factor` after each of these epochs.
    step_epochs: tuple[float, ...] = option((), POSITIVE)
    step_factor: float = option(0.1, PROBABILITY)
    # 'restarts': the epochs of the first cosine; each is `restart_factor` times as long as the one
    # before.
    restart_epochs: float = option(0.0, NOT_NEGATIVE)
    restart_factor: int = option(1, whole(1, 100))
    # 'plateau': the learning rate is multiplied by `step_factor` after so many epochs in a row
    # without a new lowest loss.
    plateau_patience: int = option(5, whole(1, 10**6))
    # Gradients with a larger global norm are scaled down to it; 0: never.
    clip_norm: float = option(0.0, NOT_NEGATIVE)
    # The decay of the exponential moving average of the weights, which is what is evaluated and
    # used (0.999 averages about the last thousand steps); 0: the last weights.
    ema_decay: float = option(0.0, BELOW_ONE)
    # Parts of the network that stay as they are, by patterns of their names: Conv_0, stage1_*,
    # */bias. A batch normalization among them uses its running averages, which stay too.
    freeze: tuple[str, ...] = ()
    # Parts with a learning rate of their own, as PATTERN=FACTOR: Conv_*=0.1. The last counts that
    # matches.
    learning_rate_scale: tuple[str, ...] = ()


def sgd(config: OptimizerConfig, rate: Schedule) -> optax.GradientTransformation:
    """Returns stochastic gradient descent, with momentum and weight decay where they aren't 0."""
    chain = []
    if _is_used(config.clip_norm):
        chain.append(optax.clip_by_global_norm(config.clip_norm))
    if _is_used(config.weight_decay) and not config.decoupled:
        chain.append(optax.add_decayed_weights(config.weight_decay, mask=mask_decayed))
    if config.decoupled:
        if _is_used(config.momentum):
            chain.append(optax.trace(config.momentum, config.nesterov))
        chain.append(optax.add_decayed_weights(config.weight_decay, mask=mask_decayed))
        chain.append(optax.scale_by_learning_rate(rate))
    else:
        momentum = config.momentum if _is_used(config.momentum) else None
        chain.append(optax.sgd(rate, momentum, config.nesterov))
    return optax.chain(*chain)


def adamw(config: OptimizerConfig, rate: Schedule) -> optax.GradientTransformation:
    """Returns Adam with decoupled weight decay (Loshchilov and Hutter, 2019); β 0.9 and 0.999."""
    decay = config.weight_decay
    b1, b2 = _betas(config, 0.9, 0.999)
    return _clipped(config, optax.adamw(rate, b1, b2, weight_decay=decay, mask=mask_decayed))


def lion(config: OptimizerConfig, rate: Schedule) -> optax.GradientTransformation:
    """Returns Lion (Chen et al., 2023); β 0.9 and 0.99.

    Its learning rates are 3 to 10 times smaller than AdamW's, its weight decay as much larger.
    """
    decay = config.weight_decay
    b1, b2 = _betas(config, 0.9, 0.99)
    return _clipped(config, optax.lion(rate, b1, b2, weight_decay=decay, mask=mask_decayed))


def muon(config: OptimizerConfig, rate: Schedule) -> optax.GradientTransformation:
    """Returns Muon (Jordan et al., 2024) for kernels, read as matrices [inputs, outputs]; β 0.95.

    Biases and normalization parameters are Adam's, with Nesterov's momentum. Updates are scaled to
    the size of AdamW's (Liu et al., 2025), so that its learning rate and weight decay fit both.
    """
    decay = config.weight_decay
    b1, _ = _betas(config, 0.95, 0.0)
    return _clipped(
        config,
        contrib.muon(
            rate,
            beta=b1,
            weight_decay=decay,
            weight_decay_mask=mask_decayed,
            muon_weight_dimension_numbers=_as_matrices,
            consistent_rms=0.2,
        ),
    )


def _as_matrices(params: Any) -> Any:
    """Returns how Muon reads each kernel as a matrix; None for other parameters."""

    def read(parameter: Array, is_kernel: bool) -> contrib.MuonDimensionNumbers | None:
        *others, last = range(parameter.ndim)
        return contrib.MuonDimensionNumbers(tuple(others), last) if is_kernel else None

    return jax.tree.map(read, params, mask_decayed(params))


def _betas(config: OptimizerConfig, beta1: float, beta2: float) -> tuple[float, float]:
    """Returns the configuration's β, or else these."""
    return (
        beta1 if config.beta1 is None else config.beta1,
        beta2 if config.beta2 is None else config.beta2,
    )


def _clipped(
    config: OptimizerConfig, optimizer: optax.GradientTransformation
) -> optax.GradientTransformation:
    if not _is_used(config.clip_norm):
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


# Each makes its whole chain; options that it doesn't use have no effect.
OPTIMIZERS: dict[str, Callable[[OptimizerConfig, Schedule], optax.GradientTransformation]] = {
    "sgd": sgd,
    "adamw": adamw,
    "lion": lion,
    "muon": muon,
}


def make(
    config: OptimizerConfig, steps_per_epoch: int, epochs: int
) -> optax.GradientTransformation:
    """Returns the optimizer that `config` describes.

    Learning rate, momentum, weight decay and clipping norm may be traced values, so that runs that
    differ in them can share one compiled program; the schedule's shape may not.
    """
    optimizer = OPTIMIZERS[config.name](config, schedule(config, steps_per_epoch, epochs))
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ConfigError(
            f"optimizers.OPTIMIZERS[{config.name!r}] must return an optax.GradientTransformation, "
            f"got {type(optimizer).__name__}."
        )
    return _train_parts(optimizer, config)


def _train_parts(
    optimizer: optax.GradientTransformation, config: OptimizerConfig
) -> optax.GradientTransformation:
    """Gives parts of the network their factors, and leaves the frozen ones out."""
    if config.learning_rate_scale:
        factors = parts.read_factors(config.learning_rate_scale)

        def scale(updates: Any, params: Any) -> Any:
            del params
            return jax.tree.map_with_path(
                lambda path, update: update * parts.find_factor(factors, parts.name_leaf(path)),
                updates,
            )

        optimizer = optax.chain(optimizer, optax.stateless(scale))
    if config.freeze:

        def label(params: Any) -> Any:
            def choose(path: Any, _: Any) -> str:
                return (
                    "frozen" if parts.is_chosen(config.freeze, parts.name_leaf(path)) else "trained"
                )

            return jax.tree.map_with_path(choose, params)

        chains = {"trained": optimizer, "frozen": optax.set_to_zero()}
        optimizer = optax.multi_transform(chains, label)
    return optimizer


def schedule(config: OptimizerConfig, steps_per_epoch: int, epochs: int) -> Schedule:
    """Returns the learning rate as a function of the step, counted from 0.

    A linear warm-up, 1/n, 2/n, …, 1, then a shape of height 1 over the steps that remain, times
    `config.learning_rate`.

    Raises:
      ConfigError: warm-up or milestones are lost when they are rounded to steps.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if config.warmup_epochs and not warmup:
        raise ConfigError(
            f"config.optimizer.warmup_epochs={config.warmup_epochs} is less than half of one of "
            f"the {steps_per_epoch} steps of an epoch; set it to 0 or make it longer."
        )
    rest = max(1, epochs * steps_per_epoch - warmup)
    least = config.minimum_factor
    if config.schedule in ("constant", "plateau"):  # which falls by `plateau_factor`
        shape: Schedule = optax.constant_schedule(1.0)
    elif config.schedule == "linear":
        shape = optax.linear_schedule(1.0, least, rest)
    elif config.schedule == "cosine":
        shape = optax.cosine_decay_schedule(1.0, rest, least)
    elif config.schedule == "restarts":
        shape = _restarts(config, steps_per_epoch, rest)
    elif config.schedule == "step":
        steps = _milestones(config.step_epochs, steps_per_epoch)
        falls = {step - warmup: config.step_factor for step in steps}
        shape = optax.piecewise_constant_schedule(1.0, falls)
    else:
        choices = typing.get_args(OptimizerConfig.__annotations__["schedule"])
        raise ValueError(
            f"schedule={config.schedule!r} is unknown; choose one of {', '.join(choices)}."
        )
    if warmup:
        # The first step already moves: 1/warmup, 2/warmup, …, 1.
        rise = optax.linear_schedule(1 / warmup, 1.0, warmup - 1)
        shape = optax.join_schedules([rise, shape], [warmup])

    def rate(step: Any) -> Array:
        step = jnp.asarray(step, jnp.float32)  # exact up to 2²⁴ steps
        return jnp.asarray(config.learning_rate * shape(step), jnp.float32)

    return rate


def plateau_factor(config: OptimizerConfig, losses: Sequence[float]) -> float:
    """Returns what the learning rate of 'plateau' is multiplied by after epochs with these losses.

    It falls by `step_factor`, but not below `minimum_factor`, whenever `plateau_patience` epochs in
    a row had no loss below the lowest before, then counts anew.
    """
    factor, lowest, waited = 1.0, float("inf"), 0
    for loss in losses:
        waited = 0 if loss < lowest else waited + 1
        lowest = min(lowest, loss)
        if waited == config.plateau_patience:
            factor, waited = max(factor * config.step_factor, config.minimum_factor), 0
    return factor


def _restarts(config: OptimizerConfig, steps_per_epoch: int, steps: int) -> Schedule:
    """Returns SGDR's shape over so many steps (Loshchilov and Hutter, 2017): cosines in a row.

    Raises:
      ConfigError: the first has less than a step.
    """
    length = round(config.restart_epochs * steps_per_epoch)
    if not length:
        raise ConfigError(
            f"config.optimizer.restart_epochs={config.restart_epochs} is less than half of one of "
            f"the {steps_per_epoch} steps of an epoch; make it longer."
        )
    if config.restart_factor == 1:
        cosine = optax.cosine_decay_schedule(1.0, length, config.minimum_factor)
        return lambda step: cosine(jnp.mod(step, length))
    cosines, ends = [], []
    end = 0
    while end < steps:
        cosines.append(optax.cosine_decay_schedule(1.0, length, config.minimum_factor))
        end, length = end + length, length * config.restart_factor
        ends.append(end)
    return optax.join_schedules(cosines, ends[:-1])


def _milestones(epochs: Sequence[float], steps_per_epoch: int) -> list[int]:
    """Returns the steps after which the learning rate falls; ConfigError unless they rise."""
    steps = [round(epoch * steps_per_epoch) for epoch in epochs]
    if all(before < after for before, after in itertools.pairwise((0, *steps))):
        return steps
    raise ConfigError(
        f"config.optimizer.step_epochs={epochs!r} are the steps {', '.join(map(str, steps))}, with "
        f"{steps_per_epoch} in an epoch; they must be different ones after the first."
    )


def _is_used(value: float | Array) -> bool:
    """Whether a transform is needed: not if its value is known to be 0; it may be traced."""
    return not (isinstance(value, float | int) and value == 0)
