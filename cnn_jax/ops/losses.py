"""Losses and correct predictions, one number for each example.

Scores are [N, classes], labels integers [N] of any dtype.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from cnn_jax.ops.activations import log_softmax
from cnn_jax.ops.arguments import check_probability, is_concrete
from cnn_jax.ops.errors import ArgumentError
from cnn_jax.ops.numerics import to_float


def cross_entropy(logits: Array, labels: Array, label_smoothing: ArrayLike = 0.0) -> Array:
    """-log softmax(logits)_y for each example: [N, classes], integer [N] -> [N].

    With label_smoothing a (a number, possibly traced), the target is 1 - a on the label plus
    a/classes on every class (Szegedy et al., 2016): (1 - a) * (-log p_y) + a * mean_k(-log p_k).
    A label outside [0, classes) makes its loss NaN, since traced code can't raise. Infinite logits
    have the losses of `softmax`'s limits.

    Raises:
      ArgumentError: labels are not integers, their shape is not that of logits without its last
        axis, there are no classes, or label_smoothing is no number from 0 to 1.
    """
    logits, labels = check_labels("logits", logits, labels)
    check_probability("label_smoothing", "the share of all classes", label_smoothing)
    logits, dtype = to_float(logits)
    log_probabilities = log_softmax(logits)
    loss = -entry_of_label(log_probabilities, labels)
    if is_concrete(label_smoothing) and np.asarray(label_smoothing) == 0:
        return loss.astype(dtype)
    a = jnp.asarray(label_smoothing).astype(loss.dtype)
    if is_concrete(label_smoothing) and np.asarray(label_smoothing) == 1:
        in_range = (labels >= 0) & (labels < logits.shape[-1])
        loss = jnp.where(in_range, 0, jnp.nan)  # 0 times the label's loss, which may be infinite
        return (loss.astype(a.dtype) - log_probabilities.mean(-1)).astype(dtype)
    return ((1 - a) * loss - a * log_probabilities.mean(-1)).astype(dtype)


def soft_cross_entropy(logits: Array, targets: Array, label_smoothing: ArrayLike = 0.0) -> Array:
    """-Σ t_k log softmax(logits)_k for each example: [N, classes], distributions t likewise -> [N].

    With label_smoothing a, the targets are (1 - a) t plus a/classes on every class. For a t that is
    1 on a label this is `cross_entropy`.

    Raises:
      ArgumentError: targets aren't floating-point numbers of the shape of logits, or
        label_smoothing is no number from 0 to 1.
    """
    logits, targets = jnp.asarray(logits), jnp.asarray(targets)
    if targets.shape != logits.shape or not jnp.issubdtype(targets.dtype, jnp.floating):
        raise ArgumentError(
            f"targets must be distributions of the shape of logits, {logits.shape}, not "
            f"{targets.dtype} of shape {targets.shape}."
        )
    check_probability("label_smoothing", "the share of all classes", label_smoothing)
    logits, dtype = to_float(logits)
    log_probabilities = log_softmax(logits)
    targets = targets.astype(log_probabilities.dtype)
    a = jnp.asarray(label_smoothing).astype(targets.dtype)
    targets = (1 - a) * targets + a / targets.shape[-1]
    used = jnp.where(targets > 0, log_probabilities, 0)  # which may be infinite elsewhere
    return -(targets * used).sum(-1).astype(dtype)


def correct_predictions(scores: Array, labels: Array) -> Array:
    """Whether the largest score of each row of [N, classes] is the label's -> bool [N].

    Labels outside [0, classes) are never predicted.
    """
    scores, labels = check_labels("scores", scores, labels)
    return lax.argmax(scores, scores.ndim - 1, jnp.int32) == labels


def accuracy(scores: Array, labels: Array) -> Array:
    """Fraction of correct predictions, a float32 scalar; of no examples, 0."""
    correct = correct_predictions(scores, labels)
    if 0 in correct.shape:
        return jnp.zeros((), jnp.float32)
    return correct.mean(dtype=jnp.float32)


def check_labels(name: str, scores: Array, labels: Array) -> tuple[Array, Array]:
    """Both as JAX arrays, labels as int32; ArgumentError if they don't fit each other."""
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
    """Labels as int32; one that doesn't fit becomes -1 or 2³¹ − 1, labels of no class."""
    limits, most = jnp.iinfo(labels.dtype), 2**31 - 1
    if limits.max > most:
        labels = labels.clip(max(limits.min, -1), most)
    return jnp.asarray(labels.astype(np.int32))


def entry_of_label(rows: Array, labels: Array) -> Array:
    """rows[i, labels[i]], or NaN; by comparisons, whose gradient needs no scatter."""
    classes = lax.broadcasted_iota(labels.dtype, rows.shape, rows.ndim - 1)
    entry = jnp.where(classes == labels[..., None], rows, 0).sum(-1)
    return jnp.where((labels >= 0) & (labels < rows.shape[-1]), entry, jnp.nan)
