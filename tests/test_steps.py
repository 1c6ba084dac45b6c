"""One training step, many of them in a loop, and the three ways to compile them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax import layers, models, optimizers, programs, reduction, steps
from cnn_jax.config import OptimizerConfig
from tests.networks import quick_jit

SHAPE = (8, 8, 1)


def unit(images, key):
    del key
    return images.astype(jnp.float32) / 255.0


def mlp(**options):
    return models.create("mlp", hidden=(16,), kernel_init="xavier_uniform", **options)


def batch(n=12, seed=0, weights=None):
    rng = np.random.default_rng(seed)
    return steps.Batch(
        jnp.asarray(rng.integers(0, 256, (n, *SHAPE), np.uint8)),
        jnp.asarray(rng.integers(0, 10, n).astype(np.int32)),
        jnp.ones(n) if weights is None else jnp.asarray(weights, jnp.float32),
    )


def make(model, rate=0.1, momentum=0.9, **options):
    config = OptimizerConfig(learning_rate=rate, momentum=momentum)
    optimizer = optimizers.make(config, 10, 1)
    state = steps.init_state(model, optimizer, unit, SHAPE, seed=3)
    return state, jax.jit(steps.make_train_step(model, optimizer, unit, **options))


def test_golden_step_is_softmax_regression_by_hand():
    model = models.create("softmax")
    state, train_step = make(model, rate=0.5, momentum=0.0)
    data = batch()
    x = np.asarray(data.images, np.float64).reshape(12, -1) / 255
    w = np.asarray(state.params["Dense_0"]["kernel"], np.float64)
    logits = x @ w
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y = np.eye(10)[np.asarray(data.labels)]
    gradient = x.T @ (p - y) / 12

    new, totals = train_step(state, data)
    np.testing.assert_allclose(
        new.params["Dense_0"]["kernel"], w - 0.5 * gradient, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        new.params["Dense_0"]["bias"], -0.5 * (p - y).mean(0), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(totals.sums["loss"], -np.log(p[y == 1]).sum(), rtol=1e-5)
    assert float(totals.sums["accuracy"]) == (p.argmax(1) == np.asarray(data.labels)).sum()
    assert totals.examples == 12
    assert totals.bad_step == -1
    assert new.step == 1


def test_moving_average_is_a_plain_mean_at_first_and_exponential_later():
    values = [3.0, 5.0, 10.0, 2.0]
    average = {"w": jnp.float32(100)}  # the initial value counts nowhere
    seen = []
    for step, value in enumerate(values):
        new = {"w": jnp.float32(value)}
        average = steps.moving_average(average, new, 0.5, jnp.int32(step))
        seen.append(float(average["w"]))
    assert seen == [3.0, 4.0, 7.0, 4.5]


def test_averages_hold_parameters_and_statistics_and_are_what_is_evaluated():
    model = mlp(norm="batch")
    optimizer = optimizers.make(OptimizerConfig(learning_rate=0.1), 10, 1)
    state = steps.init_state(model, optimizer, unit, SHAPE, 3, averaging=True)
    step = jax.jit(steps.make_train_step(model, optimizer, unit, ema_decay=0.9))
    plain, plain_step = make(model, momentum=0.0)
    visited = []
    for seed in range(3):
        state, _ = step(state, batch(seed=seed))
        plain, _ = plain_step(plain, batch(seed=seed))
        visited.append({"params": plain.params, **plain.model_state})
    # The averages don't change the way of the training.
    jax.tree.map(np.testing.assert_array_equal, state.params, plain.params)
    mean = jax.tree.map(lambda *x: np.mean(x, 0), *visited)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.averages, mean
    )
    evaluate = jax.jit(steps.make_eval_step(model, unit))
    params, statistics = mean["params"], {"batch_stats": mean["batch_stats"]}
    expected = evaluate(plain.replace(params=params, model_state=statistics), batch())
    np.testing.assert_allclose(
        evaluate(state, batch()).sums["loss"], expected.sums["loss"], rtol=1e-4
    )
    assert abs(evaluate(plain, batch()).sums["loss"] - expected.sums["loss"]) > 1e-3


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_padding_changes_nothing(norm):
    state, train_step = make(mlp(norm=norm))
    full = batch(12, weights=[1] * 9 + [0] * 3)
    part = steps.Batch(*(x[:9] for x in full))
    padded, padded_totals = train_step(state, full)
    exact, exact_totals = train_step(state, part)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        (padded.params, padded.model_state, padded_totals),
        (exact.params, exact.model_state, exact_totals),
    )


def test_a_padding_example_that_is_not_finite_does_no_harm():
    model = mlp()
    state, _ = make(model)
    optimizer = optimizers.make(OptimizerConfig(learning_rate=0.1), 10, 1)

    def huge(images, key):
        return jnp.where(images == 255, jnp.float32(3e38), unit(images, key))

    step = jax.jit(steps.make_train_step(model, optimizer, huge))
    state = state.replace(opt_state=optimizer.init(state.params))
    data = batch(12, weights=[1] * 11 + [0])
    images = jnp.minimum(data.images, 254).at[11].set(255)
    with jax.debug_nans(False):  # the overflow is meant
        _, totals = step(state, data._replace(images=images))
    assert np.isfinite(totals.sums["loss"])
    assert totals.bad_step == -1


def test_batch_statistics_move_and_evaluation_uses_them():
    model = mlp(norm="batch")
    state, train_step = make(model)
    new, _ = train_step(state, batch())
    before = state.model_state["batch_stats"]["BatchNorm_0"]
    after = new.model_state["batch_stats"]["BatchNorm_0"]
    assert np.abs(after["mean"] - before["mean"]).max() > 1e-3
    evaluate = jax.jit(steps.make_eval_step(model, unit))
    assert (
        evaluate(new.replace(model_state=state.model_state), batch()).sums["loss"]
        != (evaluate(new, batch()).sums["loss"])
    )


def test_dropout_depends_on_the_step_and_the_seed_alone():
    state, train_step = make(mlp(dropout=(0.5,)), rate=1e-9, momentum=0.0)
    first = train_step(state, batch())[1].sums["loss"]
    assert train_step(state, batch())[1].sums["loss"] == first
    assert train_step(state.replace(step=jnp.int32(1)), batch())[1].sums["loss"] != first
    other = state.replace(key=state.key + jnp.uint32(1))
    assert train_step(other, batch())[1].sums["loss"] != first


def test_label_smoothing_changes_the_update_and_not_the_reported_loss():
    state, train_step = make(mlp())
    _, smooth_step = make(mlp(), label_smoothing=0.2)
    (plain, plain_totals), (smooth, smooth_totals) = (
        f(state, batch()) for f in (train_step, smooth_step)
    )
    assert plain_totals.sums["loss"] == smooth_totals.sums["loss"]
    kernel = [s.params["Dense_0"]["kernel"] for s in (plain, smooth)]
    assert np.abs(kernel[0] - kernel[1]).max() > 1e-5


@pytest.mark.parametrize("smoothing", [0.0, 0.4])
def test_auxiliary_classifiers_add_three_tenths_of_their_loss(smoothing):
    class TwoHeads(layers.nn.Module):
        @layers.nn.compact
        def __call__(self, x, train=False):
            x = layers.Flatten()(x)
            head = layers.Dense(10, name="head")(x)
            side = layers.Dense(10, name="side")(x)
            if train:
                self.sow("auxiliary", "logits", side)
            return head

    state, train_step = make(TwoHeads(), rate=1.0, momentum=0.0, label_smoothing=smoothing)
    kernel = state.params["head"]["kernel"]
    state.params["side"] = jax.tree.map(jnp.array, state.params["head"])
    new, _ = train_step(state, batch())
    moved = {name: new.params[name]["kernel"] - kernel for name in ("head", "side")}
    np.testing.assert_allclose(moved["side"], 0.3 * moved["head"], rtol=1e-4, atol=1e-6)


def test_the_state_before_the_first_step_is_a_function_of_the_seed():
    model, optimizer = mlp(norm="batch"), optax.sgd(0.1, momentum=0.9)
    init_key, train_key = jax.random.split(jax.random.key(3))
    variables = quick_jit(model.init)(init_key, jnp.zeros((1, *SHAPE)))
    state = steps.init_state(model, optimizer, unit, SHAPE, 3, averaging=True)
    assert (int(state.step), state.step.dtype) == (0, np.int32)
    np.testing.assert_array_equal(state.key, jax.random.key_data(train_key))
    assert_close(state.params, variables["params"])
    assert_close(state.model_state, {"batch_stats": variables["batch_stats"]})
    assert_close(state.opt_state[0].trace, jax.tree.map(np.zeros_like, variables["params"]))
    assert_close(state.averages, dict(variables))
    state, _ = make(models.create("softmax"))
    assert state.averages is None
    assert state.model_state == {}
    assert state.variables == {"params": state.params}


def assert_close(have, want, rtol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), have, want)


def test_augmentation_is_drawn_from_the_key_of_its_step():
    model, optimizer = models.create("softmax"), optax.sgd(0.1)

    def noise(images, key):
        return unit(images, key) if key is None else jax.random.uniform(key, images.shape)

    @jax.jit
    def expected(state):
        own = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        images = jax.random.uniform(jax.random.split(own)[0], (12, *SHAPE))
        logits = model.apply(state.variables, images, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch().labels).sum()

    state = steps.init_state(model, optimizer, noise, SHAPE, 3)
    train_step = jax.jit(steps.make_train_step(model, optimizer, noise))
    for step in (0, 5):
        now = state.replace(step=jnp.int32(step))
        np.testing.assert_allclose(
            train_step(now, batch())[1].sums["loss"], expected(now), rtol=1e-5
        )


def test_a_batch_of_padding_alone_counts_nothing_and_moves_nothing():
    state, train_step = make(models.create("softmax"), momentum=0.0)
    new, totals = train_step(state, batch(weights=[0] * 12))
    assert totals == ({"loss": 0, "accuracy": 0}, 0, -1)
    assert_close(new.params, state.params)


def test_replicas_take_the_step_of_the_whole_batch():
    """Two replicas under a named axis, with unequal parts of a padded batch."""
    model = models.create("softmax")
    state, whole_step = make(model)
    whole = batch(12, weights=[1] * 8 + [0] * 4)
    halves = jax.tree.map(lambda x: x.reshape(2, 6, *x.shape[1:]), whole)
    optimizer = optimizers.make(OptimizerConfig(learning_rate=0.1, momentum=0.9), 10, 1)
    step = steps.make_train_step(model, optimizer, unit, reduce=reduction.over_replicas("replicas"))
    evaluate = steps.make_eval_step(model, unit, reduction.over_replicas("replicas"))

    def both(state, batch):
        return *step(state, batch), evaluate(state, batch)

    mapped = jax.jit(jax.vmap(both, in_axes=(None, 0), axis_name="replicas"))
    new, totals, tests = mapped(state, halves)
    expected, sums = whole_step(state, whole)
    for i in range(2):
        assert_close(jax.tree.map(lambda x, i=i: x[i], new), expected)
        assert_close(jax.tree.map(lambda x, i=i: x[i], totals), sums)
        assert_close(jax.tree.map(lambda x, i=i: x[i], tests), sums)  # before the update


def test_replicas_share_statistics_and_draw_their_own_dropout():
    model = mlp(norm="batch", dropout=(0.5,))
    state, alone_step = make(model)
    optimizer = optimizers.make(OptimizerConfig(learning_rate=0.1, momentum=0.9), 10, 1)
    step = steps.make_train_step(model, optimizer, unit, reduce=reduction.over_replicas("replicas"))
    parts = [batch(6, seed=seed) for seed in (0, 1)]
    halves = jax.tree.map(lambda *x: np.stack(x), *parts)
    mapped = jax.jit(jax.vmap(step, in_axes=(None, 0), axis_name="replicas"))
    new, _ = mapped(state, halves)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[0], x[1]), new)
    own = [alone_step(state, part)[0].model_state for part in parts]
    mean = jax.tree.map(lambda *x: np.mean(x, 0), *own)  # the first layer's: before any dropout
    assert_close(jax.tree.map(lambda x: x[0], new.model_state), mean)
    same = jax.tree.map(lambda x: np.stack([x, x]), parts[0])
    twice, alone = mapped(state, same)[1], alone_step(state, parts[0])[1]
    assert abs(float(twice.sums["loss"][0]) - 2 * float(alone.sums["loss"])) > 1e-3


def test_totals_are_added_and_the_first_bad_step_stays():
    zeros = steps.Totals.zeros(10)
    assert zeros == ({"loss": 0, "accuracy": 0}, 0, -1)
    assert zeros.sums["loss"].dtype == zeros.examples.dtype == np.float32
    assert zeros.sums["accuracy"].dtype == zeros.bad_step.dtype == np.int32
    first, second = (
        zeros._replace(
            sums={"loss": np.float32(loss), "accuracy": np.int32(correct)},
            examples=np.float32(examples),
        )
        for loss, correct, examples in ((1, 2, 3), (10, 20, 30))
    )
    assert first.add(second) == ({"loss": 11, "accuracy": 22}, 33, -1)
    bad = [first._replace(bad_step=np.int32(step)) for step in (0, 7)]
    for one, other, expected in (
        (*bad, 0),
        (*bad[::-1], 7),
        (first, bad[1], 7),
        (bad[0], first, 0),
    ):
        assert one.add(other).bad_step == expected


def order(n, size, count):
    rng = np.random.default_rng(1)
    indices = rng.integers(0, n, (count, size)).astype(np.int32)
    weights = np.ones((count, size), np.float32)
    weights[-1, size // 2 :] = 0
    return programs.Order(indices, weights)


@pytest.mark.parametrize("cuts", [[0, 7], [0, 1, 7], [0, 3, 4, 7]])
def test_a_loop_of_steps_is_the_steps_one_by_one_wherever_it_is_cut(cuts):
    model = mlp(dropout=(0.3,))
    state, train_step = make(model)
    pictures = batch(40)
    data, plan = programs.Data(pictures.images, pictures.labels), order(40, 12, 7)
    expected, sums = state, steps.Totals.zeros(10)
    for indices, weights in zip(*plan, strict=True):
        one = steps.Batch(data.images[indices], data.labels[indices], jnp.asarray(weights))
        expected, totals = train_step(expected, one)
        sums = sums.add(totals)

    loop = jax.jit(programs.make_train_steps(train_step))
    got, totals = state, jax.tree.map(jnp.asarray, steps.Totals.zeros(10))
    plan = jax.tree.map(jnp.asarray, plan)
    for start, stop in itertools.pairwise(cuts):
        got, totals = loop(got, totals, data, plan, start, stop)
    assert loop._cache_size() == 1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
        (got, totals),
        (expected, sums),
    )


def test_the_loop_moves_nothing_between_host_and_device():
    state, train_step = make(mlp(dropout=(0.3,)))
    pictures = batch(40)
    data, plan = programs.Data(pictures.images, pictures.labels), order(40, 12, 7)
    zero, plan, data = jax.device_put((steps.Totals.zeros(10), plan, data))
    start, stop = jax.device_put((np.int32(0), np.int32(7)))
    loop = jax.jit(programs.make_train_steps(train_step))
    with jax.transfer_guard("disallow"):
        with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
            jax.jit(jnp.negative)(np.int32(1))  # it is on guard
        new, totals = loop(state, zero, data, plan, start, stop)
    assert (int(new.step), int(totals.examples)) == (7, 6 * 12 + 6)


def test_cutting_the_loop_elsewhere_gives_the_same_bits():
    state, train_step = make(mlp(dropout=(0.3,)))
    pictures = batch(40)
    data, plan = programs.Data(pictures.images, pictures.labels), order(40, 12, 7)
    plan = jax.tree.map(jnp.asarray, plan)
    loop = jax.jit(programs.make_train_steps(train_step))
    zero = jax.tree.map(jnp.asarray, steps.Totals.zeros(10))
    whole = loop(state, zero, data, plan, 0, 7)
    parts = loop(*loop(state, zero, data, plan, 0, 2), data, plan, 2, 7)
    jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_the_first_step_that_is_not_finite_is_named():
    model = models.create("softmax")
    state, _ = make(model, momentum=0.0)
    optimizer = optax.sgd(float("inf"))
    step = steps.make_train_step(model, optimizer, unit)
    state = state.replace(opt_state=optimizer.init(state.params), step=jnp.int32(100))
    pictures = batch(40)
    data, plan = programs.Data(pictures.images, pictures.labels), order(40, 12, 4)
    with jax.debug_nans(False):
        _, totals = jax.jit(programs.make_train_steps(step))(
            state,
            jax.tree.map(jnp.asarray, steps.Totals.zeros(10)),
            data,
            jax.tree.map(jnp.asarray, plan),
            0,
            4,
        )
    assert totals.bad_step == 101  # step 100 saw finite parameters


def test_evaluation_counts_each_example_once_whatever_the_batch():
    model = mlp()
    state, _ = make(model)
    pictures = batch(37)
    data = programs.Data(pictures.images, pictures.labels)
    evaluate = jax.jit(programs.make_eval_steps(steps.make_eval_step(model, unit)))
    results = []
    for size in (37, 10, 1):
        count = -(-37 // size)
        indices = np.zeros(count * size, np.int32)
        weights = np.zeros(count * size, np.float32)
        indices[:37], weights[:37] = np.arange(37), 1
        plan = programs.Order(indices.reshape(count, size), weights.reshape(count, size))
        results.append(evaluate(state, data, jax.tree.map(jnp.asarray, plan)))
    assert [int(r.examples) for r in results] == [37, 37, 37]
    assert [int(r.bad_step) for r in results] == [-1, -1, -1]
    assert len({float(r.sums["accuracy"]) for r in results}) == 1
    np.testing.assert_allclose(
        [r.sums["loss"] for r in results], float(results[0].sums["loss"]), rtol=1e-6
    )


def test_compiler_options_are_accepted_by_this_jaxlib_or_left_out():
    options = programs.compiler_options()
    assert jax.jit(lambda x: x + jnp.int32(1), compiler_options=options)(jnp.int32(1)) == 2


@pytest.mark.parametrize("parallel", ["none", "jit", "pmap"])
def test_a_program_is_the_steps_one_by_one(parallel):
    """On one device; tests/devices.py has eight."""
    model, optimizer = models.create("softmax"), optax.sgd(0.1)
    reductions = []

    def make_train(reduce):
        reductions.append(reduce)
        return steps.make_train_step(model, optimizer, unit, reduce=reduce)

    def make_eval(reduce):
        reductions.append(reduce)
        return steps.make_eval_step(model, unit, reduce)

    program = programs.make_program(make_train, make_eval, parallel)
    assert len(reductions) == 2
    assert all((one is reduction.at_once) == (parallel != "pmap") for one in reductions)
    begin = steps.init_state(model, optimizer, unit, SHAPE, 3)
    pictures, plan = batch(40), order(40, 12, 3)
    host = programs.Data(np.asarray(pictures.images), np.asarray(pictures.labels))
    train_step = jax.jit(steps.make_train_step(model, optimizer, unit))
    expected, sums = begin, steps.Totals.zeros(10)
    for indices, weights in zip(*plan, strict=True):
        one = steps.Batch(host.images[indices], host.labels[indices], jnp.asarray(weights))
        expected, totals = train_step(expected, one)
        sums = sums.add(totals)

    state, zero = (
        program.put_state(jax.device_get(begin)),
        program.put_state(steps.Totals.zeros(10)),
    )
    data, placed = program.put_data(host), program.put_order(plan)
    leading = (1,) if parallel == "pmap" else ()
    assert placed.indices.shape == (*leading, 3, 12)
    assert_close(jax.tree.map(lambda x: np.asarray(x).reshape(3, 12), placed), plan)
    with jax.debug_nans(False):  # which keeps JAX from donating
        new, totals = program.train_steps(state, zero, data, placed, 0, 3)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state, zero)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(data))
    tests = program.get(program.eval_steps(new, data, placed))
    got, counted = program.get(new), program.get(totals)
    assert_close(got, expected)
    assert_close(counted, sums)
    evaluate = jax.jit(programs.make_eval_steps(steps.make_eval_step(model, unit)))
    assert_close(tests, evaluate(expected, host, jax.tree.map(jnp.asarray, plan)))
    for leaf in jax.tree.leaves((got, counted, tests)):
        assert isinstance(leaf, np.ndarray)
        assert leaf.flags.owndata


def test_an_order_is_shared_out_by_examples(monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 3)
    program = programs.make_program(lambda reduce: None, lambda reduce: None, "pmap")
    indices = np.arange(2 * 6, dtype=np.int32).reshape(2, 6)
    placed = program.put_order(programs.Order(indices, indices / 2))
    assert placed.indices.tolist() == [[[0, 1], [6, 7]], [[2, 3], [8, 9]], [[4, 5], [10, 11]]]
    np.testing.assert_array_equal(placed.weights, placed.indices / 2)


def test_compiler_options_are_for_a_cpu_that_knows_them(monkeypatch):
    find = programs._cpu_options.__wrapped__
    monkeypatch.setattr(jax, "jit", lambda f, compiler_options: f)
    assert find() == {"xla_cpu_experimental_ynn_fusion_type": ""}

    def refuse(f, compiler_options):
        raise jax.errors.JaxRuntimeError("No such compile option")

    monkeypatch.setattr(jax, "jit", refuse)
    assert find() == {}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "jit", None)  # nothing is asked there
    assert programs.compiler_options() == {}
    assert programs.compiler_options("tpu") == {}
