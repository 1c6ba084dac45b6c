"""The optimizer chain against its formulas, and the learning rate over time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax import checkpoints, experiment, losses, optimizers, records, train
from cnn_jax.config import (
    Config,
    ConfigError,
    DatasetConfig,
    ModelConfig,
    OptimizerConfig,
    RecordsConfig,
    check,
    from_dict,
    resolve,
    to_dict,
    with_values,
)
from cnn_jax.display import Silent
from cnn_jax.sweeps import population

PARAMS = {"Dense_0": {"kernel": jnp.array([[2.0, -1.0]]), "bias": jnp.array([0.5, 0.25])}}
GRADS = {"Dense_0": {"kernel": jnp.array([[0.3, 0.1]]), "bias": jnp.array([-0.2, 0.4])}}


def run(config, steps=3, grads=lambda params: GRADS):
    optimizer = optimizers.make(config, steps_per_epoch=10, epochs=2)
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(steps):
        updates, state = optimizer.update(grads(params), state, params)
        params = optax.apply_updates(params, updates)
    return params["Dense_0"]


def by_hand(rate, decay, momentum, nesterov=False, decoupled=False, steps=3):
    result = {}
    for name in ("kernel", "bias"):
        w, g0 = np.array(PARAMS["Dense_0"][name]), np.array(GRADS["Dense_0"][name])
        shrink = decay if name == "kernel" else 0.0
        v = np.zeros_like(w)
        for _ in range(steps):
            g = g0 if decoupled else g0 + shrink * w
            v = momentum * v + g
            step = g + momentum * v if nesterov else v
            w = w - rate * (step + (shrink * w if decoupled else 0.0))
        result[name] = w
    return result


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("nesterov", [False, True])
def test_updates_are_the_formulas(momentum, decoupled, decay, nesterov):
    config = OptimizerConfig(
        learning_rate=0.1,
        momentum=momentum,
        weight_decay=decay,
        decoupled=decoupled,
        nesterov=nesterov and momentum > 0,
    )
    expected = by_hand(0.1, decay, momentum, config.nesterov, decoupled)
    got = run(config)
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-6)


def test_L4_weight_decay_is_the_l2_penalty_for_sgd():
    decay = 0.5
    with_update = run(OptimizerConfig(learning_rate=0.1, weight_decay=decay))

    def penalized(params):
        penalty = jax.grad(lambda p: decay * losses.l2_penalty(p))(params)
        return jax.tree.map(jnp.add, GRADS, penalty)

    with_penalty = run(OptimizerConfig(learning_rate=0.1), grads=penalized)
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(with_update[name], with_penalty[name], rtol=1e-6)


def test_L4_one_step_is_w_times_one_minus_rate_decay_minus_rate_gradient():
    got = run(OptimizerConfig(learning_rate=0.1, weight_decay=0.5), steps=1)
    np.testing.assert_allclose(got["kernel"], [[2 * 0.95 - 0.03, -0.95 - 0.01]], rtol=1e-6)
    np.testing.assert_allclose(got["bias"], [0.52, 0.21], rtol=1e-6)


def test_clipping_scales_the_whole_gradient_to_the_norm():
    norm = np.sqrt(0.09 + 0.01 + 0.04 + 0.16)
    got = run(OptimizerConfig(learning_rate=1.0, clip_norm=0.1), steps=1)
    expected = np.array([[2.0, -1.0]]) - np.array([[0.3, 0.1]]) * 0.1 / norm
    np.testing.assert_allclose(got["kernel"], expected, rtol=1e-5)


def rates(epochs=2, **options):
    config = OptimizerConfig(learning_rate=0.5, **options)
    schedule = optimizers.schedule(config, steps_per_epoch=10, epochs=epochs)
    return np.array([schedule(step) for step in range(epochs * 10)])


def test_every_rate_is_a_strong_float32_so_that_a_step_is_compiled_once():
    for name in ("constant", "linear", "cosine"):
        schedule = optimizers.schedule(OptimizerConfig(schedule=name), 10, 2)
        for step in (0, jnp.int32(3)):
            assert (schedule(step).dtype, schedule(step).weak_type) == (jnp.float32, False)


def test_constant_schedule():
    np.testing.assert_array_equal(rates(), np.full(20, 0.5, np.float32))


def test_cosine_schedule_is_half_a_cosine():
    t = np.arange(20) / 20
    expected = 0.25 * (1 + np.cos(np.pi * t))
    np.testing.assert_allclose(rates(schedule="cosine"), expected, atol=1e-7)


def test_linear_schedule_falls_to_zero():
    expected = 0.5 * (1 - np.arange(20) / 20)
    np.testing.assert_allclose(rates(schedule="linear"), expected, atol=1e-7)


def test_step_schedule_falls_after_the_epochs_named():
    got = rates(schedule="step", step_epochs=(0.5, 1.0), step_factor=0.1)
    np.testing.assert_allclose(got, [0.5] * 5 + [0.05] * 5 + [0.005] * 10, rtol=1e-6)


def test_step_schedule_counts_epochs_from_the_start_of_training_with_a_warm_up():
    got = rates(schedule="step", step_epochs=(1.0,), step_factor=0.1, warmup_epochs=0.5)
    np.testing.assert_allclose(got[5:], [0.5] * 5 + [0.05] * 10, rtol=1e-6)


@pytest.mark.parametrize("steps", [(0.5, 0.52), (0.001, 0.002), (0.01, 1.0), (1.0, 1.0)])
def test_milestones_that_are_lost_in_rounding_are_refused(steps):
    with pytest.raises(ConfigError, match=r"step_epochs=.* are the steps .*, with 10 in an"):
        rates(schedule="step", step_epochs=steps)


def test_the_rate_never_falls_at_milestones_after_the_end():
    got = rates(schedule="step", step_epochs=(1.0, 30.0), step_factor=0.1)
    np.testing.assert_allclose(got, [0.5] * 10 + [0.05] * 10, rtol=1e-6)


def test_a_milestone_within_the_warm_up_counts_from_its_end():
    got = rates(schedule="step", step_epochs=(0.2,), step_factor=0.1, warmup_epochs=0.5)
    np.testing.assert_allclose(got[5:], [0.05] * 15, rtol=1e-6)


def test_a_warm_up_that_is_lost_in_rounding_is_refused():
    with pytest.raises(ConfigError, match=r"warmup_epochs=0\.01 is less than half of one"):
        rates(warmup_epochs=0.01)


def test_the_rate_may_fall_where_the_warm_up_ends():
    got = rates(schedule="step", step_epochs=(0.5,), step_factor=0.1, warmup_epochs=0.5)
    np.testing.assert_allclose(got, [0.1, 0.2, 0.3, 0.4, 0.5] + [0.05] * 15, rtol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_rises_linearly_to_the_peak(schedule):
    got = rates(schedule=schedule, warmup_epochs=0.4)
    np.testing.assert_allclose(got[:5], [0.125, 0.25, 0.375, 0.5, 0.5], rtol=1e-6)
    assert np.all(np.diff(got[4:]) <= 0)


def test_warm_up_of_one_step_and_of_the_whole_run():
    np.testing.assert_allclose(rates(warmup_epochs=0.1)[:2], [0.5, 0.5])
    np.testing.assert_allclose(rates(warmup_epochs=2.0), 0.5 * np.arange(1, 21) / 20, rtol=1e-6)


def test_the_shape_takes_the_steps_that_the_warm_up_leaves_and_ends_at_zero():
    got = rates(schedule="linear", warmup_epochs=0.4)
    np.testing.assert_allclose(got[4:], 0.5 * (1 - np.arange(16) / 16), rtol=1e-6)
    got = rates(schedule="cosine", warmup_epochs=0.4)
    np.testing.assert_allclose(got[4:], 0.25 * (1 + np.cos(np.pi * np.arange(16) / 16)), atol=1e-7)
    for warmup in (0.0, 0.4, 1.9):
        config = OptimizerConfig(learning_rate=0.5, schedule="linear", warmup_epochs=warmup)
        assert optimizers.schedule(config, steps_per_epoch=10, epochs=2)(20) == 0.0


@pytest.mark.parametrize("decoupled", [False, True])
def test_what_is_off_keeps_no_state_and_asks_for_no_parameters(decoupled):
    off = OptimizerConfig(momentum=0.0, weight_decay=0.0, clip_norm=0.0, decoupled=decoupled)
    on = dataclasses.replace(off, momentum=0.9)
    for config, buffers in ((off, 0), (on, len(jax.tree.leaves(PARAMS)))):
        optimizer = optimizers.make(config, steps_per_epoch=10, epochs=2)
        state = optimizer.init(PARAMS)
        assert sum(leaf.ndim > 0 for leaf in jax.tree.leaves(state)) == buffers
        if not decoupled:
            optimizer.update(GRADS, state)


def test_rates_may_be_traced_so_that_runs_share_a_program():
    base = OptimizerConfig(schedule="cosine")

    def one(rate, momentum, decay):
        options = {"learning_rate": rate, "momentum": momentum, "weight_decay": decay}
        return run(dataclasses.replace(base, **options))["kernel"]

    values = jnp.array([[0.1, 0.9, 0.01], [0.3, 0.5, 0.0]])
    together = jax.jit(jax.vmap(one))(*values.T)
    for row, got in zip(values, together, strict=True):
        np.testing.assert_allclose(got, one(*map(float, row)), rtol=1e-6)


def cosine(step, period, least=0.0):
    return least + (1 - least) * (1 + np.cos(np.pi * step / period)) / 2


def test_linear_and_cosine_end_at_the_minimum():
    got = rates(schedule="cosine", minimum_factor=0.2)
    np.testing.assert_allclose(got, 0.5 * cosine(np.arange(20), 20, 0.2), rtol=1e-6)
    got = rates(schedule="linear", minimum_factor=0.2)
    np.testing.assert_allclose(got, 0.5 * (1 - 0.8 * np.arange(20) / 20), rtol=1e-6)


def test_restarts_are_cosines_one_after_the_other():
    even = rates(schedule="restarts", restart_epochs=0.8, minimum_factor=0.1)
    expected = 0.5 * cosine(np.arange(20) % 8, 8, 0.1)
    np.testing.assert_allclose(even, expected, rtol=1e-6)
    longer = rates(schedule="restarts", restart_epochs=0.3, restart_factor=2)  # 3, 6, 12 steps
    steps = [*range(3), *range(6), *range(11)]
    expected = 0.5 * cosine(np.array(steps), np.array([3] * 3 + [6] * 6 + [12] * 11))
    np.testing.assert_allclose(longer, expected, atol=1e-7)
    warm = rates(schedule="restarts", restart_epochs=0.8, warmup_epochs=0.4)
    np.testing.assert_allclose(warm[4:], 0.5 * cosine(np.arange(16) % 8, 8), atol=1e-7)
    with pytest.raises(ConfigError, match=r"restart_epochs=0\.01 is less than half of one of"):
        rates(schedule="restarts", restart_epochs=0.01)


def test_on_a_plateau_the_rate_falls_after_the_epochs_without_a_new_lowest_loss():
    config = OptimizerConfig(
        schedule="plateau", plateau_patience=2, step_factor=0.5, minimum_factor=0.2
    )
    losses = [3.0, 2.0, 2.5, 2.0, 1.9, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0]
    expected = [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2]
    got = [optimizers.plateau_factor(config, losses[: i + 1]) for i in range(len(losses))]
    assert got == expected
    assert optimizers.plateau_factor(config, []) == 1.0


PLATEAU = Config(
    dataset=DatasetConfig(name="synthetic:size=8,train=60,test=32", holdout=0.2),
    model=ModelConfig(name="softmax"),
    optimizer=OptimizerConfig(
        learning_rate=8.0,  # too large, so that the loss doesn't fall from the start
        momentum=0.9,
        schedule="plateau",
        plateau_patience=1,
    ),
    records=RecordsConfig(tensorboard=False, figures=False),
    epochs=5,
    batch_size=16,
)


def test_a_run_on_a_plateau_slows_down_and_resumes_in_the_same_bits(tmp_path):
    row = train.train_and_evaluate(PLATEAU, tmp_path / "whole", Silent())
    rows = records.read_metrics(tmp_path / "whole")
    losses = [row["test_loss"] for row in rows]
    for i, found in enumerate(rows):
        factor = optimizers.plateau_factor(PLATEAU.optimizer, losses[:i])
        assert found["learning_rate"] == 8.0 * factor
    assert row["learning_rate"] < 8.0
    for _ in range(2):
        train.train_and_evaluate(PLATEAU, tmp_path / "part", Silent(), lambda row: True)
    again = train.train_and_evaluate(PLATEAU, tmp_path / "part", Silent())
    assert again["test_loss"] == row["test_loss"]
    for a, b in zip(
        *(jax.tree.leaves(checkpoints.restore_variables(tmp_path / n)) for n in ("whole", "part")),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    # A step with half the factor moves the weights half as far.
    made = experiment.build(resolve(PLATEAU), experiment.load_dataset(PLATEAU.dataset))
    state, moved = made.init_state(), []
    data, order = (
        made.program.put_data(made.train_data),
        made.program.put_order(made.train_order(0)),
    )
    for factor in (1.0, 0.5):
        own = made.program.put_state(state.replace(rate_factor=jnp.float32(factor)))
        own = jax.tree.map(jnp.copy, own)
        totals = made.program.put_state(made.start_totals())
        new, _ = made.program.train_steps(own, totals, data, order, 0, 1)
        moved.append(
            np.asarray(new.params["Dense_0"]["kernel"] - state.params["Dense_0"]["kernel"])
        )
    np.testing.assert_allclose(moved[1], moved[0] / 2, rtol=1e-4, atol=1e-6)


def test_a_population_cannot_wait_for_a_plateau(tmp_path):
    with pytest.raises(ConfigError, match="can't wait for their losses"):
        population.train_population([PLATEAU], [tmp_path])


# Other optimizers


@pytest.fixture
def as_in_use():
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integers
        yield


@pytest.mark.usefixtures("as_in_use")
def test_adamw_is_its_formula():
    config = OptimizerConfig(name="adamw", learning_rate=0.1, weight_decay=0.5, beta2=0.9)
    got = run(config)
    for name, decay in (("kernel", 0.5), ("bias", 0.0)):
        w, g = np.array(PARAMS["Dense_0"][name]), np.array(GRADS["Dense_0"][name])
        m = v = np.zeros_like(w)
        for t in (1, 2, 3):
            m, v = 0.9 * m + 0.1 * g, 0.9 * v + 0.1 * g * g
            step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.9**t)) + 1e-8)
            w = w - 0.1 * (step + decay * w)
        np.testing.assert_allclose(got[name], w, rtol=1e-5)


@pytest.mark.usefixtures("as_in_use")
def test_lion_is_its_formula():
    config = OptimizerConfig(name="lion", learning_rate=0.01, weight_decay=0.5, beta1=0.8)

    def grads(params):  # that turn round
        return jax.tree.map(lambda w, g: g - 20 * (w - w.mean()) ** 2 * jnp.sign(w), params, GRADS)

    got = run(config, grads=grads)
    params = jax.tree.map(np.asarray, PARAMS)
    momentum = jax.tree.map(np.zeros_like, params)
    for _ in range(3):
        g = jax.tree.map(np.asarray, grads(params))
        for name, decay in (("kernel", 0.5), ("bias", 0.0)):
            m, w, own = (tree["Dense_0"][name] for tree in (momentum, params, g))
            step = np.sign(0.8 * m + 0.2 * own)
            params["Dense_0"][name] = w - 0.01 * (step + decay * w)
            momentum["Dense_0"][name] = 0.99 * m + 0.01 * own
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(got[name], params["Dense_0"][name], rtol=1e-5)


@pytest.mark.usefixtures("as_in_use")
def test_muon_moves_kernels_by_nearly_orthogonal_matrices_and_biases_as_adam():
    rng = np.random.default_rng(0)
    params = {
        "Conv_0": {"kernel": jnp.asarray(rng.normal(size=(2, 2, 3, 4)), jnp.float32)},
        "Dense_0": {"kernel": jnp.zeros((5, 4)), "bias": jnp.zeros(4)},
    }
    grads = jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape), w.dtype), params)
    config = OptimizerConfig(name="muon", learning_rate=0.1)
    optimizer = optimizers.make(config, steps_per_epoch=10, epochs=2)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    for update, inputs in (
        (updates["Conv_0"]["kernel"], 12),
        (updates["Dense_0"]["kernel"], 5),
    ):
        matrix = np.asarray(update).reshape(inputs, 4) / (0.1 * 0.2 * np.sqrt(inputs))
        singular = np.linalg.svd(matrix, compute_uv=False)
        assert 0.6 < singular.min() <= singular.max() < 1.3
    bias = grads["Dense_0"]["bias"]
    ahead = 1 + 0.9 * 0.1 / (1 - 0.9**2)  # of Nesterov's momentum
    expected = -0.1 * ahead * np.sign(bias)
    np.testing.assert_allclose(updates["Dense_0"]["bias"], expected, rtol=1e-4)
    clipped = dataclasses.replace(config, name="adamw", clip_norm=1e-30)  # Adam's epsilon shows
    optimizer = optimizers.make(clipped, steps_per_epoch=10, epochs=2)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    assert np.abs(updates["Dense_0"]["bias"]).max() < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_runs_of_other_optimizers_resume_in_the_same_bits(name, tmp_path, as_in_use):
    optimizer = OptimizerConfig(name, learning_rate=0.01, weight_decay=0.1, clip_norm=1.0)
    settings = dataclasses.replace(SETTINGS, optimizer=optimizer, epochs=2)
    row = train.train_and_evaluate(settings, tmp_path / "whole", Silent())
    train.train_and_evaluate(settings, tmp_path / "part", Silent(), lambda row: True)
    again = train.train_and_evaluate(settings, tmp_path / "part", Silent())
    assert (again["test_loss"], again["train_loss"]) == (row["test_loss"], row["train_loss"])
    (member,) = population.train_population([settings], [tmp_path / "member"], how="map")
    assert member.row["test_loss"] == pytest.approx(row["test_loss"], rel=1e-4)


def adamw(config, rate):
    return optax.adamw(rate, b1=config.momentum, weight_decay=config.weight_decay)


@pytest.fixture
def with_adamw(monkeypatch):
    monkeypatch.setitem(optimizers.OPTIMIZERS, "adamw", adamw)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integers
        yield


SETTINGS = Config(
    dataset=DatasetConfig(name="synthetic:size=8,train=60,test=32"),
    model=ModelConfig(name="softmax"),
    optimizer=OptimizerConfig(
        name="adamw", learning_rate=0.01, momentum=0.8, weight_decay=0.5, schedule="linear"
    ),
    records=RecordsConfig(tensorboard=False, figures=False),
    epochs=3,
    batch_size=60,  # all examples, so that a step is an epoch
)


def test_an_optimizer_of_the_table_moves_the_weights_of_a_run(tmp_path, with_adamw):
    train.train_and_evaluate(SETTINGS, tmp_path / "run", Silent())
    assert records.read_config(tmp_path / "run") == resolve(SETTINGS)
    got = checkpoints.restore_variables(tmp_path / "run")["params"]

    made = experiment.build(SETTINGS, experiment.load_dataset(SETTINGS.dataset))
    images = made.preprocess(jnp.asarray(made.dataset.train_images), None)
    labels = made.dataset.train_labels

    def loss(params):
        logits = made.model.apply({"params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    schedule = optax.linear_schedule(0.01, 0.0, 3)
    direct = optax.adamw(schedule, b1=0.8, weight_decay=0.5)
    params = made.init_state().params
    state = direct.init(params)
    for _ in range(3):
        updates, state = direct.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    assert np.abs(params["Dense_0"]["kernel"] - made.init_state().params["Dense_0"]["kernel"]).max()
    for name in ("kernel", "bias"):
        expected = params["Dense_0"][name]
        np.testing.assert_allclose(got["Dense_0"][name], expected, rtol=1e-4, atol=1e-6)


def test_a_population_of_another_optimizer_is_what_its_members_are_alone(tmp_path, with_adamw):
    rates = [{"optimizer.learning_rate": 0.01}, {"optimizer.learning_rate": 0.1}]
    members = [with_values(SETTINGS, values) for values in rates]
    population.train_population(members, [tmp_path / "0", tmp_path / "1"], how="map")
    for i, member in enumerate(members):
        train.train_and_evaluate(member, tmp_path / f"alone{i}", Silent())
        for name in ("kernel", "bias"):
            together, alone = (
                checkpoints.restore_variables(tmp_path / run)["params"]["Dense_0"][name]
                for run in (f"{i}", f"alone{i}")
            )
            np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)


def test_a_misspelled_optimizer_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"config\.optimizer\.name='sdg' is unknown; .* sgd\?"):
        check(with_values(SETTINGS, {"optimizer.name": "sdg"}))


def test_a_record_of_before_there_were_several_is_of_sgd():
    tree = to_dict(Config())
    del tree["optimizer"]["name"]
    assert from_dict(tree).optimizer.name == "sgd"
