"""One training step, one evaluation step, and how they are compiled.

`make_train_step` and `make_eval_step` return pure functions of one batch. `Program` runs many of
them in one compiled call: the data set stays on the device as uint8, a loop gathers each batch by
its indices, and only a few totals come back to the host. The same step is compiled in three ways:

- 'none': jit on one device;
- 'jit': jit over a mesh of all devices. The batch is sharded, the compiler inserts the
  all-reduce, and the numbers are one device's: the same keys, statistics of the whole batch;
- 'pmap': one replica per device. Gradients are summed over replicas; each has its own dropout
  keys and its own batch-norm statistics (the running averages are the replicas' mean).

Randomness is derived, not carried: everything random in step s uses fold_in(state.key, s).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnn_jax import layers, losses, ops

Value = Any  # an array on the devices, or on the host on its way there

AXIS = "data"
AUXILIARY_WEIGHT = 0.3  # of each auxiliary classifier's loss (Szegedy et al., 2015, section 5)


class TrainState(flax.struct.PyTreeNode):
    """All that a training step reads and replaces."""

    step: Array  # int32 []: steps taken
    key: Array  # uint32 [2], the data of the run's root key; never changes
    params: Any
    model_state: Any  # batch-norm statistics; {} without
    opt_state: Any
    # The moving average of params and model_state, one tree with both; None without.
    averages: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """What the network is evaluated with."""
        return self.averages or {"params": self.params, **self.model_state}


class Batch(NamedTuple):
    """B examples; those with weight 0 are padding and count nowhere."""

    images: Array  # uint8 [B, H, W, C]
    labels: Array  # int32 [B]
    weights: Array  # float32 [B], 0 or 1


class Totals(NamedTuple):
    """Sums over examples; divide by `examples` for means."""

    loss: Value  # float32 []: Σ cross-entropy
    correct: Value  # float32 []
    examples: Value  # float32 []
    bad_step: Value  # int32 []: the first step whose loss was not finite, else -1

    @classmethod
    def of(cls, loss: float = 0.0, correct: float = 0.0, examples: float = 0.0) -> "Totals":
        """Returns totals on the host; of no examples, unless given."""
        return cls(np.float32(loss), np.float32(correct), np.float32(examples), np.int32(-1))

    def add(self, other: "Totals") -> "Totals":
        """Returns the sum; the earlier bad step stays."""
        bad = jnp.where(self.bad_step >= 0, self.bad_step, other.bad_step)
        return Totals(
            self.loss + other.loss,
            self.correct + other.correct,
            self.examples + other.examples,
            bad,
        )


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

    `image_shape` is [H, W, C] of the uint8 pictures. The initial parameters depend on the seed
    alone. `averaging`: with a moving average of them.
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
    axis_name: str | None = None,
    ema_decay: float = 0.0,
) -> TrainStep:
    """Returns train_step(state, batch) → (state, totals), pure.

    The loss is the mean cross-entropy of the examples with weight 1, over all devices. The totals
    are those of the network as it was before the update, without label smoothing. A state with
    averages has them moved by `moving_average`.
    `axis_name` is the mapped axis when the step runs under pmap.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Totals]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        if axis_name:
            key = jax.random.fold_in(key, lax.axis_index(axis_name))
        augment_key, dropout_key = jax.random.split(key)
        images = preprocess(batch.images, augment_key)
        count = _sum_over(axis_name, batch.weights.sum())

        def loss_fn(params: Any) -> tuple[Array, tuple[Array, Any]]:
            with nn.intercept_methods(_mask_batch_norm(batch.weights)):
                logits, changed = model.apply(
                    {"params": params, **state.model_state},
                    images,
                    train=True,
                    rngs={"dropout": dropout_key},
                    mutable=["batch_stats", "auxiliary"],
                )
            updates: dict[str, Any] = dict(changed)
            auxiliary = jax.tree.leaves(updates.pop("auxiliary", {}))
            loss = _mean_loss(logits, batch, label_smoothing, count)
            for head in auxiliary:
                loss += AUXILIARY_WEIGHT * _mean_loss(head, batch, label_smoothing, count)
            return loss, (logits, updates)

        (loss, (logits, model_state)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params
        )
        if axis_name:
            loss, grads = lax.psum((loss, grads), axis_name)
            model_state = lax.pmean(model_state, axis_name)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        totals = _totals(logits, batch, axis_name)
        bad_step = jnp.where(jnp.isfinite(loss), jnp.int32(-1), state.step)
        averages = state.averages
        if averages is not None:
            new = {"params": params, **model_state}
            averages = moving_average(averages, new, ema_decay, state.step)
        state = TrainState(state.step + 1, state.key, params, model_state, opt_state, averages)
        return state, totals._replace(bad_step=bad_step)

    return train_step


def make_eval_step(
    model: nn.Module, preprocess: Preprocess, axis_name: str | None = None
) -> EvalStep:
    """Returns eval_step(state, batch) → totals, pure."""

    def eval_step(state: TrainState, batch: Batch) -> Totals:
        logits = model.apply(state.variables, preprocess(batch.images, None), train=False)
        return _totals(logits, batch, axis_name)

    return eval_step


def moving_average(averages: Any, new: Any, decay: float, step: Array) -> Any:
    """Returns averages + (new − averages) max(1 − decay, 1 / (step + 1)); `step` counts from 0.

    The plain mean of all values at first, so that the initial ones, which are no result of
    training, count nowhere; exponential once there are 1 / (1 − decay) of them.
    """
    rate = jnp.maximum(1 - decay, 1 / (step.astype(jnp.float32) + 1))
    return optax.incremental_update(new, averages, rate)


def _mean_loss(logits: Array, batch: Batch, label_smoothing: float | Array, count: Array) -> Array:
    per_example = ops.cross_entropy(logits, batch.labels, label_smoothing)
    return losses.weighted_sum(per_example, batch.weights) / jnp.maximum(count, 1.0)


def _totals(logits: Any, batch: Batch, axis_name: str | None) -> Totals:
    loss = losses.weighted_sum(ops.cross_entropy(logits, batch.labels), batch.weights)
    correct = ops.correct_predictions(logits, batch.labels).astype(jnp.float32)
    correct = losses.weighted_sum(correct, batch.weights)
    sums = _sum_over(axis_name, (loss, correct, batch.weights.sum()))
    return Totals(sums[0], sums[1], sums[2], jnp.int32(-1))


def _sum_over(axis_name: str | None, tree: Any) -> Any:
    return lax.psum(tree, axis_name) if axis_name else tree


def _mask_batch_norm(weights: Array) -> Callable[..., Any]:
    """Hands the weights to every BatchNorm, so that networks needn't carry them through."""

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, layers.BatchNorm) and context.method_name == "__call__":
            kwargs = {**kwargs, "mask": weights}
        return call(*args, **kwargs)

    return intercept


# Many steps in one compiled call.

Constrain = Callable[[Batch], Batch]  # says how a batch is laid out over the devices


class Data(NamedTuple):
    """A split of the data set, on the device."""

    images: Value  # uint8 [n, H, W, C]
    labels: Value  # int32 [n]


class Order(NamedTuple):
    """Which examples are in which step."""

    indices: Value  # int32 [steps, B]
    weights: Value  # float32 [steps, B]


def _batch(data: Data, order: Order, step: Array) -> Batch:
    indices = order.indices[step]
    return Batch(data.images[indices], data.labels[indices], order.weights[step])


def make_train_steps(train_step: TrainStep, constrain: Constrain = lambda b: b) -> Any:
    """Returns train_steps(state, totals, data, order, start, stop): steps start … stop − 1.

    The bounds are traced values, so one program serves any part of any epoch: a run interrupted
    anywhere goes on with the same instructions, hence the same bits.
    """

    def train_steps(
        state: TrainState, totals: Totals, data: Data, order: Order, start: Array, stop: Array
    ) -> tuple[TrainState, Totals]:
        def body(i: Array, carry: tuple[TrainState, Totals]) -> tuple[TrainState, Totals]:
            state, totals = carry
            state, new = train_step(state, constrain(_batch(data, order, i)))
            return state, totals.add(new)

        return lax.fori_loop(start, stop, body, (state, totals))

    return train_steps


def make_eval_steps(eval_step: EvalStep, constrain: Constrain = lambda b: b) -> Any:
    """Returns eval_steps(state, data, order) → totals over all of `order`."""

    def eval_steps(state: TrainState, data: Data, order: Order) -> Totals:
        def body(i: Array, totals: Totals) -> Totals:
            return totals.add(eval_step(state, constrain(_batch(data, order, i))))

        zero = jax.tree.map(jnp.asarray, Totals.of())
        return lax.fori_loop(0, order.indices.shape[0], body, zero)

    return eval_steps


class Program(NamedTuple):
    """The compiled functions of a run, and how to bring its values to the devices.

    `put_state`, `put_data` and `put_order` take host arrays (each process the same ones);
    `get` brings totals or a state back to the host.
    """

    train_steps: Callable[..., tuple[TrainState, Totals]]
    eval_steps: Callable[..., Totals]
    put_state: Callable[[Any], Any]
    put_data: Callable[[Data], Data]
    put_order: Callable[[Order], Order]
    get: Callable[[Any], Any]


def compile_step(
    make_train: Callable[[str | None], TrainStep],
    make_eval: Callable[[str | None], EvalStep],
    parallel: str = "none",
) -> Program:
    """Compiles the steps: 'none', 'jit' or 'pmap' (see the top of this file).

    `make_train(axis_name)` and `make_eval(axis_name)` return the steps. The state and the totals
    given to `train_steps` are donated: use what it returns.
    """
    if parallel == "pmap":
        return _pmap_program(make_train(AXIS), make_eval(AXIS))
    devices = jax.devices() if parallel == "jit" else jax.devices()[:1]
    mesh = Mesh(np.array(devices), (AXIS,))
    replicated, sharded = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((), (None, AXIS)))
    by_example = NamedSharding(mesh, PartitionSpec(AXIS))

    def constrain(batch: Batch) -> Batch:
        return lax.with_sharding_constraint(batch, by_example) if len(devices) > 1 else batch

    jit = functools.partial(jax.jit, compiler_options=compiler_options())
    put = functools.partial(_put, sharding=replicated)
    return Program(
        jit(
            make_train_steps(make_train(None), constrain),
            donate_argnums=(0, 1),
            out_shardings=replicated,
        ),
        jit(make_eval_steps(make_eval(None), constrain), out_shardings=replicated),
        put_state=put,
        put_data=put,
        put_order=functools.partial(_put, sharding=sharded),
        get=_get,
    )


def _put(tree: Any, sharding: NamedSharding) -> Any:
    """Places host arrays, the same in every process."""

    def place(x: Any) -> Array:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, tree)


def _pmap_program(train_step: TrainStep, eval_step: EvalStep) -> Program:
    """One replica per device: every array has a leading device axis."""
    count = jax.local_device_count()
    pmap = functools.partial(jax.pmap, axis_name=AXIS)
    flax_utils = flax.jax_utils

    def put_order(order: Order) -> Order:
        def split(x: Value) -> np.ndarray:  # [steps, B] → [devices, steps, B / devices]
            x = np.asarray(x)
            return x.reshape(len(x), count, -1).swapaxes(0, 1)

        return Order(split(order.indices), split(order.weights))

    return Program(
        pmap(
            make_train_steps(train_step),
            in_axes=(0, 0, 0, 0, None, None),
            donate_argnums=(0, 1),
        ),
        pmap(make_eval_steps(eval_step)),
        put_state=flax_utils.replicate,
        put_data=flax_utils.replicate,
        put_order=put_order,
        get=lambda tree: _get(jax.tree.map(lambda x: x.addressable_shards[0].data[0], tree)),
    )


def _get(tree: Any) -> Any:
    """Host copies; not views of device memory, which a later step may be given to write over."""
    return jax.tree.map(lambda x: np.array(x), tree)


@functools.cache
def compiler_options() -> dict[str, str | bool]:
    """Returns what the default backend should be told: on a CPU, to leave YNNPACK off.

    jaxlib's YNNPACK path runs many convolutions and matrix products of these networks on one
    thread; without it XLA uses Eigen's, on all cores. A jaxlib that doesn't know the option gets
    none.
    """
    options: dict[str, str | bool] = {"xla_cpu_experimental_ynn_fusion_type": ""}
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: jnp.int32(0), compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return {}
    return options
