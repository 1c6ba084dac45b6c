"""Activations, softmax, dropout: pure functions of arrays of any shape.

Classes lie on the last axis. Results keep the dtype of a floating-point input; float16 and bfloat16
are computed in float32 and rounded once. At ±∞ values and derivatives are the limits.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from cnn_jax.ops.arguments import check_probability, is_concrete
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


def softmax(x: Array) -> Array:
    """`softmax_by_definition` made stable: the largest entry of a row is subtracted first.

    Entries of +∞ share 1 equally, and so do all entries of a row of −∞.
    """
    x, dtype = check_scores(x)
    exponentials = jnp.exp(below_largest(x, -1))
    return (exponentials / exponentials.sum(-1, keepdims=True)).astype(dtype)


def log_softmax(x: Array) -> Array:
    """log(softmax(x)) = x - log sum_k exp(x_k), without ever taking the logarithm of 0."""
    x, dtype = check_scores(x)
    shifted = below_largest(x, -1)
    return (shifted - jnp.log(jnp.exp(shifted).sum(-1, keepdims=True))).astype(dtype)


def check_scores(x: Array) -> tuple[Array, np.dtype]:
    """x in the dtype to compute in, and the dtype to return; ArgumentError if it has no classes."""
    x = jnp.asarray(x)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ArgumentError(f"the last axis must have a score for each class, got shape {x.shape}.")
    return to_float(x)


def dropout(key: Array, x: Array, rate: ArrayLike) -> Array:
    """Inverted dropout: 0 with probability `rate`, else x / (1 - rate).

    `rate` is a number or a traced scalar; rate 1 gives zeros with gradient 0. E[y] = x and
    Var[y] = x^2 rate / (1 - rate) (Srivastava et al., 2014).

    Raises:
      ArgumentError: a concrete rate outside [0, 1], a rate that is not a number, or integer x.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ArgumentError(
            f"dropout needs a floating-point array, not {x.dtype}: convert x first."
        )
    check_probability("dropout's rate", "a probability of zeroing", rate)
    if is_concrete(rate) and np.asarray(rate) == 0:
        return x
    dtype = np.promote_types(x.dtype, np.float32)  # 1 - rate would be coarse in bfloat16
    kept = 1 - jnp.asarray(rate).astype(dtype)
    keep = jax.random.bernoulli(key, kept, x.shape)
    scale = 1 / jnp.where(kept > 0, kept, 1)  # at rate 1 nothing is kept, and nothing is 1/0
    return jnp.where(keep, x.astype(dtype) * scale, 0).astype(x.dtype)
