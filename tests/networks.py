"""What tests of networks share."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

# Compiles in a fraction of the time; the programs are small, so that they needn't be quick.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def init(module, input_shape, seed=0):
    """The variables of a network for pictures [H, W, C]."""
    x = jnp.zeros((1, *input_shape), jnp.float32)
    return quick_jit(module.init)(jax.random.key(seed), x)


def abstract_init(module, input_shape):
    """The shapes of the variables; nothing is computed."""
    x = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), x)


def random_variables(module, input_shape):
    """Variables of the right shapes, each entry drawn from N(0, 1); nothing is compiled."""
    rng = np.random.default_rng(0)
    shapes = abstract_init(module, input_shape)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
