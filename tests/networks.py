"""What tests of networks share."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

# Compiles in a fraction of the time; the programs are small, so that they needn't be quick.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


HE = {"kernel_init": "he_normal"}
TEN = {"classes": 10}
DENSE = {"hidden": (64, 64), "dropout": (0.0, 0.0)}
# For each network: its options, the side of its pictures, and the rate that it learns 32 pictures
# with by SGD with momentum 0.9. With He's initialization the deep ones start with logits of size 1
# and need small rates.
SMALL = {
    "softmax": ({}, 28, 0.1),
    "mlp": ({}, 28, 0.05),
    "mlp_dropout": ({"dropout": (0.0, 0.0)}, 28, 0.05),
    "lenet": ({}, 28, 0.5),
    "lenet_max": ({}, 28, 0.5),
    "lenet_improved": ({}, 28, 0.01),
    "lenet_bn": ({}, 28, 0.1),
    "cifar_quick": ({"channels": (8, 8, 16)}, 32, 0.01),
    "cifar_quick_bn": ({"channels": (8, 8, 16), "activation": "relu"}, 32, 0.01),
    "alexnet": ({"width": 0.125, **DENSE, **HE}, 72, 0.005),
    "alexnet_notes": ({"width": 0.125, "hidden": (64,), "dropout": (0.0,), **HE}, 72, 0.005),
    "vgg11": ({"width": 0.0625, **DENSE, **HE}, 32, 0.002),
    "vgg11_bn": ({"width": 0.0625, **DENSE}, 32, 0.02),
    "nin": ({"width": 0.25, "dropout": (0.0,)}, 72, 0.002),
    "nin_bn": ({"width": 0.25, "dropout": (0.0,)}, 72, 0.03),
    "googlenet": ({"width": 0.125}, 32, 0.005),
    "googlenet_bn": ({"width": 0.125}, 32, 0.02),
    "resnet18": ({"stages": ((1, 8), (1, 16)), **TEN}, 32, 0.05),
    "resnet18_book": ({"stages": ((1, 8), (1, 16))}, 32, 0.05),
    "resnext50_32x4d": (
        {"stages": ((1, 8), (1, 16)), "groups": 4, "group_width": 16, **TEN},
        32,
        0.05,
    ),
    "resnet20": ({"stages": ((1, 8), (1, 16))}, 28, 0.05),
    "plain20": ({"stages": ((1, 8), (1, 16))}, 28, 0.05),
    "wrn16_4": ({"stages": ((1, 16), (1, 32))}, 28, 0.02),
    "densenet121": ({"blocks": (2, 2), "growth_rate": 8, **TEN}, 32, 0.05),
    "densenet_book": ({"blocks": (2, 2), "growth_rate": 8}, 32, 0.05),
    "regnetx_3_2gf": ({"stages": ((1, 16), (1, 32)), "group_width": 8, **TEN}, 28, 0.05),
    "regnetx32_book": ({"stages": ((1, 16), (1, 32)), "group_width": 8}, 28, 0.05),
    "alexnet_torchvision": ({"width": 0.125, **DENSE, **HE, **TEN}, 72, 0.005),
    "googlenet_torchvision": ({"width": 0.125, "dropout": (0.0,), **HE, **TEN}, 64, 0.02),
}


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
