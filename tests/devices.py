"""Compares the three ways to compile a step, on eight simulated devices. Run by test_steps.py.

With dropout and batch normalization, jit over a mesh gives the numbers of one device. pmap differs
by construction: each replica draws its own dropout mask and normalizes by its own statistics; so
it is compared without dropout, and with batch normalization against replicas computed by hand.
"""

import jax
import numpy as np

from cnn_jax import models, optimizers, steps
from cnn_jax.config import OptimizerConfig

SHAPE, BATCH, STEPS = (8, 8, 1), 32, 5


def unit(images, key):
    del key
    return images.astype("float32") / 255.0


def run(parallel, **options):
    model = models.create("mlp", hidden=(16,), kernel_init="xavier_uniform", **options)
    optimizer = optimizers.make(OptimizerConfig(learning_rate=0.3, momentum=0.9), STEPS, 1)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (100, *SHAPE), np.uint8)
    labels = rng.integers(0, 10, 100).astype(np.int32)
    indices = rng.integers(0, 100, (STEPS, BATCH)).astype(np.int32)
    weights = np.ones((STEPS, BATCH), np.float32)
    weights[-1, 20:] = 0  # a last batch that doesn't fill all devices
    program = steps.compile_step(
        lambda axis: steps.make_train_step(model, optimizer, unit, axis_name=axis),
        lambda axis: steps.make_eval_step(model, unit, axis),
        parallel,
    )
    state = steps.init_state(model, optimizer, unit, SHAPE, 0)
    state = program.put_state(
        program.get(program.put_state(state)) if parallel != "pmap" else state
    )
    data = program.put_data(steps.Data(images, labels))
    order = program.put_order(steps.Order(indices, weights))
    totals = program.put_state(steps.Totals.of())
    state, totals = program.train_steps(state, totals, data, order, 0, STEPS)
    test = program.eval_steps(state, data, order)
    return program.get(state), program.get(totals), program.get(test)


def compare(a, b, rtol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol), a, b)


def main():
    assert jax.device_count() == 8
    everything = {"norm": "batch", "dropout": (0.5,)}
    compare(run("none", **everything), run("jit", **everything), 1e-5)
    compare(run("none"), run("pmap"), 1e-5)
    one, many = run("none", norm="batch")[0], run("pmap", norm="batch")[0]
    assert not np.allclose(one.params["Dense_0"]["kernel"], many.params["Dense_0"]["kernel"], 1e-3)
    print("all equal")


if __name__ == "__main__":
    main()
