"""Activations, losses and dropout beside plain formulas in float64, a few programs in all.

Quick: it judges the mutants of the module. What the literature says is in `test_activations.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from cnn_jax import ops
from tests.networks import quick_jit

INF = np.inf
FORMULAS = {  # values and derivatives
    "identity": (lambda x: x, lambda x: 1 + 0 * x),
    "relu": (lambda x: np.maximum(x, 0), lambda x: 1.0 * (x > 0)),
    "leaky_relu": (lambda x: np.where(x < 0, x / 100, x), lambda x: np.where(x < 0, 0.01, 1)),
    "sigmoid": (scipy.special.expit, lambda x: scipy.special.expit(x) * scipy.special.expit(-x)),
    "tanh": (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    "elu": (lambda x: np.where(x > 0, x, np.expm1(x)), lambda x: np.exp(np.minimum(x, 0))),
    "gelu": (
        lambda x: x * scipy.special.ndtr(x),
        lambda x: scipy.special.ndtr(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi),
    ),
    "silu": (
        lambda x: x * scipy.special.expit(x),
        lambda x: scipy.special.expit(x) * (1 + x * scipy.special.expit(-x)),
    ),
}
POINTS = np.array([-7, -2, -0.5, 0.25, 1, 3.0])


def test_values_and_derivatives_of_activations():
    @quick_jit
    def everything(x, narrow):
        results = {}
        for name, activation in ops.ACTIVATIONS.items():
            y, dy = jax.jvp(activation, (x,), (jnp.ones_like(x),))
            results[name] = y, dy, activation(narrow)
        leaky, elu = ops.leaky_relu(x, 0.5), ops.elu(x, 2.0)
        return results, leaky, elu

    ends = np.array([-INF, *POINTS, INF])
    x = jnp.array(ends, jnp.float32)
    results, leaky, elu = everything(x, jnp.array(POINTS, jnp.bfloat16))
    for name, (value, derivative) in FORMULAS.items():
        y, dy, narrow = map(np.asarray, results[name])
        np.testing.assert_allclose(y[1:-1], value(POINTS), rtol=2e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(dy[1:-1], derivative(POINTS), rtol=2e-4, atol=1e-5)
        np.testing.assert_allclose(narrow.astype(float), value(POINTS), rtol=0.01, atol=1e-3)
        assert narrow.dtype == jnp.bfloat16
    for name in ("relu", "gelu", "silu"):
        assert [float(a) for a in results[name][0][::7]] == [0, INF]
        assert [float(a) for a in results[name][1][::7]] == [0, 1]
    np.testing.assert_allclose(leaky[1:-1], np.where(POINTS < 0, POINTS / 2, POINTS))
    np.testing.assert_allclose(elu[1:-1], np.where(POINTS > 0, 1, 2) * FORMULAS["elu"][0](POINTS))


LOGITS = np.random.default_rng(0).normal(size=(2, 3, 4)) * 3
LABELS = np.array([[0, 1, 2], [3, 0, 1]])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_softmax_and_its_losses_of_several_axes(dtype):
    logits = jnp.array(LOGITS, dtype)
    exact = np.asarray(logits).astype(float)
    logs = scipy.special.log_softmax(exact, -1)
    own = -np.take_along_axis(logs, LABELS[..., None], -1)[..., 0]
    smoothed = {a: (1 - a) * own - a * logs.mean(-1) for a in (0.0, 0.1, 1.0)}

    @quick_jit
    def everything(x, a):
        losses = {a: ops.cross_entropy(x, LABELS, a) for a in smoothed}
        gradient = jax.grad(lambda x: ops.cross_entropy(x, LABELS, 0.1).sum())(x)
        soft = ops.softmax(x), ops.softmax_by_definition(x), jnp.exp(ops.log_softmax(x))
        defined = ops.cross_entropy_by_definition(ops.softmax(x), LABELS)
        plain = ops.cross_entropy(x, LABELS)
        return soft, losses, plain, defined, ops.cross_entropy(x, LABELS, a), gradient

    soft, losses, plain, defined, traced, gradient = everything(logits, jnp.float32(0.1))
    rtol, atol = (1e-5, 1e-6) if dtype == jnp.float32 else (0.02, 2e-3)
    results = [(y, np.exp(logs)) for y in soft] + [(losses[a], smoothed[a]) for a in smoothed]
    targets = 0.9 * np.eye(4)[LABELS] + 0.1 / 4
    results += [(plain, own), (defined, own), (traced, smoothed[0.1])]
    results += [(gradient, np.exp(logs) - targets)]
    for got, expected in results:
        assert got.dtype == dtype
        np.testing.assert_allclose(np.asarray(got).astype(float), expected, rtol, atol)


def test_a_single_example_needs_no_axis_of_examples():
    logits, label = jnp.array([1.0, 3.0, 2.0]), np.array(1)
    expected = -scipy.special.log_softmax(np.asarray(logits, float))[1]

    @quick_jit
    def everything(x):
        correct = [ops.correct_predictions(x, np.array(i)) for i in range(3)]
        return ops.cross_entropy(x, label), ops.accuracy(x, label), correct

    loss, accuracy, correct = everything(logits)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert accuracy == 1
    assert [bool(c) for c in correct] == [False, True, False]


def test_correct_predictions_and_their_fraction():
    correct = ops.correct_predictions(jnp.array(LOGITS, jnp.float32), LABELS)
    np.testing.assert_array_equal(correct, LOGITS.argmax(-1) == LABELS)
    ties = ops.correct_predictions(jnp.array([[1.0, 1.0], [1.0, 1.0]]), [0, 1])
    assert ties.tolist() == [True, False]  # the first of the largest is predicted
    scores = jnp.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [3.0, 4.0]], jnp.bfloat16)
    accuracy = ops.accuracy(scores, [1, 1, 1, 1])
    assert (accuracy.dtype, accuracy.shape, float(accuracy)) == (jnp.float32, (), 0.75)
    for shape in ((0, 2), (3, 0, 2)):
        accuracy = ops.accuracy(jnp.zeros(shape), np.zeros(shape[:-1], int))
        assert (accuracy.dtype, accuracy.shape, float(accuracy)) == (jnp.float32, (), 0)


def test_labels_of_no_class_have_no_loss_and_are_never_right():
    of_64_bits = [0, 1, 2, -1, 3, 2**31 - 1, 2**31, 2**32, 2**32 + 1, -(2**31), -(2**32), 1 - 2**32]
    row = np.float32([3, 2, 1])
    known = [
        (np.array(of_64_bits), [True] * 3 + [False] * 9),
        (np.array([0, 2**32, 2**63], np.uint64), [True, False, False]),
        *[
            (np.array([0, 2, np.iinfo(dtype).max], dtype), [True, True, False])
            for dtype in (np.uint8, np.int8, np.uint32)
        ],
        (np.array([-1, 1, -128], np.int8), [False, True, False]),
    ]

    @quick_jit
    def everything(x, others):
        results = []
        for labels in (*(labels for labels, _ in known), others):
            rows = jnp.broadcast_to(x, (*labels.shape, 3))
            losses = [ops.cross_entropy(rows, labels, share) for share in (0.0, 0.1, 1.0)]
            losses.append(ops.cross_entropy_by_definition(ops.softmax(rows), labels))
            correct = ops.correct_predictions(rows, labels), ops.correct_predictions(-rows, labels)
            results.append((losses, correct))
        return results

    others = jnp.array([255, 0, 2], jnp.uint8)
    with jax.debug_nans(False):
        results = everything(row[None], others)
    expected = [*known, (np.asarray(others), [False, True, True])]
    for (losses, correct), (labels, of_a_class) in zip(results, expected, strict=True):
        for loss in losses:
            assert (~np.isnan(loss)).tolist() == of_a_class
        for y, largest in zip(correct, (0, 2), strict=True):
            np.testing.assert_array_equal(y, labels == largest)


def test_what_losses_refuse():
    x = jnp.ones((3, 2))
    functions = {
        "logits": ops.cross_entropy,
        "probabilities": ops.cross_entropy_by_definition,
        "scores": ops.correct_predictions,
    }
    for name, function in functions.items():
        for labels in (np.zeros(2, int), np.zeros((3, 1), int), np.zeros(3), jnp.zeros(3)):
            expected = rf"labels must be integers of shape \(3,\), one for each row of {name} "
            with pytest.raises(ops.ArgumentError, match=expected):
                function(x, labels)
        with pytest.raises(ops.ArgumentError, match=f"{name} must have a column for each class"):
            function(jnp.ones((3, 0)), np.zeros(3, int))
    for function in (ops.softmax, ops.log_softmax, ops.softmax_by_definition):
        for empty in (jnp.zeros((2, 0)), jnp.zeros(())):
            with pytest.raises(ops.ArgumentError, match="the last axis must have a score for each"):
                function(empty)
    for share, message in (
        (1.5, "label_smoothing, the share of all classes, must be 0 to 1, got 1.5"),
        (-0.1, "label_smoothing, the share of all classes, must be 0 to 1, got -0.1"),
        (np.nan, "label_smoothing, the share of all classes, must be 0 to 1, got nan"),
        (True, "label_smoothing, the share of all classes, must be 0 to 1, got True"),
        (np.zeros(2), r"label_smoothing must be one number, not of shape \(2,\)"),
    ):
        with pytest.raises(ops.ArgumentError, match=message):
            ops.cross_entropy(x, np.zeros(3, int), share)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dropout_keeps_or_zeros(dtype):
    x = jnp.asarray(np.arange(1.0, 401)).astype(dtype)
    key = jax.random.key(0)

    @quick_jit
    def everything(x, rate):
        y, vjp = jax.vjp(lambda x: ops.dropout(key, x, rate), x)
        return y, vjp(jnp.ones_like(x))[0]

    with jax.debug_key_reuse(False):
        for rate in (0.0, 0.25, 0.75, 1.0):
            y, dx = everything(x, jnp.float32(rate))
            assert y.dtype == dx.dtype == dtype
            kept = np.asarray(y) != 0
            assert abs(kept.mean() - (1 - rate)) < 0.1
            scaled = np.asarray(x)[kept].astype(float) / (1 - rate) if rate < 1 else []
            np.testing.assert_allclose(np.asarray(y)[kept].astype(float), scaled, rtol=0.005)
            scale = 1 / (1 - rate) if rate < 1 else 0
            expected = np.where(kept, scale, 0)
            np.testing.assert_allclose(np.asarray(dx).astype(float), expected, rtol=0.005)
        assert ops.dropout(key, x, 0) is x
        known = quick_jit(lambda x: [ops.dropout(key, x, rate) for rate in (0.25, 1)])(x)
        for y, rate in zip(known, (0.25, 1), strict=True):
            np.testing.assert_array_equal(y, everything(x, jnp.float32(rate))[0])


def test_dropout_refuses():
    key = jax.random.key(0)
    with pytest.raises(ops.ArgumentError, match="needs a floating-point array, not int32"):
        ops.dropout(key, jnp.ones(3, int), 0.5)
    with pytest.raises(ops.ArgumentError, match=r"dropout's rate must be one number, not of shape"):
        ops.dropout(key, jnp.ones(3), np.zeros(1))
    for rate in (-0.1, 1.5, np.nan, "1", None):
        message = f"dropout's rate, a probability of zeroing, must be 0 to 1, got {rate}"
        with pytest.raises(ops.ArgumentError, match=message):
            ops.dropout(key, jnp.ones(3), rate)


def test_float32_stays_float32_where_float64_is_on():
    """Only traced: strict promotion refuses to mix the two."""
    labels = np.zeros(3, int)
    with jax.enable_x64(True):
        for dtype in (jnp.float32, jnp.float64):
            x = jax.ShapeDtypeStruct((3, 2), dtype)
            functions = [ops.softmax, ops.log_softmax, *ops.ACTIVATIONS.values()]
            for share in (0.0, 0.5, 1.0):
                functions.append(lambda x, a=share: ops.dropout(jax.random.key(0), x, a))
                functions.append(lambda x, a=share: ops.cross_entropy(x, labels, a))
            for function in functions:
                assert jax.eval_shape(function, x).dtype == dtype
            assert jax.eval_shape(lambda x: ops.accuracy(x, labels), x).dtype == jnp.float32
