"""The compiled programs of a population: their arguments, their size, their members' steps.

test_population.py trains by them.
"""

import types

import jax
import numpy as np
import psutil
import pytest

from cnn_jax import config, models, optimizers, programs, steps
from cnn_jax.experiment import build, load_dataset
from cnn_jax.sweeps import population_program

RATES = {
    "optimizer.learning_rate": 0.5,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 0.01,
    "optimizer.ema_decay": 0.5,
    "label_smoothing": 0.1,
}
SETTINGS = config.Config(
    dataset=config.DatasetConfig(name="synthetic:size=8,train=40,test=24"),
    model=config.ModelConfig(name="softmax"),
    epochs=2,
    batch_size=16,
    eval_batch_size=16,
)


def members(*changes):
    settings = [config.resolve(config.with_values(SETTINGS, change)) for change in changes]
    dataset = load_dataset(SETTINGS.dataset)
    return [build(one, dataset) for one in settings]


def test_values_that_are_traced_are_those_that_are_not_zero():
    values = population_program.traced_values(config.with_values(SETTINGS, RATES))
    assert {path: float(value) for path, value in values.items()} == pytest.approx(RATES)
    assert {value.dtype for value in values.values()} == {np.dtype(np.float32)}
    dropout = config.ModelConfig(name="mlp", hidden=(4, 4), dropout=(0.0, 0.25))
    off = config.Config(model=dropout, optimizer=config.OptimizerConfig(learning_rate=0.5))
    values = population_program.traced_values(off)
    assert values["model.dropout"].tolist() == [0.0, 0.25]
    assert "label_smoothing" not in values
    assert "optimizer.clip_norm" not in values


def test_dropout_is_traced_where_it_is_on():
    model = models.create("mlp", hidden=(4, 4, 4), dropout=(0.5, 0.0, 0.25))
    settings = config.Config(model=config.ModelConfig(name="mlp", dropout=(0.5, 0.0, 0.25)))
    experiment = types.SimpleNamespace(model=model, config=settings)
    assert population_program._with_dropout(experiment, {}) is model
    traced = {"model.dropout": np.float32([0.1, 0.2, 0.3])}
    own = population_program._with_dropout(experiment, traced)
    assert own.dropout == (np.float32(0.1), 0.0, np.float32(0.3))
    assert own.hidden == model.hidden


def test_memory_that_is_free(monkeypatch):
    device = types.SimpleNamespace(memory_stats=lambda: device.says)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    device.says = {"bytes_limit": 1000, "bytes_in_use": 400}
    assert programs.free_memory() == pytest.approx(480)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=300))
    monkeypatch.setattr(jax, "local_device_count", lambda: 3)
    for nothing in (None, {}, {"bytes_in_use": 400}):
        device.says = nothing
        assert programs.free_memory() == pytest.approx(80)


def test_bytes_of_a_program():
    sizes = types.SimpleNamespace(
        argument_size_in_bytes=1000,
        output_size_in_bytes=200,
        temp_size_in_bytes=30,
        alias_size_in_bytes=400,  # arguments that outputs are written over
    )
    assert population_program._bytes(types.SimpleNamespace(memory_analysis=lambda: sizes)) == 830.0
    assert population_program._bytes(types.SimpleNamespace(memory_analysis=lambda: None)) == 0.0


def test_a_cpu_maps_members_one_after_the_other(monkeypatch):
    assert population_program.choose_mapping() == "map"
    monkeypatch.setattr(population_program.ops.platform, "on_cpu", lambda: False)
    assert population_program.choose_mapping() == "vmap"


@pytest.mark.parametrize("how", ["map", "vmap"])
def test_how_members_are_mapped(how):
    """'map' is one loop over the members; 'vmap' one over the steps."""
    experiments = members(*({"seed": seed} for seed in range(5)))
    states = jax.eval_shape(lambda: population_program.init_states(experiments))
    dataset, order = experiments[0].dataset, experiments[0].test_order()
    test_data = programs.Data(dataset.test_images, dataset.test_labels)
    _, evaluate = population_program._mapped(experiments[0], how)
    traced = jax.make_jaxpr(evaluate)(states, test_data, order)
    lengths = [e.params["length"] for e in traced.eqns if e.primitive.name == "scan"]
    assert lengths == [5 if how == "map" else len(order.indices)]


def test_members_take_the_steps_that_they_take_alone():
    changes = [RATES, {path: value / 2 for path, value in RATES.items()}]
    experiments = members(*({**change, "seed": i + 3} for i, change in enumerate(changes)))
    with jax.debug_nans(False):  # which keeps JAX from donating
        program = population_program.compile_program(experiments[0], "map", 2)
    dataset = experiments[0].dataset
    data = programs.Data(dataset.train_images, dataset.train_labels)
    test_data = programs.Data(dataset.test_images, dataset.test_labels)
    states = jax.device_get(population_program.init_states(experiments))
    assert states.step.dtype == np.int32
    rates = program.put_members([population_program.traced_values(e.config) for e in experiments])
    placed = program.put(states)
    totals = program.put_members([steps.Totals.zeros(10)] * 2)
    orders = program.put_members([e.train_order(1) for e in experiments])
    assert orders.indices.shape == (2, 3, 16)
    own_states = [jax.tree.map(lambda x, i=i: x[i], states) for i in range(2)]
    given, shared = program.put_members(own_states), program.put(data)
    with jax.debug_nans(False):
        bounds = np.int32(1), np.int32(3)
        new, sums = program.train_steps(rates, given, totals, shared, orders, *bounds)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((given, totals)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((rates, shared, orders)))
    tests = program.eval_steps(
        new, program.put(test_data), program.put(experiments[0].test_order())
    )
    assert placed.step.shape == (2,)
    assert sums.examples.tolist() == [24, 24]  # a whole batch and the last one
    assert tests.examples.tolist() == [24, 24]
    own = experiments[1]
    optimizer = optimizers.make(own.config.optimizer, own.steps_per_epoch, own.config.epochs)
    step = steps.make_train_step(
        own.model, optimizer, own.preprocess, own.config.label_smoothing,
        ema_decay=own.config.optimizer.ema_decay,
    )  # fmt: skip
    loop = jax.jit(programs.make_train_steps(step))
    evaluate = jax.jit(programs.make_eval_steps(steps.make_eval_step(own.model, own.preprocess)))
    begin = own.init_state()
    expected, counted = loop(begin, steps.Totals.zeros(10), data, own.train_order(1), 1, 3)
    tested = evaluate(expected, test_data, own.test_order())
    for have, want in ((states, begin), (new, expected), (sums, counted), (tests, tested)):
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x[1], y, rtol=1e-4, atol=1e-6),
            have, want,
        )  # fmt: skip
    size = data.images.nbytes + data.labels.nbytes
    assert size < program.bytes < 100 * size
