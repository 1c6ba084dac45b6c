"""Compares single runs: what differs in their configurations, their numbers, their curves.

python -m experiments.compare runs/lenet runs/lenet_relu --output=lenet_relu.png

Prints a table in markdown with a column for each run. With --output the learning curves of all of
them are drawn in one picture. Runs that are unfinished or on different data are compared too, and
said to be so; experiments.report averages runs over seeds. Exit codes: 0, 1 if a run's records are
damaged, 2 wrong input.
"""

import pathlib

from cnn_jax.errors import ConfigError
from cnn_jax.reports import comparison
from experiments import launch

OUTPUT = launch.define_path("output", None, "Draw the curves there: a .png, .svg or .pdf.")
KINDS = (".png", ".svg", ".pdf")


def main(*directories: str) -> int:
    launch.check_folder("output")
    if OUTPUT.value and pathlib.Path(OUTPUT.value).suffix not in KINDS:
        raise ConfigError(f"--output={OUTPUT.value} must end in {', '.join(KINDS)}.")
    runs = comparison.read_runs(directories)
    print(comparison.comparison_table(runs))
    if OUTPUT.value:
        comparison.draw_comparison(runs, pathlib.Path(OUTPUT.value))
        print(f"\nwrote {OUTPUT.value}")
    return int(any(run.damaged for run in runs))


if __name__ == "__main__":
    launch.run(main, "RUN", "RUN…")
