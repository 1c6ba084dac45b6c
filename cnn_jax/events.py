"""Opening and closing a run's TensorBoard event files."""

import pathlib
import secrets
from typing import Any

from cnn_jax import files


def open_writer(run: pathlib.Path, purge_step: int | None = None) -> Any:
    """Returns a tensorboardX writer of a new file in a run's `tensorboard/`.

    With `purge_step`, TensorBoard forgets what other files have of that step and later ones.
    """
    import tensorboardX  # slow to import

    folder = files.make_folder(run, "tensorboard")
    suffix = f".{secrets.token_hex(4)}"  # else two files of the same second are one
    return tensorboardX.SummaryWriter(str(folder), purge_step=purge_step, filename_suffix=suffix)


def close_writer(writer: Any) -> None:
    """Closes a tensorboardX writer; its `flush` has raised an error already, if there was one."""
    try:
        writer.close()
    except OSError:
        for file in writer.all_writers.values():
            file.event_writer._closed = True  # else it tries again when Python ends
