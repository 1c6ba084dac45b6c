"""Convolution, dense products, pooling, activations and losses: pure functions without state.

Images are `[N, *spatial, C]` with one to three spatial axes, kernels `[*spatial, C_in/groups,
C_out]`, logits `[N, classes]`, labels integers `[N]`. Results have the dtype of a floating-point
input; sums inside are at least float32. Window, strides, padding and dilation are one number, or
one per spatial axis. Everything works under jit, vmap, grad and scan, to any order of derivative,
and on empty batches. At infinities a result is the limit, if there is one. The platform may choose
the form of an operation, not its result. What can't work raises `ArgumentError`.
"""

from cnn_jax.ops.activations import (
    ACTIVATIONS,
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
    tanh,
)
from cnn_jax.ops.convolution import add_bias, conv, output_size, patches
from cnn_jax.ops.definitions import (
    avg_pool_as_conv,
    box_kernel,
    compose_kernels,
    conv_by_patches,
    cross_entropy_by_definition,
    derivative_kernel,
    max_pool_by_relu,
    second_derivative_kernel,
    softmax_by_definition,
    true_conv,
)
from cnn_jax.ops.dense import dense
from cnn_jax.ops.errors import ArgumentError
from cnn_jax.ops.losses import accuracy, correct_predictions, cross_entropy, soft_cross_entropy
from cnn_jax.ops.pooling import (
    avg_pool,
    global_avg_pool,
    lp_pool,
    max_pool,
    min_pool,
    softmax_pool,
)
