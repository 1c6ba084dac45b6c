"""Integers, booleans and labels of every kind are the same; what can't work is an ArgumentError."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from cnn_jax import augment, layers, ops
from cnn_jax.inspection import layer_table
from cnn_jax.ops import arguments
from tests import networks

KINDS = [np.int64, np.int8, jnp.uint8]
X = jnp.arange(2 * 7 * 8 * 4, dtype=jnp.float32).reshape(2, 7, 8, 4)
KERNEL = jnp.ones((3, 2, 2, 6))


def shape(function, *args):
    return jax.eval_shape(function, *args).shape


# What is read, by itself


def test_what_is_an_integer():
    for value in (3, np.int8(3), np.uint64(3), np.array(3), jnp.int32(3), jnp.array(3, jnp.uint8)):
        got = arguments.as_integer(value)
        assert (type(got), got) == (int, 3)
    for value in (True, np.True_, np.array(True), jnp.array(True), 3.0, np.float32(3), "3", None):
        with pytest.raises(TypeError):
            arguments.as_integer(value)
        with pytest.raises(ops.ArgumentError) as error:
            arguments.integer("the number", value, 1)
        assert str(error.value) == f"the number must be an integer of at least 1, got {value!r}."


def test_an_integer_has_a_least_value():
    for value in (-2, np.int8(-2), 7):
        assert arguments.integer("the number", value, -2) == value
    with pytest.raises(ops.ArgumentError, match=r"the number must be .* at least -2, got -3"):
        arguments.integer("the number", -3, -2)


def test_what_is_a_boolean():
    for value in (True, np.True_, np.array(True), jnp.array(True), 1, np.uint8(1), jnp.int32(1)):
        assert arguments.boolean("the switch", value) is True
    for value in (False, np.False_, np.array(False), jnp.array(False), 0, np.int8(0)):
        assert arguments.boolean("the switch", value) is False
    for value in ("True", "", 2, -1, 1.0, np.float32(0), None, [True], np.array([True]), object()):
        with pytest.raises(ops.ArgumentError) as error:
            arguments.boolean("the switch", value)
        assert str(error.value) == f"the switch must be True or False, got {value!r}."


def test_the_entries_of_a_sequence():
    assert arguments.entries([(1, 2), 3]) == ((1, 2), 3)
    assert arguments.entries(jnp.array([1, 2])) == (1, 2)
    with pytest.raises(TypeError):
        arguments.entries(3)


def test_what_is_known_while_tracing():
    known = jnp.array([1, 2])

    def trace(x):
        assert all(map(arguments.is_concrete, arguments.entries(known)))
        assert not any(map(arguments.is_concrete, arguments.entries(x)))
        assert arguments.is_concrete(known)
        assert not arguments.is_concrete(x)
        assert arguments.is_number(x[0])
        assert not arguments.is_number(x)
        with pytest.raises(TypeError):
            arguments.as_integer(x[0])
        with pytest.raises(ops.ArgumentError, match="the switch must be True or False"):
            arguments.boolean("the switch", x[0])
        return x

    jax.eval_shape(trace, known)


def test_what_is_one_real_number():
    for value in (0.5, 3, np.float32(1), np.int8(1), np.array(0.5), jnp.bfloat16(1), jnp.int32(1)):
        assert arguments.is_number(value) is True
    for value in (None, True, np.True_, 1j, "0.5", [0.5], np.array([0.5]), jnp.zeros(1), object()):
        assert arguments.is_number(value) is False


# What operations, layers and augmentations do with it


@pytest.mark.parametrize("kind", KINDS)
def test_integers_of_every_kind_are_the_same(kind):
    two, one = kind(2), kind(1)
    options = {"strides": two, "padding": (one, two), "dilation": one, "groups": two}
    plain = {"strides": 2, "padding": (1, 2), "dilation": 1, "groups": 2}
    for conv in (ops.conv, ops.conv_by_patches, ops.true_conv):
        expected = shape(partial(conv, **plain), X, KERNEL)
        assert shape(partial(conv, **options), X, KERNEL) == expected
    pooled = {"strides": one, "padding": ((one, one), (one, two)), "ceil_mode": kind(1)}
    for pool in (ops.max_pool, ops.min_pool, ops.avg_pool, ops.softmax_pool):
        assert shape(partial(pool, window=(two, kind(3)), **pooled), X) == (2, 8, 9, 4)
    assert shape(partial(ops.lp_pool, window=two, p=two), X) == (2, 3, 4, 4)
    assert ops.output_size(kind(9), kind(3), two, one, two) == 4
    assert ops.output_size(9, 3, 1, (one, two)) == 10
    assert ops.derivative_kernel(two).shape == (3, 1, 1)
    assert ops.box_kernel(two, one).shape == (2, 1, 1, 1)
    assert ops.compose_kernels(KERNEL[..., :2], KERNEL, strides=two).shape == (7, 4, 2, 6)
    layer = layers.Conv(kind(6), two, **options)
    assert shape(lambda x: layer.init_with_output(jax.random.key(0), x)[0], X) == (2, 4, 6, 6)
    dense = layers.Dense(kind(3))
    assert shape(lambda x: dense.init_with_output(jax.random.key(0), x)[0], X)[-1] == 3
    assert shape(partial(augment.resize, size=two), X) == (2, 2, 2, 4)
    assert shape(lambda x: augment.cutout(jax.random.key(0), x, two), X) == X.shape
    assert shape(lambda x: augment.pad_crop(jax.random.key(0), x, two), X) == X.shape
    cost = layer_table.conv_cost((kind(7), 8, 4), kind(6), kind(3), two, one, one, two)
    assert cost == layer_table.conv_cost((7, 8, 4), 6, 3, 2, 1, 1, 2)
    assert layer_table.receptive_field([(kind(3), two)]) == layer_table.receptive_field([(3, 2)])
    assert layers.scaled(kind(6), np.float32(0.5)) == 3


def test_arrays_are_sequences():
    pairs = np.array([[1, 2], [0, 1]])
    for as_array in (np.array, jnp.array):
        options = {"strides": as_array([2, 1]), "padding": as_array(pairs)}
        plain = {"strides": (2, 1), "padding": ((1, 2), (0, 1))}
        expected = shape(partial(ops.max_pool, window=(3, 3), **plain), X)
        assert shape(partial(ops.max_pool, window=as_array([3, 3]), **options), X) == expected
    images = jnp.full((1, 2, 2, 3), 51, jnp.uint8)
    mean = np.float32([0.1, 0.2, 0.3])
    expected = augment.normalize(images, (0.1, 0.2, 0.3), 2.0)
    np.testing.assert_array_equal(augment.normalize(images, mean, np.float32(2)), expected)


@pytest.mark.parametrize("value", [True, np.True_, np.float32(2), "2"])
def test_floats_and_booleans_are_no_integers(value):
    key = jax.random.key(0)
    calls = [
        *[partial(ops.conv, X, KERNEL, groups=2, **{n: value}) for n in ("padding", "dilation")],
        partial(ops.conv, X, KERNEL, groups=value),
        partial(ops.conv, X, KERNEL, groups=2, strides=value),
        partial(ops.max_pool, X, value),
        partial(ops.avg_pool, X, (2, value)),
        partial(ops.patches, X, value),
        partial(ops.output_size, 9, 3, value),
        partial(ops.output_size, 9, 3, 1, value),
        partial(ops.derivative_kernel, value),
        partial(ops.box_kernel, value),
        partial(augment.resize, X, value),
        partial(augment.pad_crop, key, X, value),
        partial(augment.cutout, key, X, value),
        partial(layer_table.conv_cost, (7, 7, 4), value, 3),
        partial(layer_table.dense_cost, 4, value),
        partial(layer_table.receptive_field, [(value,)]),
        partial(layers.Conv(value, 3).init, key, X),
        partial(layers.Conv(4, value).init, key, X),
        partial(layers.Conv(4, 1, groups=value).init, key, X),
        partial(layers.Dense(value).init, key, X),
        partial(layers.scaled, value, 1.0),
    ]
    for call in calls:
        with pytest.raises(ops.ArgumentError) as error:
            call()
        assert str(error.value).endswith(".")
        assert "\n" not in str(error.value)


def test_a_traced_integer_is_refused_in_a_sentence():
    with pytest.raises(ops.ArgumentError, match="strides must be an integer"):
        jax.eval_shape(lambda s: ops.max_pool(X, 2, strides=s), 2)


def test_booleans_of_every_kind_are_the_same():
    for value in (True, np.True_, np.array(True), jnp.array(True), 1):
        assert shape(partial(ops.max_pool, window=2, ceil_mode=value), X) == (2, 4, 4, 4)
        counted = ops.avg_pool(X[..., :1], 2, padding=1, count_include_pad=value)
        assert counted[0, 0, 0, 0] == 0
    for value in ("False", 2, 1.0, None, [True]):
        with pytest.raises(ops.ArgumentError, match="ceil_mode must be True or False"):
            ops.max_pool(X, 2, ceil_mode=value)


@pytest.mark.parametrize("rate", ["0.5", True, None, 1j])
def test_what_is_no_number_is_no_probability(rate):
    for call in (
        lambda: ops.dropout(jax.random.key(0), X, rate),
        lambda: ops.cross_entropy(jnp.zeros((1, 2)), np.array([0]), rate),
        lambda: ops.lp_pool(X, 2, rate),
        lambda: augment.random_erasing(jax.random.key(0), X, rate),
    ):
        with pytest.raises(ops.ArgumentError):
            call()


@pytest.mark.parametrize("rate", [0, np.float32(0), np.array(0.0), jnp.float32(0)])
def test_a_rate_of_zero_of_any_kind_needs_no_key(rate):
    assert layers.Dropout(rate).apply({}, X, train=True) is X


# Labels


@pytest.mark.parametrize(
    ("classes", "dtypes"),
    [(256, ["uint8"]), (300, ["uint8", "int8", "uint64"]), (70_000, ["uint16", "int16", "uint32"])],
)
def test_labels_of_every_integer_dtype_give_the_same_loss(classes, dtypes):
    logits = np.linspace(0, 5, classes, dtype=np.float32)[None]
    expected = -scipy.special.log_softmax(logits.astype(np.float64))[0, 7]
    labels = [*(np.array([7], dtype) for dtype in dtypes), [7]]

    @networks.quick_jit
    def everything(x):
        right = [ops.correct_predictions(-x, np.zeros_like(label)) for label in labels]
        wrong = [ops.correct_predictions(x, label) for label in labels]
        return [ops.cross_entropy(x, label) for label in labels], right, wrong

    losses, right, wrong = everything(logits)
    np.testing.assert_allclose(losses, [[expected]] * len(labels), rtol=1e-5)
    assert all(right)
    assert not any(wrong)


def test_labels_of_64_bits():
    labels = [2**32, -(2**32), 2**40 + 1, 0]
    with jax.enable_x64(True), jax.debug_nans(False):
        logits = jnp.full((4, 3), jnp.array([3.0, 2, 1], jnp.float32))
        both = networks.quick_jit(lambda *a: (ops.cross_entropy(*a), ops.correct_predictions(*a)))
        losses, correct = both(logits, jnp.array(labels))
    assert np.isnan(losses).tolist() == [True, True, True, False]
    assert correct.tolist() == [False, False, False, True]
