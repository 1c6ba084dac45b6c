"""Under- and overfitting of polynomials: error against their degree, and against the data.

python -m experiments.polynomial [--seeds=50] [--output=polynomial.png]

y = 5 + 1.2 x − 3.4 x²/2! + 5.6 x³/3! + noise, with x standard normal and noise of standard
deviation 0.1 ("Dive into Deep Learning", section 4.4). Polynomials are fitted by least squares, so
every one is trained to the end, in float64; the test is on 1,000 fresh examples. Errors are mean
squares, medians over the seeds.

Below degree 3 a polynomial can't follow: both errors are large, it underfits. At 3 both are near
0.01, the variance of the noise. Beyond, the training error still falls and the test error rises by
orders of magnitude: it overfits. More examples help a polynomial of too high a degree: its
training error rises to the variance of the noise, its test error falls to it. The tests hold the
command to this output:

degree (20 examples)   training error    test error
       0                      13.6          27.2
       1                      3.66          12.2
       2                     0.799          8.07
       3                   0.00787        0.0133
       4                   0.00758        0.0438
       5                   0.00684         0.188
       6                   0.00661          5.72
       7                    0.0056           134
       8                   0.00533      1.18e+03
       9                   0.00443      4.51e+04
examples (degree 8)    training error    test error
      12                   0.00179      2.65e+05
      15                    0.0033      9.45e+03
      20                   0.00533      1.18e+03
      30                   0.00694           207
      50                   0.00829          3.08
     100                   0.00919         0.177
     200                   0.00975        0.0245
     500                   0.00987        0.0109
    1000                   0.00992        0.0102
"""

import math
import pathlib
from typing import NamedTuple

import numpy as np
from absl import flags

from cnn_jax.figures import plots, style
from experiments import launch

TRUE = np.array([5, 1.2, -3.4, 5.6])  # of xⁱ/i!
NOISE = 0.1
DEGREES, EXAMPLES = range(10), 20
SIZES, DEGREE = (12, 15, 20, 30, 50, 100, 200, 500, 1000), 8


class Errors(NamedTuple):
    """Mean squared errors, one for each seed."""

    train: np.ndarray
    test: np.ndarray


def main() -> None:
    given = flags.FLAGS
    curves = run(given.seeds)
    if given.output:
        plot(*curves, pathlib.Path(given.output))
        print(f"wrote {given.output}")


def run(seeds: int) -> tuple[dict[int, Errors], dict[int, Errors]]:
    """Prints and returns the errors by degree, and by number of examples."""
    print(f"degree ({EXAMPLES} examples)   training error    test error")
    degrees = {degree: errors(degree, EXAMPLES, seeds) for degree in DEGREES}
    print_rows(degrees)
    print(f"examples (degree {DEGREE})    training error    test error")
    sizes = {size: errors(DEGREE, size, seeds) for size in SIZES}
    print_rows(sizes)
    return degrees, sizes


def errors(degree: int, size: int, seeds: int) -> Errors:
    """Fits polynomials of a degree to `size` examples, for the seeds 0, 1, …"""
    return Errors(*np.array([fit(degree, size, seed) for seed in range(seeds)]).T)


def fit(degree: int, size: int, seed: int) -> tuple[float, float]:
    """Returns training and test error of one fit."""
    generator = np.random.Generator(np.random.Philox(seed))
    x = generator.standard_normal(size + 1000)
    y = features(x, len(TRUE) - 1) @ TRUE + NOISE * generator.standard_normal(len(x))
    inputs = features(x, degree)
    weights = np.linalg.lstsq(inputs[:size], y[:size])[0]
    squares = (inputs @ weights - y) ** 2
    return squares[:size].mean(), squares[size:].mean()


def features(x: np.ndarray, degree: int) -> np.ndarray:
    """Returns 1, x, x²/2!, …, xᵈ/d! of every example, [n, d + 1]."""
    powers = np.arange(degree + 1)
    return x[:, None] ** powers / np.array([math.factorial(i) for i in powers])


def print_rows(points: dict[int, Errors]) -> None:
    """Prints the medians."""
    for value, point in points.items():
        train, test = (np.median(part) for part in point)
        print(f"{value:8d}{train:26.3g}{test:14.3g}")


def plot(degrees: dict[int, Errors], sizes: dict[int, Errors], file: pathlib.Path) -> None:
    """Draws medians of the errors, with a band from the first to the third quartile."""
    figure = plots.make_figure(9, 3.8)
    panels = figure.subplots(1, 2, sharey=True)
    titles = (f"capacity: {EXAMPLES} examples", f"data: degree {DEGREE}")
    for axes, title, points in zip(panels, titles, (degrees, sizes), strict=True):
        for part in ("test", "train"):
            values = np.array([getattr(point, part) for point in points.values()])
            low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=1)
            plots.draw_band(axes, list(points), part, middle, low, high, marker="o", ms=4)
        axes.axhline(NOISE**2, color=style.NEUTRAL, lw=1, ls=":", label="the noise's variance")
        axes.set_yscale("log")
        axes.set_title(title, fontsize=11)
        plots.style_axes(axes)
    panels[0].set_xticks(list(degrees))
    panels[0].set_xlabel("degree of the polynomial (of the data: 3)")
    panels[0].set_ylabel("mean squared error")
    panels[1].set_xscale("log")
    panels[1].set_xticks([10, 30, 100, 300, 1000], ["10", "30", "100", "300", "1,000"])
    panels[1].minorticks_off()
    panels[1].set_xlabel("training examples")
    panels[1].legend(frameon=False)
    plots.save(figure, file)


if __name__ == "__main__":
    flags.DEFINE_integer("seeds", 50, "Draws of the data.", lower_bound=2)
    launch.define_path("output", None, "Draw both curves into this PNG file.")
    launch.run(main)
