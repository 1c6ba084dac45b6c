"""Convolution, dense products, pooling, activations: pure functions, without parameters or state.

One contract for all of them:

- Layout: channels last. Images are `[N, *spatial, C]` with one, two or three spatial axes (in two
  dimensions `[N, H, W, C]`), kernels `[*spatial, C_in/groups, C_out]`; a dense kernel is
  `[inputs, features]`, logits are `[N, classes]`, labels `[N]` integers.
- Dtype: floating-point results have the dtype of the input; sums inside are at least float32.
- window, strides, padding, dilation: one number for all spatial axes, or one per axis. Padding is
  in pixels at both ends of an axis; or a pair (before, after) per axis, 'VALID' or 'SAME'. What it
  adds is zeros for a convolution and a mean, and nothing for a maximum.
- Every function works under jit, vmap, grad, jvp and scan, and to any order of derivative.
- No images are a batch as well: results are empty, gradients of kernels and biases zero.
- Integers of Python, NumPy and JAX are the same; floats and booleans are no integers.
- A shape or option that can't work raises `ArgumentError` with one sentence that says what would.
- At infinities a result is the limit, if there is one, unless a function says otherwise; sums and
  powers beyond the range of the dtype they are computed in are infinite.
- The platform (`ops.platform`) may choose the form of an operation, not its result (but where a
  maximum is NaN or -inf, which element gets the gradient may depend on it).
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
from cnn_jax.ops.convolution import (
    add_bias,
    conv,
    output_size,
    patches,
)
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
from cnn_jax.ops.dense import (
    dense,
)
from cnn_jax.ops.errors import (
    ArgumentError,
)
from cnn_jax.ops.losses import (
    accuracy,
    correct_predictions,
    cross_entropy,
)
from cnn_jax.ops.pooling import (
    avg_pool,
    global_avg_pool,
    lp_pool,
    max_pool,
    min_pool,
    softmax_pool,
)

__all__ = [
    "ACTIVATIONS",
    "ArgumentError",
    "accuracy",
    "add_bias",
    "avg_pool",
    "avg_pool_as_conv",
    "box_kernel",
    "compose_kernels",
    "conv",
    "conv_by_patches",
    "correct_predictions",
    "cross_entropy",
    "cross_entropy_by_definition",
    "dense",
    "derivative_kernel",
    "dropout",
    "elu",
    "gelu",
    "global_avg_pool",
    "identity",
    "leaky_relu",
    "log_softmax",
    "lp_pool",
    "max_pool",
    "max_pool_by_relu",
    "min_pool",
    "output_size",
    "patches",
    "relu",
    "second_derivative_kernel",
    "sigmoid",
    "silu",
    "softmax",
    "softmax_by_definition",
    "softmax_pool",
    "tanh",
    "true_conv",
]
