"""Weight decay in a linear regression with ten times more inputs than training examples.

python -m experiments.weight_decay [--weight_decays=0,3] [--seeds=8] [--output=weight_decay.png]

y = 0.05 + Σ 0.01 xᵢ + noise, with 200 standard normal inputs, noise of standard deviation 0.01, 20
training and 100 test examples; w starts as N(0, 1), b at 0. Half the squared error, 100 epochs of
SGD in batches of 5, learning rate 0.003 ("Dive into Deep Learning", section 4.5, which prints
norms 12.963 and 0.3557 from one draw). The true ‖w‖ is 0.141.

Without decay the 20 examples are fitted almost exactly, and the other 180 directions of w stay as
they started: the test loss is that of a random w. The decay shrinks all directions by 1 − 0.009 in
each of 400 steps, to 0.027 of where they started, and little but what the data says is left.

Adding λ/2 ‖w‖² to the loss, and shrinking w in the update, are the same for SGD without momentum:
the last lines give the largest difference of any weight. The bias is decayed in neither. Numbers
are mean ± standard deviation over the seeds. The tests hold the command to this output:

λ = 0
  norm of w      13.5 ± 0.93
  training loss  1.56e-05 ± 1.9e-05
  test loss      92.9 ± 15
  with the penalty instead, weights differ by 0.000000
λ = 3
  norm of w      0.368 ± 0.024
  training loss  0.00122 ± 0.0005
  test loss      0.0964 ± 0.022
  with the penalty instead, weights differ by 0.000000
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from jax import Array, lax

from cnn_jax import losses, optimizers
from cnn_jax.config import OptimizerConfig
from cnn_jax.figures import plots
from experiments import launch

INPUTS, TRAIN, TEST = 200, 20, 100
BATCH, EPOCHS, LEARNING_RATE = 5, 100, 0.003


class Draw(NamedTuple):
    """What chance decides; the first 20 rows are for training."""

    inputs: Array  # [120, 200]
    targets: Array  # [120, 1]
    start: Array  # [200, 1], w before the first step
    orders: Array  # [epochs, steps, batch], of the training examples


class Curves(NamedTuple):
    """A run's norm of w at the end, and half the squared error after each epoch."""

    norm: Any  # []
    train: Any  # [epochs + 1], from before the first epoch on
    test: Any


def main() -> int | None:
    given = flags.FLAGS
    try:
        decays = [float(value) for value in given.weight_decays]
    except ValueError:
        return launch.fail(f"--weight_decays={','.join(given.weight_decays)} must be numbers.")
    runs = run(decays, given.seeds)
    if given.output:
        plot(runs, pathlib.Path(given.output))
        print(f"wrote {given.output}")
    return None


def run(decays: Sequence[float], seeds: int) -> dict[float, Curves]:
    """Trains with each λ, prints how it ends, and returns the curves."""
    draws = draw_seeds(jnp.arange(seeds))
    runs = {}
    for decay in decays:
        params, curves = train_seeds(draws, decay, as_penalty=False)
        penalized, _ = train_seeds(draws, decay, as_penalty=True)
        gap = jnp.abs(params["kernel"] - penalized["kernel"]).max()
        print(f"λ = {decay:g}")
        print(f"  norm of w      {_spread(curves.norm)}")
        print(f"  training loss  {_spread(curves.train[:, -1])}")
        print(f"  test loss      {_spread(curves.test[:, -1])}")
        print(f"  with the penalty instead, weights differ by {gap:.6f}")
        runs[decay] = jax.tree.map(np.asarray, curves)
    return runs


@jax.jit
@jax.vmap
def draw_seeds(seed: Array) -> Draw:
    """Draws data, start and order for each seed [seeds]: y = 0.05 + Σ 0.01 xᵢ + noise."""
    key_inputs, key_noise, key_start, key_order = jax.random.split(jax.random.key(seed), 4)
    inputs = jax.random.normal(key_inputs, (TRAIN + TEST, INPUTS))
    noise = 0.01 * jax.random.normal(key_noise, (TRAIN + TEST, 1))
    start = jax.random.normal(key_start, (INPUTS, 1))
    orders = jax.vmap(lambda key: jax.random.permutation(key, TRAIN))(
        jax.random.split(key_order, EPOCHS)
    )
    return Draw(
        inputs,
        0.05 + 0.01 * inputs.sum(1, keepdims=True) + noise,
        start,
        orders.reshape(EPOCHS, -1, BATCH),
    )


@functools.partial(jax.jit, static_argnames="as_penalty")
def train_seeds(draws: Draw, decay: float, as_penalty: bool) -> tuple[Any, Curves]:
    """Trains all seeds at once; draws, parameters and curves have a leading axis of seeds."""
    return jax.vmap(lambda draw: train(draw, decay, as_penalty))(draws)


def train(draw: Draw, decay: float, as_penalty: bool) -> tuple[Any, Curves]:
    """Trains one run, with λ as a penalty in the loss or as decay in the optimizer's update."""
    settings = OptimizerConfig(
        learning_rate=LEARNING_RATE,
        momentum=0.0,
        weight_decay=0.0 if as_penalty else decay,
        decoupled=not as_penalty,
    )
    optimizer = optimizers.make(settings, TRAIN // BATCH, EPOCHS)
    training, test = slice(None, TRAIN), slice(TRAIN, None)

    def objective(params: Any, rows: Any) -> Array:
        loss = half_squared_error(params, draw.inputs[rows], draw.targets[rows])
        return loss + decay * losses.l2_penalty(params) if as_penalty else loss

    def evaluate(params: Any) -> tuple[Array, Array]:
        part = functools.partial(half_squared_error, params)
        return (
            part(draw.inputs[training], draw.targets[training]),
            part(draw.inputs[test], draw.targets[test]),
        )

    def step(carry: Any, chosen: Array) -> tuple[Any, None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(objective)(params, chosen), state, params)
        return (optax.apply_updates(params, updates), state), None

    def epoch(carry: Any, order: Array) -> tuple[Any, tuple[Array, Array]]:
        carry, _ = lax.scan(step, carry, order)
        return carry, evaluate(carry[0])

    params = {"kernel": draw.start, "bias": jnp.zeros((1,))}
    before = evaluate(params)
    (params, _), after = lax.scan(epoch, (params, optimizer.init(params)), draw.orders)
    curves = (jnp.append(first, rest) for first, rest in zip(before, after, strict=True))
    return params, Curves(jnp.linalg.norm(params["kernel"]), *curves)


def half_squared_error(params: Any, inputs: Array, targets: Array) -> Array:
    """Returns the mean of (x w + b − y)² / 2."""
    predictions = inputs @ params["kernel"] + params["bias"].reshape(1, 1)
    return 0.5 * jnp.mean((predictions - targets) ** 2)


def plot(runs: dict[float, Curves], file: pathlib.Path) -> None:
    """Draws training and test loss for each λ, median and range over the seeds."""
    figure = plots.make_figure(1 + 3.6 * len(runs), 3.6)
    panels = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for axes, (decay, curves) in zip(panels, runs.items(), strict=True):
        for part in ("test", "train"):
            values = getattr(curves, part)
            spread = np.median(values, 0), values.min(0), values.max(0)
            plots.draw_band(axes, np.arange(values.shape[1]), part, *spread)
        norm = curves.norm.mean()
        axes.set_title(f"λ = {decay:g}: ‖w‖ ends at {norm:.3g}", fontsize=11)
        axes.set_yscale("log")
        axes.set_xlabel("epoch")
        plots.style_axes(axes)
    panels[0].set_ylabel("half the squared error")
    panels[0].legend(frameon=False)
    count = len(next(iter(runs.values())).norm)
    figure.suptitle(f"20 examples, 200 inputs; median and range of {count} seeds", fontsize=11)
    plots.save(figure, file)


def _spread(values: Array) -> str:
    return f"{values.mean():.3g} ± {values.std(ddof=1):.2g}"


if __name__ == "__main__":
    flags.DEFINE_list("weight_decays", ["0", "3"], "Values of λ.")
    flags.DEFINE_integer("seeds", 8, "Draws of data and start.", lower_bound=2)
    launch.define_path("output", None, "Draw the learning curves into this PNG file.")
    launch.run(main)
