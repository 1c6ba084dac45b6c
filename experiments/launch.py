"""How every command here starts: absl flags, configurations, and errors in one sentence."""

import contextlib
import io
import os
import pathlib
import platform
import sys
import textwrap
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

import jax
from absl import app, flags, logging

from cnn_jax import config, extensions, files, processor, records, text
from cnn_jax.errors import ConfigError, UserError
from experiments import config_options

flags.disclaim_key_flags()  # those defined through this module belong to the command that asks

ROOT = pathlib.Path(__file__).parent.parent
CONFIG_FLAGS = ("config", "plain")  # --plain is experiments.ablation's
CLOSED_PIPE = 128 + 13  # exit code: as if ended by SIGPIPE, which not all systems have
HELP = ("help", "h", "helpshort", "?")
EXAMPLE = "experiments/configs/lenet.py"
REQUIRED = {  # flags that commands can't do without: what they need, and an example
    "config": ("a configuration", EXAMPLE),
    "plain": ("the recipe to compare with", "experiments/configs/mlp.py"),
    "run": ("the directory of a run", "runs/lenet"),
    "workdir": ("a directory for what is trained", "runs/lenet"),
}


flags.DEFINE_multi_string(
    "import", [], "A Python file that adds networks, metrics, optimizers, …, run first; repeat."
)


def define_config(name: str = "config", what: str = "An experiment") -> Any:
    """Defines --config=FILE[:options] and the overrides --config.a.b=value; returns its holder."""
    return config_options.define(
        name, f"{what}: a file under experiments/configs, as FILE[:options]."
    )


class _PathParser(flags.ArgumentParser[str]):
    """A path as a person types it: ~ is the home directory, and something must be there."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        if not argument.strip() or "\0" in argument:
            raise ValueError("it is empty; give a path")
        return os.path.expanduser(argument)


def define_path(name: str, default: str | None, what: str) -> Any:
    """Defines a flag that takes the path of a file or a directory; returns its holder."""
    return flags.DEFINE(_PathParser(), name, default, what, serializer=flags.ArgumentSerializer())


class _CheckpointParser(flags.ArgumentParser[str | int]):
    """last, best or the number of a step."""

    syntactic_help = "last, best or a step"

    def parse(self, argument: str | int) -> str | int:
        if argument in ("last", "best") or isinstance(argument, int):
            return argument
        if argument.isdecimal() and argument.isascii() and len(argument) < 10:
            return int(argument)
        raise ValueError("it must be last, best or the number of a step")


def define_checkpoint() -> Any:
    """Defines --checkpoint, which of a run's checkpoints a command uses; returns its holder."""
    what = "Which checkpoint: last, best (of the highest test accuracy) or a step."
    serializer = flags.ArgumentSerializer[str | int]()
    return flags.DEFINE(_CheckpointParser(), "checkpoint", "last", what, serializer=serializer)


def require(**values: Any) -> None:
    """Raises ConfigError if the value of a flag, one of REQUIRED, is None: it isn't given."""
    for name, value in values.items():
        if value is None:
            what, example = REQUIRED[name]
            raise ConfigError(f"give {what}, for example --{name}={example}.")


def run(main: Callable[..., int | None], *operands: str) -> None:
    """Parses the flags, calls `main` and exits with what it returns.

    `operands` names what the command takes besides flags, if anything; `main` is called with it.
    The last may be given several times if it has a "…", and left out if it is in brackets.

    What is wrong with the flags, a UserError, and what the system refuses are one line on standard
    error and exit code 2; any other exception is a bug and keeps its traceback.
    """
    logging.set_verbosity(logging.FATAL)  # what goes wrong in a library comes as an exception
    sys.unraisablehook = _unraisable
    threading.excepthook = _thread_ended
    warnings.showwarning = _show_warning
    sys.stdout, sys.stderr = HarmlessStream(sys.stdout), HarmlessStream(sys.stderr)

    def body(argv: Sequence[str]) -> int | None:
        given = argv[1:]
        several = bool(operands) and "…" in operands[-1]
        if len(given) > len(operands) and not several:
            extra = given[len(operands)]
            return fail(f"{extra!r} is not a flag; flags look like --name=value (see --help).")
        needed = sum(not operand.startswith("[") for operand in operands)
        if len(given) < needed:
            return fail(f"{operands[len(given)]} is missing (see --help).")
        keep_compiled()
        try:
            extensions.import_files(flags.FLAGS["import"].value or ())
            code = main(*given)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            raise
        except Exception as error:
            if (sentence := explain_error(error)) is None:
                raise
            return fail(sentence)

    try:
        app.run(body, flags_parser=lambda argv: _parse(argv, operands))
    except BrokenPipeError:  # as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(CLOSED_PIPE)


class HarmlessStream(io.TextIOBase):
    """A stream that escapes what could steer a terminal, but for tqdm's return (\\r)."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")

    def write(self, shown: str) -> int:
        self._stream.write(text.printable(shown, keep="\n\t\r"))
        return len(shown)

    def __getattribute__(self, name: str) -> Any:
        if name in ("write", "writelines", "__class__", "_stream"):
            return object.__getattribute__(self, name)
        return getattr(object.__getattribute__(self, "_stream"), name)


def explain_error(error: BaseException) -> str | None:
    """Returns the sentence that an exception is for the user; None if it is a bug."""
    if isinstance(error, UserError):
        return str(error)
    first = (str(error).strip() or type(error).__name__).split("\n")[0]
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in first:
        return (
            f"there is not enough memory ({first}); a smaller batch_size or eval_batch_size, "
            "smaller images or fewer of them need less."
        )
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"the system refused something: {where}{files.say_reason(error)}."
    frames = traceback.extract_tb(error.__traceback__)
    if frames and frames[-1].filename.endswith("xla_bridge.py"):  # where JAX starts a backend
        asked = os.environ.get("JAX_PLATFORMS")
        named = f" that JAX_PLATFORMS={asked} names" if asked else ""
        reason = f" ({first})" if str(error) else ""
        return f"JAX can't use the device{named}{reason}; JAX_PLATFORMS=cpu takes the processor."
    return None


def keep_compiled() -> None:
    """Keeps compiled programs in ~/.cache/cnn_jax, from which later starts take them.

    One folder per machine, as a home may be shared by machines of different kinds. Where
    JAX_COMPILATION_CACHE_DIR is set it is used instead; if it is empty, nothing is kept.
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


def check_folder(name: str) -> None:
    """Raises ConfigError if the folder of the file that --NAME gives, if any, doesn't exist."""
    file = flags.FLAGS[name].value
    if file and not pathlib.Path(file).absolute().parent.is_dir():
        raise ConfigError(f"the directory of --{name}={file} doesn't exist; make it first.")


def check_report(name: str) -> None:
    """Raises ConfigError if the file that --NAME gives, if any, is no .md, or has no folder."""
    file = flags.FLAGS[name].value
    if file and pathlib.Path(file).suffix != ".md":
        raise ConfigError(f"--{name}={file} must end in .md; its JSON is written beside it.")
    check_folder(name)


def describe_environment() -> dict[str, Any]:
    """Returns what this process runs on, and its command without the interpreter's path."""
    return {**records.environment(), "command": ["python", *sys.orig_argv[1:]]}


def use_all_cores() -> None:
    """Makes a device of each thread of the pool where the device is a CPU; for populations."""
    use_devices(processor.pool_size())


def use_devices(count: int) -> None:
    """Makes `count` devices of the CPU, where it is the device.

    Has an effect before JAX's first computation only, and none where the environment has chosen a
    number of devices.
    """
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen and "JAX_NUM_CPU_DEVICES" not in os.environ:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", count)


def _unraisable(unraisable: Any) -> None:
    """Hides what further writes raise after the first that failed, which was reported."""
    error = unraisable.exc_value
    if str(error) != "Event loop is closed" and not isinstance(error, OSError):
        sys.__unraisablehook__(unraisable)


def _thread_ended(ended: Any) -> None:
    """Hides what the thread that writes events couldn't do: the flush that follows reports it."""
    if not isinstance(ended.exc_value, OSError):
        threading.__excepthook__(ended)


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    """Shows a warning as one line, without the place in the code that gave it."""
    del where, more
    print(f"warning: {text.one_line(text.without_secrets(str(message)))}", file=sys.stderr)


def fail(sentence: str) -> int:
    """Prints the sentence as an error and returns the exit code for it."""
    print(f"error: {text.one_line(text.without_secrets(sentence))}", file=sys.stderr)
    return 2


# The command line --------------------------------------------------------------------------------


def _parse(argv: list[str], operands: Sequence[str]) -> list[str]:
    try:
        given = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
        if any(argument.lstrip("-") in HELP and argument.startswith("-") for argument in given):
            print(describe_command(operands))
            sys.exit(0)
        argv = _expand(argv)
        _check_files(given)
        try:
            rest = flags.FLAGS(argv)
        except (KeyError, ValueError, flags.Error) as refused:
            if "whilst parsing config file" not in str(refused):
                _check_paths(given)
            raise
        _check_paths(given)  # not before: a configuration file may add a network and its options
        for name in CONFIG_FLAGS:  # ml_collections keeps a file's OSError until it is read
            kept = flags.FLAGS[name].value if name in flags.FLAGS else None
            if error := getattr(kept, "__dict__", {}).get("_error"):
                raise error
        return rest
    except BrokenPipeError:
        raise
    except flags.UnrecognizedFlagError as error:
        known = [name for name in flags.FLAGS if not name.startswith("config.")]
        near = text.find_nearest(error.flagname, known)
        sentence = f"--{error.flagname} is not a flag of this command"
        sentence += f"; did you mean --{near}?" if near else " (see --help)."
    except flags.Error as error:
        lines = str(error).strip().split("\n")
        # What a configuration file raised comes as text, its traceback included.
        raised = any(line.startswith("Traceback") for line in lines)
        sentence = (lines[-1].partition(": ")[2] or lines[-1]) if raised else lines[0]
    except SyntaxError as error:
        sentence = f"{error.filename}, line {error.lineno}: {error.msg}."
    except (UserError, TypeError, ValueError) as error:
        sentence = str(error).split("\n")[0]
    except Exception as error:
        sentence = _located(error)
    sys.exit(fail(sentence))


def describe_command(operands: Iterable[str] = ()) -> str:
    """Returns what --help shows: what the command does, and its own flags."""
    about = (sys.modules["__main__"].__doc__ or "").strip()
    lines = [about, "", "Flags:", ""]
    own = {
        flag.name: flag
        for module, defined in flags.FLAGS.flags_by_module_dict().items()
        for flag in defined
        if module == sys.argv[0] or module.startswith("experiments.") or flag.name in CONFIG_FLAGS
    }
    for name in sorted(own, key=lambda name: (name not in CONFIG_FLAGS, name)):
        flag = own[name]
        default = (flag.default_as_str or "").strip("'")
        given = f" (default: {default})" if default and name not in CONFIG_FLAGS else ""
        shown = f"--[no]{name}" if flag.boolean else f"--{name}=…"
        lines += _aligned(shown, f"{flag.help}{given}")
        if name in CONFIG_FLAGS:
            lines += _aligned(
                f"--{name}.a.b=VALUE",
                f"One value of it: --{name}.optimizer.learning_rate=0.1, "
                f"--{name}.dataset.name=mnist … To see all values there are: "
                "python -m experiments.train --config=FILE --print_config",
            )
    if named := list(operands):
        lines += ["", f"Besides flags it takes: {' '.join(named)}"]
    return "\n".join([*lines, "", "--helpfull shows the flags of the libraries too."])


def _aligned(flag: str, about: str) -> list[str]:
    """Returns the lines for a flag: its name, and what it is from the same column on."""
    first, *rest = textwrap.wrap(about, 74, break_long_words=False, break_on_hyphens=False)
    return [f"  {flag:<22} {first}", *(" " * 25 + line for line in rest)]


def _located(error: BaseException) -> str:
    """Returns in one line what a configuration file raised, and where."""
    while error.__cause__ is not None:
        error = error.__cause__
    where = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__} {error}".strip().split("\n")[0]
    return f"{where.filename}, line {where.lineno}: {what}"


def _expand(argv: Sequence[str]) -> list[str]:
    """Returns a command line with the paths of configuration files as they are found."""
    expanded = []
    for before, argument in zip(["", *argv], argv, strict=False):
        flag, equals, value = argument.partition("=")
        if equals and _is_config_flag(flag):
            argument = f"{flag}={_find_file(value)}"
        elif _is_config_flag(before):
            argument = _find_file(argument)
        expanded.append(argument)
    return expanded


def _is_config_flag(argument: str) -> bool:
    return argument.startswith("-") and argument.lstrip("-") in CONFIG_FLAGS


def _find_file(value: str) -> str:
    """Returns FILE[:options] with the home directory for ~.

    experiments/configs/… is found from other folders too, as the commands themselves are.
    """
    value = os.path.expanduser(value)
    file = pathlib.Path(value.partition(":")[0])
    ours = file.parts[:1] == ("experiments",) and not file.exists() and (ROOT / file).exists()
    return str(ROOT / value) if ours else value


def _check_files(given: Sequence[str]) -> None:
    """Lets configuration files import their neighbors; raises ConfigError if one can't be read."""
    for argument, following in zip(given, [*given[1:], ""], strict=False):
        flag, equals, value = argument.partition("=")
        if _is_config_flag(flag):
            value = value if equals else following
            if not value or value.startswith("-"):
                raise ConfigError(f"--{flag.lstrip('-')} needs a file, such as {EXAMPLE}.")
            file = pathlib.Path(_find_file(value).partition(":")[0])
            if not file.is_file():
                raise ConfigError(f"the configuration file {file} doesn't exist.")
            if file.suffix != ".py":
                raise ConfigError(f"the configuration file {file} must be Python, .py.")
            sys.path.append(str(file.parent.absolute()))  # it may import what stands beside it


def _check_paths(given: Sequence[str]) -> None:
    """Raises ConfigError if one of --config.a.b=… isn't in the tree; it says what comes nearest."""
    types = config.leaf_types()
    for argument, following in zip(given, [*given[1:], "-"], strict=False):
        flag, equals, _ = argument.lstrip("-").partition("=")
        name, dot, path = flag.partition(".")
        if dot and argument.startswith("-") and name.removeprefix("no") in CONFIG_FLAGS:
            config.check_path(path, f"--{flag}")
            if not equals and following.startswith("--") and types[path] is not bool:
                raise ConfigError(f"--{flag} needs a value, --{flag}=….")
