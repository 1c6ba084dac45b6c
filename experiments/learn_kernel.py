"""Learns the kernel of an edge detector from one image and its edges, by gradient descent.

python -m experiments.learn_kernel [--steps=10] [--learning_rate=0.03] [--seed=0]

The model is one convolution with a 1 by 2 kernel and no bias, the loss the squared error summed
over all pixels, before the step. The loss is a bowl whose axes shrink by 0.8 and 0.64 in each step,
so from any start the kernel comes within 0.15 of [1, -1] in 10 steps, within 0.001 in 100. The
tests hold the command to this output:

step 2, loss 21.605
step 4, loss 7.608
step 6, loss 2.908
step 8, loss 1.156
step 10, loss 0.468
kernel [1.0585, -0.9179]
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from absl import flags
from jax import Array, lax

from cnn_jax import ops
from experiments import edge_detection, launch

STEPS = flags.DEFINE_integer("steps", 10, "Steps of gradient descent.", lower_bound=1)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 3e-2, "Learning rate.", lower_bound=0.0)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the random start.")


def main() -> None:
    """Prints the loss every second step, and the kernel."""
    kernel, losses = learn(STEPS.value, LEARNING_RATE.value, SEED.value)
    for step in range(2, STEPS.value + 1, 2):
        print(f"step {step}, loss {losses[step - 1]:.3f}")
    print("kernel", [round(tap, 4) for tap in kernel.ravel().tolist()])


@partial(jax.jit, static_argnames="steps")
def learn(steps: int, learning_rate: float, seed: int) -> tuple[Array, Array]:
    """Returns the kernel [1, 2, 1, 1] after `steps` steps, and the loss before each of them."""
    image = edge_detection.bar()[None, :, :, None]
    target = edge_detection.edges(edge_detection.bar(), edge_detection.KERNEL)[None, :, :, None]
    optimizer = optax.sgd(learning_rate)

    def loss(kernel: Array) -> Array:
        return jnp.sum((ops.conv(image, kernel) - target) ** 2)

    def step(carry: tuple[Array, optax.OptState], _: None) -> tuple[tuple, Array]:
        kernel, state = carry
        value, gradient = jax.value_and_grad(loss)(kernel)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(kernel, updates), state), value

    bound = 2**-0.5  # one over the square root of the number of inputs
    kernel = jax.random.uniform(jax.random.key(seed), (1, 2, 1, 1), minval=-bound, maxval=bound)
    (kernel, _), losses = lax.scan(step, (kernel, optimizer.init(kernel)), None, steps)
    return kernel, losses


if __name__ == "__main__":
    launch.run(main)
