"""The compiled steps of a population: one member's, mapped over states and hyperparameters.

There are two ways to map, the `how` of MAPPINGS: 'vmap' computes all members together in wider
operations, where a convolution becomes a grouped one; 'map' computes one member after the other
within one program. Members are divided equally among the devices; if they can't be, the last one is
trained several times. 'auto' is the faster one according to experiments/reports/population.md.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnn_jax import augment, ops, optimizers, programs, reduction, steps
from cnn_jax import config as config_lib
from cnn_jax.config import Config
from cnn_jax.experiment import Experiment

# What members may differ in, beside the seed. One that is 0 leaves its part out of the program, so
# it is 0 for all members or for none.
TRACED = (
    "optimizer.learning_rate",
    "optimizer.momentum",
    "optimizer.weight_decay",
    "optimizer.clip_norm",
    "optimizer.ema_decay",
    "model.dropout",
    "label_smoothing",
)
MAPPINGS = ("vmap", "map")
AXIS = "members"

Hyperparameters = Mapping[str, Array]  # by path, of one member or with a leading axis of members


class Program(NamedTuple):
    """The compiled functions for some number of members, and how values get to the devices.

    `train_steps(values, states, totals, train_data, orders, start, stop)` → (states, totals) and
    `eval_steps(states, test_data, test_order)` → totals; values, states, totals and orders have a
    leading axis of members, filled up with repetitions of the last. States and totals are donated:
    use what is returned.
    """

    train_steps: Callable[..., Any]
    eval_steps: Callable[..., Any]
    put_members: Callable[[Sequence[Any]], Any]  # stacks host trees, one for each member
    put: Callable[[Any], Any]  # what all members share
    bytes: float  # that it takes on each device, its arguments included


def traced_values(settings: Config) -> dict[str, np.ndarray]:
    """Returns the hyperparameters that the program takes as arguments, by path; those not 0."""
    leaves = config_lib.flatten(config_lib.resolve(settings))
    values = {path: leaves[path] for path in TRACED}
    return {
        path: np.asarray(value, np.float32)
        for path, value in values.items()
        if value is not None and np.any(value)
    }


def choose_mapping() -> str:
    """Returns how 'auto' maps members on this platform."""
    return "map" if ops.platform.on_cpu() else "vmap"


def init_states(experiments: Sequence[Experiment]) -> steps.TrainState:
    """Returns the states before the first step, with a leading axis of members.

    They are those of runs on their own, to the bit.
    """
    first = experiments[0]
    seeds = np.array([experiment.config.seed for experiment in experiments], np.uint32)
    # Not vmap: the CPU's batched QR decompositions (orthogonal weights) wait for each other forever
    # when there are as many of them as threads, in JAX 0.10.
    return lax.map(first.init_state, jnp.asarray(seeds))


def compile_program(experiment: Experiment, how: str, count: int) -> Program:
    """Compiles training and evaluation for `count` members, mapped by `how`, not 'auto'."""
    devices = min(count, jax.local_device_count())
    slots = -(-count // devices) * devices
    mesh = Mesh(np.array(jax.local_devices()[:devices]), (AXIS,))
    shared, own = PartitionSpec(), PartitionSpec(AXIS)
    train_specs, eval_specs = (own, own, own, shared, own, shared, shared), (own, shared, shared)
    train_all, eval_all = _mapped(experiment, how)
    if devices > 1:
        over_devices = functools.partial(jax.shard_map, mesh=mesh, out_specs=own, check_vma=False)
        train_all = over_devices(train_all, in_specs=train_specs)
        eval_all = over_devices(eval_all, in_specs=eval_specs)

    def shapes(arguments: Sequence[Any], specs: Sequence[PartitionSpec]) -> list[Any]:
        def shape(spec: PartitionSpec, x: Any) -> jax.ShapeDtypeStruct:
            leading = (slots,) if spec == own else ()
            sharding = NamedSharding(mesh, spec)
            return jax.ShapeDtypeStruct((*leading, *x.shape), x.dtype, sharding=sharding)

        return [
            jax.tree.map(functools.partial(shape, spec), argument)
            for argument, spec in zip(arguments, specs, strict=True)
        ]

    def put(tree: Any, spec: PartitionSpec = shared) -> Any:
        return jax.device_put(tree, NamedSharding(mesh, spec))

    def put_members(trees: Sequence[Any]) -> Any:
        trees = [*trees, *[trees[-1]] * (slots - count)]
        return put(jax.tree.map(lambda *leaves: np.stack(leaves), *trees), own)

    state = jax.eval_shape(experiment.init_state, np.uint32(0))
    order, bound = experiment.train_order(0), np.int32(0)
    values = traced_values(experiment.config)
    train_shapes = shapes(
        (values, state, experiment.start_totals(), experiment.train_data, order, bound, bound),
        train_specs,
    )
    eval_shapes = shapes((state, experiment.test_data, experiment.test_order()), eval_specs)
    options = programs.compiler_options()
    train_steps = jax.jit(train_all, donate_argnums=(1, 2), compiler_options=options)
    train_program = train_steps.lower(*train_shapes).compile()
    eval_program = jax.jit(eval_all, compiler_options=options).lower(*eval_shapes).compile()
    size = max(_bytes(train_program), _bytes(eval_program))
    return Program(train_program, eval_program, put_members, put, size)


def _bytes(compiled: Any) -> float:
    """What a program takes on each device, as its compiler says; 0 if it doesn't."""
    sizes = compiled.memory_analysis()
    if sizes is None:
        return 0.0
    used = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
    return float(used - sizes.alias_size_in_bytes)


def _mapped(experiment: Experiment, how: str) -> tuple[Callable[..., Any], ...]:
    """Returns training and evaluation of all members, not yet compiled."""
    settings = experiment.config
    map_members = lax.map if how == "map" else lambda f, members: jax.vmap(f)(members)

    flip = settings.test_flip
    eval_step = steps.make_eval_step(experiment.model, experiment.preprocess, flip=flip)
    eval_one = programs.make_eval_steps(eval_step)

    def train_all(
        values: Any, states: Any, totals: Any, data: Any, orders: Any, start: Array, stop: Array
    ) -> Any:
        def train_one(member: Any) -> Any:
            own_values, state, sums, order = member
            own = config_lib.with_values(settings, own_values)
            optimizer = optimizers.make(own.optimizer, experiment.steps_per_epoch, settings.epochs)
            step = steps.make_train_step(
                _with_dropout(experiment, own_values),
                optimizer,
                experiment.preprocess,
                own.label_smoothing,
                ema_decay=own.optimizer.ema_decay,
                reduce=reduction.in_parts(reduction.at_once, settings.accumulate),
                mix=augment.make_mix(settings.augment),
                freeze=own.optimizer.freeze,
            )
            return programs.make_train_steps(step)(state, sums, data, order, start, stop)

        return map_members(train_one, (values, states, totals, orders))

    def eval_all(states: Any, data: Any, order: Any) -> Any:
        return map_members(lambda state: eval_one(state, data, order), states)

    return train_all, eval_all


def _with_dropout(experiment: Experiment, values: Hyperparameters) -> Any:
    """The network, its dropout traced if it is among the hyperparameters."""
    dropout = values.get("model.dropout")
    if dropout is None:
        return experiment.model
    concrete = experiment.config.model.dropout or ()
    return experiment.model.clone(
        dropout=tuple(dropout[i] if share else 0.0 for i, share in enumerate(concrete))
    )
