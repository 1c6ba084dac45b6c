"""Every network at a small size: it learns, in float32 and in bfloat16, from real pictures."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import augment, losses, models, ops, optimizers, programs, steps
from cnn_jax.config import OptimizerConfig
from tests import networks
from tests.networks import SMALL

SLOW = pytest.mark.slow
MANY_STEPS = 300
# Those that `make test` has time for.
QUICK = ("softmax", "mlp", "lenet")


def cases(quick):
    return [pytest.param(name, marks=[] if name in quick else [SLOW]) for name in SMALL]


def make(name, **more):
    options, size, rate = SMALL[name]
    model = models.create(name, **{**options, **more})
    optimizer = optimizers.make(OptimizerConfig(learning_rate=rate, momentum=0.9), 10, 1)

    def preprocess(images, key):
        del key
        return augment.resize(augment.normalize(images, (0.286,), (0.353,)), size)

    return model, optimizer, preprocess


def test_every_family_is_tried():
    def families(names):
        return {re.sub(r"\d+(_\d+)?$", "", name.removesuffix("_bn")) for name in names}

    assert families(SMALL) == families(models.MODELS)


@pytest.mark.parametrize("name", cases(QUICK))
def test_an_untrained_network_is_at_chance_and_learns_32_pictures(mini, name):
    model, optimizer, preprocess = make(name)
    state = steps.init_state(model, optimizer, preprocess, mini.train_images.shape[1:], seed=0)
    labels = mini.train_labels.astype(np.int32)
    batch = steps.Batch(mini.train_images[:32], labels[:32], np.ones(32, np.float32))

    eval_step = jax.jit(steps.make_eval_step(model, preprocess))
    rest = steps.Batch(mini.train_images[-250:], labels[-250:], np.ones(250, np.float32))
    untrained = eval_step(state, rest)
    assert float(untrained.sums["accuracy"]) / 250 < 0.25
    # A constant guess costs log 10; wide nets of He's initialization begin some way above.
    assert 0.9 < float(untrained.sums["loss"]) / 250 / np.log(10) < 1.6

    train_step = steps.make_train_step(model, optimizer, preprocess)
    train_step = jax.jit(train_step, donate_argnums=0, compiler_options=programs.compiler_options())
    first, *_, last = itertools.islice(until_all_right(train_step, state, batch), MANY_STEPS)
    assert float(last.sums["accuracy"]) == 32
    assert float(last.sums["loss"]) < 0.5 * float(first.sums["loss"])


def until_all_right(train_step, state, batch):
    """The totals of step after step, until all pictures are recognized."""
    while True:
        state, totals = train_step(state, batch)
        yield totals
        if int(totals.sums["accuracy"]) == len(batch.weights):
            return


@pytest.mark.parametrize("name", cases(("lenet",)))
def test_bfloat16_is_near_float32_and_training_without_dropout_is_evaluation(mini, name):
    # Batch normalization magnifies what rounding leaves, the more the fewer its examples.
    count = 64 if name.endswith("_bn") else 8
    images, labels = mini.train_images[:count], mini.train_labels[:count].astype(np.int32)

    def run(dtype):
        model, _, preprocess = make(name, dtype=dtype)

        def loss_fn(params, state, train):
            logits, _ = model.apply(
                {"params": params, **state},
                preprocess(images, None),
                train=train,
                mutable=["batch_stats"],
            )
            return losses.weighted_sum(ops.cross_entropy(logits, labels), jnp.ones(count)), logits

        return model, preprocess, loss_fn

    model, preprocess, loss_fn = run("float32")
    shape = preprocess(images[:1], None).shape[1:]
    variables = networks.init(model, shape)
    params, state = variables["params"], {k: v for k, v in variables.items() if k != "params"}
    both = jax.jit(
        lambda p, s: (
            [jax.value_and_grad(f, has_aux=True)(p, s, True) for f in (loss_fn, run("bfloat16")[2])]
            + [loss_fn(p, s, False)[1]]
        )
    )
    ((_, exact), grads), ((_, half), half_grads), evaluated = both(params, state)
    assert half.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(half_grads))
    scale = float(jnp.abs(exact).max())
    assert np.linalg.norm(half - exact) < (0.4 if state else 0.05) * np.linalg.norm(exact)
    a, b = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (grads, half_grads)
    )
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > (0.6 if state else 0.97)
    if not state:  # batch normalization differs
        np.testing.assert_allclose(evaluated, exact, rtol=1e-5, atol=1e-6 * scale)
