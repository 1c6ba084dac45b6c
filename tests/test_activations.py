"""Activations, softmax and its losses, dropout: worked numbers by row (C17, L1, L5), properties."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from cnn_jax import layers, ops

SPREAD = np.array([-30.0, -3.0, -1.0, -0.1, 0.0, 0.1, 1.0, 3.0, 30.0])


def normal(seed, *shape):
    return jnp.array(np.random.default_rng(seed).normal(size=shape), jnp.float32)


# C17: activations, and the dense layer by hand


def test_C17_sigmoid_of_the_feature_map():
    x = jnp.array([[4.0, 7.0, 6.0], [8.0, 3.0, 5.0], [2.0, 9.0, 7.0]])
    published = [[0.982, 0.9991, 0.9975], [0.9997, 0.9526, 0.9933], [0.8808, 0.9999, 0.9991]]
    np.testing.assert_allclose(ops.sigmoid(x), published, atol=5e-5)
    np.testing.assert_allclose(ops.sigmoid(x), scipy.special.expit(np.asarray(x)), rtol=1e-6)


def test_C17_relu_is_the_maximum_of_x_and_0():
    x = jnp.array([[1.0, -0.5], [-1.0, 3.0]])
    np.testing.assert_array_equal(ops.relu(x), [[1, 0], [0, 3]])
    x = jnp.array(SPREAD, jnp.float32)
    np.testing.assert_array_equal(ops.relu(x), jnp.maximum(x, 0))
    np.testing.assert_array_equal(ops.relu(jnp.array([-2, 0, 2])), [0, 0, 2])
    # They differ in the gradient at 0.
    np.testing.assert_array_equal(jax.vmap(jax.grad(ops.relu))(x), SPREAD > 0)
    assert jax.grad(lambda x: jnp.maximum(x, 0.0))(0.0) == 0.5
    with jax.debug_nans(False):
        assert jnp.isnan(ops.relu(jnp.nan))


def test_C17_dense_layer_by_hand():
    feature_map = jnp.array([[2.0, 5.0, 3.0], [1.0, 4.0, 6.0], [7.0, 8.0, 9.0]])
    weights = jnp.array(
        [
            [1.0, 0, 1, 0, 1, 0, 1, 0, 1],
            [0.0, 1, 0, 1, 0, 1, 0, 1, 0],
            [1.0, 1, 1, 1, 1, 1, 1, 1, 1],
            [0.0, 0, 1, 0, 0, 1, 0, 0, 1],
        ]
    )
    bias = jnp.array([1.0, 2.0, 3.0, 4.0])
    x = layers.Flatten()(feature_map[None, :, :, None])
    np.testing.assert_array_equal(x @ weights.T, [[25, 20, 45, 18]])
    y = layers.Dense(4).apply({"params": {"kernel": weights.T, "bias": bias}}, x)
    np.testing.assert_array_equal(y, [[26, 22, 48, 22]])


DEFINITIONS = {
    "identity": lambda x: x,
    "relu": lambda x: max(x, 0.0),
    "leaky_relu": lambda x: x if x >= 0 else 0.01 * x,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": lambda x: (math.exp(x) - math.exp(-x)) / (math.exp(x) + math.exp(-x)),
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "silu": lambda x: x / (1 + math.exp(-x)),
}


def test_every_activation_has_a_definition():
    assert DEFINITIONS.keys() == ops.ACTIVATIONS.keys()


@pytest.mark.parametrize("name", ops.ACTIVATIONS)
def test_activations_by_definition(name):
    activation, definition = jax.jit(ops.ACTIVATIONS[name]), DEFINITIONS[name]
    y = activation(jnp.array(SPREAD, jnp.float32))
    np.testing.assert_allclose(y, [definition(x) for x in SPREAD], rtol=2e-6, atol=1e-7)
    x = SPREAD[SPREAD != 0]  # away from the kinks
    slope = [(definition(v + 1e-6) - definition(v - 1e-6)) / 2e-6 for v in x]
    dx = jax.vmap(jax.grad(activation))(jnp.array(x, jnp.float32))
    np.testing.assert_allclose(dx, slope, rtol=1e-5, atol=1e-5)
    # Nothing overflows, in value or gradient (NaN debugging is on).
    extremes = jnp.array([-1e4, -200.0, 200.0, 1e4])
    assert jnp.isfinite(activation(extremes)).all()
    assert jnp.isfinite(jax.vmap(jax.grad(activation))(extremes)).all()
    assert activation(jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16


# L1: softmax, cross-entropy, accuracy


def test_L1_cross_entropy_and_accuracy_from_their_definitions():
    probabilities = jnp.array([[0.1, 0.3, 0.6], [0.3, 0.2, 0.5]])
    labels = jnp.array([0, 2])
    losses = ops.cross_entropy_by_definition(probabilities, labels)
    np.testing.assert_allclose(losses, [2.3026, 0.6931], atol=5e-5)
    np.testing.assert_allclose(losses, [-math.log(0.1), -math.log(0.5)], rtol=1e-6)
    np.testing.assert_array_equal(ops.correct_predictions(probabilities, labels), [False, True])
    assert ops.accuracy(probabilities, labels) == 0.5


@pytest.mark.parametrize("softmax", [ops.softmax, ops.softmax_by_definition])
def test_L1_softmax(softmax):
    x = normal(0, 2, 5)
    y = softmax(x)
    assert (y > 0).all()
    np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(y, scipy.special.softmax(np.asarray(x, float), -1), rtol=1e-5)
    np.testing.assert_allclose(jnp.exp(ops.log_softmax(x)), y, rtol=1e-5)
    by_hand = softmax(jnp.log(jnp.array([[1.0, 2.0, 5.0]])))
    np.testing.assert_allclose(by_hand, [[1 / 8, 2 / 8, 5 / 8]], rtol=1e-6)


def test_L1_the_stable_forms_equal_the_definitions():
    logits, labels = normal(1, 6, 4), jnp.array([0, 1, 2, 3, 0, 1])

    def by_definition(logits):
        return ops.cross_entropy_by_definition(ops.softmax_by_definition(logits), labels)

    @jax.jit
    def both(logits):
        losses = ops.cross_entropy(logits, labels), by_definition(logits)
        dlogits = jax.grad(lambda z: ops.cross_entropy(z, labels).sum())(logits)
        return (
            losses,
            ops.softmax(logits),
            dlogits,
            jax.grad(lambda z: by_definition(z).sum())(logits),
        )

    losses, y, dlogits, by_definition_too = both(logits)
    np.testing.assert_allclose(*losses, rtol=1e-5)
    by_hand = np.asarray(y) - np.eye(4)[np.asarray(labels)]
    np.testing.assert_allclose(dlogits, by_hand, atol=1e-6)
    np.testing.assert_allclose(dlogits, by_definition_too, atol=1e-6)


def test_L1_logits_of_1000_stay_finite():
    logits = jnp.array([[1000.0, -1000.0, 0.0], [-1000.0, 1000.0, 1000.0]])
    labels = jnp.array([0, 0])
    np.testing.assert_allclose(ops.softmax(logits), [[1, 0, 0], [0, 0.5, 0.5]], atol=1e-7)
    half = math.log(2)
    expected = [[0, -2000, -1000], [-2000 - half, -half, -half]]
    np.testing.assert_allclose(ops.log_softmax(logits), expected, rtol=1e-6)
    np.testing.assert_allclose(ops.cross_entropy(logits, labels), [0, 2000 + half], rtol=1e-6)
    dlogits = jax.jit(jax.grad(lambda z: ops.cross_entropy(z, labels).sum()))(logits)
    np.testing.assert_allclose(dlogits, [[0, 0, 0], [-1, 0.5, 0.5]], atol=1e-6)
    with jax.debug_nans(False):  # which is why the definition is not what one computes with
        assert jnp.isnan(ops.softmax_by_definition(logits)).any()


def test_L1_the_bias_belongs_inside_the_softmax():
    x, weights, bias = normal(2, 4, 5), normal(3, 5, 3), jnp.array([0.5, -0.9, 0.6])
    softmax = jax.jit(ops.softmax)
    right = softmax(np.asarray(x) @ np.asarray(weights) + np.asarray(bias))
    np.testing.assert_allclose(np.sum(right, -1), 1, rtol=1e-6)
    wrong = np.asarray(softmax(np.asarray(x) @ np.asarray(weights))) + np.asarray(bias)
    np.testing.assert_allclose(wrong.sum(-1), 1 + bias.sum(), rtol=1e-5)  # not 1
    assert (wrong < 0).any()
    with jax.debug_nans(False):
        losses = ops.cross_entropy_by_definition(jnp.asarray(wrong), jnp.array([0, 1, 1, 2]))
    assert np.isnan(losses).any()


@jax.jit
def softmax_loss_and_gradient(x, labels, smoothing):
    dx = jax.grad(lambda x: ops.cross_entropy(x, labels, smoothing).sum())(x)
    return ops.softmax(x), ops.cross_entropy(x, labels), dx


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(-50, 50), st.floats(0, 1))
def test_softmax_properties(seed, c, smoothing):
    rng = np.random.default_rng(seed)
    x, c = np.float32(rng.normal(size=(3, 4)) * 5), np.float32(c)
    labels = rng.integers(0, 4, 3).astype(np.int32)
    y, loss, dx = softmax_loss_and_gradient(x, labels, np.float32(smoothing))
    # A shift of all scores changes nothing, their order is the probabilities' order.
    shifted, shifted_loss, _ = softmax_loss_and_gradient(x + c, labels, np.float32(smoothing))
    np.testing.assert_allclose(shifted, y, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(shifted_loss, loss, rtol=1e-4, atol=2e-5)
    np.testing.assert_array_equal(np.argmax(y, -1), np.argmax(x, -1))
    order = rng.permutation(4)
    permuted, _, _ = softmax_loss_and_gradient(x[:, order], labels, np.float32(smoothing))
    np.testing.assert_allclose(permuted, y[:, order], rtol=1e-6)
    # The gradient of the loss sums to 0 over the classes, whatever the smoothing.
    np.testing.assert_allclose(np.sum(dx, -1), 0, atol=1e-6)
    assert (loss >= 0).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_label_smoothing(smoothing):
    logits, labels = normal(4, 6, 5), jnp.array([0, 1, 2, 3, 4, 0])
    losses = jax.jit(partial(ops.cross_entropy, label_smoothing=smoothing))(logits, labels)
    targets = (1 - smoothing) * np.eye(5)[np.asarray(labels)] + smoothing / 5
    expected = -(targets * scipy.special.log_softmax(np.asarray(logits, float), -1)).sum(-1)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, 5), smoothing)
    np.testing.assert_allclose(losses, optax.softmax_cross_entropy(logits, targets), rtol=1e-5)
    dlogits = jax.jit(jax.grad(lambda z: ops.cross_entropy(z, labels, smoothing).sum()))(logits)
    np.testing.assert_allclose(dlogits, ops.softmax(logits) - targets, atol=1e-6)


def test_label_smoothing_may_be_traced():
    logits, labels = normal(5, 6, 5), jnp.array([0, 1, 2, 3, 4, 0])
    smoothings = jnp.array([0.0, 0.1, 0.5])
    losses = jax.jit(jax.vmap(partial(ops.cross_entropy, logits, labels)))(smoothings)
    for smoothing, loss in zip((0.0, 0.1, 0.5), losses, strict=True):
        np.testing.assert_allclose(loss, ops.cross_entropy(logits, labels, smoothing), rtol=1e-5)


def test_cross_entropy_derivatives_by_finite_differences():
    labels = jnp.array([0, 3])
    loss = jax.jit(lambda z: ops.cross_entropy(z, labels, 0.1))
    check_grads(loss, (normal(6, 2, 4),), order=2, atol=1e-2, rtol=1e-2)


def test_labels_may_have_more_axes_and_any_integer_type():
    logits = normal(7, 2, 3, 4)
    labels = jnp.array([[0, 1, 2], [3, 0, 1]], jnp.uint8)
    cross_entropy = jax.jit(ops.cross_entropy)
    losses = cross_entropy(logits, labels)
    assert losses.shape == (2, 3)
    flat = cross_entropy(logits.reshape(6, 4), labels.reshape(6).astype(jnp.int32))
    np.testing.assert_allclose(losses.reshape(6), flat, rtol=1e-6)
    assert ops.correct_predictions(logits, labels).shape == (2, 3)


def test_a_label_out_of_range_shows():
    logits = normal(8, 4, 3)
    cross_entropy = jax.jit(ops.cross_entropy)
    with jax.debug_nans(False):
        losses = cross_entropy(logits, jnp.array([0, 3, -1, 2]))
        assert np.isnan(losses).tolist() == [False, True, True, False]
        smoothed = cross_entropy(logits, jnp.array([0, 3, -1, 2]), 0.1)
        assert np.isnan(smoothed).tolist() == [False, True, True, False]
    np.testing.assert_array_equal(ops.correct_predictions(logits, jnp.full(4, 3)), False)


@pytest.mark.parametrize(
    "labels", [jnp.zeros(4, jnp.int32), jnp.zeros((3, 1), jnp.int32), jnp.zeros(3), jnp.eye(3)]
)
def test_labels_of_the_wrong_shape_or_type_are_refused(labels):
    functions = (ops.cross_entropy, ops.cross_entropy_by_definition, ops.correct_predictions)
    for function in functions:
        with pytest.raises(ValueError, match=r"labels must be integers of shape \(3,\)"):
            function(jnp.ones((3, 3)), labels)


def test_accuracy_is_a_mean_of_float32():
    logits = jnp.eye(3).astype(jnp.bfloat16)
    accuracy = ops.accuracy(logits, jnp.array([0, 1, 0]))
    assert accuracy.dtype == jnp.float32
    np.testing.assert_allclose(accuracy, 2 / 3, rtol=1e-6)


# L5: dropout


def test_L5_rate_0_is_the_identity_and_rate_1_gives_zeros():
    x, keys = normal(9, 50, 40), iter(jax.random.split(jax.random.key(0), 4))
    g = jnp.ones_like(x)
    for dropout in (ops.dropout, jax.jit(ops.dropout)):
        y, vjp = jax.vjp(lambda x: dropout(next(keys), x, 0.0), x)  # noqa: B023
        np.testing.assert_array_equal(y, x)
        np.testing.assert_array_equal(vjp(g)[0], 1)
        y, vjp = jax.vjp(lambda x: dropout(next(keys), x, 1.0), x)  # noqa: B023
        np.testing.assert_array_equal(y, 0)
        np.testing.assert_array_equal(vjp(g)[0], 0)


@pytest.mark.parametrize("rate", [0.2, 0.6, 0.9])
def test_L5_mean_and_variance_are_the_theorys(rate):
    """E[y] = x and Var[y] = x² p/(1 − p), within five standard errors of 100,000 draws."""
    n = 100_000
    x = jnp.broadcast_to(jnp.array([1.0, -2.0]), (n, 2))
    y = np.asarray(ops.dropout(jax.random.key(1), x, rate), np.float64)
    variance = np.array([1.0, 4.0]) * rate / (1 - rate)
    error = 5 * np.sqrt(variance / n)
    assert (abs(y.mean(0) - [1, -2]) < error).all()
    # For x = 1 the squared deviation is 1 with probability rate, else odds²; so it varies by
    odds = rate / (1 - rate)
    spread = rate + (1 - rate) * odds**4 - odds**2
    error = 5 * np.array([1.0, 4.0]) * math.sqrt(spread / n)
    assert (abs(((y - [1, -2]) ** 2).mean(0) - variance) < error).all()
    # rate is the probability of zeroing, and what is kept is scaled exactly.
    zeros = (y == 0).mean(0)
    assert (abs(zeros - rate) < 5 * math.sqrt(rate * (1 - rate) / n)).all()
    np.testing.assert_allclose(y[y > 0], 1 / (1 - rate), rtol=1e-6)
    np.testing.assert_allclose(y[y < 0], -2 / (1 - rate), rtol=1e-6)


def test_L5_the_gradient_has_the_same_mask():
    x, key = normal(10, 20, 30), jax.random.key(2)
    y, vjp = jax.vjp(lambda x: ops.dropout(key, x, 0.3), x)
    g = normal(11, 20, 30)
    np.testing.assert_allclose(vjp(g)[0], jnp.where(y == 0, 0, g / 0.7), rtol=1e-6)


def test_L5_masks_differ_between_keys_and_elements_not_between_calls():
    x = jnp.ones((30, 40))
    a, b = jax.random.split(jax.random.key(3))
    with jax.debug_key_reuse(False):
        first, again = ops.dropout(a, x, 0.5), jax.jit(ops.dropout)(a, x, 0.5)
    np.testing.assert_array_equal(first, again)
    other = ops.dropout(b, x, 0.5)
    assert 0.4 < (first == other).mean() < 0.6
    assert (
        0.4 < (first[0] == first[1]).mean(dtype=jnp.float32) < 0.6 or (first[0] != first[1]).any()
    )


def test_L5_many_rates_in_one_program():
    x, rates = jnp.ones(2000), jnp.array([0.0, 0.2, 0.5, 1.0])
    with jax.debug_key_reuse(False):
        y = jax.jit(jax.vmap(lambda rate: ops.dropout(jax.random.key(4), x, rate)))(rates)
        for rate, expected in zip((0, 0.2, 0.5, 1), y, strict=True):
            np.testing.assert_allclose(ops.dropout(jax.random.key(4), x, rate), expected, rtol=1e-6)
    np.testing.assert_allclose((y == 0).mean(1), rates, atol=0.06)


def test_L5_bfloat16_scales_in_float32():
    x = jnp.linspace(-3, 3, 1000).astype(jnp.bfloat16)
    y = ops.dropout(jax.random.key(5), x, 0.1)
    assert y.dtype == jnp.bfloat16
    exact = (x.astype(jnp.float32) * jnp.float32(1 / 0.9)).astype(jnp.bfloat16)
    kept = np.asarray(y) != 0
    np.testing.assert_array_equal(np.asarray(y)[kept], np.asarray(exact)[kept])


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan, np.float32(2.0)])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(ValueError, match="probability of zeroing, must be 0 to 1"):
        ops.dropout(jax.random.key(0), jnp.ones(3), rate)


def test_what_dropout_cannot_work_with_is_refused():
    with pytest.raises(ValueError, match="rate must be one number, not of shape"):
        ops.dropout(jax.random.key(0), jnp.ones(3), jnp.full(3, 0.5))
    with pytest.raises(ValueError, match="floating-point array, not int32"):
        ops.dropout(jax.random.key(0), jnp.arange(3), 0.5)
