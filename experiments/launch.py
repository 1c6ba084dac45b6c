"""How every command here starts: absl flags, configurations, and errors in one sentence."""

import contextlib
import difflib
import os
import pathlib
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from cnn_jax import config

ROOT = pathlib.Path(__file__).parent.parent
CONFIG_FLAGS = ("config", "plain")  # --plain is experiments.ablation's
CLOSED_PIPE = 128 + 13  # exit code: as if ended by SIGPIPE, which not all systems have


def define_config() -> Any:
    """Defines --config=FILE[:options] and the overrides --config.a.b=value; returns its holder."""
    return config_flags.DEFINE_config_file(
        "config", None, "An experiment: a file under experiments/configs, as FILE[:options]."
    )


def run(main: Callable[..., int | None], *operands: str) -> None:
    """Parses the flags, calls `main` and exits with what it returns.

    `operands` names what the command takes besides flags, if anything; `main` is called with it.
    One that ends in "…", the last, may be given several times.

    Our own errors, and what is wrong with the flags, are one line on standard error and exit code
    2; any other exception is a bug and keeps its traceback.
    """
    logging.set_verbosity(logging.FATAL)  # what goes wrong in a library comes as an exception
    sys.unraisablehook = _unraisable

    def body(argv: Sequence[str]) -> int | None:
        given = argv[1:]
        several = bool(operands) and operands[-1].endswith("…")
        if len(given) > len(operands) and not several:
            extra = given[len(operands)]
            return fail(f"{extra!r} is not a flag; flags look like --name=value (see --help).")
        if len(given) < len(operands):
            return fail(f"{operands[len(given)]} is missing (see --help).")
        keep_compiled()
        try:
            code = main(*given)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            raise
        except (ValueError, OSError) as error:
            if not is_ours(error):
                raise
            return fail(str(error))

    try:
        app.run(body, flags_parser=_parse)
    except BrokenPipeError:  # as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(CLOSED_PIPE)


def keep_compiled() -> None:
    """Keeps compiled programs in ~/.cache/cnn_jax, from which later starts take them.

    One folder per machine, as a home may be shared by machines of different kinds. Where
    JAX_COMPILATION_CACHE_DIR is set it is used instead; empty, nothing is kept.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        directory = pathlib.Path(home, "cnn_jax", "compiled", platform.node())
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return  # no home, or no room: every start compiles
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def use_all_cores() -> None:
    """Makes every core a device of its own where the device is a CPU; for populations."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    use_devices(len(affinity(0)) if affinity else os.cpu_count() or 1)


def use_devices(count: int) -> None:
    """Makes so many devices of the CPU, where it is the device.

    Called before JAX's first computation; after it the devices stay as they are. Who has chosen a
    number of devices keeps it.
    """
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen and "JAX_NUM_CPU_DEVICES" not in os.environ:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", count)


def _unraisable(unraisable: Any) -> None:
    """Leaves out what TensorStore's other writes have to say after one of them failed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def fail(sentence: str) -> int:
    """Prints the sentence as an error and returns the exit code for it."""
    print(f"error: {sentence}", file=sys.stderr)
    return 2


def _parse(argv: list[str]) -> list[str]:
    try:
        _check_files(argv)
        rest = flags.FLAGS(argv)
        for name in CONFIG_FLAGS:  # an OSError in a file is kept until its values are asked for
            kept = flags.FLAGS[name].value if name in flags.FLAGS else None
            if error := getattr(kept, "__dict__", {}).get("_error"):
                raise error
        return rest
    except BrokenPipeError:
        raise
    except flags.UnrecognizedFlagError as error:
        known = [name for name in flags.FLAGS if not name.startswith("config.")]
        close = difflib.get_close_matches(error.flagname, known, 1)
        sentence = f"--{error.flagname} is not a flag of this command"
        sentence += f"; did you mean --{close[0]}?" if close else " (see --help)."
    except flags.Error as error:
        lines = str(error).strip().split("\n")
        # What a configuration file raised comes as text, its traceback included.
        raised = any(line.startswith("Traceback") for line in lines)
        sentence = (lines[-1].partition(": ")[2] or lines[-1]) if raised else lines[0]
    except KeyError as error:
        sentence = _unknown_key(argv) or _located(error)
    except SyntaxError as error:
        sentence = f"{error.filename}, line {error.lineno}: {error.msg}."
    except (config.ConfigError, TypeError, ValueError) as error:
        sentence = str(error).split("\n")[0]
    except Exception as error:
        sentence = _located(error)
    sys.exit(fail(sentence))


def _located(error: BaseException) -> str:
    """Says in one line what a configuration file raised, and where."""
    while error.__cause__ is not None:
        error = error.__cause__
    where = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__} {error}".strip().split("\n")[0]
    return f"{where.filename}, line {where.lineno}: {what}"


def _check_files(argv: Sequence[str]) -> None:
    """Raises ConfigError if a configuration file isn't there or isn't Python."""
    for argument, following in zip(argv[1:], [*argv[2:], ""], strict=True):
        flag, given, value = argument.partition("=")
        if flag.lstrip("-") in CONFIG_FLAGS and flag.startswith("-"):
            value = value if given else following
            if not value or value.startswith("-"):
                raise config.ConfigError(
                    f"--{flag.lstrip('-')} needs a file, experiments/configs/lenet.py say."
                )
            file = pathlib.Path(value.partition(":")[0])
            if not file.is_file():
                raise config.ConfigError(f"the configuration file {file} doesn't exist.")
            if file.suffix != ".py":
                raise config.ConfigError(f"the configuration file {file} must be Python, .py.")


def _unknown_key(argv: Sequence[str]) -> str | None:
    """Says which --config.a.b is not in the tree, and what comes nearest."""
    known = config.flatten(config.Config())
    for argument in argv[1:]:
        name = argument.lstrip("-").partition("=")[0].removeprefix("no")
        path = name.removeprefix("config.")
        if name.startswith("config.") and path not in known:
            last = {k.rpartition(".")[2]: k for k in known}
            close = difflib.get_close_matches(path, known, 1, 0.6)
            close = close or [
                last[k] for k in difflib.get_close_matches(path.rpartition(".")[2], last, 1, 0.6)
            ]
            hint = f"did you mean --config.{close[0]}?" if close else "see --print_config."
            return f"--{name} is not in the configuration; {hint}"
    return None


def is_ours(error: BaseException) -> bool:
    """Returns whether the exception was raised by this project's own code, that is, on purpose."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return pathlib.Path(last).resolve().is_relative_to(ROOT) and ".venv" not in last
