"""One training step and one evaluation step: pure functions of a state and one batch.

`cnn_jax.programs` runs many in one compiled call. Everything random in step s uses
fold_in(state.key, s).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array

from cnn_jax import layers, losses, ops, parts
from cnn_jax.augment import Mix, Mixed
from cnn_jax.reduction import Reduction, Sums, at_once

Value = Any  # an array on the devices, or on the host on its way there

AUXILIARY_WEIGHT = 0.3  # of each auxiliary classifier's loss (Szegedy et al., 2015, section 5)


class TrainState(flax.struct.PyTreeNode):
    """The state of training."""

    step: Array  # int32 []: steps taken
    key: Array  # uint32 [2], the data of the run's root key; never changes
    params: Any
    model_state: Any  # batch-norm statistics; {} without
    opt_state: Any
    # The moving average of params and model_state, one tree with both; None without.
    averages: Any = None
    # float32 []: what the learning rate is multiplied by, where that is decided between epochs.
    rate_factor: Array | None = None

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that the network is evaluated with."""
        return self.averages or {"params": self.params, **self.model_state}


class Batch(NamedTuple):
    """B examples; those with weight 0 are padding and count nowhere."""

    images: Array  # uint8 [B, H, W, C]
    labels: Array  # int32 [B]
    weights: Array  # float32 [B], 0 or 1


class Totals(NamedTuple):
    """Sums over examples."""

    sums: dict[str, Value]  # of each of `losses.METRICS`, by its name
    examples: Value  # float32 []
    bad_step: Value  # int32 []: the first step whose loss was not finite, else -1

    @classmethod
    def zeros(cls, classes: int) -> "Totals":
        """Returns totals of no examples, on the host."""
        return cls(losses.zero_sums(classes), np.float32(0), np.int32(-1))

    def add(self, other: "Totals") -> "Totals":
        """Returns the sum; the earlier bad step is kept."""
        sums, examples = jax.tree.map(jnp.add, self[:2], other[:2])
        return Totals(sums, examples, jnp.where(self.bad_step >= 0, self.bad_step, other.bad_step))


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Totals]]
EvalStep = Callable[[TrainState, Batch], Totals]
# (uint8 images, key) → the network's input, augmented with the key; None: for evaluation.
Preprocess = Callable[[Array, Array | None], Array]


def init_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    preprocess: Preprocess,
    image_shape: tuple[int, ...],
    seed: int | Array,
    averaging: bool = False,
) -> TrainState:
    """Returns the state before the first step, compiled as one function.

    `image_shape` is [H, W, C] of the uint8 images. The initial parameters depend on the seed
    alone; with `averaging`, the state has a moving average of them.
    """

    @jax.jit
    def init(seed: Array) -> TrainState:
        root = jax.random.key(seed)
        init_key, train_key = jax.random.split(root)
        x = preprocess(jnp.zeros((1, *image_shape), jnp.uint8), None)
        variables = model.init(init_key, x)
        params = variables["params"]
        model_state = {k: v for k, v in variables.items() if k == "batch_stats"}
        return TrainState(
            jnp.int32(0),
            jax.random.key_data(train_key),
            params,
            model_state,
            optimizer.init(params),
            {"params": params, **model_state} if averaging else None,
        )

    return init(jnp.asarray(seed, jnp.uint32))


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    preprocess: Preprocess,
    label_smoothing: float | Array = 0.0,
    ema_decay: float = 0.0,
    reduce: Reduction = at_once,
    mix: Mix | None = None,
    freeze: Sequence[str] = (),
) -> TrainStep:
    """Returns train_step(state, batch) → (state, totals), pure.

    The loss is the mean cross-entropy of the examples with weight 1, over all devices. The totals
    are those of the network before the update, without label smoothing. `reduce` is how sums over
    the batch are taken. `mix` mixes the preprocessed images: the loss is then that of the labels'
    distributions, and the totals are of the labels with the larger share. What the patterns in
    `freeze` choose, as in `parts`, stays to the bit, and no gradient of it is computed.
    """

    def compute(state: TrainState, batch: Batch, key: Array, count: Array) -> Sums:
        """The loss, gradients and metrics of a part of a batch that has `count` examples."""
        augment_key, dropout_key = jax.random.split(key)
        images = preprocess(batch.images, augment_key)
        labels: Array | Mixed = batch.labels
        if mix is not None:
            labels = mix(jax.random.fold_in(key, 2), images, batch.labels, batch.weights)
            images, batch = labels.images, batch._replace(labels=labels.labels)

        def mean_loss(logits: Array) -> Array:
            each = _losses(logits, labels, label_smoothing)
            return losses.weighted_sum(each, batch.weights) / jnp.maximum(count, 1.0)

        def loss_fn(params: Any) -> tuple[Array, tuple[Array, Any]]:
            trained = {"params": params}
            trained = parts.keep_frozen(freeze, jax.lax.stop_gradient(trained), trained)
            with nn.intercept_methods(_guide_batch_norm(batch.weights, freeze)):
                logits, changed = model.apply(
                    {**trained, **state.model_state},
                    images,
                    train=True,
                    rngs={"dropout": dropout_key},
                    mutable=["batch_stats", "auxiliary"],
                )
            updates: dict[str, Any] = dict(changed)
            auxiliary = jax.tree.leaves(updates.pop("auxiliary", {}))
            loss = mean_loss(logits)
            for head in auxiliary:
                loss += AUXILIARY_WEIGHT * mean_loss(head)
            return loss, (logits, updates)

        (loss, (logits, model_state)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params
        )
        metrics = losses.sum_metrics(logits, batch.labels, batch.weights)
        return Sums((loss, grads, metrics), batch.weights.sum(), model_state)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Totals]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        sums = reduce(compute, state, batch, key)
        loss, grads, metrics = sums.total
        model_state = sums.mean
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        if state.rate_factor is not None:  # all of OPTIMIZERS are linear in the learning rate
            updates = jax.tree.map(lambda update: state.rate_factor * update, updates)
        params = optax.apply_updates(state.params, updates)
        # Even what doesn't change would be rounded: weighted means of it, and averages.
        old = {"params": state.params, **state.model_state}
        new = parts.keep_frozen(freeze, old, {"params": params, **model_state})

        bad_step = jnp.where(jnp.isfinite(loss), jnp.int32(-1), state.step)
        averages = state.averages
        if averages is not None:
            moved = moving_average(averages, new, ema_decay, state.step)
            averages = parts.keep_frozen(freeze, averages, moved)
        params = new.pop("params")
        state = state.replace(
            step=state.step + 1,
            params=params,
            model_state=new,
            opt_state=opt_state,
            averages=averages,
        )
        return state, Totals(metrics, sums.examples, bad_step)

    return train_step


def predict(model: nn.Module, variables: Any, images: Array, flip: bool = False) -> Array:
    """Returns the logits [N, classes] of preprocessed images, for evaluation.

    With `flip` they are the logarithms of the mean of the probabilities of each image and of its
    mirror image, left to right.
    """
    logits: Any = model.apply(variables, images, train=False)
    if not flip:
        return logits
    mirrored: Any = model.apply(variables, images[:, :, ::-1], train=False)
    both = jnp.logaddexp(ops.log_softmax(logits), ops.log_softmax(mirrored))
    return both - jnp.log(jnp.asarray(2, both.dtype))


def make_eval_step(
    model: nn.Module, preprocess: Preprocess, reduce: Reduction = at_once, flip: bool = False
) -> EvalStep:
    """Returns eval_step(state, batch) → totals, pure; `flip` as in `predict`."""

    def compute(variables: Any, batch: Batch, key: Array, count: Array) -> Sums:
        logits = predict(model, variables, preprocess(batch.images, None), flip)
        metrics = losses.sum_metrics(logits, batch.labels, batch.weights)
        return Sums(metrics, batch.weights.sum(), {})

    def eval_step(state: TrainState, batch: Batch) -> Totals:
        key = jax.random.wrap_key_data(state.key)  # nothing is random in it
        sums = reduce(compute, state.variables, batch, key)
        return Totals(sums.total, sums.examples, jnp.int32(-1))

    return eval_step


def moving_average(averages: Any, new: Any, decay: float, step: Array) -> Any:
    """Returns averages + (new − averages) max(1 − decay, 1 / (step + 1)); `step` counts from 0.

    At first the plain mean of all values, without the initial ones; exponential once there are
    1 / (1 − decay) of them.
    """
    rate = jnp.maximum(1 - decay, 1 / (step.astype(jnp.float32) + 1))
    return optax.incremental_update(new, averages, rate)


def _losses(logits: Array, labels: Array | Mixed, label_smoothing: float | Array) -> Array:
    """The loss of each example, [N]."""
    if isinstance(labels, Mixed):
        targets = labels.distributions(logits.shape[-1])
        return ops.soft_cross_entropy(logits, targets, label_smoothing)
    return ops.cross_entropy(logits, labels, label_smoothing)


def _guide_batch_norm(weights: Array, freeze: Sequence[str]) -> Callable[..., Any]:
    """Passes the weights to every BatchNorm, so that networks needn't; frozen ones don't train."""

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if isinstance(layer, layers.BatchNorm) and context.method_name == "__call__":
            kwargs = {**kwargs, "mask": weights}
            if freeze and parts.is_frozen(freeze, ("batch_stats", *layer.path, "mean")):
                args, kwargs = args[:1], {**kwargs, "train": False}
        return call(*args, **kwargs)

    return intercept
