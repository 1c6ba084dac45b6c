"""Activations, softmax and its losses, dropout: pure functions of arrays of any shape.

Classes lie on the last axis. Everything is written so that it also runs under JAX's strict
promotion and NaN-debugging settings, and keeps the dtype of its floating-point input.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike


def identity(x: Array) -> Array:
    """x itself: the activation of a linear layer."""
    return x


def relu(x: Array) -> Array:
    """max(x, 0), with gradient 0 at 0 (`jnp.maximum` would give 1/2 there)."""
    return jax.nn.relu(x)


def leaky_relu(x: Array, negative_slope: float = 0.01) -> Array:
    """x where x >= 0, else negative_slope * x."""
    return jax.nn.leaky_relu(x, negative_slope)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), finite for every finite x."""
    return jax.nn.sigmoid(x)


def tanh(x: Array) -> Array:
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x)) = 2 sigmoid(2x) - 1."""
    return jnp.tanh(x)


def elu(x: Array, alpha: float = 1.0) -> Array:
    """x where x > 0, else alpha * (exp(x) - 1) (Clevert et al., 2015)."""
    return jax.nn.elu(x, alpha)


def gelu(x: Array) -> Array:
    """x times the standard normal distribution function at x, exactly, as PyTorch's default.

    Hendrycks and Gimpel, 2016. `jax.nn.gelu` defaults to the tanh approximation instead.
    """
    return jax.nn.gelu(x, approximate=False)


def silu(x: Array) -> Array:
    """x * sigmoid(x), also called swish (Elfwing et al., 2017)."""
    return jax.nn.silu(x)


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
    exponentials = jnp.exp(jnp.asarray(x))  # 1. every entry positive
    normalizers = exponentials.sum(-1, keepdims=True)  # 2. one per row
    return exponentials / normalizers  # 3. rows sum to 1


def softmax(x: Array) -> Array:
    """`softmax_by_definition` made stable: the largest entry of a row is subtracted first."""
    x = jnp.asarray(x)
    exponentials = jnp.exp(x - lax.stop_gradient(x.max(-1, keepdims=True)))
    return exponentials / exponentials.sum(-1, keepdims=True)


def log_softmax(x: Array) -> Array:
    """log(softmax(x)) = x - log sum_k exp(x_k), without ever taking the logarithm of 0."""
    x = jnp.asarray(x)
    shifted = x - lax.stop_gradient(x.max(-1, keepdims=True))
    return shifted - jnp.log(jnp.exp(shifted).sum(-1, keepdims=True))


def cross_entropy_by_definition(probabilities: Array, labels: Array) -> Array:
    """-log p_y for each example, from probabilities [N, classes] and integer labels [N] -> [N]."""
    probabilities, labels = _checked("probabilities", probabilities, labels)
    return -jnp.log(_entry_of_label(probabilities, labels))


def cross_entropy(logits: Array, labels: Array, label_smoothing: ArrayLike = 0.0) -> Array:
    """-log softmax(logits)_y for each example: [N, classes], integer [N] -> [N].

    With label_smoothing a (a number, possibly traced), the target is 1 - a on the label plus
    a/classes on every class (Szegedy et al., 2016): (1 - a) * (-log p_y) + a * mean_k(-log p_k).
    A label outside [0, classes) makes its loss NaN, since traced code can't raise.

    Raises:
      ValueError: labels are not integers, or their shape is not that of logits without its last
        axis.
    """
    logits, labels = _checked("logits", logits, labels)
    log_probabilities = log_softmax(logits)
    loss = -_entry_of_label(log_probabilities, labels)
    if isinstance(label_smoothing, int | float) and label_smoothing == 0:
        return loss
    a = jnp.asarray(label_smoothing, loss.dtype)
    return (1 - a) * loss - a * log_probabilities.mean(-1)


def correct_predictions(scores: Array, labels: Array) -> Array:
    """Whether the largest of each row of scores [N, classes] is the label's -> bool [N]."""
    scores, labels = _checked("scores", scores, labels)
    return scores.argmax(-1) == labels.astype(jnp.int32)


def accuracy(scores: Array, labels: Array) -> Array:
    """Fraction of correct predictions, a float32 scalar."""
    return correct_predictions(scores, labels).mean(dtype=jnp.float32)


def _checked(name: str, scores: Array, labels: Array) -> tuple[Array, Array]:
    """Both as JAX arrays; ValueError if they don't suit each other."""
    scores, labels = jnp.asarray(scores), jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.shape != scores.shape[:-1]:
        raise ValueError(
            f"labels must be integers of shape {scores.shape[:-1]}, one for each row of {name} "
            f"{scores.shape}, not {labels.dtype} of shape {labels.shape}."
        )
    return scores, labels


def _entry_of_label(rows: Array, labels: Array) -> Array:
    """rows[i, labels[i]], or NaN; a comparison, whose gradient needs no scatter."""
    classes = lax.broadcasted_iota(labels.dtype, rows.shape, rows.ndim - 1)
    entry = jnp.where(classes == labels[..., None], rows, 0).sum(-1)
    return jnp.where((labels >= 0) & (labels < rows.shape[-1]), entry, jnp.nan)


def dropout(key: Array, x: Array, rate: ArrayLike) -> Array:
    """Inverted dropout: 0 with probability `rate`, else x / (1 - rate).

    `rate` is the probability of being zeroed, not of being kept; a number or a traced scalar.
    E[y] = x and Var[y] = x^2 rate / (1 - rate) (Srivastava et al., 2014). Rate 0 is the identity,
    rate 1 gives zeros with gradient 0. Evaluation simply does not call it.

    Raises:
      ValueError: a concrete rate outside [0, 1], a rate that is not a scalar, or integer x.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"dropout needs a floating-point array, not {x.dtype}: convert x first.")
    if np.ndim(rate) != 0:
        raise ValueError(f"dropout's rate must be one number, not of shape {np.shape(rate)}.")
    if not isinstance(rate, jax.core.Tracer):
        if not 0 <= np.asarray(rate) <= 1:  # NaN is refused as well
            raise ValueError(
                f"dropout's rate, a probability of zeroing, must be 0 to 1, got {rate}."
            )
        if np.asarray(rate) == 0:
            return x
    dtype = np.promote_types(x.dtype, np.float32)  # 1 - rate would be coarse in bfloat16
    kept = 1 - jnp.asarray(rate).astype(dtype)
    keep = jax.random.bernoulli(key, kept, x.shape)
    scale = 1 / jnp.where(kept > 0, kept, 1)  # at rate 1 nothing is kept, and nothing is 1/0
    return jnp.where(keep, x.astype(dtype) * scale, 0).astype(x.dtype)
