"""Under- and overfitting measured: error against the capacity of a network, and against the data.

python -m experiments.generalization [--seeds=5] [--steps=1000] [--output=generalization.png]

MLPs with one hidden layer, tanh, on Fashion-MNIST (the 2,000 images that come with the package;
--dataset takes another), 1,000 steps of SGD in batches of 50, learning rate 0.05, momentum 0.9.
Capacity: 1 to 128 hidden units on 1,000 examples. Data: 64 units on 50 to 2,000 examples, the
smaller sets being parts of the larger. The error is the share of images classified wrongly, of
the training examples and of the test images: mean ± standard deviation over the seeds, which
change the choice of the examples, the start and the order.

Up to 4 units both errors are large, the network underfits. From 32 on it knows its examples by
heart, and only more examples bring the test error down. It doesn't rise again with capacity, as
that of least squares does (see `experiments.polynomial`): of all networks that fit the examples,
SGD from a small start finds a tame one. The tests hold the command to about these numbers:

hidden units (1000 examples)   training error    test error
           1       0.776 ± 0.031       0.783 ± 0.017
           2       0.535 ± 0.070       0.598 ± 0.033
           4       0.134 ± 0.039       0.293 ± 0.027
           8       0.051 ± 0.019       0.237 ± 0.009
          16       0.023 ± 0.024       0.237 ± 0.012
          32       0.003 ± 0.002       0.214 ± 0.009
          64       0.008 ± 0.005       0.215 ± 0.011
         128       0.003 ± 0.004       0.210 ± 0.011
examples (64 hidden units)      training error    test error
          50       0.000 ± 0.000       0.353 ± 0.026
         100       0.000 ± 0.000       0.302 ± 0.011
         200       0.000 ± 0.000       0.265 ± 0.009
         400       0.000 ± 0.000       0.237 ± 0.006
        1000       0.008 ± 0.005       0.215 ± 0.011
        2000       0.067 ± 0.014       0.208 ± 0.011
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import Array

from cnn_jax import augment, data, models, optimizers, programs, steps
from cnn_jax.config import OptimizerConfig
from cnn_jax.data import sampling
from cnn_jax.figures import plots
from experiments import launch

BATCH = 50
WIDTHS = (1, 2, 4, 8, 16, 32, 64, 128)
EXAMPLES = 1000  # while the width varies
SIZES = (50, 100, 200, 400, 1000, 2000)
WIDTH = 64  # while the number of examples varies


class Errors(NamedTuple):
    """Errors of one point, one for each seed."""

    train: np.ndarray
    test: np.ndarray


def main() -> None:
    given = flags.FLAGS
    dataset = data.load(given.dataset, given.data_dir)
    curves = run(dataset, WIDTHS, SIZES, given.seeds, given.steps)
    if given.output:
        plot(*curves, pathlib.Path(given.output))
        print(f"wrote {given.output}")


def run(
    dataset: data.Dataset, widths: Sequence[int], sizes: Sequence[int], seeds: int, count: int
) -> tuple[dict[int, Errors], dict[int, Errors]]:
    """Prints and returns the errors by hidden units, and by number of examples."""
    print(f"hidden units ({EXAMPLES} examples)   training error    test error")
    capacity = {}
    for width in widths:
        capacity[width] = errors(dataset, [EXAMPLES], width, seeds, count)[0]
        print_row(width, capacity[width])
    print(f"examples ({WIDTH} hidden units)      training error    test error")
    size = dict(zip(sizes, errors(dataset, sizes, WIDTH, seeds, count), strict=True))
    for examples, point in size.items():
        print_row(examples, point)
    return capacity, size


def errors(
    dataset: data.Dataset, sizes: Sequence[int], width: int, seeds: int, count: int
) -> list[Errors]:
    """Trains an MLP on each number of examples, for all seeds at once, by vmap."""
    model = models.create(
        "mlp", hidden=(width,), dropout=(0.0,), activation="tanh", kernel_init="xavier_uniform"
    )
    settings = OptimizerConfig(learning_rate=0.05, momentum=0.9)
    optimizer = optimizers.make(settings, count, 1)

    def preprocess(images: Array, key: Array | None) -> Array:
        return augment.normalize(images)

    shape = dataset.train_images.shape[1:]
    init = functools.partial(steps.init_state, model, optimizer, preprocess, shape)
    step = steps.make_train_step(model, optimizer, preprocess)
    evaluate = programs.make_eval_steps(steps.make_eval_step(model, preprocess))
    train_part = programs.Data(jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels))
    test_part = programs.Data(jnp.asarray(dataset.test_images), jnp.asarray(dataset.test_labels))
    everything = data.batches(np.arange(len(dataset.test_labels)), BATCH, False)
    test_order = programs.Order(*map(jnp.asarray, everything))

    @functools.partial(jax.jit, compiler_options=programs.compiler_options())
    @functools.partial(jax.vmap, in_axes=(0, 0, 0))
    def run(seed: Array, order: programs.Order, seen: programs.Order) -> tuple[Array, ...]:
        start = jax.tree.map(jnp.asarray, steps.Totals.zeros(len(dataset.class_names)))
        train_steps = programs.make_train_steps(step)
        state, _ = train_steps(init(seed), start, train_part, order, 0, count)
        totals = evaluate(state, train_part, seen), evaluate(state, test_part, test_order)
        correct = (part.sums["accuracy"].astype(jnp.float32) for part in totals)
        return tuple(1 - c / part.examples for c, part in zip(correct, totals, strict=True))

    points = []
    for size in sizes:
        orders = [training_order(dataset, size, seed, count) for seed in range(seeds)]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *orders)
        points.append(Errors(*map(np.asarray, run(jnp.arange(seeds), *stacked))))
    return points


def training_order(
    dataset: data.Dataset, size: int, seed: int, count: int
) -> tuple[programs.Order, programs.Order]:
    """Returns the batches to train on, shuffled anew for each pass, and those to evaluate on."""
    keep = sampling.stratified(dataset.train_labels, size, seed)
    passes = -(-count * BATCH // size)
    order = np.concatenate([keep[data.epoch_order(seed, i, size)] for i in range(passes)])
    batches = data.batches(order[: count * BATCH], BATCH, False)
    rest = np.zeros(len(dataset.train_labels) - size, np.int32)
    indices, _ = data.batches(np.concatenate([keep, rest]), BATCH, False)
    weights = (np.arange(indices.size) < size).astype(np.float32).reshape(indices.shape)
    return programs.Order(*batches), programs.Order(indices, weights)


def print_row(value: int, point: Errors) -> None:
    """Prints mean ± standard deviation over the seeds."""
    cells = (f"{part.mean():.3f} ± {part.std(ddof=1):.3f}" for part in point)
    print(f"{value:12d}" + "".join(f"{cell:>20}" for cell in cells))


def plot(capacity: dict[int, Errors], size: dict[int, Errors], file: pathlib.Path) -> None:
    """Draws mean errors with a band of a standard deviation."""
    figure = plots.make_figure(9, 3.8)
    panels = figure.subplots(1, 2, sharey=True)
    titles = (f"capacity: {EXAMPLES:,} examples", f"data: {WIDTH} hidden units")
    names = ("hidden units", "training examples")
    for axes, title, name, points in zip(panels, titles, names, (capacity, size), strict=True):
        for part in ("test", "train"):
            values = np.array([getattr(point, part) for point in points.values()])
            mean, sd = values.mean(1), values.std(1, ddof=1)
            plots.draw_band(axes, list(points), part, mean, mean - sd, mean + sd, marker="o", ms=4)
        axes.set_xscale("log", base=2 if points is capacity else 10)
        axes.set_xticks(list(points), [f"{value:,}" for value in points])
        axes.minorticks_off()
        axes.set_xlabel(name)
        axes.set_title(title, fontsize=11)
        axes.set_ylim(bottom=0)
        plots.style_axes(axes)
    panels[0].set_ylabel("error")
    panels[0].legend(frameon=False)
    plots.save(figure, file)


if __name__ == "__main__":
    flags.DEFINE_string("dataset", "fashion_mnist_mini", "A data set of at least 2,000 examples.")
    launch.define_path("data_dir", None, "Where the data set is.")
    flags.DEFINE_integer("seeds", 5, "Runs for each point.", lower_bound=2)
    flags.DEFINE_integer("steps", 1000, "Steps of training.", lower_bound=1)
    launch.define_path("output", None, "Draw both curves into this PNG file.")
    launch.run(main)
