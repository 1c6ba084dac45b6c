"""How sums over a batch are taken: at once, in parts, over replicas, over groups in a fixed order.

A reduction is a function (compute, shared, batch, key) → Sums, where `compute(shared, part, key,
count)` returns the `Sums` of a part of a batch that has `count` examples as a whole. How plain sums
are rounded depends on the number of devices; those of `over_groups` are the same to the last bit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec

AXIS = "data"  # of the mesh, and of the replicas of pmap


class Sums(NamedTuple):
    """What a part of a batch adds to the whole."""

    total: Any  # a tree of sums over examples: losses, gradients, metrics
    examples: Array  # float32 []: how many there are; padding doesn't count
    mean: Any  # a tree of means over the examples: the running statistics of batch normalization


Compute: TypeAlias = Callable[[Any, Any, Array, Array], Sums]
Reduction: TypeAlias = Callable[[Compute, Any, Any, Array], Sums]


def at_once(compute: Compute, shared: Any, batch: Any, key: Array) -> Sums:
    """Returns the sums of the whole batch; over a mesh the compiler shares the work out."""
    return compute(shared, batch, key, batch.weights.sum())


def over_replicas(axis: str = AXIS) -> Reduction:
    """Returns the reduction over the replicas of a mapped axis, each with a key of its own."""

    def reduce(compute: Compute, shared: Any, batch: Any, key: Array) -> Sums:
        count = lax.psum(batch.weights.sum(), axis)
        own = compute(shared, batch, jax.random.fold_in(key, lax.axis_index(axis)), count)
        total, examples = lax.psum((own.total, own.examples), axis)
        return Sums(total, examples, lax.pmean(own.mean, axis))

    return reduce


def in_parts(reduce: Reduction, parts: int) -> Reduction:
    """Returns a reduction that computes `parts` equal parts of a batch in turn, to save memory.

    Part p has the examples p, p + parts, …, so that devices that share a batch share each part, and
    the key fold_in(key, p). Its sums are those of `reduce` up to rounding, where nothing is random
    and no example changes another's; means are weighted by the examples of a part.
    """
    if parts == 1:
        return reduce

    def accumulate(compute: Compute) -> Compute:
        def compute_parts(shared: Any, batch: Any, key: Array, count: Array) -> Sums:
            columns = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]), batch)

            def compute_part(i: Array) -> Sums:
                part = jax.tree.map(lambda x: x[:, i], columns)
                total, examples, mean = compute(shared, part, jax.random.fold_in(key, i), count)
                return Sums(total, examples, jax.tree.map(lambda x: x * examples, mean))

            zeros = _zeros(jax.eval_shape(compute_part, jnp.int32(0)))
            total, examples, weighted = lax.fori_loop(
                0, parts, lambda i, sums: _add(sums, compute_part(i), i), zeros
            )
            share = 1 / jnp.maximum(examples, 1)
            return Sums(total, examples, jax.tree.map(lambda x: x * share, weighted))

        return compute_parts

    return lambda compute, *arguments: reduce(accumulate(compute), *arguments)


def over_groups(groups: int, mesh: Mesh) -> Reduction:
    """Returns the reduction over `groups` equal parts of the batch, one after the other.

    Group g has the key fold_in(key, g). The mesh has one axis, AXIS; its size divides `groups`,
    and `groups` divides the batch. The sums are the same to the bit whatever that size, on devices
    of one kind: each group is computed by the same compiled loop body, its sums are gathered, not
    reduced by the network, and added from the first group to the last.
    """
    here = groups // mesh.size

    def reduce(compute: Compute, shared: Any, batch: Any, key: Array) -> Sums:
        def body(index: Array, shared: Any, parts: Any, key: Array, count: Array) -> Sums:
            part = jax.tree.map(lambda x: x[index], parts)
            group = lax.axis_index(AXIS) * here + index
            # Nothing outside the barriers is fused with what is computed between them.
            shared, part, group, count = lax.optimization_barrier((shared, part, group, count))
            own_key = jax.random.fold_in(jax.random.wrap_key_data(key), group)
            total, examples, mean = compute(shared, part, own_key, count)
            weighted = jax.tree.map(lambda x: x * examples, mean)
            return lax.optimization_barrier(Sums(total, examples, weighted))

        def on_device(shared: Any, batch: Any, key: Array, count: Array, times: Any) -> Sums:
            parts = jax.tree.map(lambda x: x.reshape(here, -1, *x.shape[1:]), batch)

            def compute_group(i: Array) -> Sums:
                return body(i, shared, parts, key, count)

            zeros = _zeros(jax.eval_shape(compute_group, jnp.int32(0)))
            if mesh.size == 1:
                return _loop(compute_group, _add, zeros, zeros, times.here, times.once)
            stack = jax.tree.map(lambda x: jnp.stack([x] * here), zeros)
            own = _loop(compute_group, _store, stack, zeros, times.here, times.once)
            every = jax.tree.map(lambda x: lax.all_gather(x, AXIS, tiled=True), own)
            return lax.fori_loop(
                0,
                times.groups,
                lambda i, sums: _add(sums, jax.tree.map(lambda x: x[i], every), i),
                zeros,
            )

        times = _Times(
            *lax.optimization_barrier((jnp.int32(here), jnp.int32(groups), jnp.int32(1)))
        )
        rest = (PartitionSpec(),) * 3
        mapped = jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(AXIS), *rest),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        sums = mapped(shared, batch, jax.random.key_data(key), batch.weights.sum(), times)
        total, examples, weighted = lax.optimization_barrier(sums)
        share = 1 / jnp.maximum(examples, 1)
        return Sums(total, examples, jax.tree.map(lambda x: x * share, weighted))

    return reduce


class _Times(NamedTuple):
    """How often loops run. The compiler must not know it: it would unroll the short ones."""

    here: Array  # over the groups of a device
    groups: Array  # over all
    once: Array


def _loop(
    compute: Callable[[Array], Sums],
    consume: Callable[[Sums, Sums, Array], Sums],
    start: Sums,
    zeros: Sums,
    times: Array,
    once: Array,
) -> Sums:
    """Returns consume(… consume(start, compute(0), 0) …, compute(times − 1), times − 1).

    Each result is consumed one round later, as numbers in memory, so that how it is computed
    doesn't depend on what becomes of it: fused with an addition, a product would not be rounded.
    """

    def run_round(i: Array, carry: tuple[Sums, Sums]) -> tuple[Sums, Sums]:
        consumed, last = carry
        return consume(consumed, last, jnp.maximum(i - 1, 0)), compute(i)

    consumed, last = lax.fori_loop(0, times, run_round, (start, zeros))
    return lax.fori_loop(0, once, lambda i, x: consume(x, last, times - 1), consumed)


def _add(sums: Sums, new: Sums, i: Array) -> Sums:
    return jax.tree.map(jnp.add, sums, new)


def _store(stack: Sums, new: Sums, i: Array) -> Sums:
    return jax.tree.map(lambda x, y: x.at[i].set(y), stack, new)


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
