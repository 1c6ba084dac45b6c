"""The training objective and the numbers reported beside it.

The per-example functions are in `cnn_jax.ops` (`cross_entropy`, `correct`, …); here they are
averaged over the examples of a batch that count, and combined with penalties on the parameters.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def weighted_sum(values: Array, weights: Array) -> Array:
    """Σ wᵢ vᵢ over a batch [N]; weight 0 leaves an example out even if its value is not finite."""
    return jnp.sum(jnp.where(weights > 0, values * weights, jnp.zeros_like(values)))


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
