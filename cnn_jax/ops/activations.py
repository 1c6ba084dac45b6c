"""Activations, softmax and its losses, dropout: pure functions of arrays of any shape.

Classes lie on the last axis. Everything is written so that it also runs under JAX's strict
promotion and NaN-debugging settings, and keeps the dtype of its floating-point input; float16 and
bfloat16 are computed in float32 and rounded once. At ±∞ values and derivatives are the limits.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from cnn_jax.ops.arguments import is_concrete, is_number
from cnn_jax.ops.errors import ArgumentError
from cnn_jax.ops.numerics import below_largest, to_float


def identity(x: Array) -> Array:
    """x itself: the activation of a linear layer."""
    return x


def relu(x: Array) -> Array:
    """max(x, 0), with gradient 0 at 0 (`jnp.maximum` would give 1/2 there)."""
    return jax.nn.relu(x)


def leaky_relu(x: Array, negative_slope: float = 0.01) -> Array:
    """x where x >= 0, else negative_slope * x."""
    return _in_float32(lambda x: jax.nn.leaky_relu(x, negative_slope), x)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), finite for every finite x."""
    return _in_float32(jax.nn.sigmoid, x)


def tanh(x: Array) -> Array:
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x)) = 2 sigmoid(2x) - 1."""
    return _in_float32(jnp.tanh, x)


def elu(x: Array, alpha: float = 1.0) -> Array:
    """x where x > 0, else alpha * (exp(x) - 1) (Clevert et al., 2015)."""
    return _in_float32(lambda x: jax.nn.elu(x, alpha), x)


def gelu(x: Array) -> Array:
    """x times the standard normal distribution function at x, exactly, as PyTorch's default.

    Hendrycks and Gimpel, 2016. `jax.nn.gelu` defaults to the tanh approximation instead.
    """
    return _in_float32(lambda x: _or_limit(partial(jax.nn.gelu, approximate=False), x), x)


def silu(x: Array) -> Array:
    """x * sigmoid(x), also called swish (Elfwing et al., 2017)."""
    return _in_float32(lambda x: _or_limit(jax.nn.silu, x), x)


def _in_float32(function: Callable[[Array], Array], x: Array) -> Array:
    """function(x), computed in at least float32."""
    wide, dtype = to_float(jnp.asarray(x))
    return function(wide).astype(dtype)


def _or_limit(function: Callable[[Array], Array], x: Array) -> Array:
    """function(x), but at ±∞, where its formula has ∞ times 0, that of ReLU, its limit."""
    infinite = jnp.isinf(x)
    return jnp.where(infinite, jax.nn.relu(x), function(jnp.where(infinite, 0, x)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": identity,
    "relu": relu,
    "leaky_relu": leaky_relu,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "elu": elu,
    "gelu": gelu,
    "silu": silu,
}


def softmax_by_definition(x: Array) -> Array:
    """exp(x_i) / sum_k exp(x_k), in three plain steps; overflows once x exceeds about 88.

    The argument has to be the whole score, bias included: softmax(XW + b). With the bias added
    afterwards, softmax(XW) + b, rows no longer sum to 1 and -log may meet a negative number.
    """
    x, dtype = _scores(x)
    exponentials = jnp.exp(x)  # 1. every entry positive
    normalizers = exponentials.sum(-1, keepdims=True)  # 2. one per row
    return (exponentials / normalizers).astype(dtype)  # 3. rows sum to 1


def softmax(x: Array) -> Array:
    """`softmax_by_definition` made stable: the largest entry of a row is subtracted first.

    The entries of a row that are +∞ share 1 equally, and so do all of a row of −∞: the limit where
    they are equal on their way.
    """
    x, dtype = _scores(x)
    exponentials = jnp.exp(below_largest(x, -1))
    return (exponentials / exponentials.sum(-1, keepdims=True)).astype(dtype)


def log_softmax(x: Array) -> Array:
    """log(softmax(x)) = x - log sum_k exp(x_k), without ever taking the logarithm of 0."""
    x, dtype = _scores(x)
    shifted = below_largest(x, -1)
    return (shifted - jnp.log(jnp.exp(shifted).sum(-1, keepdims=True))).astype(dtype)


def cross_entropy_by_definition(probabilities: Array, labels: Array) -> Array:
    """-log p_y for each example, from probabilities [N, classes] and integer labels [N] -> [N]."""
    probabilities, labels = _checked("probabilities", probabilities, labels)
    probabilities, dtype = to_float(probabilities)
    return (-jnp.log(_entry_of_label(probabilities, labels))).astype(dtype)


def cross_entropy(logits: Array, labels: Array, label_smoothing: ArrayLike = 0.0) -> Array:
    """-log softmax(logits)_y for each example: [N, classes], integer [N] -> [N].

    With label_smoothing a (a number, possibly traced), the target is 1 - a on the label plus
    a/classes on every class (Szegedy et al., 2016): (1 - a) * (-log p_y) + a * mean_k(-log p_k).
    A label outside [0, classes) makes its loss NaN, since traced code can't raise; so for labels of
    every integer dtype. Infinite logits have the losses of `softmax`'s limits.

    Raises:
      ArgumentError: labels are not integers, their shape is not that of logits without its last
        axis, there are no classes, or label_smoothing is no number from 0 to 1.
    """
    logits, labels = _checked("logits", logits, labels)
    _check_probability("label_smoothing", "the share of all classes", label_smoothing)
    logits, dtype = to_float(logits)
    log_probabilities = log_softmax(logits)
    loss = -_entry_of_label(log_probabilities, labels)
    if is_concrete(label_smoothing) and np.asarray(label_smoothing) == 0:
        return loss.astype(dtype)
    a = jnp.asarray(label_smoothing).astype(loss.dtype)
    if is_concrete(label_smoothing) and np.asarray(label_smoothing) == 1:
        in_range = (labels >= 0) & (labels < logits.shape[-1])  # nothing of the label's own loss,
        loss = jnp.where(in_range, 0, jnp.nan)  # which may be infinite
        return (loss.astype(a.dtype) - log_probabilities.mean(-1)).astype(dtype)
    return ((1 - a) * loss - a * log_probabilities.mean(-1)).astype(dtype)


def correct_predictions(scores: Array, labels: Array) -> Array:
    """Whether the largest of each row of scores [N, classes] is the label's -> bool [N].

    Labels outside [0, classes) are never predicted.
    """
    scores, labels = _checked("scores", scores, labels)
    return lax.argmax(scores, scores.ndim - 1, jnp.int32) == labels


def accuracy(scores: Array, labels: Array) -> Array:
    """Fraction of correct predictions, a float32 scalar; of no examples, 0."""
    correct = correct_predictions(scores, labels)
    if 0 in correct.shape:
        return jnp.zeros((), jnp.float32)
    return correct.mean(dtype=jnp.float32)


def _scores(x: Array) -> tuple[Array, np.dtype]:
    """x in the dtype to compute in, and that to return; ArgumentError if there are no classes."""
    x = jnp.asarray(x)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ArgumentError(f"the last axis must have a score for each class, got shape {x.shape}.")
    return to_float(x)


def _checked(name: str, scores: Array, labels: Array) -> tuple[Array, Array]:
    """Both as JAX arrays, labels as int32; ArgumentError if they don't suit each other."""
    scores = jnp.asarray(scores)
    if not isinstance(labels, Array):
        labels = np.asarray(labels)  # jnp.asarray may cut 64 bits down to 32
    if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.shape != scores.shape[:-1]:
        raise ArgumentError(
            f"labels must be integers of shape {scores.shape[:-1]}, one for each row of {name} "
            f"{scores.shape}, not {labels.dtype} of shape {labels.shape}."
        )
    if scores.ndim == 0 or scores.shape[-1] == 0:
        raise ArgumentError(f"{name} must have a column for each class, got shape {scores.shape}.")
    return scores, _as_int32(labels)


def _as_int32(labels: Array | np.ndarray) -> Array:
    """Labels as int32; what doesn't fit becomes -1 or 2³¹ − 1, which are labels of no class."""
    limits, most = jnp.iinfo(labels.dtype), 2**31 - 1
    if limits.max > most:
        labels = labels.clip(max(limits.min, -1), most)
    return jnp.asarray(labels.astype(np.int32))


def _entry_of_label(rows: Array, labels: Array) -> Array:
    """rows[i, labels[i]], or NaN; a comparison, whose gradient needs no scatter."""
    classes = lax.broadcasted_iota(labels.dtype, rows.shape, rows.ndim - 1)
    entry = jnp.where(classes == labels[..., None], rows, 0).sum(-1)
    return jnp.where((labels >= 0) & (labels < rows.shape[-1]), entry, jnp.nan)


def _check_probability(name: str, meaning: str, value: ArrayLike) -> None:
    """ArgumentError unless `value` is one number, from 0 to 1 if it is known."""
    if np.ndim(value) != 0:
        raise ArgumentError(f"{name} must be one number, not of shape {np.shape(value)}.")
    if not is_number(value) or (is_concrete(value) and not 0 <= np.asarray(value) <= 1):
        raise ArgumentError(f"{name}, {meaning}, must be 0 to 1, got {value}.")  # not NaN either


def dropout(key: Array, x: Array, rate: ArrayLike) -> Array:
    """Inverted dropout: 0 with probability `rate`, else x / (1 - rate).

    `rate` is the probability of being zeroed, not of being kept; a number or a traced scalar.
    E[y] = x and Var[y] = x^2 rate / (1 - rate) (Srivastava et al., 2014). Rate 0 is the identity,
    rate 1 gives zeros with gradient 0. Evaluation simply does not call it.

    Raises:
      ArgumentError: a concrete rate outside [0, 1], a rate that is not a number, or integer x.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ArgumentError(
            f"dropout needs a floating-point array, not {x.dtype}: convert x first."
        )
    _check_probability("dropout's rate", "a probability of zeroing", rate)
    if is_concrete(rate) and np.asarray(rate) == 0:
        return x
    dtype = np.promote_types(x.dtype, np.float32)  # 1 - rate would be coarse in bfloat16
    kept = 1 - jnp.asarray(rate).astype(dtype)
    keep = jax.random.bernoulli(key, kept, x.shape)
    scale = 1 / jnp.where(kept > 0, kept, 1)  # at rate 1 nothing is kept, and nothing is 1/0
    return jnp.where(keep, x.astype(dtype) * scale, 0).astype(x.dtype)
