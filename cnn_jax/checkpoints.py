"""Saving and restoring a run, with Orbax, which only this module uses.

A checkpoint is one atomic unit: the training state, as host arrays, and the progress of the loop.
It doesn't depend on the number of devices or processes that wrote it.
"""

import contextlib
import json
import pathlib
import warnings
import zlib
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import flax
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from cnn_jax import files, losses
from cnn_jax.errors import CheckpointError, UserError

BEST = f"test_{losses.BEST_BY}"
# A checkpoint of a run: the newest, the one with the best test accuracy, or that of a step.
Which = Literal["last", "best"] | int


class Progress(NamedTuple):
    """The progress of the training loop."""

    epoch: int  # epochs finished
    position: int  # steps taken within the next epoch
    totals: dict[str, Any]  # of those steps: the metrics' sums by name, and 'examples'
    seconds: float  # spent training in those steps
    history: list[dict[str, Any]]  # one row of metrics for each finished epoch

    @classmethod
    def between_epochs(cls, history: list[dict[str, Any]]) -> "Progress":
        """Returns the progress after the epochs of `history`."""
        return cls(len(history), 0, {}, 0.0, history)


class Checkpoints:
    """The checkpoints of a run directory, as a context manager, which waits for pending writes.

    The two newest and the one with the best test accuracy are kept. Of several processes only the
    one with `writer` true reads and writes.
    """

    def __init__(self, directory: pathlib.Path, writer: bool = True) -> None:
        self._directory = directory.absolute()
        self._manager: Any = None
        if writer:
            with _raising_checkpoint_errors(f"can't use {self._directory}"):
                files.make_folder(self._directory.parent, self._directory.name)
                _set_aside_unlistable(self._directory)
                keep = [
                    checkpoint_managers.LatestN(2),
                    checkpoint_managers.BestN(
                        get_metric_fn=_rank,
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
                self._manager = _open_manager(
                    self._directory,
                    process=0,
                    preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
                    best_fn=_rank,
                    cleanup_tmp_directories=True,
                )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._manager is None:
            return
        try:
            with _raising_checkpoint_errors("can't write a checkpoint"):
                self._manager.close()
        except CheckpointError:
            if exception[0] is None:  # else the first error is raised
                raise

    def save(self, state: Any, progress: Progress) -> None:
        """Starts to write a checkpoint; `state` is a tree of host arrays with a `step`.

        Raises:
          CheckpointError: the file system refused it.
        """
        if self._manager is None:
            return
        step = int(state.step)
        metrics = None
        if progress.position == 0 and progress.history:
            metrics = {BEST: progress.history[-1][BEST]}
        arrays = jax.tree.map(np.asarray, _by_name(state))
        checked = {**progress._asdict(), "checksum": _checksum(arrays, progress)}
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays), progress=ocp.args.JsonSave(checked)
        )
        with _raising_checkpoint_errors("can't write a checkpoint"):
            saved = self._manager.save(step, args=arguments, metrics=metrics)
        if not saved:
            raise CheckpointError(
                f"the checkpoint of step {step} was not written: {self._directory} already holds "
                f"step {self._manager.latest_step()}. Start in a new --workdir."
            )

    def wait(self) -> None:
        """Waits until what was saved is on the disk.

        Raises:
          CheckpointError: the file system refused it.
        """
        if self._manager is None:
            return
        with _raising_checkpoint_errors("can't write a checkpoint"):
            self._manager.wait_until_finished()

    def newest(self) -> int | None:
        """Returns the step of the newest checkpoint, or None."""
        return None if self._manager is None else self._manager.latest_step()

    def restore(self, like: Any) -> tuple[Any, Progress] | None:
        """Returns the newest state and progress that can be read, or None if there is none.

        A checkpoint that can't be read is moved aside, with a warning, and the one before is taken.
        `like` is a state (arrays or shapes) with the structure, shapes and types expected.

        Raises:
          CheckpointError: there are checkpoints but none can be read, or one is of another network.
        """
        if self._manager is None:
            return None
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                stored, progress = _read(self._manager, step)
            except Exception as error:  # Orbax, TensorStore and the file system each have their own
                if _is_of_the_system(error):
                    raise CheckpointError(
                        f"the checkpoint {self._directory / str(step)} can't be read now: "
                        f"{_first_line(error)}. It is left as it is."
                    ) from error
                _move_aside(self._directory / str(step), error)
                self._manager.reload()
                continue
            return _restore_structure(stored, like, self._directory / str(step)), progress
        if steps:
            raise CheckpointError(
                f"none of the {len(steps)} checkpoints in {self._directory} can be read; they were "
                "moved aside. Run the command again to start from the beginning."
            )
        return None


def _open_manager(directory: pathlib.Path, process: int, **options: Any) -> ocp.CheckpointManager:
    """Opens the checkpoints in a directory for one process, independent of others."""
    return ocp.CheckpointManager(
        directory,
        item_names=("state", "progress"),
        options=ocp.CheckpointManagerOptions(
            create=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=process, active_processes={process}
            ),
            **options,
        ),
    )


def _rank(metrics: dict[str, Any]) -> float:
    return float(metrics[BEST])


def _find_step(manager: ocp.CheckpointManager, directory: pathlib.Path, checkpoint: Which) -> int:
    """Returns the step of a checkpoint that is there.

    Raises:
      CheckpointError: it isn't there.
    """
    steps = sorted(manager.all_steps())
    if not steps:
        raise CheckpointError(f"{directory} is empty; the run saved nothing yet.")
    if checkpoint == "last":
        return int(steps[-1])
    step = manager.best_step() if checkpoint == "best" else checkpoint
    if step is None:
        raise CheckpointError(
            f"{directory} has no best checkpoint, as no epoch is finished; the last one is that of "
            f"step {steps[-1]}."
        )
    if step not in steps:
        raise CheckpointError(
            f"{directory} has no checkpoint of step {step}; it has those of "
            f"{', '.join(map(str, steps))}."
        )
    return int(step)


def _set_aside_unlistable(directory: pathlib.Path) -> None:
    """Moves aside checkpoints with damaged JSON files, or Orbax couldn't open the directory."""
    for step in [path for path in directory.iterdir() if path.name.isdigit()]:
        try:
            for file in (step / "_CHECKPOINT_METADATA", step / "metrics" / "metrics"):
                if file.exists():
                    json.loads(file.read_bytes())
        except ValueError as error:
            _move_aside(step, error)


def _move_aside(checkpoint: pathlib.Path, error: Exception) -> None:
    step, run = checkpoint.name, checkpoint.parent.parent
    aside = files.make_folder(run, "unreadable_checkpoints") / step
    while aside.exists():
        aside = aside.with_name(aside.name + "_again")
    checkpoint.rename(aside)
    warnings.warn(
        f"The checkpoint of step {step} can't be read ({_first_line(error)}); it was moved to "
        f"{aside}, and the one before it is used.",
        stacklevel=3,
    )


def find_newest(run_directory: pathlib.Path) -> int | None:
    """Returns the step of a run's newest checkpoint, or None."""
    names = [path.name for path in (run_directory / "checkpoints").glob("[0-9]*")]
    return max((int(name) for name in names if name.isdecimal()), default=None)


def restore_variables(
    run_directory: pathlib.Path, evaluated: bool = True, checkpoint: Which = "last"
) -> dict[str, Any]:
    """Returns the network's variables, {'params': …, 'batch_stats': …}, of a run's checkpoint.

    If the run keeps averages, the variables are these; not `evaluated`, they are those that are
    trained, and the averages are 'averages'.

    Raises:
      CheckpointError: the directory holds no such checkpoint that can be read.
    """
    with _opening(run_directory, checkpoint) as (manager, step):
        stored, _ = _read(manager, step)
    averages = {name: value for name, value in stored.items() if name.startswith("averages.")}
    trained = {n: v for n, v in stored.items() if n.startswith(("params.", "model_state."))}
    if evaluated:
        found = {name.removeprefix("averages."): v for name, v in (averages or trained).items()}
    else:
        found = {**trained, **averages}
    variables = {
        tuple(name.removeprefix("model_state.").split(".")): value for name, value in found.items()
    }
    return flax.traverse_util.unflatten_dict(variables)


def find_step(run_directory: pathlib.Path, checkpoint: Which) -> int:
    """Returns the step of a run's checkpoint.

    Raises:
      CheckpointError: the directory holds no such checkpoint.
    """
    with _opening(run_directory, checkpoint) as (_, step):
        return step


@contextlib.contextmanager
def _opening(
    run_directory: pathlib.Path, checkpoint: Which
) -> Iterator[tuple[ocp.CheckpointManager, int]]:
    directory = (run_directory / "checkpoints").absolute()
    jax.devices()  # raises here, not below, if a device can't be used
    if not directory.is_dir():
        raise CheckpointError(f"{run_directory} holds no checkpoints; is it a run directory?")
    ranked = {"best_fn": _rank} if checkpoint == "best" else {}
    with (
        _raising_checkpoint_errors(f"{directory} can't be read"),
        _open_manager(directory, process=jax.process_index(), **ranked) as manager,
    ):
        yield manager, _find_step(manager, directory, checkpoint)


# Words of errors that say that a file can't be read now, rather than that it is damaged.
_SYSTEM = ("permission", "denied", "resource_exhausted", "too many open", "input/output error")


def _is_of_the_system(error: Exception) -> bool:
    return isinstance(error, MemoryError | PermissionError) or any(
        word in str(error).lower() for word in _SYSTEM
    )


def _read(manager: ocp.CheckpointManager, step: int) -> tuple[dict[str, Any], Progress]:
    """Returns the arrays by their names and the progress, as they were saved, to the bit."""
    arguments = ocp.args.Composite(
        state=ocp.args.StandardRestore(), progress=ocp.args.JsonRestore()
    )
    item = manager.restore(step, args=arguments)
    checksum = item["progress"].pop("checksum", None)
    arrays = {name: np.asarray(value) for name, value in item["state"].items()}
    progress = Progress(**item["progress"])
    if checksum not in (None, _checksum(arrays, progress)):
        raise ValueError("its checksum is another")
    if not isinstance(progress.totals, dict):  # of earlier versions
        loss, correct, examples = progress.totals
        totals = {"loss": loss, "accuracy": int(correct), "examples": examples}
        progress = progress._replace(totals=totals)
    return arrays, progress


def _checksum(arrays: dict[str, np.ndarray], progress: Progress) -> int:
    """CRC-32 of all that is saved; Orbax has no checksum of numbers that don't compress."""
    crc = zlib.crc32(json.dumps(progress).encode())
    for name in sorted(arrays):
        crc = zlib.crc32(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8), crc)
    return crc


@contextlib.contextmanager
def _raising_checkpoint_errors(what: str) -> Iterator[None]:
    """Makes an error of Orbax, TensorStore or the file system, of any type, a CheckpointError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise CheckpointError(f"{what}: {_first_line(error)}.") from error


def _first_line(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).split("\n")[0]
    # TensorStore begins with what it did and ends with the reason.
    return line if len(line) <= 200 else f"{line[:100]} … {line[-100:]}"


def _by_name(tree: Any) -> dict[str, Any]:
    """The leaves by their dotted paths, 'params.Conv_0.kernel', so that no class is written."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def check_fit(variables: Any, expected: Any, run: pathlib.Path) -> None:
    """Raises CheckpointError unless a run's variables have the expected names, shapes and types."""
    if problem := find_misfit(variables, expected):
        raise CheckpointError(f"the checkpoint of {run} {problem}. {_advice(problem)}")


def find_misfit(stored: Any, expected: Any) -> str | None:
    """Describes how a tree of arrays differs from the one expected; None if it doesn't."""
    stored, expected = _by_name(stored), _by_name(expected)
    if set(stored) != set(expected):
        wrong = sorted(set(stored) ^ set(expected))
        return (
            f"is of another network or optimizer: it differs in {wrong[0]} and {len(wrong) - 1} "
            "more"
        )
    for name, want in expected.items():
        have = stored[name]
        if have.shape != want.shape or have.dtype != want.dtype:
            return (
                f"has {name} as {have.dtype}{list(have.shape)}, and the network "
                f"{want.dtype}{list(want.shape)}"
            )
    return None


def _advice(problem: str) -> str:
    if "64[" in problem and jax.config.read("jax_enable_x64"):
        return "JAX computes in 64 bits here (JAX_ENABLE_X64) and did not there; turn that off."
    return "Use another --workdir, or the configuration that it was trained with."


def _restore_structure(stored: dict[str, Any], like: Any, where: pathlib.Path) -> Any:
    """Gives the stored arrays the structure of `like`, after comparing names, shapes and types."""
    expected = _by_name(like)
    if problem := find_misfit(stored, expected):
        raise CheckpointError(f"the checkpoint {where} {problem}. {_advice(problem)}")
    leaves = [stored[name] for name in expected]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
