"""How good predictions are: over all examples, for each class, and as probabilities.

What is undefined, such as the precision of a class that is never predicted, is None, never 0.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import losses

BINS = 15  # of the expected calibration error, as Guo et al. (2017) have it
BATCH = 1024


class Scores(NamedTuple):
    """How well a class is told from the others; or the macro averages, over classes."""

    name: str
    images: int  # of this class
    precision: float | None  # right / predicted as this class; None if none is
    recall: float | None  # right / images of this class; None if there is none
    f1: float | None  # 2 right / (predicted + images); None if there is neither


class Evaluation(NamedTuple):
    """What is known of predictions on some labelled images."""

    images: int
    metrics: dict[str, Any]  # the mean of each of losses.METRICS
    top: dict[int, float | None]  # share of labels among the k likeliest, by k; None: k > classes
    calibration_error: float
    classes: tuple[Scores, ...]
    macro: Scores  # means over the classes for which each is defined


def evaluate(
    logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str], k: int = 5
) -> Evaluation:
    """Returns what logits [N, classes] are worth, given labels int32 [N], N at least 1."""
    sums = None
    # A lambda, as JAX would cache what the metrics of the first call were.
    sum_metrics = jax.jit(lambda *arrays: losses.sum_metrics(*arrays))
    for start in range(0, len(labels), BATCH):
        part = jnp.asarray(logits[start : start + BATCH]), jnp.asarray(labels[start:][:BATCH])
        new = jax.device_get(sum_metrics(*part, jnp.ones(len(part[1]), jnp.float32)))
        sums = new if sums is None else jax.tree.map(np.add, sums, new)
    probabilities = np.asarray(jax.nn.softmax(jnp.asarray(logits)))
    top: dict[int, float | None] = {1: None, k: None}
    for count in top:
        if count <= len(class_names):
            in_top = losses.in_top(count)(jnp.asarray(logits), jnp.asarray(labels))
            top[count] = float(np.asarray(in_top).mean())
    classes = score_classes(labels, logits.argmax(1), class_names)
    return Evaluation(
        len(labels),
        losses.means(sums or {}, len(labels)),
        top,
        bin_confidences(labels, probabilities, BINS)[3],
        classes,
        average(classes),
    )


def score_classes(
    labels: np.ndarray, guesses: np.ndarray, class_names: Sequence[str]
) -> tuple[Scores, ...]:
    """Returns the scores of each class, given labels and predicted classes, integers [N]."""
    count = len(class_names)
    actual, predicted = (np.bincount(x, minlength=count) for x in (labels, guesses))
    right = np.bincount(labels[labels == guesses], minlength=count)

    def divide(part: int, whole: int) -> float | None:
        return float(part / whole) if whole else None

    return tuple(
        Scores(
            name,
            int(actual[i]),
            divide(right[i], predicted[i]),
            divide(right[i], actual[i]),
            divide(2 * right[i], predicted[i] + actual[i]),
        )
        for i, name in enumerate(class_names)
    )


def average(classes: Sequence[Scores]) -> Scores:
    """Returns macro averages: plain means over the classes for which a score is defined."""

    def mean(values: Sequence[float | None]) -> float | None:
        defined = [value for value in values if value is not None]
        return float(np.mean(defined)) if defined else None

    return Scores(
        "macro average",
        sum(scores.images for scores in classes),
        mean([scores.precision for scores in classes]),
        mean([scores.recall for scores in classes]),
        mean([scores.f1 for scores in classes]),
    )


def bin_confidences(
    labels: np.ndarray, probabilities: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Returns mean confidence, accuracy and count of each bin of confidence, and their mean gap.

    Bin m of M holds the predictions with a largest probability in ((m − 1)/M, m/M]. The gap is the
    expected calibration error of Guo et al., 2017: Σ over bins of count/N · |accuracy −
    confidence|. An empty bin has confidence and accuracy 0.
    """
    confidence = probabilities.max(1).astype(np.float64)
    right = probabilities.argmax(1) == labels
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    means, accuracies = (
        np.bincount(index, values, bins) / np.maximum(counts, 1) for values in (confidence, right)
    )
    gap = float((counts * np.abs(accuracies - means)).sum() / len(labels))
    return means, accuracies, counts, gap
