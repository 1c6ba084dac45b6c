"""The space that a sweep or a search looks through: axes, distributions, and the trials they give.

Paths are those of the configuration, such as `optimizer.learning_rate`; values come as a person
types them and are checked against the type of the path.
"""

import ast
import itertools
import math
import pathlib
import random
import re
import shlex
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cnn_jax import config as config_lib
from cnn_jax import option_names, schema
from cnn_jax import text as text_lib
from cnn_jax.config import Config, ConfigError
from cnn_jax.identity import DataIdentity
from cnn_jax.options import FLOAT32_MAX

MAX_TRIALS = 100_000


class Trial(NamedTuple):
    """One run of a sweep, a search or a study."""

    name: str  # of its run directory
    values: dict[str, Any]  # what is swept, by path
    config: Config
    data: DataIdentity | None = None  # what it must be trained on, if that is known


class Sample(NamedTuple):
    """A distribution that a value is drawn from: 'log', 'uniform' or 'choice'."""

    kind: str
    values: tuple[Any, ...]  # the two ends, or what is chosen from

    def __str__(self) -> str:
        return f"{self.kind}:{','.join(map(format_value, self.values))}"


def parse_grid(items: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """['optimizer.learning_rate=0.1,0.3', 'seed=0,1'] → the values of each path, typed.

    Values are separated by commas. A tuple stands in parentheses, `model.channels=(6,16),(8,24)`;
    one of a single number may go without, `model.hidden=64,128`. A string that has commas itself
    stands in quotes. `None` is the network's own value.

    Raises:
      ConfigError: an unknown path, a value of the wrong type, the same value or path twice.
    """
    axes: dict[str, tuple[Any, ...]] = {}
    for item in items:
        path, text = _path_and_text("grid", item, "optimizer.learning_rate=0.1,0.3")
        _once(path, axes)
        axes[path] = _parse_values(f"--grid={path}", path, text)
    return axes


def parse_sample(items: Sequence[str]) -> dict[str, Sample]:
    """['optimizer.learning_rate=log:1e-3,1', 'model.pool=choice:max,avg'] → distributions.

    `log:a,b` draws the logarithm uniformly from a to b, `uniform:a,b` the value itself (whole
    numbers where the path takes them), `choice:x,y,…` one of the values.

    Raises:
      ConfigError: an unknown path or distribution, ends of the wrong type or order.
    """
    samples: dict[str, Sample] = {}
    for item in items:
        path, text = _path_and_text("sample", item, "optimizer.learning_rate=log:1e-3,1")
        _once(path, samples)
        kind, colon, rest = text.partition(":")
        kinds = ("log", "uniform", "choice")
        if kind not in kinds or not colon:
            raise ConfigError(
                f"--sample={item} must name a distribution, {path}=log:a,b or uniform:a,b or "
                "choice:x,y,…."
            )
        values = _parse_values(f"--sample={path}", path, rest)
        if kind != "choice":
            numeric = config_lib.leaf_types()[path] in (int, float)
            if not numeric or len(values) != 2 or not values[0] < values[1]:
                raise ConfigError(
                    f"--sample={item} must give the ends of a range of numbers, the lower first."
                )
            if any(abs(end) > FLOAT32_MAX for end in values):
                raise ConfigError(f"--sample={item} has an end that is no finite number.")
            if kind == "log" and values[0] <= 0:
                raise ConfigError(f"--sample={item} needs ends above 0, for their logarithms.")
        samples[path] = Sample(kind, values)
    return samples


def parse_values(flag: str, text: str) -> dict[str, Any]:
    """'optimizer.learning_rate=0.1,model.activation=relu' → the value of each path, typed.

    Raises:
      ConfigError: an unknown path, one given twice, or a value of the wrong type; the message names
        `flag`.
    """
    values: dict[str, Any] = {}
    for item in _split(text):
        path, value = _path_and_text(flag, item, "optimizer.learning_rate=0.1")
        if path in values:
            raise ConfigError(f"--{flag}={text} has {path} twice.")
        values[path] = parse_value(value, path, f"--{flag}={path}")
    return values


def _path_and_text(flag: str, item: str, example: str) -> tuple[str, str]:
    path, equals, text = item.partition("=")
    path = path.strip().removeprefix("config.")
    if not equals or not text.strip():
        raise ConfigError(
            f"--{flag}={item} must be a path and its values, as in --{flag}={example}."
        )
    known = config_lib.leaf_types()
    if path not in known:
        hint = option_names.describe_unknown(path, known).replace("--config.", "")
        raise ConfigError(f"--{flag}={path}: config.{path} is not in the configuration; {hint}")
    if path.startswith(config_lib.FREE):
        raise ConfigError(
            f"--{flag}={path}: config.{path} changes no result; give it as --config.{path}=…."
        )
    return path, text.strip()


def _once(path: str, seen: Mapping[str, Any]) -> None:
    if path in seen:
        raise ConfigError(f"{path} is swept twice; give all its values in one flag.")


def _parse_values(flag: str, path: str, text: str) -> tuple[Any, ...]:
    values = tuple(parse_value(part, path, flag) for part in _split(text))
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ConfigError(f"{flag} has the value {format_value(value)} twice.")
    return values


def _split(text: str) -> list[str]:
    """Splits at the commas that are not within the brackets or quotes that begin a value."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        begins = depth > 0 or not parts[-1].strip() or parts[-1].rstrip().endswith("=")
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and begins:
            quote = letter
        elif letter in "([" and begins:
            depth += 1
        elif letter in ")]" and depth:
            depth -= 1
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def parse_value(text: str, path: str, flag: str = "") -> Any:
    """Reads one value of the type that the configuration has at `path`.

    Raises:
      ConfigError: it isn't of that type.
    """
    hint = config_lib.leaf_types()[path]
    wrong = ConfigError(
        f"{flag or path}: {text!r} is of the wrong type; config.{path} must be "
        f"{schema.type_name(hint)}."
    )
    if type(None) in typing.get_args(hint):
        if text == "None":
            return None
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if hint is str:
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        word = text[1:-1] if quoted else text
        # No command line can give these: it ends at a NUL, and None is None.
        if not word or word == "None" or "\0" in word:
            raise wrong
        return word
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise wrong
        return text.lower() == "true"
    try:
        value = parse_words(text) if hint == tuple[str, ...] else ast.literal_eval(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise wrong from error
    if typing.get_origin(hint) is tuple and not isinstance(value, tuple | list):
        value = (value,)
    if not schema.is_a(value, hint):
        raise wrong
    try:
        return _exactly(value, hint)
    except OverflowError as error:  # of a whole number too large for a float
        raise wrong from error


def _exactly(value: Any, hint: Any) -> Any:
    """Makes ints floats and lists tuples where the type says so."""
    if hint is float:
        return float(value)
    if typing.get_origin(hint) is tuple:
        args = typing.get_args(hint)
        hints = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return tuple(_exactly(v, h) for v, h in zip(value, hints, strict=True))
    return value


def parse_words(text: str) -> tuple[str, ...]:
    """Reads a tuple of texts: words between commas, in parentheses or not, or quoted as in Python.

    >>> parse_words("Conv_*,Dense_0=0.1")
    ('Conv_*', 'Dense_0=0.1')

    Raises:
      SyntaxError, ValueError: what is quoted can't be read.
    """
    bracketed = text[:1] + text[-1:] in ("()", "[]")
    words = filter(None, _split(text[1:-1] if bracketed else text))
    return tuple(str(ast.literal_eval(word)) if word[0] in "'\"" else word for word in words)


def format_value(value: Any) -> str:
    """Writes a value as the command line of a configuration reads it: (6,16), 0.1, relu, None."""
    if isinstance(value, tuple | list):
        inside = ",".join(_quote_word(v) if isinstance(v, str) else format_value(v) for v in value)
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    return str(value)


def _quote_word(word: str) -> str:
    """Writes a text as `parse_words` reads it."""
    if re.fullmatch(r"[\w.*?/=:+-]+", word) and word != "None":
        return word
    escaped = word.encode("unicode_escape", "surrogatepass").decode().replace("'", "\\x27")
    return f"'{escaped}'"


def expand(
    base: Config,
    axes: Mapping[str, Sequence[Any]],
    samples: Mapping[str, Sample] | None = None,
    trials: int = 0,
    seed: int = 0,
) -> list[Trial]:
    """Returns the trials: every combination of the axes, with every draw of the samples.

    Args:
      base: what is not swept.
      axes: the values of each path, as `parse_grid` gives them.
      samples: distributions, as `parse_sample` gives them; one draw takes a value from each.
      trials: how many different draws.
      seed: decides the draws, and nothing else does.

    Raises:
      ConfigError: nothing is swept, a path has both an axis and a distribution, there aren't so
        many different draws, there are more than MAX_TRIALS trials, or a trial's configuration
        can't work (the message names the trial).
    """
    samples = samples or {}
    for path in samples:
        _once(path, axes)
    if bool(samples) != (trials > 0):
        raise ConfigError("--sample and --trials go together: what to draw from, and how often.")
    if not axes and not samples:
        raise ConfigError(
            "nothing is swept; give for example --grid=optimizer.learning_rate=0.1,0.3."
        )
    count = math.prod(map(len, axes.values())) * max(1, trials)
    if count > MAX_TRIALS:
        raise ConfigError(
            f"this makes {count:,} trials, and a sweep may have {MAX_TRIALS:,}; sweep over fewer."
        )
    draws = _draw(samples, trials, seed) if samples else [{}]
    result: dict[str, Trial] = {}
    for drawn in draws:
        for point in itertools.product(*axes.values()):
            values = {**drawn, **dict(zip(axes, point, strict=True))}
            trial = Trial(name_trial(values), values, config_lib.with_values(base, values))
            try:
                config_lib.check(trial.config)
            except ConfigError as error:
                raise ConfigError(f"trial {trial.name}: {error}") from error
            if trial.name in result:
                raise ConfigError(f"two trials would have the same directory, {trial.name}.")
            result[trial.name] = trial
    return list(result.values())


def _draw(samples: Mapping[str, Sample], count: int, seed: int) -> list[dict[str, Any]]:
    # random() of the standard library is the same in every version and on every machine.
    generator = random.Random(seed)
    draws: dict[tuple[Any, ...], dict[str, Any]] = {}
    for _ in range(100 * count):
        draw = {path: _draw_one(generator, path, sample) for path, sample in samples.items()}
        draws.setdefault(tuple(draw.values()), draw)
        if len(draws) == count:
            return list(draws.values())
    raise ConfigError(f"--trials={count}: there are hardly more than {len(draws)} different draws.")


def _draw_one(generator: random.Random, path: str, sample: Sample) -> Any:
    u = generator.random()
    if sample.kind == "choice":
        return sample.values[int(u * len(sample.values))]
    low, high = sample.values
    if config_lib.leaf_types()[path] is int:
        if sample.kind == "uniform":
            return low + int(u * (high - low + 1))
        return min(high, int(math.exp(math.log(low) + u * math.log((high + 1) / low))))
    if sample.kind == "log":
        value = math.exp(math.log(low) + u * math.log(high / low))
    else:
        value = low + u * (high - low)
    # Rounded, so that the directory's name is the exact value.
    return min(high, max(low, float(f"{value:.4g}")))


def name_trial(values: Mapping[str, Any]) -> str:
    """Returns 'optimizer.learning_rate=0.1,seed=0', fit for a directory's name and a terminal.

    Other characters are written as in a URL, %2F for a slash, which `urllib.parse.unquote` undoes.
    """
    name = ",".join(f"{path}={format_value(value)}" for path, value in values.items())
    name = "".join(map(_escape, name))
    if len(name.encode()) > 200:
        raise ConfigError(
            f"the trial {name[:60]}… has a name too long for a directory; sweep over fewer values "
            "at once, or put the long ones into configuration files."
        )
    return name


def _escape(letter: str) -> str:
    if letter not in "%/" and text_lib.one_line(letter) == letter:
        return letter
    return "".join(f"%{byte:02X}" for byte in _bytes(letter))


def _bytes(text: str) -> bytes:
    """The bytes of a name or an argument, which needn't be UTF-8."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return text.encode("utf-8", "surrogatepass")


def train_command(file: str, values: Mapping[str, Any], workdir: str | pathlib.Path) -> str:
    """Returns the command that trains the configuration file with these values."""
    options = [f"--config.{path}={format_value(value)}" for path, value in values.items()]
    command = ["python", "-m", "experiments.train", f"--config={file}", *options]
    return join([*command, f"--workdir={workdir}"])


def join(arguments: Sequence[str]) -> str:
    """Returns a command line for bash, in one line of text that is safe to show."""
    return " ".join(map(_quote, arguments))


def _quote(argument: str) -> str:
    if text_lib.one_line(argument) == argument:
        return shlex.quote(argument)
    quoted = (
        f"\\{letter}"
        if letter in "\\'"
        else letter
        if text_lib.one_line(letter) == letter
        else "".join(f"\\x{byte:02x}" for byte in _bytes(letter))
        for letter in argument
    )
    return f"$'{''.join(quoted)}'"
