"""The records of a run in its directory.

config.json       the whole configuration
environment.json  versions, source revision, devices, command line, data: what else a rerun needs
metrics.jsonl     one JSON object for each epoch
tensorboard/      the same numbers as TensorBoard events
"""

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
from typing import Any, NotRequired, TypedDict

import jax

from cnn_jax import config as config_lib
from cnn_jax import data, events, files, identity, optimizers, processor, schema, text
from cnn_jax.errors import RunDirectoryBusyError, RunDirectoryError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml_collections")
# JAX's settings that can change a result.
JAX_OPTIONS = (
    "jax_default_matmul_precision",
    "jax_enable_x64",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_disable_jit",
    "jax_numpy_dtype_promotion",
)


class Row(TypedDict):
    """A line of metrics.jsonl."""

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    examples_per_second: float
    seconds: float


class LastRow(Row, total=False):
    """A line that may be a run's last."""

    stopped_early: bool  # config.early_stopping ended the run


class DataRecord(TypedDict, total=False):
    """The data in environment.json; runs of earlier versions have fewer fields."""

    provenance: str
    fingerprint: str
    class_names: list[str]
    image_shape: tuple[int, int, int]
    mean: list[float]
    std: list[float]
    border: tuple[float, float]  # mean and spread of the brightness of the images' borders, 0 to 1


class Source(TypedDict):
    """The commit of the source, and whether anything differed from it."""

    commit: str | None
    clean: bool | None
    diff_sha256: NotRequired[str | None]


class Start(TypedDict, total=False):
    """One start of a run in environment.json."""

    time: str
    command: list[str]
    python: str
    packages: dict[str, str]
    source: Source
    platform: str
    processor: str
    cores: int | None
    devices: list[str]
    backend: str
    processes: int
    XLA_FLAGS: str
    threads: int | None  # cores that the process might use
    pool: int | None  # threads of the CPU's pool; None where the device is no CPU
    instruction_set: str
    caches: list[str]
    jax_config: dict[str, bool | int | float | str | None]
    population: dict[str, Any]
    initial_weights: dict[str, str]  # their fingerprint
    data: DataRecord


class Environment(Start, total=False):
    """environment.json: the first start, and those that resumed the run."""

    resumed: list[Start]


class RunDirectory:
    """A run's directory, held by one process at a time, as a context manager.

    Only the process with `writer` true reads and writes there.

    Raises:
      RunDirectoryError: it belongs to another configuration, or it can't be written.
      RunDirectoryBusyError: another process holds it.
    """

    def __init__(
        self, path: str | os.PathLike[str], config: config_lib.Config, writer: bool = True
    ):
        self.path = pathlib.Path(path).absolute()
        self._config = config
        self.writer = writer
        self._board: Any = None
        self._purge_step: int | None = None
        self._lock: Any = None
        if not writer:
            return
        check_apart(self.path, config.dataset)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = files.open_to_append(self.path / ".lock")
        except OSError as error:
            raise RunDirectoryError(
                f"can't write to the run directory {self.path}: {files.say_reason(error)}. Choose "
                "another --workdir."
            ) from error

    def __enter__(self) -> "RunDirectory":
        if self._lock:
            try:
                # The lock ends with the process.
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunDirectoryBusyError(
                    f"another process is training in {self.path}; wait for it or choose another "
                    "--workdir."
                ) from error
            except OSError as error:  # Lustre, if it is mounted without them
                raise RunDirectoryError(
                    f"can't lock the run directory {self.path}: {files.say_reason(error)}. Choose "
                    "a --workdir on a file system with locks (Lustre has them with -o flock)."
                ) from error
            try:
                self._check_config()
            except BaseException:
                self._lock.close()
                raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self._board:
            events.close_writer(self._board)
        if self._lock:
            self._lock.close()

    def _check_config(self) -> None:
        file = self.path / "config.json"
        if not file.exists() and has_checkpoints(self.path):
            raise RunDirectoryError(
                f"{self.path} has checkpoints but no config.json, which would say of what; choose "
                "another --workdir."
            )
        if file.exists() and was_trained(self.path):
            recorded = read_config(self.path)
            changed = identity.compare_recipes(recorded, self._config)
            if changed.keys() <= {"epochs"}:
                self._check_epochs(recorded)
            for path, (old, new) in changed.items():
                raise RunDirectoryError(
                    f"{self.path} holds a run with another configuration: there config.{path}="
                    f"{old!r}, here {new!r}. Choose another --workdir, or the same configuration "
                    "to resume."
                )
        if file.exists() and not was_trained(self.path):
            with files.writing(self.path):  # of another attempt, perhaps of another configuration
                (self.path / "error.json").unlink(missing_ok=True)
        write_json(file, config_lib.to_dict(self._config))

    def _check_epochs(self, recorded: config_lib.Config) -> None:
        """Raises RunDirectoryError if the run can't go on to this number of epochs, or has more."""
        epochs, schedule = self._config.epochs, self._config.optimizer.schedule
        if epochs != recorded.epochs and schedule not in optimizers.OPEN_ENDED:
            raise RunDirectoryError(
                f"{self.path} holds a run of config.epochs={recorded.epochs}, over which its "
                f"{schedule} schedule spreads the learning rate, so that it is no part of one of "
                f"{epochs}; start a new run from its weights, with another --workdir and "
                f"--config.init_from={self.path}."
            )
        file = self.path / "metrics.jsonl"
        done = len(read_metrics(self.path)) if epochs < recorded.epochs and file.exists() else 0
        if done > epochs:
            raise RunDirectoryError(
                f"{self.path} holds a run of {done} epochs already, more than config.epochs="
                f"{epochs}; choose another --workdir for a shorter one."
            )

    def write_environment(self, dataset: data.AnyDataset, more: dict[str, Any]) -> None:
        """Writes environment.json, with `more`; a resumed run lists its starts after the first.

        Raises:
          RunDirectoryError: the run was begun on other data than `dataset`.
        """
        if not self.writer:
            return
        file = self.path / "environment.json"
        now = {**environment(), **more}
        if file.exists() and was_trained(self.path):
            first = read_environment(self.path)
            there, here = identity.read_data(first), identity.identify_data(dataset)
            if changed := identity.compare_data(there, here):
                raise RunDirectoryError(
                    f"{self.path} holds a run on other data: {changed}. Put back the data that it "
                    "was trained on, or choose another --workdir."
                )
            # The data, which may be large, only if they changed.
            now = {k: v for k, v in now.items() if k != "data" or v != first.get(k)}
            if "initial_weights" in more:  # nothing was saved: the run begins again, from these
                first["initial_weights"] = more["initial_weights"]
            now = {**first, "resumed": [*first.get("resumed", []), now]}
        write_json(file, now)

    def rewrite_metrics(self, history: list[dict[str, Any]]) -> None:
        """Makes metrics.jsonl hold exactly the rows of `history`; TensorBoard drops later steps."""
        if self.writer:
            lines = "".join(json.dumps(row) + "\n" for row in history)
            files.write_text(self.path / "metrics.jsonl", lines)
            self._purge_step = history[-1]["step"] + 1 if history else 0

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Appends a row to metrics.jsonl and to the TensorBoard events."""
        if not self.writer:
            return
        path = self.path / "metrics.jsonl"
        with files.writing(path), files.open_to_append(path) as file:
            file.write(json.dumps(row) + "\n")
        if self._config.records.tensorboard:
            with files.writing(self.path / "tensorboard"):
                self._board = self._board or events.open_writer(self.path, self._purge_step)
                for name, value in row.items():
                    if name not in ("epoch", "step") and isinstance(value, float):
                        self._board.add_scalar(name, value, row["step"])
                self._board.flush()


def check_apart(directory: pathlib.Path, dataset: config_lib.DatasetConfig) -> None:
    """Raises RunDirectoryError if a directory for records is, or lies in, the folder of the data.

    The next start would take its files for data.
    """
    kind, _ = data.parse_name(dataset.name)
    folder = pathlib.Path(kind).expanduser()
    place, home = directory.resolve(), pathlib.Path(dataset.data_dir or data.DEFAULT_DATA_DIR)
    if (folder.is_dir() and place.is_relative_to(folder.resolve())) or place == home.resolve():
        raise RunDirectoryError(
            f"--workdir={directory} lies among the data, which its files would spoil; choose "
            "another --workdir."
        )


def has_checkpoints(run: pathlib.Path) -> bool:
    """Whether a run's directory holds a checkpoint."""
    return any((run / "checkpoints").glob("[0-9]*"))


def was_trained(run: pathlib.Path) -> bool:
    """Whether a run's directory holds results of training."""
    metrics = run / "metrics.jsonl"
    return has_checkpoints(run) or (metrics.exists() and metrics.stat().st_size > 0)


def read_config(run: pathlib.Path) -> config_lib.Config:
    """Returns the configuration of a recorded run.

    Raises:
      RunDirectoryError: it doesn't exist or can't be read.
    """
    file = run / "config.json"
    if not file.exists():
        raise RunDirectoryError(f"{run} is not a run directory: it has no config.json.")
    tree = schema.read_json(file, dict[str, Any])
    try:
        config = config_lib.from_dict(tree)
        config_lib.check_types(config)
    except (config_lib.ConfigError, RecursionError) as error:
        raise RunDirectoryError(f"{file} can't be read: {error}") from error
    return config


def read_environment(run: pathlib.Path) -> Environment:
    """Returns a run's environment.json.

    Raises:
      RunDirectoryError: it doesn't exist or can't be read.
    """
    found: Environment = schema.read_json(run / "environment.json", Environment)
    return found


def find_environment(run: pathlib.Path) -> Environment:
    """Returns a run's environment.json; an empty one if there is none.

    Raises:
      RunDirectoryError: it can't be read.
    """
    return read_environment(run) if (run / "environment.json").exists() else {}


def read_metrics(run: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the rows of a run's metrics.jsonl, one for each finished epoch.

    Raises:
      RunDirectoryError: it doesn't exist, or a line isn't the row of its epoch.
    """
    file = run / "metrics.jsonl"
    if not file.exists():
        raise RunDirectoryError(f"{run} has no metrics.jsonl; no epoch is finished.")
    rows = []
    for number, line in enumerate(schema.read_record(file).splitlines(), 1):
        row = schema.parse_json(line, LastRow, file, f"line {number}: ")
        if row["epoch"] != number:
            raise RunDirectoryError(
                f"{file} can't be read: line {number}: epoch is {row['epoch']}, where {number} is "
                "expected."
            )
        rows.append(row)
    return rows


def versions() -> dict[str, Any]:
    """Returns the versions and settings that all processes of a run must share, by name."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    source = {f"source.{name}": value for name, value in source_revision().items()}
    options = {name: _jax_option(name) for name in JAX_OPTIONS}
    return {"python": platform.python_version(), **packages, **source, **options}


def environment() -> dict[str, Any]:
    """Returns versions, source revision, devices and command line of this process."""
    devices = jax.devices()
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": text.command_without_secrets([sys.executable, *sys.orig_argv[1:]]),
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
        "pool": processor.pool_size() if devices[0].platform == "cpu" else None,
        "instruction_set": processor.instruction_set(),
        "caches": processor.cache_sizes(),
        "jax_config": {name: _jax_option(name) for name in JAX_OPTIONS},
    }


def _jax_option(name: str) -> Any:
    value = getattr(jax.config, name, None)
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def source_revision() -> dict[str, Any]:
    """Returns the commit of this source tree and the hash of what differs from it, if anything.

    Reports and the README, which commands write, don't count. All are None for a package that was
    installed, also where it stands within a repository of something else.
    """
    file = pathlib.Path(__file__)
    root = file.parent.parent

    def git(*arguments: str) -> bytes:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, check=True).stdout

    try:
        git("ls-files", "--error-unmatch", str(file.relative_to(root)))
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
    """Writes indented JSON atomically, each list of numbers in one line."""
    content = json.dumps(value, indent=2, default=dataclasses.asdict)
    # A list without strings, lists or objects in it; line breaks occur between values only.
    content = re.sub(r"\[\n[^][{}\"]*\]", _in_one_line, content)
    files.write_text(file, content + "\n")


def _in_one_line(numbers: re.Match[str]) -> str:
    return "[" + " ".join(numbers[0][1:-1].split()) + "]"
