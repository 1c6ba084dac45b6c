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

AXIS = "data"
AUXILIARY_WEIGHT = 0.3  # of each auxiliary classifier's loss (Szegedy et al., 2015, section 5)


@flax.struct.dataclass
class TrainState:
    """All that a training step reads and replaces."""

    step: Array  # int32 []: steps taken
    key: Array  # the run's root key; never changes
    params: Any
    model_state: Any  # batch-norm statistics; {} without
    opt_state: Any


class Batch(NamedTuple):
    """B examples; those with weight 0 are padding and count nowhere."""

    images: Array  # uint8 [B, H, W, C]
    labels: Array  # int32 [B]
    weights: Array  # float32 [B], 0 or 1


class Totals(NamedTuple):
    """Sums over examples; divide by `count` for means."""

    loss: Array  # float32 []: Σ cross-entropy
    correct: Array  # float32 []
    count: Array  # float32 []
    bad_step: Array  # int32 []: the first step whose loss was not finite, else -1

    @classmethod
    def zero(cls) -> "Totals":
        """Returns the totals of no examples."""
        return cls(np.float32(0), np.float32(0), np.float32(0), np.int32(-1))  # type: ignore[arg-type]

    def add(self, other: "Totals") -> "Totals":
        """Returns the sum; the earlier bad step stays."""
        bad = jnp.where(self.bad_step >= 0, self.bad_step, other.bad_step)
        return Totals(
            self.loss + other.loss, self.correct + other.correct, self.count + other.count, bad
        )


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Totals]]
EvalStep = Callable[[TrainState, Batch], Totals]
Preprocess = Callable[[Array], Array]  # uint8 images → the network's input
Augment = Callable[[Array, Array], Array]  # (key, images) → images


def init_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    preprocess: Preprocess,
    image_shape: tuple[int, ...],
    seed: int | Array,
) -> TrainState:
    """Returns the state before the first step, compiled as one function.

    `image_shape` is [H, W, C] of the uint8 pictures. The initial parameters depend on the seed
    alone.
    """

    @jax.jit
    def init(seed: Array) -> TrainState:
        root = jax.random.key(seed)
        init_key, train_key = jax.random.split(root)
        x = preprocess(jnp.zeros((1, *image_shape), jnp.uint8))
        variables = model.init(init_key, x)
        params = variables["params"]
        model_state = {k: v for k, v in variables.items() if k == "batch_stats"}
        return TrainState(jnp.int32(0), train_key, params, model_state, optimizer.init(params))

    return init(jnp.asarray(seed, jnp.uint32))


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    preprocess: Preprocess,
    augment: Augment | None = None,
    label_smoothing: float | Array = 0.0,
    axis_name: str | None = None,
) -> TrainStep:
    """Returns train_step(state, batch) → (state, totals), pure.

    The loss is the mean cross-entropy of the examples with weight 1, over all devices. The totals
    are those of the network as it was before the update, without label smoothing.
    `axis_name` is the mapped axis when the step runs under pmap.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Totals]:
        key = jax.random.fold_in(state.key, state.step)
        if axis_name:
            key = jax.random.fold_in(key, lax.axis_index(axis_name))
        augment_key, dropout_key = jax.random.split(key)
        images = preprocess(batch.images)
        if augment:
            images = augment(augment_key, images)
        count = _sum_over(axis_name, jnp.maximum(batch.weights.sum(), 0.0))

        def loss_fn(params: Any) -> tuple[Array, tuple[Array, Any]]:
            with nn.intercept_methods(_mask_batch_norm(batch.weights)):
                logits, updates = model.apply(
                    {"params": params, **state.model_state},
                    images,
                    train=True,
                    rngs={"dropout": dropout_key},
                    mutable=["batch_stats", "auxiliary"],
                )
            updates = dict(updates)
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
        state = state.replace(
            step=state.step + 1, params=params, model_state=model_state, opt_state=opt_state
        )
        return state, totals._replace(bad_step=bad_step)

    return train_step


def make_eval_step(
    model: nn.Module, preprocess: Preprocess, axis_name: str | None = None
) -> EvalStep:
    """Returns eval_step(state, batch) → totals, pure."""

    def eval_step(state: TrainState, batch: Batch) -> Totals:
        variables = {"params": state.params, **state.model_state}
        logits = model.apply(variables, preprocess(batch.images), train=False)
        return _totals(logits, batch, axis_name)

    return eval_step


def _mean_loss(
    logits: Array, batch: Batch, label_smoothing: float | Array, count: Array
) -> Array:
    per_example = ops.cross_entropy(logits, batch.labels, label_smoothing)
    return losses.weighted_sum(per_example, batch.weights) / jnp.maximum(count, 1.0)


def _totals(logits: Array, batch: Batch, axis_name: str | None) -> Totals:
    loss = losses.weighted_sum(ops.cross_entropy(logits, batch.labels), batch.weights)
    correct = ops.correct_predictions(logits, batch.labels).astype(jnp.float32)
    correct = losses.weighted_sum(correct, batch.weights)
    sums = _sum_over(axis_name, (loss, correct, batch.weights.sum()))
    return Totals(*sums, jnp.int32(-1))


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


class Data(NamedTuple):
    """A split of the data set, on the device."""

    images: Array  # uint8 [n, H, W, C]
    labels: Array  # int32 [n]


class Order(NamedTuple):
    """Which examples are in which step."""

    indices: Array  # int32 [steps, B]
    weights: Array  # float32 [steps, B]


def _batch(data: Data, order: Order, step: Array) -> Batch:
    indices = order.indices[step]
    return Batch(data.images[indices], data.labels[indices], order.weights[step])


def make_train_steps(train_step: TrainStep, constrain: Callable[[Batch], Batch] = lambda b: b) -> Any:
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


def make_eval_steps(eval_step: EvalStep, constrain: Callable[[Batch], Batch] = lambda b: b) -> Any:
    """Returns eval_steps(state, data, order) → totals over all of `order`."""

    def eval_steps(state: TrainState, data: Data, order: Order) -> Totals:
        def body(i: Array, totals: Totals) -> Totals:
            return totals.add(eval_step(state, constrain(_batch(data, order, i))))

        zero = jax.tree.map(jnp.asarray, Totals.zero())
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
    replicated, sharded = (
        NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((), (None, AXIS))
    )
    by_example = NamedSharding(mesh, PartitionSpec(AXIS))

    def constrain(batch: Batch) -> Batch:
        return lax.with_sharding_constraint(batch, by_example) if len(devices) > 1 else batch

    jit = functools.partial(jax.jit, compiler_options=compiler_options())
    put = functools.partial(_put, sharding=replicated)
    return Program(
        jit(make_train_steps(make_train(None), constrain), donate_argnums=(0, 1)),
        jit(make_eval_steps(make_eval(None), constrain)),
        put_state=put,
        put_data=put,
        put_order=functools.partial(_put, sharding=sharded),
        get=jax.device_get,
    )


def _put(tree: Any, sharding: NamedSharding) -> Any:
    """Places host arrays, the same in every process; key arrays keep their type."""

    def place(x: Any) -> Array:
        if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            data = place(jax.random.key_data(x))
            return jax.random.wrap_key_data(data)
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, tree)


def _pmap_program(train_step: TrainStep, eval_step: EvalStep) -> Program:
    """One replica per device: every array has a leading device axis."""
    count = jax.local_device_count()
    pmap = functools.partial(jax.pmap, axis_name=AXIS)
    flax_utils = flax.jax_utils

    def put_order(order: Order) -> Order:
        def split(x: np.ndarray) -> np.ndarray:  # [steps, B] → [devices, steps, B / devices]
            return np.asarray(x).reshape(x.shape[0], count, -1).swapaxes(0, 1)

        return Order(*map(split, order))

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
        get=lambda tree: jax.device_get(jax.tree.map(lambda x: x[0], tree)),
    )


@functools.cache
def compiler_options() -> dict[str, str]:
    """Returns what the default backend should be told: on a CPU, to leave YNNPACK off.

    jaxlib's YNNPACK path runs many convolutions and matrix products of these networks on one
    thread; without it XLA uses Eigen's, on all cores. A jaxlib that doesn't know the option gets
    none.
    """
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: jnp.int32(0), compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return {}
    return options
