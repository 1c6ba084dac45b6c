"""Sums over groups of a batch: their value, and the same bits on any number of devices."""

import hashlib
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from cnn_jax import config, experiment, reduction, steps
from cnn_jax.errors import ConfigError
from tests.networks import SMALL

ROOT = pathlib.Path(__file__).parent.parent
# What could make a difference: random numbers, clipping, averages, a padded last batch.
EVERYTHING = {
    "augment.flip": True,
    "augment.pad": 2,
    "label_smoothing": 0.1,
    "optimizer.clip_norm": 0.5,
    "optimizer.ema_decay": 0.9,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-3,
}


def make_config(network, **values):
    base = config.Config(
        dataset=config.DatasetConfig(name="synthetic:size=28,train=40,test=24"),
        model=config.ModelConfig(network),
        batch_size=16,
        eval_batch_size=16,
        parallel="jit",
        reduction="ordered",
    )
    return config.resolve(config.with_values(base, values))


def run_steps(settings, count=10):
    """Returns the state, totals and evaluation after some steps, on the host."""
    ready = experiment.build(settings, experiment.load_dataset(settings.dataset))
    program = ready.program
    state = program.put_state(program.get(program.put_state(ready.init_state())))
    data, per_epoch = program.put_data(ready.train_data), ready.steps_per_epoch
    for epoch in range(-(-count // per_epoch)):
        order = program.put_order(ready.train_order(epoch))
        totals = program.put_state(ready.start_totals())
        stop = min(per_epoch, count - epoch * per_epoch)
        state, totals = program.train_steps(state, totals, data, order, 0, stop)
    test = program.eval_steps(
        state, program.put_data(ready.test_data), program.put_order(ready.test_order())
    )
    return program.get((state, totals, test))


def digest(tree):
    arrays = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
    return hashlib.sha256(b"".join(arrays)).hexdigest()


def digests_with(devices, networks, processors=None):
    """Returns the digest of each network's run in a process with so many devices of the CPU."""
    command = [sys.executable, "-m", "tests.test_reduction", str(devices), *networks]
    pinned = ["taskset", "-c", processors] if processors else []
    environment = {**os.environ, "NPROC": "8", "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    found = subprocess.run(
        [*pinned, *command], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    return found.stdout.split()


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_group_sums_are_the_sums_of_the_whole(groups):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(16, 3)), jnp.float32)
    weights = jnp.asarray(rng.integers(0, 2, 16), jnp.float32)
    batch = steps.Batch(x, jnp.arange(16), weights)

    def compute(shared, part, key, count):
        del key
        weighted = (shared * part.images * part.weights[:, None]).sum(0) / count
        mean = (part.images * part.weights[:, None]).sum(0) / jnp.maximum(part.weights.sum(), 1)
        return reduction.Sums(weighted, part.weights.sum(), {"mean": mean})

    mesh = Mesh(np.array(jax.devices()[:1]), (reduction.AXIS,))
    reduce = jax.jit(
        lambda shared, batch, key: reduction.over_groups(groups, mesh)(compute, shared, batch, key)
    )
    found = reduce(jnp.float32(2), batch, jax.random.key(0))
    chosen = np.asarray(x)[np.asarray(weights) > 0]
    assert found.examples == len(chosen)
    np.testing.assert_allclose(found.total, 2 * chosen.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.mean["mean"], chosen.mean(0), rtol=1e-5, atol=1e-6)


def test_each_group_has_a_key_of_its_own():
    batch = steps.Batch(jnp.zeros((8, 1)), jnp.zeros(8, jnp.int32), jnp.ones(8))
    mesh = Mesh(np.array(jax.devices()[:1]), (reduction.AXIS,))

    def compute(shared, part, key, count):
        del shared, count
        return reduction.Sums(jax.random.normal(key, ()), part.weights.sum(), {})

    key = jax.random.key(1)
    found = jax.jit(lambda b, k: reduction.over_groups(4, mesh)(compute, (), b, k))(batch, key)
    own = [jax.random.normal(jax.random.fold_in(key, group), ()) for group in range(4)]
    assert found.total == ((own[0] + own[1]) + own[2]) + own[3]


def test_parts_have_strided_examples_keys_and_means_of_their_own():
    weights = jnp.array([1.0, 1, 1, 1, 1, 0])
    batch = steps.Batch(jnp.arange(6.0), jnp.arange(6), weights)

    def compute(shared, part, key, count):
        draw = jax.random.normal(key, ())
        total = (part.images * part.weights).sum() / count, draw
        return reduction.Sums(total, part.weights.sum(), part.images[0] + shared)

    key = jax.random.key(1)
    reduce = reduction.in_parts(reduction.at_once, 3)
    found = jax.jit(lambda b, k: reduce(compute, jnp.float32(10), b, k))(batch, key)
    total, draws = found.total
    assert (total, found.examples) == (2.0, 5.0)
    assert draws == sum(jax.random.normal(jax.random.fold_in(key, i), ()) for i in range(3))
    np.testing.assert_allclose(found.mean, (2 * 10 + 2 * 11 + 1 * 12) / 5, rtol=1e-6)
    assert reduction.in_parts(reduction.at_once, 1) is reduction.at_once


@pytest.mark.parametrize("parallel", ["none", "pmap"])
def test_training_in_parts_is_training_at_once_up_to_rounding(parallel):
    values = {"optimizer.momentum": 0.9, "optimizer.learning_rate": 0.05, "reduction": "plain"}
    values |= {"parallel": parallel}  # 40 examples: the last of 3 batches is half empty
    whole = run_steps(make_config("mlp", **values), 6)
    parts = run_steps(make_config("mlp", accumulate=4, **values), 6)
    for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_computed_in_parts_is_one_sentence(monkeypatch):
    with pytest.raises(ConfigError, match=r"anyway; leave config\.accumulate at 1 and raise"):
        config.check(make_config("mlp", accumulate=2))
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    settings = make_config("mlp", accumulate=8, reduction="plain")
    said = "batch_size=16 can't be shared by 4 devices in config.accumulate=8 equal parts"
    with pytest.raises(ConfigError, match=said):
        experiment.build(settings, experiment.load_dataset(settings.dataset))


@pytest.mark.parametrize("network", ["lenet", "mlp"])
def test_ordered_training_is_plain_training_up_to_rounding(network):
    # Without anything random or normalized over a batch.
    values = {"optimizer.momentum": 0.9, "optimizer.learning_rate": 0.05}
    ordered = run_steps(make_config(network, **values), 5)
    plain = run_steps(make_config(network, reduction="plain", **values), 5)
    for a, b in zip(jax.tree.leaves(ordered), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_networks_have_the_same_bits_on_any_devices_and_cores():
    networks = ["lenet", "mlp_dropout"]
    one = digests_with(1, networks)
    assert len(one) == len(networks)
    assert digests_with(4, networks, "0") == one


@pytest.mark.slow
@pytest.mark.parametrize("network", sorted(SMALL))
def test_every_network_has_the_same_bits_on_any_number_of_devices(network):
    assert digests_with(8, [network]) == digests_with(1, [network])


@pytest.mark.slow
def test_low_precision_has_the_same_bits_on_any_number_of_devices():
    names = ["lenet:model.dtype=bfloat16", "lenet_bn:model.dtype=bfloat16"]
    assert digests_with(4, names) == digests_with(1, names)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"parallel": "pmap"}, "needs config.parallel='none' or 'jit'"),
        (
            {"batch_size": 20},
            "config.batch_size=20 can't be divided into config.reduction_groups=8",
        ),
        ({"eval_batch_size": 12}, "config.eval_batch_size=12 can't be divided into"),
    ],
)
def test_what_cannot_be_ordered_is_said(values, said):
    with pytest.raises(ConfigError, match=said):
        config.check(make_config("lenet", **values))


def test_groups_that_devices_cannot_share_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    settings = make_config("mlp", batch_size=24, eval_batch_size=24)
    with pytest.raises(ConfigError, match="reduction_groups=8 can't be shared equally by 3 dev"):
        experiment.build(settings, experiment.load_dataset(settings.dataset))


def main(devices, *names):
    jax.config.update("jax_num_cpu_devices", int(devices))
    for one in names:
        name, _, value = one.partition(":")
        options = dict([value.split("=")]) if value else {}
        small, size, rate = SMALL[name]
        own = {f"model.{option}": value for option, value in small.items() if option != "classes"}
        own |= {"dataset.image_size": size, "optimizer.learning_rate": rate / 20, **options}
        found = run_steps(make_config(name, **{**EVERYTHING, **own}))
        # The bits of NaN say nothing.
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found)), name
        print(digest(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
