"""Finds edges with the kernel [1, -1]: +1 where bright turns dark, -1 where dark turns bright.

python -m experiments.edge_detection

Along a row the kernel sees vertical edges only: on the transposed image it finds nothing, and its
own transpose finds them there. On the diagonal of an identity matrix every pixel is an edge. The
tests hold the command to this output:

a bar: 6 by 8 pixels, columns 2 to 5 dark, [1, -1]
   0  1  0  0  0 -1  0
   0  1  0  0  0 -1  0
   0  1  0  0  0 -1  0
   0  1  0  0  0 -1  0
   0  1  0  0  0 -1  0
   0  1  0  0  0 -1  0

its transpose, [1, -1]
   0  0  0  0  0
   0  0  0  0  0
   0  0  0  0  0
   0  0  0  0  0
   0  0  0  0  0
   0  0  0  0  0
   0  0  0  0  0
   0  0  0  0  0

its transpose, the transposed kernel
   0  0  0  0  0  0
   1  1  1  1  1  1
   0  0  0  0  0  0
   0  0  0  0  0  0
   0  0  0  0  0  0
  -1 -1 -1 -1 -1 -1
   0  0  0  0  0  0

the diagonal of 8 by 8 pixels, [1, -1]
   1  0  0  0  0  0  0
  -1  1  0  0  0  0  0
   0 -1  1  0  0  0  0
   0  0 -1  1  0  0  0
   0  0  0 -1  1  0  0
   0  0  0  0 -1  1  0
   0  0  0  0  0 -1  1
   0  0  0  0  0  0 -1
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from cnn_jax import ops
from experiments import launch

KERNEL = np.array([[1.0, -1.0]], np.float32)


def bar() -> Array:
    """A bright image [6, 8] with a dark bar in columns 2 to 5."""
    return jnp.ones((6, 8)).at[:, 2:6].set(0.0)


def edges(image: Array, kernel: Array | np.ndarray) -> Array:
    """Slides `kernel` [kh, kw] over `image` [H, W], without padding."""
    return ops.conv(image[None, :, :, None], jnp.asarray(kernel)[:, :, None, None])[0, :, :, 0]


def main() -> None:
    """Prints the edges of the bar and of the diagonal."""
    print_edges("a bar: 6 by 8 pixels, columns 2 to 5 dark, [1, -1]", edges(bar(), KERNEL))
    print_edges("\nits transpose, [1, -1]", edges(bar().T, KERNEL))
    print_edges("\nits transpose, the transposed kernel", edges(bar().T, KERNEL.T))
    print_edges("\nthe diagonal of 8 by 8 pixels, [1, -1]", edges(jnp.eye(8), KERNEL))


def print_edges(title: str, found: Array) -> None:
    """Prints `found` under its title, three characters for each pixel."""
    print(title)
    for row in found.tolist():
        print(" " + "".join(f"{round(value):3d}" for value in row))


if __name__ == "__main__":
    launch.run(main)
