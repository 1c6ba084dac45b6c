r"""Trains and evaluates one network.

python -m experiments.train --config=experiments/configs/lenet.py --workdir=runs/lenet \
    --config.optimizer.learning_rate=0.5

The same command again resumes the run, or says that it is finished. Exit codes: 0 finished, 1 the
loss was not finite, 2 wrong input, 3 another process of the run was lost (134 if JAX notices
first), 128 + n stopped by signal n after saving. experiments/distributed.py says how to start
several processes.
"""

import functools
import json
import os
import pathlib
import sys
import warnings
from typing import TextIO

import jax
from absl import flags

from cnn_jax import config, pool, train
from cnn_jax.display import Display, loss_text, show_progress
from cnn_jax.figures import run_figures
from experiments import distributed, launch

CONFIG = launch.define_config()
WORKDIR = launch.define_path("workdir", None, "The run's directory; made if need be.")
PRINT_CONFIG = flags.DEFINE_bool("print_config", False, "Print the configuration and stop.")


def main() -> int:
    launch.require(config=CONFIG.value)
    if PRINT_CONFIG.value:
        config.check(CONFIG.value)
        print(json.dumps(config.to_dict(config.resolve(CONFIG.value)), indent=2))
        return 0
    launch.require(workdir=WORKDIR.value)
    config.check(CONFIG.value)
    pool.use_threads_of_run(CONFIG.value.threads, pathlib.Path(WORKDIR.value))
    return distributed.run(functools.partial(run, WORKDIR.value))


def run(workdir: str) -> int:
    """Trains as the flags say; the first of several processes prints how it ended."""
    out = sys.stdout if jax.process_index() == 0 else open(os.devnull, "w")  # noqa: SIM115
    try:
        row = train.train_and_evaluate(CONFIG.value, workdir, Display(out))
    except train.DivergedError as error:
        launch.fail(str(error))
        return 1
    except train.Interrupted as request:
        print(f"{request}; the same command goes on from there", file=out)
        return 128 + request.signum
    print(
        f"final test_accuracy={row['test_accuracy']:.4f} test_loss={loss_text(row['test_loss'])} "
        f"train_loss={loss_text(row['train_loss'])} "
        f"examples_per_second={row['examples_per_second']:.0f} workdir={workdir}",
        file=out,
    )
    if jax.process_index() == 0:
        draw_figures(pathlib.Path(workdir), CONFIG.value.records, out)
    return 0


def draw_figures(run: pathlib.Path, settings: config.RecordsConfig, out: TextIO) -> None:
    """Draws the missing figures of a finished run and writes its images for TensorBoard.

    A terminal shows what is being drawn; a log ends with the final numbers.
    The run is finished and recorded, so whatever goes wrong here is only warned of.
    """
    run_figures.draw_curves(run)
    evaluated = run_figures.Evaluated(run)
    draw_missing = functools.partial(run_figures.draw_missing, skip=["curves"], stream=out)

    def write_board(evaluated: run_figures.Evaluated) -> None:
        for _ in show_progress(["images for TensorBoard"], "drawing", out):
            run_figures.write_board(evaluated)

    for wanted, draw in (
        (settings.tensorboard and not run_figures.has_board(run), write_board),
        (settings.figures, draw_missing),
    ):
        try:
            if wanted:
                draw(evaluated)
        except Exception as error:
            reason = str(error).strip() or type(error).__name__
            warnings.warn(f"not all figures of the run were drawn: {reason}", stacklevel=2)


if __name__ == "__main__":
    launch.run(main)
