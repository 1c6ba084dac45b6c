"""Trains a run in a process of its own, for one that needs another pool of threads than this has.

The two talk in pickles: the parent sends what to train and answers each row of metrics with whether
to stop; the child sends rows, and at last the result or the exception.
"""

import contextlib
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import IO, Any

from cnn_jax import config, epochs, extensions, train
from cnn_jax.display import Silent

CHILD = "from cnn_jax.sweeps import own_process; own_process.serve()"


def train_and_evaluate(
    settings: config.Config, workdir: pathlib.Path, stop: train.Stop | None = None
) -> train.Row:
    """Does what `cnn_jax.train.train_and_evaluate` does, in another process.

    A signal to stop is handed on to it: the first makes it save the run, the second kills it.

    Raises:
      What it raises; KeyboardInterrupt: a signal ended it before it could save.
      RuntimeError: it died.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,  # the terminal's Ctrl-C comes to this process only
    )
    with _handing_on_signals(child) as received, child:
        try:
            kind, value = _converse(child, (extensions.imported(), settings, workdir), stop)
        except (EOFError, BrokenPipeError) as error:
            if received:
                raise KeyboardInterrupt from error
            code = child.wait()
            raise RuntimeError(f"the process that trained {workdir} died ({code})") from error
        except BaseException:
            child.kill()
            raise
    if kind == "interrupted":
        signum, step = value  # the child was sent SIGTERM, whatever came here
        raise train.Interrupted(received[0] if received else signum, step)
    if kind == "error":
        raise value
    row: train.Row = value
    return row


def _converse(
    child: subprocess.Popen[bytes], task: Any, stop: train.Stop | None
) -> tuple[str, Any]:
    """Sends the task and answers until the result comes; returns its kind and value."""
    assert child.stdin is not None
    assert child.stdout is not None
    _send(child.stdin, task)
    while True:
        kind, value = _receive(child.stdout)
        if kind != "row":
            return kind, value
        _send(child.stdin, bool(stop and stop(value)))


@contextlib.contextmanager
def _handing_on_signals(child: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Hands each signal to stop on to the child; yields the list of those that came."""
    received: list[int] = []

    def hand_on(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        child.send_signal(signal.SIGTERM if len(received) == 1 else signal.SIGKILL)

    old = {}
    for signum in epochs.STOP_SIGNALS:
        with contextlib.suppress(ValueError):  # outside the main thread, Python sets no handlers
            old[signum] = signal.signal(signum, hand_on)
    try:
        yield received
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)


def serve() -> None:
    """Trains what comes through the standard input; the child's part."""
    # Whatever prints goes to standard error: the output is the parent's.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def stop(row: train.Row) -> bool:
        _send(output, ("row", row))
        return bool(_receive(sys.stdin.buffer))

    try:
        paths, settings, workdir = _receive(sys.stdin.buffer)
        extensions.import_files(paths)
        answer: tuple[str, Any] = (
            "done",
            train.train_and_evaluate(settings, workdir, Silent(), stop),
        )
    except train.Interrupted as request:
        answer = ("interrupted", (request.signum, request.step))
    except Exception as error:
        answer = ("error", _portable(error))
    with contextlib.suppress(BrokenPipeError):
        _send(output, answer)


def _portable(error: Exception) -> Exception:
    """Returns the exception, or one that says the same, as another process can read it."""
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:  # whatever its class does with its arguments
        pass
    return RuntimeError("".join(traceback.format_exception_only(error)).strip())


def _send(stream: IO[bytes], value: Any) -> None:
    pickle.dump(value, stream)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    return pickle.load(stream)
