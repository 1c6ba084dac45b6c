"""The metrics of predictions, and penalties on parameters.

METRICS is the table of what every run reports of the training and the test set, as train_NAME and
test_NAME: functions of logits [N, classes] and labels int32 [N] that return a number for each
example, [N], or an array, [N, ...]. Booleans and integers are counted exactly, in int32.
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
BEST_BY = "accuracy"  # checkpoints, searches and reports rank by it; more is better


def weighted_sum(values: Array, weights: Array) -> Array:
    """Σ wᵢ vᵢ over the examples of [N, ...]; booleans and integers are counted, if wᵢ > 0.

    Weight 0 leaves an example out even if its value is not finite.
    """
    weights = jax.lax.broadcast_in_dim(weights, values.shape, (0,))
    if not jnp.issubdtype(values.dtype, jnp.floating):
        return jnp.where(weights > 0, values.astype(jnp.int32), 0).sum(0, dtype=jnp.int32)
    return jnp.sum(jnp.where(weights > 0, values * weights, jnp.zeros_like(values)), 0)


def sum_metrics(logits: Array, labels: Array, weights: Array) -> dict[str, Array]:
    """Returns the sum of each metric over the examples, by its name."""
    return {name: weighted_sum(f(logits, labels), weights) for name, f in METRICS.items()}


def zero_sums(classes: int) -> dict[str, np.ndarray]:
    """Returns the sums of the metrics of no examples, on the host."""
    logits, labels, weights = np.zeros((1, classes), "f4"), np.zeros(1, "i4"), np.ones(1, "f4")
    # A lambda, as JAX would cache the metrics of the first call.
    sums = jax.eval_shape(lambda *batch: sum_metrics(*batch), logits, labels, weights)
    return {name: np.zeros(s.shape, s.dtype) for name, s in sums.items()}


def means(sums: Mapping[str, Any], examples: Any) -> dict[str, Any]:
    """Returns sums divided by the number of examples, as Python numbers and lists."""
    return {name: np.divide(value, examples).tolist() for name, value in sums.items()}


def mask_decayed(params: Any) -> Any:
    """Returns a tree of bools like `params`: True for every 'kernel', the ones that decay."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def l2_penalty(params: Any) -> Array:
    """½ Σ w² over all kernels, a float32 scalar.

    Adding λ times this to the loss is, for SGD without momentum, the same as the weight decay λ.
    """
    zero = jnp.zeros((), jnp.float32)
    squares = jax.tree.map(
        lambda w, counts: jnp.sum(jnp.square(w.astype(jnp.float32))) if counts else zero,
        params,
        mask_decayed(params),
    )
    return 0.5 * jax.tree.reduce(jnp.add, squares, zero)
