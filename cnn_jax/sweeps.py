"""Sweeps: one configuration, some of its values varied, every trial an ordinary run directory.

A sweep directory holds one run directory for each trial, named by its values
(`optimizer.learning_rate=0.1,seed=0`), and sweep.json, which says what is swept. Several processes,
on several machines that share the file system, may work on it: a run directory is locked by the
process that trains in it, and the others pass it over.
"""

import ast
import dataclasses
import datetime
import fcntl
import itertools
import json
import math
import pathlib
import random
import shlex
import time
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cnn_jax import config as config_lib
from cnn_jax import records, train
from cnn_jax.config import Config, ConfigError
from cnn_jax.display import Display

WAIT_SECONDS = 2.0  # between two looks at trials that other processes hold


class Trial(NamedTuple):
    """One run of a sweep."""

    name: str  # of its run directory
    values: dict[str, Any]  # what is swept, by path
    config: Config


class Sample(NamedTuple):
    """A distribution that a value is drawn from: 'log', 'uniform' or 'choice'."""

    kind: str
    values: tuple[Any, ...]  # the two ends, or what is chosen from


class Outcome(NamedTuple):
    """What came of a trial: the last row of its metrics, or why there is none."""

    trial: Trial
    row: dict[str, Any] | None
    error: str | None
    seconds: float | None  # that it took here; None: it was done before, or by another process


# What to sweep over ------------------------------------------------------------------------------


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
        values = _parse_values(f"--grid={path}", path, text)
        axes[path] = values
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
            if kind == "log" and values[0] <= 0:
                raise ConfigError(f"--sample={item} needs ends above 0, for their logarithms.")
        samples[path] = Sample(kind, values)
    return samples


def parse_values(flag: str, text: str) -> dict[str, Any]:
    """'optimizer.learning_rate=0.1,model.activation=relu' → the value of each path, typed.

    Raises:
      ConfigError: an unknown path, or a value of the wrong type; the message names `flag`.
    """
    values = {}
    for item in _split(text):
        path, value = _path_and_text(flag, item, "optimizer.learning_rate=0.1")
        values[path] = parse_value(value, path, f"--{flag}={path}")
    return values


def _path_and_text(flag: str, item: str, example: str) -> tuple[str, str]:
    path, equals, text = item.partition("=")
    path = path.strip().removeprefix("config.")
    if not equals or not text.strip():
        raise ConfigError(f"--{flag}={item} must be a path and its values, --{flag}={example} say.")
    known = config_lib.leaf_types()
    if path not in known:
        last = {name.rpartition(".")[2]: name for name in known}
        near = last.get(path.rpartition(".")[2])
        hint = f"; did you mean {near}?" if near else config_lib.nearest(path, known)
        raise ConfigError(f"--{flag}={path}: config.{path} is not in the configuration{hint}")
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
    """Splits at the commas that are not within brackets or quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([":
            depth += 1
        elif letter in ")]":
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
        f"{config_lib.type_name(hint)}."
    )
    optional = type(None) in typing.get_args(hint)
    if optional and text == "None":
        return None
    if optional:
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if hint is str:
        if not text:
            raise wrong
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        return text[1:-1] if quoted else text
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise wrong
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError) as error:
        raise wrong from error
    if typing.get_origin(hint) is tuple and not isinstance(value, tuple | list):
        value = (value,)
    if not config_lib.is_a(value, hint):
        raise wrong
    return _exactly(value, hint)


def _exactly(value: Any, hint: Any) -> Any:
    """Makes ints floats and lists tuples where the type says so."""
    if hint is float:
        return float(value)
    if typing.get_origin(hint) is tuple:
        args = typing.get_args(hint)
        hints = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return tuple(_exactly(v, h) for v, h in zip(value, hints, strict=True))
    return value


def format_value(value: Any) -> str:
    """Writes a value so that `parse_value` and the command line read it back: (6,16), 0.1, relu."""
    if isinstance(value, tuple | list):
        inside = ",".join(map(format_value, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    return str(value)


# Trials ------------------------------------------------------------------------------------------


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
        many different draws, or a trial's configuration can't work (the message names the trial).
    """
    samples = samples or {}
    for path in samples:
        _once(path, axes)
    if bool(samples) != (trials > 0):
        raise ConfigError("--sample and --trials go together: what to draw from, and how often.")
    if not axes and not samples:
        raise ConfigError("nothing is swept; give --grid=optimizer.learning_rate=0.1,0.3 say.")
    draws = _draw(samples, trials, seed) if samples else [{}]
    result: dict[str, Trial] = {}
    for drawn in draws:
        for point in itertools.product(*axes.values()):
            values = {**drawn, **dict(zip(axes, point, strict=True))}
            trial = Trial(trial_name(values), values, with_values(base, values))
            try:
                config_lib.check(trial.config)
            except ConfigError as error:
                raise ConfigError(f"trial {trial.name}: {error}") from error
            result[trial.name] = trial
    return list(result.values())


def _draw(samples: Mapping[str, Sample], count: int, seed: int) -> list[dict[str, Any]]:
    # random() of the standard library is the same in every version and on every machine.
    generator = random.Random(seed)
    draws: list[dict[str, Any]] = []
    for _ in range(100 * count):
        draw = {path: _draw_one(generator, path, sample) for path, sample in samples.items()}
        if draw not in draws:
            draws.append(draw)
        if len(draws) == count:
            return draws
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


def trial_name(values: Mapping[str, Any]) -> str:
    """Returns 'optimizer.learning_rate=0.1,seed=0', fit for a directory's name."""
    name = ",".join(f"{path}={format_value(value)}" for path, value in values.items())
    name = name.replace("%", "%25").replace("/", "%2F")
    if len(name.encode()) > 200:
        raise ConfigError(
            f"the trial {name[:60]}… has a name too long for a directory; sweep over fewer values "
            "at once, or put the long ones into configuration files."
        )
    return name


def with_values(tree: Any, values: Mapping[str, Any]) -> Any:
    """Returns a copy of the configuration with other values at some paths."""
    changes: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        name, _, rest = path.partition(".")
        if rest:
            nested.setdefault(name, {})[rest] = value
        else:
            changes[name] = value
    for field in dataclasses.fields(tree):
        # What isn't changed is copied too, so that no two trials share a part.
        node = getattr(tree, field.name)
        if dataclasses.is_dataclass(node):
            changes[field.name] = with_values(node, nested.get(field.name, {}))
    return dataclasses.replace(tree, **changes)


def train_command(file: str, values: Mapping[str, Any], workdir: str | pathlib.Path) -> str:
    """Returns the command that trains the configuration file with these values."""
    command = ["python", "-m", "experiments.train", f"--config={file}"]
    # None is what the network takes when nothing is said.
    command += [f"--config.{p}={format_value(v)}" for p, v in values.items() if v is not None]
    return shlex.join([*command, f"--workdir={workdir}"])


# The sweep's directory ---------------------------------------------------------------------------


class Record(NamedTuple):
    """What sweep.json holds."""

    config: str  # the configuration file, with its options
    overrides: dict[str, Any]  # of single values, on the command line
    base: dict[str, Any]  # the configuration with these, as a tree
    trials: dict[str, dict[str, Any]]  # what is swept, by the name of the trial


def make_record(
    file: str, overrides: Mapping[str, Any], base: Config, trials: Sequence[Trial]
) -> Record:
    """Returns the record of a sweep, as JSON gives it back."""
    record = Record(
        file, dict(overrides), config_lib.to_dict(base), {t.name: t.values for t in trials}
    )
    return Record(**json.loads(json.dumps(record._asdict())))


def claim(directory: pathlib.Path, record: Record) -> None:
    """Makes the sweep's directory, or checks that it holds the same sweep.

    Raises:
      RunDirectoryError: it holds another sweep, it is a run directory, or it can't be written.
    """
    if (directory / "config.json").exists():
        raise records.RunDirectoryError(
            f"{directory} is the directory of a single run; choose another --workdir for a sweep."
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with open(directory / ".lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # other processes may start at the same moment
            if not (directory / "sweep.json").exists():
                records.write_json(directory / "sweep.json", record._asdict())
                return
    except OSError as error:
        raise records.RunDirectoryError(
            f"can't write to the sweep directory {directory}: {error.strerror}. Choose another "
            "--workdir."
        ) from error
    old = read_record(directory)
    if old.trials != record.trials:
        more = [name for name in record.trials if old.trials.get(name) != record.trials[name]]
        less = [name for name in old.trials if name not in record.trials]
        what = f"here is {more[0]}, not there" if more else f"there is {less[0]}, not here"
        raise records.RunDirectoryError(
            f"{directory} holds another sweep, of {len(old.trials)} trials, this one has "
            f"{len(record.trials)} ({what}). Choose another --workdir, or the same grid to go on."
        )
    swept = {path for values in record.trials.values() for path in values}
    before, now = (config_lib.flatten(config_lib.from_dict(r.base)) for r in (old, record))
    for path in now:
        if path in swept or path.startswith(config_lib.FREE) or before[path] == now[path]:
            continue
        raise records.RunDirectoryError(
            f"{directory} holds a sweep of another configuration: there config.{path}="
            f"{before[path]!r}, here {now[path]!r}. Choose another --workdir, or the same "
            "configuration to go on."
        )


def read_record(directory: pathlib.Path) -> Record:
    """Returns what the sweep.json of a directory says.

    Raises:
      RunDirectoryError: there is none, or it can't be read.
    """
    file = directory / "sweep.json"
    try:
        return Record(**json.loads(file.read_text()))
    except FileNotFoundError as error:
        raise records.RunDirectoryError(f"{directory} holds no sweep.json.") from error
    except (OSError, ValueError, TypeError) as error:
        raise records.RunDirectoryError(f"{file} can't be read: {error}") from error


def finished(
    directory: pathlib.Path, trial: Trial, epochs: int | None = None
) -> dict[str, Any] | None:
    """Returns the trial's metrics after so many epochs (None: all), None if it isn't there yet."""
    epochs = epochs or trial.config.epochs
    run = directory / trial.name
    try:
        rows = records.read_metrics(run)
        same = records.different(records.read_config(run), config_lib.resolve(trial.config))
    except records.RunDirectoryError:
        return None
    if len(rows) < epochs or any(not p.startswith(config_lib.FREE) for p in same):
        return None
    # The row is written before the last checkpoint is safe on the disk.
    saved = len(rows) > epochs or (run / "checkpoints" / str(rows[-1]["step"])).is_dir()
    return rows[epochs - 1] if saved else None


def read_error(run: pathlib.Path) -> dict[str, Any] | None:
    """Returns a failed trial's error.json: {'kind', 'error', 'time', 'traceback'}, else None."""
    try:
        error = json.loads((run / "error.json").read_text())
        return error if {"kind", "error", "time"} <= set(error) else None
    except (OSError, ValueError, TypeError):
        return None


# Running -----------------------------------------------------------------------------------------


# Trains some trials; for each its outcome, or None if another process holds it.
Attempt = Callable[[Sequence[Trial]], Sequence[Outcome | None]]
Grouping = Callable[[Sequence[Trial]], Sequence[Sequence[Trial]]]


def one_by_one(trials: Sequence[Trial]) -> Sequence[Sequence[Trial]]:
    """Groups of one trial each."""
    return [[trial] for trial in trials]


def run(
    trials: Sequence[Trial],
    directory: pathlib.Path,
    attempt: Attempt,
    group: Grouping = one_by_one,
    wait: Callable[[int], None] = lambda count: None,
    epochs: int | None = None,
) -> Iterator[Outcome]:
    """Trains what is not finished yet, group after group; yields every trial's outcome.

    Finished trials, and trials that diverged (they would again), are not trained a second time;
    other failures are, if they were recorded before this call. A failure is recorded in the
    trial's directory, as error.json, and the next group goes on.

    Args:
      trials: what `expand` gave.
      directory: the sweep's directory, claimed.
      attempt: trains a group; `alone` for groups of one.
      group: which trials are attempted together.
      wait: called once, with their number, when other processes hold all the trials left.
      epochs: how many epochs finish a trial here; None: all of its configuration's.

    Raises:
      Interrupted, KeyboardInterrupt: the trial has been saved; the others wait for the next call.
    """
    begin = time.time()
    waiting = False
    left = []
    for trial in trials:
        outcome = _known(trial, directory, begin, epochs)
        if outcome:
            yield outcome
        else:
            left.append(trial)
    while left:
        held = []
        for together in group(left):
            outcomes = {trial.name: _known(trial, directory, begin, epochs) for trial in together}
            unknown = [trial for trial in together if not outcomes[trial.name]]
            if unknown:
                attempted = zip(unknown, attempt(unknown), strict=True)
                outcomes.update({trial.name: outcome for trial, outcome in attempted})
            for trial in together:
                if outcome := outcomes[trial.name]:
                    yield outcome
                else:
                    held.append(trial)
        if len(held) == len(left):
            if not waiting:
                wait(len(held))
            waiting = True
            time.sleep(WAIT_SECONDS)
        left = held


def _known(
    trial: Trial, directory: pathlib.Path, begin: float, epochs: int | None
) -> Outcome | None:
    if row := finished(directory, trial, epochs):
        return Outcome(trial, row, None, None)
    error = read_error(directory / trial.name)
    if error and not _is_of(trial, directory / trial.name):
        return None
    if error and (error["kind"] == train.DivergedError.__name__ or error["time"] >= begin):
        return Outcome(trial, None, error["error"], None)
    return None


def _is_of(trial: Trial, run: pathlib.Path) -> bool:
    """Whether what a directory holds, if anything, is of the trial's configuration."""
    try:
        different = records.different(records.read_config(run), config_lib.resolve(trial.config))
    except records.RunDirectoryError:
        return True  # it failed before there was a configuration
    return all(path.startswith(config_lib.FREE) for path in different)


def rungs(epochs: int, first: int, factor: int) -> list[int]:
    """Returns the epochs at which successive halving stops trials: 1, 3, 9, 10 say.

    Raises:
      ConfigError: fewer than two, or a number that makes no sense.
    """
    if factor < 2 or not 1 <= first < epochs:
        raise ConfigError(
            f"halving needs a factor of at least 2 and a first stop between 1 and {epochs - 1} "
            f"epochs, got factor {factor} and first stop {first}."
        )
    stops = []
    while first < epochs:
        stops.append(first)
        first *= factor
    return [*stops, epochs]


def halve(
    trials: Sequence[Trial],
    stops: Sequence[int],
    factor: int,
    train_until: Callable[[Sequence[Trial], int], Iterator[Outcome]],
) -> Iterator[Outcome]:
    """Successive halving (Jamieson and Talwalkar, 2016): bad trials are stopped early.

    All are trained to the first stop; of those that got there, the best 1/factor (rounded up) go on
    to the next, and so on. Whoever is best depends on the recorded accuracies alone, so all
    processes that work on a sweep choose the same.

    Args:
      trials: what `expand` gave; their learning rate follows the schedule of their whole training.
      stops: what `rungs` gave.
      factor: one of so many goes on.
      train_until: trains trials to some epoch, as `run` does, and yields all their outcomes.

    Raises:
      ConfigError: a trial holds nothing out, so that the test set would choose; or the trials
        differ in their epochs.
    """
    if not all(trial.config.dataset.holdout for trial in trials):
        raise ConfigError(
            "halving chooses by accuracy, which must not be the test set's; add "
            "--config.dataset.holdout=0.1."
        )
    if any(trial.config.epochs != stops[-1] for trial in trials):
        raise ConfigError("halving stops trials by their epochs; don't sweep over epochs as well.")
    left = list(trials)
    for stop in stops:
        outcomes = []
        for outcome in train_until(left, stop):
            outcomes.append(outcome)
            yield outcome
        scores = {o.trial.name: o.row["test_accuracy"] for o in outcomes if o.row}
        ranked = sorted((t for t in left if t.name in scores), key=lambda t: -scores[t.name])
        left = ranked[: -(-len(left) // factor)]


def alone(
    directory: pathlib.Path,
    make_display: Callable[[Trial], Display],
    stop: train.Stop | None = None,
) -> Attempt:
    """Returns what trains the one trial of a group by `train_and_evaluate`, which asks `stop`."""
    return lambda group: [_attempt(trial, directory, make_display, stop) for trial in group]


def at(epoch: int | None) -> train.Stop | None:
    """Returns what stops runs after so many epochs; nothing for None."""
    return None if epoch is None else lambda row: row["epoch"] >= epoch


def _attempt(
    trial: Trial,
    directory: pathlib.Path,
    make_display: Callable[[Trial], Display],
    stop: train.Stop | None,
) -> Outcome | None:
    """Trains one trial; None if another process holds it."""
    run_directory = directory / trial.name
    begin = time.monotonic()
    display = make_display(trial)
    try:
        row = train.train_and_evaluate(trial.config, run_directory, display, stop)
    except records.RunDirectoryError as error:
        if isinstance(error.__cause__, BlockingIOError):  # its lock is taken
            return None
        return Outcome(trial, None, str(error), time.monotonic() - begin)
    except train.Interrupted:
        raise
    except Exception as error:  # whatever it was, the other trials go on
        return failed(trial, run_directory, error, time.monotonic() - begin)
    finally:
        display.close()
    (run_directory / "error.json").unlink(missing_ok=True)
    return Outcome(trial, row, None, time.monotonic() - begin)


def failed(trial: Trial, path: pathlib.Path, error: Exception, seconds: float) -> Outcome:
    """Records why a trial failed, and returns that as its outcome."""
    sentence = str(error).strip().split("\n")[0] or type(error).__name__
    now = time.time()
    entry = {
        "kind": type(error).__name__,
        "error": sentence,
        "time": now,
        "date": datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="seconds"),
        "traceback": "".join(traceback.format_exception(error)),
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        records.write_json(path / "error.json", entry)
    except (OSError, records.RunDirectoryError):
        sentence += " (and its error.json can't be written)"
    return Outcome(trial, None, sentence, seconds)
