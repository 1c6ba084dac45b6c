"""Parts of a network: patterns of names, what is frozen, learning rates of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import config, models, optimizers, parts, reduction, steps
from cnn_jax.config import OptimizerConfig
from cnn_jax.errors import ConfigError
from tests.networks import quick_jit

SHAPE = (8, 8, 1)
FROZEN = ("Dense_0", "BatchNorm_0")


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("Conv_0", "Conv_0/kernel", True),
        ("Conv_0", "Conv_01/kernel", False),
        ("Conv_0", "stage1_block1/Conv_0/kernel", False),
        ("*/Conv_0", "stage1_block1/Conv_0/kernel", True),
        ("stage1_*", "stage1_block1/Conv_0/kernel", True),
        ("stage[12]_*", "stage3_block1/Conv_0/kernel", False),
        ("*/bias", "Conv_0/bias", True),
        ("bias", "Conv_0/bias", False),
        ("*", "Conv_0/bias", True),
        ("conv_0", "Conv_0/bias", False),
    ],
)
def test_a_pattern_chooses_a_parameter_by_its_name_or_a_part_around_it(pattern, name, expected):
    assert parts.matches(pattern, name) is expected


def test_running_averages_stay_if_scale_and_bias_do():
    path = ("batch_stats", "BatchNorm_0", "mean")
    assert parts.is_frozen(["BatchNorm_*"], path)
    assert parts.is_frozen(["*/scale", "*/bias"], path)
    assert not parts.is_frozen(["*/bias"], path)


@pytest.mark.parametrize("value", ["Conv_0", "=0.1", "Conv_0=", "Conv_0=0", "Conv_0=-1", "a=inf"])
def test_a_factor_is_a_pattern_and_a_positive_number(value):
    with pytest.raises(ConfigError, match=r"learning_rate_scale='.*must be PATTERN=FACTOR"):
        parts.read_factors([value])
    settings = config.with_values(config.Config(), {"optimizer.learning_rate_scale": (value,)})
    with pytest.raises(ConfigError, match="must be PATTERN=FACTOR"):
        config.check(settings)


def test_the_last_factor_that_matches_counts():
    factors = parts.read_factors(["Conv_*=0.1", "*/bias=2"])
    names = ("Conv_0/kernel", "Conv_0/bias", "Dense_0/kernel")
    assert [parts.find_factor(factors, name) for name in names] == [0.1, 2.0, 1.0]


def test_patterns_that_choose_nothing_and_freezing_all_are_refused():
    params = {"Conv_0": {"kernel": 0, "bias": 0}, "Dense_0": {"kernel": 0}}
    parts.check_trained(["Conv_0"], ["Dense_0=2"], params)
    for freeze, scales, said in [
        (
            ["Conv_1"],
            [],
            r"optimizer.freeze: the network has no part 'Conv_1'; did you mean Conv_0\?",
        ),
        ([], ["head=2"], r"learning_rate_scale: .* no part 'head'; its parts are Conv_0, Dense_0"),
        (["*"], [], r"optimizer.freeze=\* leaves nothing of the network to train"),
    ]:
        with pytest.raises(ConfigError, match=said):
            parts.check_trained(freeze, scales, params)


def unit(images, key):
    del key
    return images.astype(jnp.float32) / 255.0


def draw_batch(n=16):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (n, *SHAPE), np.uint8))
    labels = jnp.asarray(rng.integers(0, 10, n).astype(np.int32))
    return steps.Batch(images, labels, jnp.asarray([1.0] * (n - 3) + [0.0] * 3))


def make(freeze=(), scale=(), ema_decay=0.0, reduce=reduction.at_once, norm="batch", **options):
    model = models.create(
        "mlp", hidden=(12, 8), dropout=(0.0, 0.0), kernel_init="xavier_uniform", norm=norm
    )
    options = {"learning_rate": 0.3, "momentum": 0.9, **options}
    settings = OptimizerConfig(freeze=freeze, learning_rate_scale=scale, **options)
    optimizer = optimizers.make(settings, 10, 1)
    state = steps.init_state(model, optimizer, unit, SHAPE, 3, averaging=ema_decay > 0)
    # Statistics that a batch does not have.
    moved = jax.tree.map(lambda x: x + jnp.float32(0.1), state.model_state)
    averages = state.averages and {**state.averages, **moved}
    state = state.replace(model_state=moved, averages=averages)
    step = steps.make_train_step(
        model, optimizer, unit, ema_decay=ema_decay, reduce=reduce, freeze=freeze
    )
    return model, state, step


@pytest.mark.parametrize("way", ["at_once", "ordered", "pmap"])
def test_what_is_frozen_stays_to_the_bit_and_the_rest_does_not(way):
    reduce = reduction.at_once
    if way == "ordered":
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), (reduction.AXIS,))
        reduce = reduction.over_groups(4, mesh)
    elif way == "pmap":
        reduce = reduction.over_replicas()
    _, state, step = make(FROZEN, ema_decay=0.9, reduce=reduce, weight_decay=0.01)
    before, batch = jax.device_get(state), draw_batch()
    if way == "pmap":
        one = jax.tree.map(lambda x: jnp.asarray(x)[None], (state, batch))
        mapped = jax.vmap(step, axis_name=reduction.AXIS)
        (state, batch), run = one, quick_jit(mapped)
    else:
        run = quick_jit(step)
    for _ in range(3):
        state, _ = run(state, batch)
    after = jax.device_get(state if way != "pmap" else jax.tree.map(lambda x: x[0], state))
    for tree, kept in [
        ({"params": after.params, **after.model_state}, before),
        (after.averages, before),
    ]:
        old = {"params": kept.params, **kept.model_state}
        for path, value in jax.tree.leaves_with_path(tree):
            names = [key.key for key in path]
            there = old
            for name in names:
                there = there[name]
            same = np.array_equal(value, there)
            assert same == parts.is_frozen(FROZEN, names), names


def test_the_rest_learns_as_if_nothing_were_frozen():
    """Without batch normalization and clipping, parts do not know of each other in one step."""
    _, state, step = make(norm="none", weight_decay=0.01)
    free, _ = quick_jit(step)(state, draw_batch())
    _, state, step = make(("Dense_0",), norm="none", weight_decay=0.01)
    frozen, _ = quick_jit(step)(state, draw_batch())
    for layer in ("Dense_1", "Dense_2"):
        for name, value in free.params[layer].items():
            np.testing.assert_allclose(frozen.params[layer][name], value, rtol=1e-6, atol=1e-7)
    # What is frozen has no momentum either.
    assert len(jax.tree.leaves(state.opt_state)) < len(jax.tree.leaves(make()[1].opt_state))


def test_frozen_batch_normalization_uses_its_averages():
    frozen = ("Dense_0", "Dense_1", "BatchNorm_*")
    model, state, step = make(frozen)
    batch = draw_batch()
    _, totals = quick_jit(step)(state, batch)
    evaluated = quick_jit(steps.make_eval_step(model, unit))(state, batch)
    np.testing.assert_allclose(totals.sums["loss"], evaluated.sums["loss"], rtol=1e-6)
    _, state, step = make()
    _, trained = quick_jit(step)(state, batch)
    assert abs(float(trained.sums["loss"] / evaluated.sums["loss"]) - 1) > 0.01


def test_no_gradient_of_what_is_frozen_is_computed():
    def arithmetic(freeze):
        _, state, step = make(freeze)
        return jax.jit(step).lower(state, draw_batch()).cost_analysis()["flops"]

    assert arithmetic(("Dense_0", "Dense_1", "BatchNorm_*")) < 0.7 * arithmetic(())


def test_a_part_has_its_own_learning_rate():
    _, state, step = make(norm="none", momentum=0.0)
    plain, _ = quick_jit(step)(state, draw_batch())
    _, scaled_state, step = make(scale=("Dense_0=0.25",), norm="none", momentum=0.0)
    scaled, _ = quick_jit(step)(scaled_state, draw_batch())

    def moved(new, layer):
        return np.asarray(new.params[layer]["kernel"]) - state.params[layer]["kernel"]

    np.testing.assert_allclose(
        moved(scaled, "Dense_0"), 0.25 * moved(plain, "Dense_0"), rtol=1e-3, atol=1e-7
    )
    np.testing.assert_array_equal(moved(scaled, "Dense_1"), moved(plain, "Dense_1"))
