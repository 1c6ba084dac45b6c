"""Starting a command as one of several processes, and ending it when another one is lost.

On Slurm, GKE and TPU pods each process finds the others by itself:

    srun python -m experiments.train --distributed --config.parallel=jit …

Elsewhere it is told where process 0 is, how many there are and which one it is:

    python -m experiments.train --distributed --coordinator=HOST:PORT --processes=2 --process_id=0 …
"""

import faulthandler
import os
import subprocess
import sys
import traceback
from collections.abc import Callable

import jax
from absl import flags

from cnn_jax import processes
from cnn_jax.errors import ConfigError, UserError
from experiments import launch

DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Run as one of several processes.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, if not detected.")
PROCESSES = flags.DEFINE_integer("processes", None, "How many processes, if not detected.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is, from 0, if not detected.")
HEARTBEAT = flags.DEFINE_integer(
    "heartbeat",
    30,
    "Seconds without an answer after which a process counts as lost, for example with its machine. "
    "(One that dies closes its connections and is mostly noticed at once.)",
    lower_bound=1,
)

CONNECT_SECONDS = 120
SHUTDOWN_SECONDS = 120  # that processes wait for each other at the end

_GONE = (
    "error: process {} ends because another process of this run is gone; start all of them again "
    "to resume."
)
_ALONE = (
    "srun has started {} processes, which would each train this run by itself; give --distributed "
    "--config.parallel=jit, or start one with srun --ntasks=1."
)
# Printed after the end by another process, which can only guess.
_ABORTED = (
    "error: process {} was aborted or killed, most likely because another process of this run is "
    "gone; start all of them again to resume."
)

# What XLA's collectives and JAX's coordination service say when a process is gone.
_LOST = ("gloo", "nccl", "coordination", "unavailable", "deadline_exceeded", "peer", "heartbeat")


def run(main: Callable[[], int]) -> int:
    """Calls `main`, after joining the other processes if --distributed is given.

    Then an exception in one process ends it at once, with its exit code (2 for our errors, 3 if
    another process was lost, 1 for anything else), and thereby all the others. If JAX's own service
    is the first to see that another one was lost, it aborts this process (exit code 134), after
    which a sentence is printed for it.

    Raises:
      ConfigError: the flags don't say enough, or the processes don't find each other.
    """
    if not DISTRIBUTED.value:
        given = [f for f in (COORDINATOR, PROCESSES, PROCESS_ID) if f.value is not None]
        if given:
            return launch.fail(f"--{given[0].name} needs --distributed.")
        if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
            return launch.fail(_ALONE.format(os.environ["SLURM_STEP_NUM_TASKS"]))
        return main()
    _connect()
    watcher = _watch_for_abort()
    try:
        expected = PROCESSES.value or jax.process_count()
        processes.check_agreement({"the number of processes": expected})
        code = main()
    except Exception as error:
        code = _report(error)
        sys.stdout.flush()
        sys.stderr.flush()
        watcher.kill()
        # An ordinary exit would wait for the others, who are waiting for this one.
        os._exit(code)
    finally:
        watcher.kill()
    return code


def _watch_for_abort() -> subprocess.Popen[bytes]:
    """Starts a small process that prints the likely reason if this one is aborted or killed.

    JAX's coordination service calls C's abort(), after which nothing can be said from within.
    """
    faulthandler.disable()  # the stacks of all threads would say nothing about the cause
    sentence = _ABORTED.format(jax.process_index())
    say = f"import sys; sys.stdin.read(); print({sentence!r}, file=sys.stderr)"
    command = [sys.executable, "-S", "-c", say]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _connect() -> None:
    try:
        jax.distributed.initialize(
            COORDINATOR.value,
            PROCESSES.value,
            PROCESS_ID.value,
            initialization_timeout=CONNECT_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT.value,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"can't join the other processes: {reason} Where they are not detected, give "
            "--coordinator=HOST:PORT --processes=N --process_id=I."
        ) from error


def _report(error: Exception) -> int:
    if isinstance(error, BrokenPipeError):
        return launch.CLOSED_PIPE
    own = isinstance(error, UserError)
    if not own and any(word in str(error).lower() for word in _LOST):
        print(_GONE.format(jax.process_index()), file=sys.stderr)
        return 3
    if sentence := launch.explain_error(error):
        return launch.fail(sentence)
    traceback.print_exception(error)
    return 1
