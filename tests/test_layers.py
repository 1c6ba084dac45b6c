"""Flax modules: parameters, initializers, batch normalization, dropout."""

from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import config, layers, ops
from cnn_jax.experiment import build, load_dataset
from cnn_jax.ops.platform import forced
from tests import networks

try:
    import torch
except ImportError:
    torch = None


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Conv, Dense, pooling.


def test_conv_owns_a_kernel_and_a_bias_and_calls_conv():
    x = _normal(2, 7, 8, 4)
    options = {"strides": (2, 1), "padding": 1, "dilation": 1, "groups": 2}
    layer = layers.Conv(6, (3, 2), **options, padding_mode="reflect", bias_init="torch")
    variables = networks.random_variables(layer, x.shape[1:])
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    assert kernel.shape == (3, 2, 2, 6)
    assert bias.shape == (6,)
    conv = networks.quick_jit(lambda x: ops.conv(x, kernel, **options, padding_mode="reflect"))
    y = networks.quick_jit(layer.apply)(variables, x)
    np.testing.assert_allclose(y, np.asarray(conv(x)) + bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spatial", [(9,), (5, 6), (4, 5, 3)])
def test_conv_takes_its_dimensions_from_the_input(spatial):
    x = _normal(2, *spatial, 3)
    layer = layers.Conv(5, 3, padding="SAME")
    variables = networks.random_variables(layer, x.shape[1:])
    assert jax.eval_shape(layer.apply, variables, x).shape == (2, *spatial, 5)
    assert variables["params"]["kernel"].shape == (3,) * len(spatial) + (3, 5)


def test_dense_is_a_matrix_product_plus_bias():
    layer = layers.Dense(3)
    params = {
        "kernel": np.arange(12.0, dtype=np.float32).reshape(4, 3),
        "bias": np.float32([1, 2, 3]),
    }
    x = np.float32([[1, 0, 0, 1], [0, 1, 0, 0]])
    np.testing.assert_allclose(
        layer.apply({"params": params}, x), [[10, 13, 16], [4, 6, 8]], rtol=1e-6
    )


@pytest.mark.parametrize("layer", [layers.Conv(3, 3), layers.Dense(3)])
def test_bias_can_be_left_out(layer):
    variables = networks.abstract_init(layer.clone(use_bias=False), (4, 4, 2))
    assert list(variables["params"]) == ["kernel"]


@pytest.mark.parametrize("layer", [layers.Conv(3, 3), layers.Dense(3)])
def test_bfloat16_computes_in_bfloat16_with_float32_parameters(layer):
    x = _normal(2, 5, 5, 4)
    quick = layer.clone(dtype="bfloat16")
    shapes = networks.abstract_init(quick, x.shape[1:])
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    variables = networks.random_variables(quick, x.shape[1:])
    y = networks.quick_jit(quick.apply)(variables, x)
    assert y.dtype == jnp.bfloat16
    expected = networks.quick_jit(layer.apply)(variables, x)
    np.testing.assert_allclose(y.astype("float32"), expected, rtol=0.05, atol=0.1)


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match="3 input and 4 output channels can't be split into 2"):
        networks.abstract_init(layers.Conv(4, 1, groups=2), (2, 2, 3))


def test_pooling_modules_call_their_functions():
    x = _normal(2, 7, 7, 3)
    options = {"strides": 2, "padding": 1, "dilation": 2, "ceil_mode": True}
    own = {layers.MaxPool: {}, layers.AvgPool: {"count_include_pad": False}}

    @networks.quick_jit
    def both(x):
        return [
            (module(*args, **kwargs).apply({}, x), function(x, *args, **kwargs))
            for module, function in ((layers.MaxPool, ops.max_pool), (layers.AvgPool, ops.avg_pool))
            for args, kwargs in (((3,), {**options, **own[module]}), ((2,), {}))
        ] + [(layers.GlobalAvgPool().apply({}, x), ops.global_avg_pool(x))]

    for ours, expected in both(x):
        np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(layers.Flatten().apply({}, x), x.reshape(2, -1))


def test_scaled_channels_are_whole_and_never_none():
    assert [layers.scaled(c, 0.25) for c in (64, 6, 1)] == [16, 2, 1]
    assert layers.scaled(96, 1.0) == 96


# Initializers, on a kernel [3, 3, 32, 64]: fan_in 288, fan_out 576.

VARIANCES = {
    "xavier_uniform": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "xavier_normal": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "he_uniform": lambda fan_in, fan_out: 2 / fan_in,
    "he_normal": lambda fan_in, fan_out: 2 / fan_in,
    "he_normal_fan_out": lambda fan_in, fan_out: 2 / fan_out,
    "lecun_uniform": lambda fan_in, fan_out: 1 / fan_in,
    "lecun_normal": lambda fan_in, fan_out: 1 / fan_in,
    "normal_0.01": lambda fan_in, fan_out: 1e-4,
    "torch": lambda fan_in, fan_out: 1 / (3 * fan_in),
}


@pytest.fixture(scope="module")
def kernels():
    def draw(key):
        return {
            name: layers.kernel_initializer(name)(key, (3, 3, 32, 64))
            for name in layers.KERNEL_INITIALIZERS
            if name != "orthogonal"  # LAPACK's, below
        }

    with jax.debug_key_reuse(False):  # one key is enough here
        return networks.quick_jit(draw)(jax.random.key(1))


def test_orthogonal_kernels_have_orthonormal_columns():
    kernel = layers.kernel_initializer("orthogonal")(jax.random.key(1), (3, 3, 4, 8))
    columns = np.asarray(kernel).reshape(36, 8)
    np.testing.assert_allclose(columns.T @ columns, np.eye(8), atol=1e-5)


def test_every_kernel_initializer_is_tested():
    assert {*VARIANCES, "orthogonal"} == set(layers.KERNEL_INITIALIZERS)


@pytest.mark.parametrize("name", VARIANCES)
def test_kernel_initializers_have_their_variance(name, kernels):
    kernel = np.asarray(kernels[name], np.float64)
    variance = VARIANCES[name](288, 576)
    assert abs(kernel.mean()) < 5 * np.sqrt(variance / kernel.size)
    assert kernel.var() == pytest.approx(variance, rel=0.05)
    if name.endswith("uniform") or name == "torch":
        assert np.abs(kernel).max() <= np.sqrt(3 * variance) * 1.0001


def test_bias_initializers():
    zeros = layers.bias_initializer("zeros", 25)(jax.random.key(0), (1000,))
    np.testing.assert_array_equal(zeros, np.zeros(1000))
    ones = layers.bias_initializer("ones", 25)(jax.random.key(0), (3,))
    np.testing.assert_array_equal(ones, np.ones(3))
    biases = layers.bias_initializer("torch", 25)(jax.random.key(0), (1000,))
    assert np.abs(biases).max() <= 0.2
    assert np.std(biases) == pytest.approx(0.2 / np.sqrt(3), rel=0.1)
    # A convolution's bias looks at the whole window.
    bias = networks.init(layers.Conv(64, 5, bias_init="torch"), (5, 5, 4))["params"]["bias"]
    assert 0.08 < np.abs(bias).max() <= 0.1


def test_unknown_names_are_refused_with_what_is_known():
    with pytest.raises(ValueError, match=r"kernel_init='xavier' is unknown; choose one of xav"):
        layers.kernel_initializer("xavier")
    with pytest.raises(ValueError, match=r"bias_init='one' is unknown; choose one of zeros, ones"):
        layers.bias_initializer("one", 1)
    with pytest.raises(ValueError, match=r"norm='layer' is unknown; choose one of none, batch"):
        layers.normalize("layer", jnp.zeros((1, 1)), True)


# Batch normalization.


def _batch_norm(x, scale, bias):
    """The definition, in float64, and the statistics of the batch."""
    x = np.asarray(x, np.float64)
    axes = tuple(range(x.ndim - 1))
    mean, var = x.mean(axes), x.var(axes)
    count = x.size // x.shape[-1]
    y = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
    return y, mean, var * count / (count - 1)


def _train(variables, x, mask=None):
    y, updates = layers.BatchNorm().apply(
        variables, x, train=True, mask=mask, mutable=["batch_stats"]
    )
    return y, {**variables, **updates}


_apply = networks.quick_jit(_train)
_evaluate = networks.quick_jit(layers.BatchNorm().apply)


def _some_variables():
    return {
        "params": {"scale": 1 + 0.3 * _normal(4, seed=1), "bias": _normal(4, seed=2)},
        "batch_stats": {"mean": _normal(4, seed=3), "var": np.exp(_normal(4, seed=4))},
    }


@pytest.mark.parametrize("shape", [(6, 4), (5, 7, 4), (3, 4, 5, 4)])
def test_batch_norm_equals_its_definition(shape):
    x = 3 + 2 * _normal(*shape)
    before = _some_variables()
    scale, bias = before["params"]["scale"], before["params"]["bias"]
    y, after = _apply(before, x)
    expected, mean, unbiased = _batch_norm(x, scale, bias)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    old, new = before["batch_stats"], after["batch_stats"]
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * unbiased, rtol=1e-5)
    # Evaluation uses the averages and changes nothing.
    y = _evaluate(after, x)
    mean, var = np.asarray(new["mean"]), np.asarray(new["var"])
    expected = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_batch_norm_of_groups_is_that_of_each_group_alone():
    x, g = 3 + 2 * _normal(6, 4, 5, 4), _normal(6, 4, 5, 4, seed=5)
    mask = np.float32([1, 1, 1, 0, 0, 0])  # the last group is padding alone
    before = _some_variables()

    def run(group, x, g, mask):
        def loss(x):
            y, updates = layers.BatchNorm(group=group).apply(
                before, x, train=True, mask=mask, mutable=["batch_stats"]
            )
            return (y * g).sum(), (y, updates["batch_stats"])

        return jax.grad(loss, has_aux=True)(x)

    run_all, run_one = (networks.quick_jit(partial(run, group)) for group in (2, None))
    gradient, (y, stats) = run_all(x, g, mask)
    alone = [run_one(*(part[i : i + 2] for part in (x, g, mask))) for i in (0, 2, 4)]
    np.testing.assert_allclose(y, np.concatenate([o[1][0] for o in alone]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        gradient, np.concatenate([o[0] for o in alone]), rtol=1e-3, atol=1e-4
    )
    for name in ("mean", "var"):  # two groups of 2 and 1 images, and one of none
        one, two, none = (own[1][1][name] for own in alone)
        np.testing.assert_array_equal(none, before["batch_stats"][name])
        np.testing.assert_allclose(stats[name], (2 * one + two) / 3, rtol=1e-5)


def test_batches_that_are_no_whole_groups_are_refused():
    x = jnp.zeros((6, 2, 2, 4))
    apply = partial(layers.BatchNorm(group=4).apply, _some_variables(), train=True)
    with pytest.raises(ops.ArgumentError, match=r"^a batch of 6 images can't be normalized in gr"):
        apply(x, mutable=["batch_stats"])
    settings = config.Config(
        dataset=config.DatasetConfig(name="synthetic:size=28,train=64"),
        model=config.ModelConfig("lenet", norm="ghost:16"),
        batch_size=32,
        eval_batch_size=32,
        reduction="ordered",
        reduction_groups=4,
    )
    with pytest.raises(
        config.ConfigError, match=r"can't be divided in 4 equal parts; choose a m.* 64"
    ):
        build(config.resolve(settings), load_dataset(settings.dataset))


def test_batch_norm_starts_as_pytorchs():
    init = networks.quick_jit(lambda x: layers.BatchNorm().init(jax.random.key(0), x, train=True))
    variables = init(5 + _normal(8, 3, 3, 2))
    for collection, name, value in (
        ("params", "scale", 1),
        ("params", "bias", 0),
        ("batch_stats", "mean", 0),  # initializing is no step
        ("batch_stats", "var", 1),
    ):
        np.testing.assert_array_equal(variables[collection][name], np.full(2, value))


@pytest.mark.skipif(torch is None, reason="PyTorch is optional; its numbers are also golden")
def test_batch_norm_equals_pytorchs_with_gradients():
    x, g = 3 + 2 * _normal(4, 5, 6, 4), _normal(4, 5, 6, 4, seed=5)
    variables = _some_variables()
    params, stats = variables["params"], variables["batch_stats"]
    layer = torch.nn.BatchNorm2d(4)
    layer.load_state_dict(
        {
            "weight": torch.tensor(params["scale"]),
            "bias": torch.tensor(params["bias"]),
            "running_mean": torch.tensor(stats["mean"]),
            "running_var": torch.tensor(stats["var"]),
            "num_batches_tracked": torch.tensor(0),
        }
    )
    tx = torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)
    ty = layer(tx)
    ty.backward(torch.tensor(np.moveaxis(g, -1, 1).copy()))

    def loss(params, x):
        y, after = _train({**variables, "params": params}, x)
        return (y * g).sum(), (y, after)

    grad = networks.quick_jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (dparams, dx), (y, after) = grad(params, x)

    def close(ours, theirs):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-4, atol=1e-4)

    close(jnp.moveaxis(y, -1, 1), ty)
    close(jnp.moveaxis(dx, -1, 1), tx.grad)
    close(dparams["scale"], layer.weight.grad)
    close(dparams["bias"], layer.bias.grad)
    close(after["batch_stats"]["mean"], layer.running_mean)
    close(after["batch_stats"]["var"], layer.running_var)
    layer.eval()
    close(jnp.moveaxis(_evaluate(after, x), -1, 1), layer(tx))


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_mask_leaves_padding_out_of_statistics_and_gradients(platform):
    real, g = _normal(3, 4, 4, 4), _normal(5, 4, 4, 4, seed=6)
    padded = np.concatenate([real, 100 * _normal(2, 4, 4, 4, seed=7)])
    mask = np.float32([1, 1, 1, 0, 0])
    variables = _some_variables()

    def loss(params, x, mask=None):
        y, after = _train({**variables, "params": params}, x, mask)
        return (y[:3] * g[:3]).sum(), (y[:3], after["batch_stats"])

    grad = networks.quick_jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    with forced(platform):
        (dparams, dx), (y, stats) = grad(variables["params"], padded, mask)
        (dparams3, dx3), (y3, stats3) = grad(variables["params"], real)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
    jax.tree.map(close, (dparams, dx[:3], y, stats), (dparams3, dx3, y3, stats3))
    np.testing.assert_array_equal(dx[3:], np.zeros_like(dx[3:]))


def test_batch_norm_keeps_statistics_in_float32():
    x = (1000 + _normal(64, 8, 8, 4)).astype(jnp.bfloat16)
    variables = _some_variables()
    y, after = _apply(variables, x)
    assert y.dtype == jnp.bfloat16
    mean = after["batch_stats"]["mean"]
    assert mean.dtype == jnp.float32
    expected = np.asarray(x, np.float64).mean((0, 1, 2))
    expected = 0.9 * variables["batch_stats"]["mean"] + 0.1 * expected
    np.testing.assert_allclose(mean, expected, rtol=1e-5)


def test_batch_norm_survives_a_constant_batch_and_a_mask_of_zeros():
    variables = _some_variables()
    y, after = _apply(variables, np.full((2, 3, 4), 7, np.float32))
    np.testing.assert_allclose(y, np.broadcast_to(variables["params"]["bias"], y.shape), atol=1e-4)
    for mask in (np.zeros(2, np.float32), np.float32([1, 0])):
        y, after = _apply(variables, _normal(2, 3, 4), mask=mask)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((y, after)))


# Dropout.


def test_dropout_is_off_in_evaluation_and_at_rate_0():
    x = _normal(4, 5)
    np.testing.assert_array_equal(layers.Dropout(0.5).apply({}, x), x)
    np.testing.assert_array_equal(layers.Dropout(0.0).apply({}, x, train=True), x)  # without a key


def test_dropout_zeroes_its_rate_and_scales_the_rest():
    x = jnp.ones((200, 300))
    y = layers.Dropout(0.3).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert float((y == 0).mean()) == pytest.approx(0.3, abs=0.01)
    np.testing.assert_allclose(y[y > 0], 1 / 0.7, rtol=1e-6)


def test_dropout_needs_a_key_to_train():
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        layers.Dropout(0.5).apply({}, jnp.ones((2, 2)), train=True)


def test_dropout_layers_draw_different_masks_from_one_key():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.Dropout(0.5)(x, True), layers.Dropout(0.5)(x, True)

    x = jnp.ones((30, 30))
    first, second = Two().apply({}, x, rngs={"dropout": jax.random.key(0)})
    again, _ = Two().apply({}, x, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(first, again)
    assert (first != second).mean() > 0.3


def test_layers_are_observable_by_intercepting_their_calls():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = layers.MaxPool(2)(layers.Conv(3, 3, padding=1)(x))
            return layers.Dense(2)(layers.Flatten()(x))

    seen = []

    def record(call, args, kwargs, context):
        y = call(*args, **kwargs)
        seen.append((context.module.name, y.shape))
        return y

    with nn.intercept_methods(record):
        networks.abstract_init(Net(), (8, 8, 1))
    shapes = dict(seen)
    assert shapes["Conv_0"] == (1, 8, 8, 3)
    assert shapes["MaxPool_0"] == (1, 4, 4, 3)
    assert shapes["Flatten_0"] == (1, 48)
    assert shapes["Dense_0"] == (1, 2)


def test_a_part_that_is_padding_alone_keeps_its_size_from_layer_to_layer():
    """Else it overflows in deep networks, and 0 · ∞ is not a number."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 3, 2)), jnp.float32)
    norm = layers.BatchNorm()
    variables = norm.init(jax.random.key(0), x)
    y, changed = norm.apply(variables, x, train=True, mask=jnp.zeros(4), mutable=["batch_stats"])
    np.testing.assert_allclose(y, x / np.sqrt(1 + norm.epsilon), rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], variables["batch_stats"])
