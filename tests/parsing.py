"""Reads commands' arguments as the commands do, and stops before they begin their work.

`python -m tests.parsing JSON`, for a list of [name, arguments], prints a JSON list of
[exit code, standard error]. Every command is read in a process forked for it, as its flags stay.
Those that can say what they would do without doing it, say it: see DRY.
"""

import json
import os
import runpy
import sys
import tempfile
import traceback

import cnn_jax.figures.run_figures
import cnn_jax.reports.ablation
import cnn_jax.reports.results
import cnn_jax.sweeps.population
import cnn_jax.torch_weights
import cnn_jax.train  # noqa: F401  imported before forking, like the others
from experiments import launch

DRY = {"train": "--print_config", "sweep": "--dry_run"}
_run = launch.run


def read(name: str, arguments: list[str]) -> None:
    """Reads one command's arguments as its process, and ends with its exit code."""
    sys.argv, code = [name, *arguments], 0
    if name in DRY:
        sys.argv.append(DRY[name])
    else:
        launch.run = lambda main, *operands: _run(lambda *given: 0, *operands)
    try:
        runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
    except SystemExit as request:
        code = int(request.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code)


def read_in_a_fork(name: str, arguments: list[str]) -> tuple[int, str]:
    """Returns the exit code and what was printed on standard error."""
    with tempfile.TemporaryFile() as error:
        if (child := os.fork()) == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(error.fileno(), 2)
            read(name, arguments)
        _, status = os.waitpid(child, 0)
        error.seek(0)
        return os.waitstatus_to_exitcode(status), error.read().decode()


if __name__ == "__main__":
    print(json.dumps([read_in_a_fork(name, given) for name, given in json.loads(sys.argv[1])]))
