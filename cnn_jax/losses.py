"""What is measured of predictions, and penalties on parameters.

METRICS is the table of what every run reports of training and test set, beside the learning rate
and the time: functions of logits [N, classes] and labels int32 [N] that return a number for each
example, [N], or an array, [N, ...]. Booleans and integers are counted exactly, in int32. What is
added to it before a run is built is in its metrics.jsonl as train_NAME and test_NAME.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnn_jax import ops

Metric = Callable[[Array, Array], Array]

METRICS: dict[str, Metric] = {
    "loss": ops.cross_entropy,
    "accuracy": ops.correct_predictions,
}
BEST_BY = "accuracy"  # what checkpoints, searches and reports rank by; more is better


def weighted_sum(values: Array, weights: Array) -> Array:
    """Σ wᵢ vᵢ over the examples of [N, ...]; of booleans and integers, those with a weight.

    Weight 0 leaves an example out even if its value is not finite.
    """
    weights = jax.lax.broadcast_in_dim(weights, values.shape, (0,))
    if not jnp.issubdtype(values.dtype, jnp.floating):
        return jnp.where(weights > 0, values.astype(jnp.int32), 0).sum(0, dtype=jnp.int32)
    return jnp.sum(jnp.where(weights > 0, values * weights, jnp.zeros_like(values)), 0)


def sum_metrics(logits: Array, labels: Array, weights: Array) -> dict[str, Array]:
    """Returns each metric's sum over the examples, by its name."""
    return {name: weighted_sum(f(logits, labels), weights) for name, f in METRICS.items()}


def zero_sums(classes: int) -> dict[str, np.ndarray]:
    """Returns what `sum_metrics` does of no examples, on the host."""
    logits, labels, weights = np.zeros((1, classes), "f4"), np.zeros(1, "i4"), np.ones(1, "f4")
    # A function of its own: JAX would remember the metrics of the first call.
    sums = jax.eval_shape(lambda *batch: sum_metrics(*batch), logits, labels, weights)
    return {name: np.zeros(s.shape, s.dtype) for name, s in sums.items()}


def means(sums: Mapping[str, Any], examples: Any) -> dict[str, Any]:
    """Returns sums over so many examples divided by their number, as Python numbers and lists."""
    return {name: np.divide(value, examples).tolist() for name, value in sums.items()}


def decayed(params: Any) -> Any:
    """Returns a tree of bools like `params`: True for what weight decay applies to.

    That is every 'kernel'. Biases, and the scale and bias of normalization layers, are not decayed.
    """
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def l2_penalty(params: Any) -> Array:
    """½ Σ w² over all kernels, biases left out; a float32 scalar.

    λ times this, added to the loss, has the gradient λw: for SGD without momentum the same as the
    update w ← (1 − ηλ) w − ηg that `optimizers.make` uses.
    """
    zero = jnp.zeros((), jnp.float32)
    squares = jax.tree.map(
        lambda w, counts: jnp.sum(jnp.square(w.astype(jnp.float32))) if counts else zero,
        params,
        decayed(params),
    )
    return 0.5 * jax.tree.reduce(jnp.add, squares, zero)
