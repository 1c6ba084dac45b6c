"""Runs commands as a person does, in processes of their own; what all of them import is shared.

Reads from standard input [module, arguments, folder, environment] as one line of JSON for each, and
answers with a line of [exit code, standard output, standard error]. A child begins as
`python -m module arguments`, but with JAX and its like imported before it was forked, which saves
two seconds for each. `tests/commands.py` asks.
"""

import json
import os
import runpy
import sys
import tempfile
import traceback

import flax  # noqa: F401
import jax
import matplotlib.figure  # noqa: F401
import ml_collections  # noqa: F401
import optax  # noqa: F401
import orbax.checkpoint  # noqa: F401


def become(module: str, arguments: list[str]) -> None:
    """Runs the module as the program of this process."""
    sys.argv = [module, *arguments]
    sys.orig_argv = [sys.executable, "-m", module, *arguments]
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as request:
        code = request.code if isinstance(request.code, int) else int(request.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(
    module: str, arguments: list[str], folder: str, environment: dict[str, str]
) -> tuple[int, str, str]:
    """Returns the exit code and what was printed by a forked process."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            jax.config.update("jax_platforms", environment.get("JAX_PLATFORMS"))
            become(module, arguments)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        return os.waitstatus_to_exitcode(status), out.read().decode(), err.read().decode()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # of bytecode, even where none is to be kept
        sys.dont_write_bytecode, sys.pycache_prefix = False, folder
        for line in sys.stdin:
            print(json.dumps(run(*json.loads(line))), flush=True)
