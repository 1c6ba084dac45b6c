"""Many steps in one compiled call, on uint8 images that are on the device: a data set or a chunk.

The same step is compiled in three ways:

- 'none': jit on one device;
- 'jit': jit over a mesh of all devices. The batch is sharded, the compiler inserts the
  all-reduce, and the numbers are one device's: the same keys, statistics of the whole batch;
- 'pmap': one replica per device. Gradients are summed over replicas; each has its own dropout
  keys and its own batch-norm statistics (the running averages are the replicas' mean).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnn_jax import ops, reduction
from cnn_jax.data import memory
from cnn_jax.reduction import AXIS, Reduction
from cnn_jax.steps import Batch, EvalStep, Totals, TrainState, TrainStep, Value

# Of the free memory; the rest is for the states' copies on the host, and for other programs.
MEMORY_USED = 0.8

Constrain = Callable[[Batch], Batch]  # says how a batch is laid out over the devices


class Data(NamedTuple):
    """A split of the data set, or a chunk: the batches of some steps."""

    images: Value  # uint8 [n, H, W, C]; of a chunk [steps, B, H, W, C]
    labels: Value  # int32 [n]; of a chunk [steps, B]


class Order(NamedTuple):
    """The examples of each step."""

    indices: Value  # int32 [steps, B]; None for a chunk, which is in this order
    weights: Value  # float32 [steps, B]


def _batch(data: Data, order: Order, step: Array) -> Batch:
    if order.indices is None:
        return Batch(data.images[step], data.labels[step], order.weights[step])
    indices = order.indices[step]
    return Batch(data.images[indices], data.labels[indices], order.weights[step])


def make_train_steps(train_step: TrainStep, constrain: Constrain = lambda b: b) -> Any:
    """Returns train_steps(state, totals, data, order, start, stop): steps start … stop − 1.

    The bounds are traced, so one program serves any part of any epoch, and a resumed run computes
    the same bits.
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
    """Returns eval_steps(state, data, order) → totals over all of `order`.

    With totals, start and stop after these it adds the totals of the steps start … stop − 1.
    """

    def eval_steps(
        state: TrainState,
        data: Data,
        order: Order,
        totals: Totals | None = None,
        start: Array | None = None,
        stop: Array | None = None,
    ) -> Totals:
        def body(i: Array, totals: Totals) -> Totals:
            return totals.add(eval_step(state, constrain(_batch(data, order, i))))

        if totals is not None:
            return lax.fori_loop(start, stop, body, totals)
        shapes = jax.eval_shape(eval_step, state, _batch(data, order, jnp.int32(0)))
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        zero = zero._replace(bad_step=jnp.int32(-1))
        return lax.fori_loop(0, order.indices.shape[0], body, zero)

    return eval_steps


class Program(NamedTuple):
    """The compiled functions of a run.

    `put_state`, `put_data` and `put_order` bring host arrays (each process the same ones) to the
    devices; `get` brings totals or a state back to the host. Of a chunk, each process has those
    places of every batch that its devices compute, `own_places(B)`, and `put_chunk(data, order, B)`
    brings them there.
    """

    train_steps: Callable[..., tuple[TrainState, Totals]]
    eval_steps: Callable[..., Totals]
    put_state: Callable[[Any], Any]
    put_data: Callable[[Data], Data]
    put_order: Callable[[Order], Order]
    get: Callable[[Any], Any]
    own_places: Callable[[int], np.ndarray]
    put_chunk: Callable[[Data, Order, int], tuple[Data, Order]]


def make_program(
    make_train: Callable[[Reduction], TrainStep],
    make_eval: Callable[[Reduction], EvalStep],
    parallel: str = "none",
    groups: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Program:
    """Returns the functions of a run, which compile at their first call: 'none', 'jit' or 'pmap'.

    `make_train(reduction)` and `make_eval(reduction)` return the steps. With `groups`, not for
    'pmap', each batch is summed in so many groups, in a fixed order. The state and the totals given
    to `train_steps` are donated: use what it returns. The programs are for `devices`, not for
    'pmap', which needn't be there: all are used but by 'none'. None: those of this process.
    """
    if parallel == "pmap":
        replicas = reduction.over_replicas(AXIS)
        return _pmap_program(make_train(replicas), make_eval(replicas))
    kind = devices[0].platform if devices else jax.default_backend()
    trace = ops.platform.traced_for(kind) if devices else lambda function: function
    devices = list(devices or jax.devices())[: None if parallel == "jit" else 1]
    mesh = Mesh(np.array(devices), (AXIS,))
    replicated, sharded = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((), (None, AXIS)))
    by_example = NamedSharding(mesh, PartitionSpec(AXIS))
    sums = reduction.over_groups(groups, mesh) if groups else reduction.at_once

    def constrain(batch: Batch) -> Batch:
        return lax.with_sharding_constraint(batch, by_example) if len(devices) > 1 else batch

    jit = functools.partial(jax.jit, compiler_options=compiler_options(kind))
    put = functools.partial(_put, sharding=replicated)
    return Program(
        jit(
            trace(make_train_steps(make_train(sums), constrain)),
            donate_argnums=(0, 1),
            out_shardings=replicated,
        ),
        jit(trace(make_eval_steps(make_eval(sums), constrain)), out_shardings=replicated),
        put_state=put,
        put_data=put,
        put_order=functools.partial(_put, sharding=sharded),
        get=_get,
        own_places=functools.partial(_own_places, sharded),
        put_chunk=functools.partial(_put_chunk, sharded),
    )


def _put(tree: Any, sharding: NamedSharding) -> Any:
    """Brings host arrays, the same in every process, to the devices."""

    def place(x: Any) -> Array:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, tree)


def _own_places(sharding: NamedSharding, size: int) -> np.ndarray:
    """The places of a batch that are on this process's devices, rising."""
    every = sharding.addressable_devices_indices_map((1, size)).values()
    places = np.arange(size)
    return np.unique(np.concatenate([places[index[1]] for index in every if index]))


def _put_chunk(sharding: NamedSharding, data: Data, order: Order, size: int) -> tuple[Data, Order]:
    """Brings this process's places of the batches of a chunk, of `size` each, to its devices."""

    def place(x: Value) -> Array:
        shape = (len(x), size, *x.shape[2:])
        return jax.make_array_from_process_local_data(sharding, x, shape)

    return jax.tree.map(place, (data, order))


def _pmap_program(train_step: TrainStep, eval_step: EvalStep) -> Program:
    """One replica per device: every array has a leading device axis."""
    count = jax.local_device_count()
    pmap = functools.partial(jax.pmap, axis_name=AXIS)
    flax_utils = flax.jax_utils

    def split(x: Value) -> np.ndarray:  # [steps, B, …] → [devices, steps, B / devices, …]
        x = np.asarray(x)
        return x.reshape(len(x), count, -1, *x.shape[2:]).swapaxes(0, 1)

    def put_chunk(data: Data, order: Order, size: int) -> tuple[Data, Order]:
        return jax.tree.map(split, (data, order))

    over_all = pmap(make_eval_steps(eval_step))
    over_chunk = pmap(make_eval_steps(eval_step), in_axes=(0, 0, 0, 0, None, None))

    def eval_steps(state: Any, data: Data, order: Order, *added: Any) -> Any:
        return (over_chunk if added else over_all)(state, data, order, *added)

    return Program(
        pmap(
            make_train_steps(train_step),
            in_axes=(0, 0, 0, 0, None, None),
            donate_argnums=(0, 1),
        ),
        eval_steps,
        put_state=flax_utils.replicate,
        put_data=flax_utils.replicate,
        put_order=functools.partial(jax.tree.map, split),
        get=lambda tree: _get(jax.tree.map(lambda x: x.addressable_shards[0].data[0], tree)),
        own_places=np.arange,
        put_chunk=put_chunk,
    )


def _get(tree: Any) -> Any:
    """Copies arrays to the host; views of device memory could be overwritten by a later step."""
    return jax.tree.map(lambda x: np.array(x), tree)


def free_memory() -> float:
    """Returns the bytes that a program may take on a device; those of the machine for a CPU."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        free = statistics["bytes_limit"] - statistics["bytes_in_use"]
    else:
        free = memory.available() / jax.local_device_count()
    return MEMORY_USED * free


def compiler_options(platform: str | None = None) -> dict[str, str | bool]:
    """Returns the compiler's options for a platform, or the default one; a CPU's turn YNNPACK off.

    It runs many convolutions and matrix products of these networks on one thread; without it XLA
    uses Eigen, on all. A jaxlib that doesn't know the option gets none.
    """
    return _cpu_options() if (platform or jax.default_backend()) == "cpu" else {}


@functools.cache
def _cpu_options() -> dict[str, str | bool]:
    options: dict[str, str | bool] = {"xla_cpu_experimental_ynn_fusion_type": ""}
    try:
        with jax.default_device(jax.devices("cpu")[0]):
            jax.jit(lambda: jnp.int32(0), compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return {}
    return options
