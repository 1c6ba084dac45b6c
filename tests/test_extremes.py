"""Batches of no images, infinities, the ends of a dtype's range, and dtypes of 16 bits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from cnn_jax import augment, layers, losses, models, ops, steps
from cnn_jax.ops.platform import forced
from tests import networks

INF = np.inf
PATHS = {
    "cpu": partial(forced, "cpu"),
    "gpu": partial(forced, "gpu"),
}
POOLS = {
    "max": ops.max_pool,
    "min": ops.min_pool,
    "avg": ops.avg_pool,
    "lp": partial(ops.lp_pool, p=2),
    "softmax": ops.softmax_pool,
}


@pytest.fixture(params=PATHS)
def path(request):
    with PATHS[request.param]():
        yield request.param


# No images


def gradient_shapes(function, *args):
    """The result's shape and the gradients' as tracing tells, where empty reshapes fail."""

    def both(*args):
        y, vjp = jax.vjp(function, *args)
        return y, vjp(jnp.ones_like(y))

    y, gradients = jax.eval_shape(both, *args)
    return (y.shape, y.dtype), [(g.shape, g.dtype) for g in gradients]


@pytest.mark.parametrize("path", ["cpu", "gpu"], indirect=True)
def test_no_images_are_pooled_to_no_images(path):
    spatial, dtype = (6, 25), jnp.bfloat16
    x = jnp.zeros((0, *spatial, 3), dtype)
    for pool in POOLS.values():
        for options in ({"window": 2}, {"window": 3, "strides": 2, "padding": 1}):
            pooled = partial(pool, **options)
            (shape, kept), gradients = gradient_shapes(pooled, x)
            assert shape == (0, *jax.eval_shape(pooled, jnp.zeros((1, *spatial, 3))).shape[1:])
            assert kept == dtype
            assert gradients == [(x.shape, dtype)]
    whole = partial(ops.max_pool, window=spatial)
    assert gradient_shapes(whole, x)[0] == ((0, *[1] * len(spatial), 3), dtype)
    assert gradient_shapes(ops.global_avg_pool, x) == (((0, 3), dtype), [(x.shape, dtype)])
    assert ops.global_avg_pool(x).shape == (0, 3)


@pytest.mark.parametrize(
    ("spatial", "channels"),
    [((8, 9), 1), ((8, 9), 40), pytest.param((4, 5, 6), 40, marks=pytest.mark.slow)],
)
def test_no_images_are_convolved_to_no_images(path, spatial, channels):
    x = jnp.zeros((0, *spatial, channels))
    for size, options in (
        (1, {}),
        (1, {"strides": 2}),
        (3, {"padding": 1}),
        (3, {"padding": "SAME", "strides": 2, "padding_mode": "replicate"}),
        (2, {"groups": channels, "dilation": 2}),
    ):
        kernel = jnp.ones((*[size] * len(spatial), channels // options.get("groups", 1), 120))
        convolve = partial(ops.conv, **options)
        (shape, _), gradients = gradient_shapes(convolve, x, kernel)
        one = jnp.zeros((1, *spatial, channels))
        assert shape == (0, *jax.eval_shape(convolve, one, kernel).shape[1:])
        assert gradients == [(x.shape, x.dtype), (kernel.shape, x.dtype)]


def test_gradients_of_no_images_are_zero(path):
    x, bias, wide = jnp.zeros((0, 6, 5, 3)), jnp.ones(3), jnp.ones((600, 512))
    kernels = [jnp.ones((size, size, 3, 2)) for size in (1, 3)]

    @networks.quick_jit
    def gradients(x, kernels, bias, wide):
        return (
            [jax.grad(lambda kernel: ops.conv(x, kernel).sum())(kernel) for kernel in kernels],
            jax.grad(lambda b: ops.add_bias(x, b).sum())(bias),
            jax.grad(lambda kernel: ops.dense(jnp.zeros((0, 600)), kernel).sum())(wide),
        )

    expected = jax.tree.map(np.zeros_like, (kernels, bias, wide))
    got = gradients(x, kernels, bias, wide)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_losses_of_no_examples():
    logits, labels = jnp.zeros((0, 5)), np.zeros(0, np.int32)

    @networks.quick_jit
    def everything(x):
        same = [f(x) for f in (ops.softmax, ops.log_softmax, *ops.ACTIVATIONS.values())]
        same.append(ops.dropout(jax.random.key(0), x, 0.5))
        each = ops.cross_entropy(x, labels, 0.1), ops.correct_predictions(x, labels)
        return same, each, (ops.accuracy(x, labels), losses.weighted_sum(x[:, 0], x[:, 0]))

    same, each, sums = everything(logits)
    assert {y.shape for y in same} == {(0, 5)}
    assert {y.shape for y in each} == {(0,)}
    assert sums == (0, 0)


def test_no_images_are_augmented_to_no_images():
    def augmented(images):
        keys = jax.random.split(jax.random.key(0), 5)
        x = augment.normalize(images)
        same = [
            augment.whiten(x, np.zeros((8, 6, 3)), np.ones((8, 6, 3)), 0.1),
            augment.pad_crop(keys[0], x, 2),
            augment.pad_crop(keys[1], x, 2, 0.5),
            augment.flip(keys[2], x),
            augment.cutout(keys[3], x, 3),
            augment.random_erasing(keys[4], x, 0.5),
        ]
        return same, augment.resize(x, (5, 9))

    same, resized = networks.quick_jit(augmented)(jnp.zeros((0, 8, 6, 3), jnp.uint8))
    assert {y.shape for y in same} == {(0, 8, 6, 3)}
    assert resized.shape == (0, 5, 9, 3)


@pytest.mark.parametrize("mask", [None, np.zeros(3, np.float32)])
def test_batch_norm_of_no_examples_keeps_its_averages(mask):
    examples = 0 if mask is None else 3
    x, layer = jnp.ones((examples, 4, 2)), layers.BatchNorm()
    variables = {
        "params": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
        "batch_stats": {"mean": jnp.array([0.3, -7.1]), "var": jnp.array([1.7, 0.1])},
    }

    @networks.quick_jit
    @partial(jax.grad, has_aux=True)
    def gradient(params):
        y, changed = layer.apply(
            {**variables, "params": params}, x, train=True, mask=mask, mutable=["batch_stats"]
        )
        kept = y if mask is None else y * mask[:, None, None]
        return kept.sum(), (y, changed["batch_stats"])

    gradients, (y, stats) = gradient(variables["params"])
    assert y.shape == x.shape
    jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, [0, 0]), gradients)


SMALL = {
    "lenet_bn": (28, {}),
    "vgg11_bn": (32, {"width": 0.05, "hidden": (8,), "dropout": (0.5,)}),
    "mlp_dropout": (8, {}),
    "mlp": (8, {"hidden": (4,), "norm": "batch"}),
}


def training(name):
    size, options = SMALL[name]
    model, optimizer = models.create(name, **options), optax.sgd(0.1)

    def preprocess(images, key):
        return augment.normalize(images)

    state = jax.eval_shape(
        lambda: steps.init_state(model, optimizer, preprocess, (size, size, 1), 0)
    )
    batch = steps.Batch(
        jnp.zeros((0, size, size, 1), jnp.uint8), jnp.zeros(0, jnp.int32), jnp.zeros(0)
    )
    return steps.make_train_step(model, optimizer, preprocess), state, batch


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_step_of_no_images_can_be_traced(name):
    step, state, batch = training(name)
    new, totals = jax.eval_shape(step, state, batch)
    assert jax.tree.map(lambda x: x.shape, new.params) == jax.tree.map(
        lambda x: x.shape, state.params
    )
    assert totals.sums["loss"].shape == ()


@pytest.mark.parametrize("name", ["mlp", pytest.param("lenet_bn", marks=pytest.mark.slow)])
def test_a_step_of_no_images_changes_nothing(name):
    step, state, batch = training(name)
    state = jax.tree.map(lambda x: jnp.full(x.shape, 0.25).astype(x.dtype), state)
    new, totals = networks.quick_jit(step)(state, batch)
    jax.tree.map(np.testing.assert_array_equal, new.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, new.model_state, state.model_state)
    assert (totals.sums["loss"], totals.examples, totals.bad_step) == (0, 0, -1)


# Infinities and the ends of the range; NaN debugging is on

lp_half, lp1, lp2 = (partial(ops.lp_pool, p=p) for p in (0.5, 1, 2))


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.bfloat16, marks=pytest.mark.slow)])
def test_pools_of_infinities_are_limits(dtype):
    most = float(jnp.finfo(dtype).max)
    cases = (
        (ops.softmax_pool, (INF, 1), INF, [1, 0]),
        (ops.softmax_pool, (-INF, 1), 1, [0, 1]),
        (ops.softmax_pool, (INF, -INF), INF, [1, 0]),
        (ops.softmax_pool, (-INF, -INF), -INF, [0.5, 0.5]),
        (ops.softmax_pool, (most, most), most, [0.5, 0.5]),
        (ops.softmax_pool, (most, -most), most, [1, 0]),
        (lp2, (INF, 1), INF, [1, 0]),
        (lp2, (1, -INF), INF, [0, -1]),
        (lp2, (most, 1), most, [1, 0]),
        (lp1, (INF, -INF), INF, [1, -1]),
        (lp1, (most / 2, -most / 2), most, [1, -1]),
        (lp_half, (0, 2.0**-120), 2.0**-120, [0, 1]),
        (ops.max_pool, (-INF, 1), 1, [0, 1]),
        (ops.max_pool, (INF, 1), INF, [1, 0]),
        (ops.min_pool, (-INF, 1), -INF, [1, 0]),
        (ops.min_pool, (INF, 1), 1, [0, 1]),
        (ops.avg_pool, (INF, 1), INF, [0.5, 0.5]),
    )
    pools = list(dict.fromkeys(case[0] for case in cases))
    own = [[case for case in cases if case[0] is pool] for pool in pools]
    rows = [jnp.array([row for _, row, _, _ in of_pool], dtype)[..., None] for of_pool in own]

    @networks.quick_jit
    def everything(rows):
        results = []
        for pool, x in zip(pools, rows, strict=True):
            y, vjp = jax.vjp(partial(pool, window=2), x)
            results.append((y, vjp(jnp.ones_like(y))[0]))
        return results

    for of_pool, (y, dx) in zip(own, everything(rows), strict=True):
        assert y.ravel().astype(float).tolist() == [case[2] for case in of_pool]
        assert dx[..., 0].astype(float).tolist() == [case[3] for case in of_pool]


def test_padding_has_no_weight_beside_minus_infinity():
    x = jnp.full((1, 2, 1), -INF)
    pool = partial(ops.softmax_pool, window=3, padding=1, strides=1)
    np.testing.assert_array_equal(networks.quick_jit(pool)(x), x)


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.float16, marks=pytest.mark.slow)])
def test_activations_at_the_ends_are_limits(dtype):
    most = float(jnp.finfo(dtype).max)
    x = jnp.array([-INF, -most, most, INF], dtype)
    low = {"elu": -1, "tanh": -1, "identity": -INF, "leaky_relu": -INF}

    @networks.quick_jit
    def everything(x):
        functions = ops.ACTIVATIONS.items()
        return {name: (f(x), jax.vmap(jax.grad(f))(x)) for name, f in functions}

    for name, (y, slope) in jax.device_get(everything(x)).items():
        y = y.astype(float)
        high = {"sigmoid": 1, "tanh": 1}.get(name, INF)
        assert (y[0], y[3]) == (low.get(name, 0), high)
        assert np.isfinite(y[1:3]).all()
        left = {"identity": 1, "leaky_relu": float(jnp.asarray(0.01, dtype))}.get(name, 0)
        right = 0 if high == 1 else 1
        assert slope.astype(float).tolist() == [left, left, right, right]


def test_softmax_of_infinite_scores_is_the_limit():
    logits = jnp.array([[INF, 1, 2], [-INF, 0, 0], [INF, INF, 0], [-INF, -INF, -INF]])
    labels = np.zeros(4, int)

    @networks.quick_jit
    def functions(z):
        gradient = jax.grad(lambda z: ops.cross_entropy(z, labels).sum())(z)
        losses = [ops.cross_entropy(z, labels, smoothing) for smoothing in (0.0, 0.1, 1.0)]
        return ops.softmax(z), jnp.exp(ops.log_softmax(z)), gradient, losses

    softmax, exponentials, gradient, (loss, smoothed, uniform) = functions(logits)
    third = np.float32(1) / 3
    expected = np.array([[1, 0, 0], [0, 0.5, 0.5], [0.5, 0.5, 0], [third] * 3], np.float32)
    np.testing.assert_array_equal(softmax, expected)
    np.testing.assert_allclose(exponentials, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected - np.eye(3)[labels], rtol=1e-6)
    np.testing.assert_allclose(loss, [0, INF, np.log(2), np.log(3)], rtol=1e-6)
    np.testing.assert_allclose(smoothed, [INF, INF, INF, np.log(3)], rtol=1e-6)
    np.testing.assert_allclose(uniform, [INF, INF, INF, np.log(3)], rtol=1e-6)


# 16 bits


def units(got, expected):
    """The largest error in units of the last place of got's dtype."""
    info = jnp.finfo(got.dtype)
    exponent = np.floor(np.log2(np.maximum(abs(expected), float(info.tiny))))
    error = abs(np.asarray(got).astype(np.float64) - expected)
    return (error / 2.0 ** (exponent - info.nmant)).max()


SIXTEEN = pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)]
)


def eager(function):
    return function


@SIXTEEN
@pytest.mark.parametrize("compile_", [eager, networks.quick_jit])
def test_16_bits_lose_nothing_but_the_last_rounding(dtype, compile_):
    rng, labels = np.random.default_rng(0), np.arange(4)
    x = jnp.asarray(2 * rng.normal(size=(4, 1000))).astype(dtype)
    exact = np.asarray(x).astype(np.float64)
    logs = scipy.special.log_softmax(exact, -1)
    own = -logs[labels, labels]
    cases = [
        (ops.softmax, np.exp(logs)),
        (ops.softmax_by_definition, np.exp(logs)),
        (ops.log_softmax, logs),
        (lambda x: ops.cross_entropy(x, labels), own),
        (lambda x: ops.cross_entropy(x, labels, 0.1), 0.9 * own - 0.1 * logs.mean(-1)),
        (ops.leaky_relu, np.where(exact > 0, exact, 0.01 * exact)),
        (ops.sigmoid, scipy.special.expit(exact)),
        (ops.tanh, np.tanh(exact)),
        (ops.elu, np.where(exact > 0, exact, np.expm1(exact))),
        (ops.gelu, exact * scipy.special.ndtr(exact)),
        (ops.silu, exact * scipy.special.expit(exact)),
    ]
    images, window = x.reshape(4, 250, 4), exact.reshape(4, 10, 25, 4)
    cases += [
        (lambda _: ops.global_avg_pool(images), exact.reshape(4, 250, 4).mean(1)),
        (lambda _: ops.avg_pool(images, 25), window.mean(2)),
        (lambda _: ops.lp_pool(images, 25, 3), (abs(window) ** 3).sum(2) ** (1 / 3)),
        (
            lambda _: ops.softmax_pool(images, 25),
            (window * scipy.special.softmax(window, 2)).sum(2),
        ),
    ]
    if compile_ is eager:  # one operation at a time is compiled slowly
        cases = cases[:4]
    results = compile_(lambda x: [function(x) for function, _ in cases])(x)
    for i, (y, (_, expected)) in enumerate(zip(results, cases, strict=True)):
        assert y.dtype == dtype
        assert units(y, expected) <= 1, i


@pytest.mark.parametrize("path", ["cpu", "gpu"], indirect=True)
@SIXTEEN
def test_sums_of_16_bits_are_float32_inside(path, dtype):
    """A sum in bfloat16 itself would stop at 256 ones."""
    x = jnp.asarray(np.random.default_rng(1).uniform(size=(300, 2, 2, 3)).astype(dtype))
    exact = np.asarray(x).astype(np.float64).sum((0, 1, 2))

    @networks.quick_jit
    def sums(x):
        values = x[..., 0].reshape(-1)
        of_bias = jax.vjp(partial(ops.add_bias, x), jnp.zeros(3, dtype))[1](x)[0]
        total = losses.weighted_sum(values, jnp.ones_like(values))
        return (
            of_bias,
            total,
            losses.l2_penalty({"Dense_0": {"kernel": values}}),
        )

    of_bias, total, penalty = sums(x)
    assert units(of_bias, exact) <= 1
    assert units(total, exact[0]) <= 1
    assert penalty.dtype == jnp.float32
    expected = 0.5 * (np.asarray(x)[..., 0].astype(np.float64) ** 2).sum()
    np.testing.assert_allclose(penalty, expected, rtol=1e-6)


def test_the_means_of_batch_norm_in_bfloat16_are_float32():
    x = jnp.full((600, 2, 1), 1.0, jnp.bfloat16)
    layer = layers.BatchNorm(momentum=0.0)
    variables = networks.quick_jit(layer.init)(jax.random.key(0), x)
    apply = networks.quick_jit(partial(layer.apply, train=True, mutable=["batch_stats"]))
    _, changed = apply(variables, x)
    assert changed["batch_stats"]["mean"] == 1.0
