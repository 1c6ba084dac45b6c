"""What a run leaves behind in its directory, for people and for other programs.

config.json       the whole configuration
environment.json  versions, source revision, devices, command line, data: what else a rerun needs
metrics.jsonl     one JSON object for each epoch
tensorboard/      the same numbers as TensorBoard events
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax

from cnn_jax import config as config_lib

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml_collections")
# What of JAX's own settings can change a number.
JAX_OPTIONS = (
    "jax_default_matmul_precision",
    "jax_enable_x64",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_disable_jit",
    "jax_numpy_dtype_promotion",
)
METRICS = (
    "epoch",
    "step",
    "learning_rate",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "examples_per_second",
    "seconds",
)


class RunDirectoryError(ValueError):
    """A run directory that can't be used; the message is one sentence for the user."""


class RunDirectory:
    """A run's files. Held by one process at a time; use it as a context manager.

    Only the process with `writer` true reads and writes there.

    Raises:
      RunDirectoryError: another process holds it, it belongs to another configuration, or it
        can't be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], config: config_lib.Config, writer: bool = True
    ):
        self.path = pathlib.Path(path).absolute()
        self._config = config
        self.writer = writer
        self._board: Any = None
        self._lock: Any = None
        if not writer:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "a")  # noqa: SIM115
        except OSError as error:
            raise RunDirectoryError(
                f"can't write to the run directory {self.path}: {error.strerror}. Choose another "
                "--workdir."
            ) from error

    def __enter__(self) -> "RunDirectory":
        if self._lock:
            try:
                # The lock goes with the process, however it ends.
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunDirectoryError(
                    f"another process is training in {self.path}; wait for it or choose another "
                    "--workdir."
                ) from error
            self._check_config()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._board:
            with contextlib.suppress(OSError):  # what it had to say was said by flush
                self._board.close()
        if self._lock:
            self._lock.close()

    def _check_config(self) -> None:
        file = self.path / "config.json"
        if not file.exists() and any((self.path / "checkpoints").glob("[0-9]*")):
            raise RunDirectoryError(
                f"{self.path} has checkpoints but no config.json, which would say of what; remove "
                "the directory or choose another --workdir."
            )
        old_config = read_config(self.path) if file.exists() else self._config
        for path, (old, new) in different(old_config, self._config).items():
            if not path.startswith(config_lib.FREE):
                raise RunDirectoryError(
                    f"{self.path} holds a run with another configuration: there config.{path}="
                    f"{old!r}, here {new!r}. Choose another --workdir, or the same configuration "
                    "to resume."
                )
        write_json(file, config_lib.to_dict(self._config))

    def write_environment(self, more: dict[str, Any]) -> None:
        """Writes environment.json, with `more`; a resumed run keeps the first and lists others."""
        if not self.writer:
            return
        file = self.path / "environment.json"
        now = {**environment(), **more}
        if file.exists():
            first = read_environment(self.path)
            # Of the data, which may be much, only what is not as it was.
            now = {k: v for k, v in now.items() if k != "data" or v != first.get(k)}
            now = {**first, "resumed": [*first.get("resumed", []), now]}
        write_json(file, now)

    def rewrite_metrics(self, history: list[dict[str, Any]]) -> None:
        """Makes metrics.jsonl hold exactly the rows of `history`: those that a checkpoint knows."""
        if self.writer:
            text = "".join(json.dumps(row) + "\n" for row in history)
            write_text(self.path / "metrics.jsonl", text)

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Adds one epoch's row to metrics.jsonl and to the TensorBoard events."""
        if not self.writer:
            return
        path = self.path / "metrics.jsonl"
        with writing(path), open(path, "a") as file:
            file.write(json.dumps(row) + "\n")
        if self._config.records.tensorboard:
            with writing(self.path / "tensorboard"):
                for name, value in row.items():
                    if name not in ("epoch", "step"):
                        self._tensorboard().add_scalar(name, value, row["step"])
                self._tensorboard().flush()

    def _tensorboard(self) -> Any:
        if self._board is None:
            import tensorboardX  # slow to import

            self._board = tensorboardX.SummaryWriter(str(self.path / "tensorboard"))
        return self._board


def read_config(run: pathlib.Path) -> config_lib.Config:
    """Returns the configuration of a recorded run.

    Raises:
      RunDirectoryError: there is none, or it can't be read.
    """
    file = run / "config.json"
    if not file.exists():
        raise RunDirectoryError(f"{run} is not a run directory: it has no config.json.")
    with _reading(file):
        return config_lib.from_dict(json.loads(file.read_text()))


def read_environment(run: pathlib.Path) -> dict[str, Any]:
    """Returns a run's environment.json.

    Raises:
      RunDirectoryError: there is none, or it can't be read.
    """
    file = run / "environment.json"
    with _reading(file):
        found = json.loads(file.read_text())
        if not isinstance(found, dict) or not isinstance(found.get("resumed", []), list):
            raise TypeError("it does not describe an environment.")
        return found


def read_metrics(run: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the rows of a run's metrics.jsonl, one for each finished epoch.

    Raises:
      RunDirectoryError: there is none, or a line of it is not a JSON object.
    """
    file = run / "metrics.jsonl"
    if not file.exists():
        raise RunDirectoryError(f"{run} has no metrics.jsonl; no epoch is finished.")
    with _reading(file):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        if not all(isinstance(row, dict) for row in rows):
            raise TypeError("a line of it is not a JSON object.")
        return rows


def different(old: config_lib.Config, new: config_lib.Config) -> dict[str, tuple[Any, Any]]:
    """Returns {path: (old value, new value)} of what differs."""
    a, b = config_lib.flatten(old), config_lib.flatten(new)
    return {path: (a[path], b[path]) for path in a if a[path] != b[path]}


def environment() -> dict[str, Any]:
    """Returns versions, source revision, devices and command line of this process."""
    devices = jax.devices()
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [sys.executable, *sys.orig_argv[1:]],
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "source": source_revision(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "devices": [d.device_kind for d in devices],
        "backend": devices[0].platform,
        "processes": jax.process_count(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "jax_config": {name: _jax_option(name) for name in JAX_OPTIONS},
    }


def _jax_option(name: str) -> Any:
    value = getattr(jax.config, name, None)
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def source_revision() -> dict[str, Any]:
    """Returns the commit of this source tree, and the hash of what differs from it, if anything.

    What the commands write into it, reports and the README's tables, is no source.
    """
    root = pathlib.Path(__file__).parent.parent

    def git(*arguments: str) -> bytes:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, check=True).stdout

    try:
        commit = git("rev-parse", "HEAD").decode().strip()
        where = ("--", ".", ":!README.md", ":!experiments/reports")
        changes = git("diff", "HEAD", *where)
        changes += git("ls-files", "--others", "--exclude-standard", *where)
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "clean": None, "diff_sha256": None}
    digest = hashlib.sha256(changes).hexdigest() if changes else None
    return {"commit": commit, "clean": not changes, "diff_sha256": digest}


def _processor() -> str:
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def write_json(file: pathlib.Path, value: Any) -> None:
    """Writes indented JSON, lists of numbers in one line each, at once or not at all."""
    text = json.dumps(value, indent=2, default=dataclasses.asdict)
    # A list without strings, lists or objects in it; line breaks occur between values only.
    text = re.sub(r"\[\n[^][{}\"]*\]", _in_one_line, text)
    write_text(file, text + "\n")


def _in_one_line(numbers: re.Match[str]) -> str:
    return "[" + " ".join(numbers[0][1:-1].split()) + "]"


def write_text(file: pathlib.Path, text: str) -> None:
    """Writes a text file as `write_bytes` does."""
    write_bytes(file, text.encode())


@contextlib.contextmanager
def writing(file: pathlib.Path) -> Iterator[None]:
    """Makes the file system's refusal to write `file` a RunDirectoryError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise RunDirectoryError(
            f"can't write {file}: {reason}. What was saved before is intact; mend it and run the "
            "same command again."
        ) from error


def write_bytes(file: pathlib.Path, content: bytes) -> None:
    """Writes a file, at once or not at all: under another name first, then renamed.

    Raises:
      RunDirectoryError: the file system refused it.
    """
    new = file.with_name(file.name + ".new")
    with writing(file):
        new.write_bytes(content)
        new.replace(file)


@contextlib.contextmanager
def _reading(file: pathlib.Path) -> Iterator[None]:
    """Makes whatever is wrong with a file of ours a RunDirectoryError."""
    try:
        yield
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RunDirectoryError(f"{file} can't be read: {error}") from error
