"""Optimizers, each one visible chain of optax transforms, and the learning rate over time."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax import Array

from cnn_jax import parts
from cnn_jax.errors import ConfigError
from cnn_jax.losses import mask_decayed
from cnn_jax.options import BELOW_ONE, NOT_NEGATIVE, POSITIVE, PROBABILITY, option

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
    # The learning rate over time: 'constant', 'linear' (to 0), 'cosine' (to 0), 'step'.
    schedule: Literal["constant", "linear", "cosine", "step"] = "constant"
    # Epochs over which the learning rate rises linearly to its peak, before the schedule starts.
    warmup_epochs: float = option(0.0, NOT_NEGATIVE)
    # 'step': the learning rate is multiplied by `step_factor` after each of these epochs.
    step_epochs: tuple[float, ...] = option((), POSITIVE)
    step_factor: float = option(0.1, PROBABILITY)
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


# Each makes its whole chain; options that it doesn't use have no effect.
OPTIMIZERS: dict[str, Callable[[OptimizerConfig, Schedule], optax.GradientTransformation]] = {
    "sgd": sgd,
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
    if config.schedule == "constant":
        shape: Schedule = optax.constant_schedule(1.0)
    elif config.schedule == "linear":
        shape = optax.linear_schedule(1.0, 0.0, rest)
    elif config.schedule == "cosine":
        shape = optax.cosine_decay_schedule(1.0, rest)
    elif config.schedule == "step":
        steps = _milestones(config.step_epochs, steps_per_epoch)
        falls = {step - warmup: config.step_factor for step in steps}
        shape = optax.piecewise_constant_schedule(1.0, falls)
    else:
        raise ValueError(
            f"schedule={config.schedule!r} is unknown; choose constant, linear, cosine or step."
        )
    if warmup:
        # The first step already moves: 1/warmup, 2/warmup, …, 1.
        rise = optax.linear_schedule(1 / warmup, 1.0, warmup - 1)
        shape = optax.join_schedules([rise, shape], [warmup])

    def rate(step: Any) -> Array:
        step = jnp.asarray(step, jnp.float32)  # exact up to 2²⁴ steps
        return jnp.asarray(config.learning_rate * shape(step), jnp.float32)

    return rate


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
