"""Convolution, pooling, activations: pure functions of arrays, without parameters or state."""

from cnn_jax.ops.activations import (
    ACTIVATIONS,
    accuracy,
    correct_predictions,
    cross_entropy,
    cross_entropy_by_definition,
    dropout,
    elu,
    gelu,
    identity,
    leaky_relu,
    log_softmax,
    relu,
    sigmoid,
    silu,
    softmax,
    softmax_by_definition,
    tanh,
)
from cnn_jax.ops.convolution import *  # noqa: F403
from cnn_jax.ops.pooling import (
    avg_pool,
    global_avg_pool,
    lp_pool,
    max_pool,
    min_pool,
    softmax_pool,
)
