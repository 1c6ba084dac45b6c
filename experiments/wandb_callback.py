"""Weights & Biases beside a run's own records: an example of a callback.

    from experiments.configs import lenet
    from experiments.wandb_callback import logging_to_wandb

    settings, run = lenet.get_config(), "runs/lenet"
    with logging_to_wandb(settings, run, project="fashion") as callback:
        train_and_evaluate(settings, run, callbacks=[callback])

wandb is no dependency: pip install wandb. Without an account, WANDB_MODE=offline.
"""

import contextlib
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import Any

import jax

from cnn_jax import config, files
from cnn_jax.errors import UserError
from cnn_jax.train import Callback, Row

TIMES = ("epoch", "step")  # the axis, which W&B knows apart from the metrics


@contextlib.contextmanager
def logging_to_wandb(
    settings: config.Config, workdir: str | os.PathLike[str], **options: Any
) -> Iterator[Callback]:
    """Gives a callback that logs each epoch's row, at its step, to a W&B run of its own.

    A run that is resumed goes on in the same W&B run, whose id stands in `workdir`; W&B's files are
    there too. Of several processes the first one logs. `options` are those of `wandb.init`.

    Raises:
      UserError: wandb isn't installed.
    """
    if jax.process_index() > 0:
        yield lambda row: None
        return
    try:
        import wandb  # an optional dependency
    except ModuleNotFoundError as error:
        raise UserError(
            "logging to Weights & Biases needs wandb, which isn't installed: pip install wandb."
        ) from error
    folder = pathlib.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    settings = config.resolve(settings)
    chosen = {"name": folder.name, "dir": str(folder), "config": config.flatten(settings)}
    run = wandb.init(**{**chosen, "id": _read_id(folder), "resume": "allow", **options})

    def log(row: Row) -> None:
        numbers = {name: value for name, value in row.items() if name not in TIMES}
        run.log({"epoch": row["epoch"], **numbers}, step=row["step"])

    try:
        yield log
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


def _read_id(folder: pathlib.Path) -> str:
    """The id of a run's W&B run: the same at each start."""
    file = folder / "wandb_id"
    if not file.exists():
        files.write_text(file, secrets.token_hex(4) + "\n")
    return file.read_text().strip()
