"""Compares the three ways to compile a step, on eight simulated devices. Run by test_devices.py.

With dropout and batch normalization, jit over a mesh gives the numbers of one device. pmap differs
by construction: each replica draws its own dropout mask and normalizes by its own statistics; so
it is compared with one device without either, with batch normalization against replicas computed
one by one, and dropout's masks are seen to differ.
"""

import dataclasses

import jax
import numpy as np

from cnn_jax import config, models, optimizers, programs, reduction, steps
from cnn_jax.config import OptimizerConfig
from cnn_jax.experiment import build, load_dataset
from cnn_jax.sweeps import population_program

SHAPE, BATCH, STEPS = (8, 8, 1), 32, 5


def unit(images, key):
    del key
    return images.astype("float32") / 255.0


def run(parallel, parts=1, **options):
    model = models.create("mlp", hidden=(16,), kernel_init="xavier_uniform", **options)
    optimizer = optimizers.make(OptimizerConfig(learning_rate=0.3, momentum=0.9), STEPS, 1)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (100, *SHAPE), np.uint8)
    labels = rng.integers(0, 10, 100).astype(np.int32)
    indices = rng.integers(0, 100, (STEPS, BATCH)).astype(np.int32)
    weights = np.ones((STEPS, BATCH), np.float32)
    weights[-1, 20:] = 0  # a last batch that doesn't fill all devices
    program = programs.make_program(
        lambda reduce: steps.make_train_step(
            model, optimizer, unit, reduce=reduction.in_parts(reduce, parts)
        ),
        lambda reduce: steps.make_eval_step(model, unit, reduce),
        parallel,
    )
    state = steps.init_state(model, optimizer, unit, SHAPE, 0)
    state = program.put_state(
        program.get(program.put_state(state)) if parallel != "pmap" else state
    )
    data = program.put_data(programs.Data(images, labels))
    order = program.put_order(programs.Order(indices, weights))
    totals = program.put_state(steps.Totals.zeros(10))
    state, totals = program.train_steps(state, totals, data, order, 0, STEPS)
    test = program.eval_steps(state, data, order)
    return program.get(state), program.get(totals), program.get(test)


def compare(a, b, rtol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol), a, b)


def populations():
    """Nine members on eight devices are what they are alone."""
    settings = config.resolve(
        config.Config(
            model=config.ModelConfig(name="softmax"),
            dataset=config.DatasetConfig(name="synthetic:size=8,train=64,test=32"),
            batch_size=32,
        )
    )
    experiment = build(settings, load_dataset(settings.dataset))
    dataset = experiment.dataset
    starts = [dataclasses.replace(settings, seed=seed) for seed in range(9)]

    def run(seeds):
        program = population_program.compile_program(experiment, "vmap", len(seeds))
        own = [build(starts[seed], dataset) for seed in seeds]
        rates = [population_program.traced_values(e.config) for e in own]
        states = program.put_members([jax.device_get(e.init_state()) for e in own])
        totals = program.put_members([steps.Totals.zeros(10)] * len(own))
        orders = program.put_members([e.train_order(0) for e in own])
        data = program.put(programs.Data(dataset.train_images, dataset.train_labels))
        states, totals = program.train_steps(
            program.put_members(rates), states, totals, data, orders, np.int32(0), np.int32(2)
        )
        devices = len(totals.sums["loss"].sharding.device_set)
        return devices, jax.tree.map(lambda x: np.array(x)[: len(own)], (states, totals))

    devices, together = run(range(9))  # two for each of 8 devices, some of them repetitions
    assert devices == 8
    for seed in (0, 8):
        _, alone = run([seed])
        compare(alone, jax.tree.map(lambda x, i=seed: x[i : i + 1], together), 1e-5)


def replicas():
    """A step of pmap with batch normalization: gradients and statistics are means of the replicas'.

    With SGD without momentum the new state is the mean of what each replica's own step gives.
    """
    model = models.create("mlp", hidden=(16,), kernel_init="xavier_uniform", norm="batch")
    optimizer = optimizers.make(OptimizerConfig(learning_rate=0.3), 1, 1)
    rng = np.random.default_rng(0)
    data = programs.Data(
        rng.integers(0, 256, (BATCH, *SHAPE), np.uint8), rng.integers(0, 10, BATCH).astype(np.int32)
    )
    state = steps.init_state(model, optimizer, unit, SHAPE, 0)

    def compile_step(parallel):
        return programs.make_program(
            lambda reduce: steps.make_train_step(model, optimizer, unit, reduce=reduce),
            lambda reduce: steps.make_eval_step(model, unit, reduce),
            parallel,
        )

    def after(indices, program):
        order = programs.Order(indices[None], np.ones((1, len(indices)), np.float32))
        new, _ = program.train_steps(
            program.put_state(jax.tree.map(lambda x: x.copy(), state)),
            program.put_state(steps.Totals.zeros(10)),
            program.put_data(data),
            program.put_order(order),
            0,
            1,
        )
        new = program.get(new)
        return {"params": new.params, **new.model_state}

    indices = np.arange(BATCH, dtype=np.int32)
    together, single = after(indices, compile_step("pmap")), compile_step("none")
    own = [after(part, single) for part in np.split(indices, jax.device_count())]
    compare(together, jax.tree.map(lambda *x: np.mean(x, 0), *own), 1e-5)
    assert not np.allclose(*(x["batch_stats"]["BatchNorm_0"]["mean"] for x in own[:2]), 1e-3)


def main():
    assert jax.device_count() == 8
    populations()
    everything = {"norm": "batch", "dropout": (0.5,)}
    one = run("none", **everything)
    compare(one, run("jit", **everything), 1e-5)
    one = run("none")
    compare(one, run("pmap"), 1e-5)
    compare(one, run("jit", parts=2), 1e-5)
    replicas()
    one, many = (run(parallel, dropout=(0.5,))[0] for parallel in ("none", "pmap"))
    assert not np.allclose(one.params["Dense_0"]["kernel"], many.params["Dense_0"]["kernel"], 1e-3)
    print("all equal")


if __name__ == "__main__":
    main()
