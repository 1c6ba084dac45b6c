"""The metrics of predictions, and penalties on parameters.

METRICS is the table of what every run reports of the training and the test set, as train_NAME and
test_NAME: functions of logits [N, classes] and labels int32 [N] that return a number for each
example, [N], or an array, [N, ...]. Booleans are counted exactly, in int32; other numbers are
summed in float32.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnn_jax import ops
from cnn_jax.errors import ConfigError

Metric = Callable[[Array, Array], Array]

METRICS: dict[str, Metric] = {
    "loss": ops.cross_entropy,
    "accuracy": ops.correct_predictions,
}
BEST_BY = "accuracy"  # checkpoints, searches and reports rank by it; more is better


def in_top(k: int) -> Metric:
    """Returns the metric of whether the label is among the k likeliest classes: bool [N].

    Of equal logits the first class is the likelier, as for the accuracy. Another metric for every
    run is one line: METRICS["top5"] = in_top(5).

    Raises:
      ConfigError: of the metric; there are fewer than k classes.
    """

    def metric(logits: Array, labels: Array) -> Array:
        classes = logits.shape[-1]
        if not 1 <= k <= classes:
            raise ConfigError(
                f"the top {k} of {classes} classes can't be told; choose a k from 1 to {classes}."
            )
        index = jnp.arange(classes, dtype=labels.dtype)[None]
        own = ops.losses.entry_of_label(logits, labels)[:, None]
        before = (logits == own) & (index < labels[:, None])
        # What can't be compared, as NaN, is never among the likeliest.
        return (~(logits <= own) | before).sum(1, dtype=jnp.int32) < k

    return metric


def weighted_sum(values: Array, weights: Array) -> Array:
    """Σ wᵢ vᵢ over the examples of [N, ...]; booleans are counted, those with wᵢ > 0.

    Weight 0 leaves an example out even if its value is not finite.
    """
    weights = jax.lax.broadcast_in_dim(weights, values.shape, (0,))
    if values.dtype == jnp.bool_:
        return (values & (weights > 0)).sum(0, dtype=jnp.int32)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        values = values.astype(weights.dtype)
    return jnp.sum(jnp.where(weights > 0, values * weights, jnp.zeros_like(values)), 0)


def sum_metrics(logits: Array, labels: Array, weights: Array) -> dict[str, Array]:
    """Returns the sum of each metric over the examples, by its name."""
    return {name: weighted_sum(f(logits, labels), weights) for name, f in METRICS.items()}


def zero_sums(classes: int) -> dict[str, np.ndarray]:
    """Returns the sums of the metrics of no examples, on the host.

    Raises:
      ConfigError: METRICS has an entry that can't be summed, or lacks loss or accuracy.
    """
    for name in ("loss", "accuracy"):
        if name not in METRICS:
            raise ConfigError(f"losses.METRICS has no {name}, which every run needs; add it.")
    return {name: _zero_sum(name, metric, classes) for name, metric in METRICS.items()}


def _zero_sum(name: str, metric: Metric, classes: int) -> np.ndarray:
    what = f"losses.METRICS[{name!r}]"
    if not isinstance(name, str) or not name or not name.isprintable() or name == "examples":
        raise ConfigError(f"{what} needs a name in printable characters other than 'examples'.")
    batch = np.zeros((2, classes), np.float32), np.zeros(2, np.int32)
    # A lambda, as JAX would cache what the metric of the first call was.
    values = jax.eval_shape(lambda *arrays: metric(*arrays), *batch)
    shape, dtype = getattr(values, "shape", ()), getattr(values, "dtype", np.dtype(object))
    single = name in ("loss", "accuracy")
    if shape[:1] != (2,) or (single and len(shape) > 1) or dtype.kind == "c":
        expected = "a number for each example, [N]" + ("" if single else ", or an array, [N, ...]")
        raise ConfigError(f"{what} must return {expected}; of 2 examples it has shape {shape}.")
    return np.zeros(shape[1:], np.int32 if dtype == np.bool_ else np.float32)


def means(sums: Mapping[str, Any], examples: Any) -> dict[str, Any]:
    """Returns sums divided by the number of examples, as Python numbers and lists.

    What isn't finite is None, as JSON has no other way to say it.
    """
    return {name: _to_json(np.divide(value, examples).tolist()) for name, value in sums.items()}


def _to_json(values: Any) -> Any:
    if isinstance(values, list):
        return [_to_json(value) for value in values]
    return values if math.isfinite(values) else None


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
