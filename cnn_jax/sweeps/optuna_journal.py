"""A study's journal: Optuna's file of operations, one JSON object a line, kept usable.

Optuna's own backend leaves half a line where a disk is full or a process is killed, writes the next
line behind it, and can't open the study again. This one takes back what it couldn't finish, sets
aside what others left unfinished, and says which line is damaged. It holds Optuna's lock too, so
that Optuna's tools may read and write the same file. Imported only where a study is opened, since
Optuna is optional.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import stat
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, NotRequired, TypedDict

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages.journal import BaseJournalBackend

from cnn_jax import files, schema
from cnn_jax.errors import RunDirectoryError, SearchError

GRACE_SECONDS = 30.0  # after which Optuna takes a lock away that nobody releases
SAY_SECONDS = 5.0  # of waiting, before it is reported
_BEGINNING = b'{"op_code":'  # of every line

_ADVICE = (
    "Put back what was there, for example from a copy, or begin another study: --study and "
    "--workdir; the runs themselves are in their directories."
)


def _operation(**fields: Any) -> Any:
    """A line's type: a TypedDict of what every operation has, and of its own fields."""
    make: Any = TypedDict
    return make("Operation", {"op_code": int, "worker_id": str, **fields})


def _of_trial(**fields: Any) -> Any:
    return _operation(trial_id=int, **fields)


_TRIAL = {
    "datetime_start": str | None,
    "datetime_complete": NotRequired[str],
    "state": NotRequired[int],
    "value": NotRequired[float | None],
    "values": NotRequired[list[float] | None],
    "distributions": NotRequired[dict[str, str]],
    "params": NotRequired[dict[str, float]],
    "user_attrs": NotRequired[dict[str, Any]],
    "system_attrs": NotRequired[dict[str, Any]],
    "intermediate_values": NotRequired[dict[str, float]],
}
# By Optuna's codes; the last one discards trials, which Optuna reads and doesn't do.
_OPERATIONS: tuple[Any, ...] = (
    _operation(study_name=str, directions=list[int]),
    _operation(study_id=int),
    _operation(study_id=int, user_attr=dict[str, Any]),
    _operation(study_id=int, system_attr=dict[str, Any]),
    _operation(study_id=int, **_TRIAL),
    _of_trial(param_name=str, param_value_internal=float, distribution=str),
    _of_trial(
        state=int,
        values=list[float] | None,
        datetime_start=NotRequired[str],
        datetime_complete=NotRequired[str],
    ),
    _of_trial(step=int, intermediate_value=float),
    _of_trial(user_attr=dict[str, Any]),
    _of_trial(system_attr=dict[str, Any]),
    _operation(),
)
_COMPLETE = 1  # the state


class JournalFile(BaseJournalBackend):
    """What `optuna.storages.JournalStorage` reads and writes; every error is a SearchError."""

    def __init__(self, file: str, say: Callable[[str], None] = lambda line: None) -> None:
        self.file = pathlib.Path(file).absolute()
        self.applying: tuple[int, dict[str, Any]] | None = None  # (line, what it says)
        self._say = say
        self._offsets = [0]  # of the lines that were read
        with contextlib.suppress(OSError):  # opening it says why
            self.file.parent.mkdir(parents=True, exist_ok=True)
        with self._open(fcntl.LOCK_EX, os.O_RDWR | os.O_CREAT):
            pass

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yields the operations from a number on, counted from 0; a line without end isn't one.

        Raises:
          SearchError: the file can't be read, or a line is damaged.
        """
        with self._open(fcntl.LOCK_SH, os.O_RDONLY) as stream:
            stream.seek(self._offsets[log_number_from])
            *lines, _ = stream.read().split(b"\n")
        del self._offsets[log_number_from + 1 :]
        for number, line in enumerate(lines, log_number_from + 1):
            operation = self._parse(line, number)
            self._offsets.append(self._offsets[-1] + len(line) + 1)
            self.applying = number, operation
            yield operation
            self.applying = None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Adds operations, all of them or none.

        Raises:
          SearchError: the system refused it; what was there before is intact.
        """
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with (
            self._open(fcntl.LOCK_EX, os.O_RDWR) as stream,
            _hold_optunas_lock(self.file, self._say),
        ):
            self._mend(stream)
            size = stream.seek(0, os.SEEK_END)
            try:
                _write(stream, lines)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.ftruncate(stream.fileno(), size)
                raise

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            operation: dict[str, Any] = schema.parse_json(line, _OPERATIONS[-1], self.file)
        except RunDirectoryError as error:
            what = str(error).removeprefix(f"{self.file} can't be read: ").rstrip(".")
            raise self.damaged(number, what) from error
        code = operation["op_code"]
        if not 0 <= code < len(_OPERATIONS):
            raise self.damaged(number, f"op_code is {code}, which Optuna doesn't know")
        if problem := schema.find_problem(operation, _OPERATIONS[code]):
            raise self.damaged(number, problem)
        if operation.get("state") == _COMPLETE and len(_values(operation)) != 1:
            raise self.damaged(number, "a finished trial must have one value")
        return operation

    def damaged(self, number: int, what: str) -> SearchError:
        """Returns the error for a damaged line."""
        return SearchError(f"{self.file} can't be read: line {number}: {what}. {_ADVICE}")

    def _mend(self, stream: IO[bytes]) -> None:
        """Ends a last line without a line break, or moves it to another file if it isn't whole."""
        start = _start_of_tail(stream)
        stream.seek(start)
        tail = stream.read()
        if not tail:
            return
        begun = tail.rstrip(b"\0")
        if not begun.startswith(_BEGINNING) and not _BEGINNING.startswith(begun):
            raise self.damaged(tail.count(b"\n") + 1, "it is no line of a journal of Optuna's")
        with contextlib.suppress(ValueError, RecursionError):
            json.loads(tail)
            _write(stream, b"\n")
            return
        aside = self.file.with_name(f"{self.file.name}.unfinished")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(aside, flags, 0o666), "ab", buffering=0) as kept:
            _write(kept, tail + b"\n")
        os.ftruncate(stream.fileno(), start)
        self._say(
            f"{self.file} ended in half a line, which a process couldn't finish: it is kept in "
            f"{aside.name} beside it, and the study goes on."
        )

    @contextlib.contextmanager
    def _open(self, lock: int, mode: int) -> Iterator[IO[bytes]]:
        """Opens the file, a regular one, and locks it against this package's other processes."""
        verb = "read" if lock == fcntl.LOCK_SH else "written"
        flags = mode | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            descriptor = os.open(self.file, flags, 0o666)
            python_mode = "rb" if lock == fcntl.LOCK_SH else "r+b"
            with open(descriptor, python_mode, buffering=0) as stream:
                status = os.fstat(descriptor).st_mode
                if not stat.S_ISREG(status):
                    kind = files.kind_of_file(status)
                    raise OSError(22, f"it is {kind}, not a regular file", str(self.file))
                _wait_for(self.file, descriptor, lock, self._say)
                yield stream
        except OSError as error:
            raise SearchError(
                f"the study's file {self.file} can't be {verb}: {files.say_reason(error)}. "
                "Nothing that was saved is lost by that; mend it and run the same command again."
            ) from error


class _Journal(optuna.storages.JournalStorage):
    """Optuna's storage; lines that it can't apply are damaged ones of the file."""

    def __init__(self, file: JournalFile) -> None:
        self._file = file
        super().__init__(file)

    def _sync_with_backend(self) -> None:
        try:
            super()._sync_with_backend()
        except (SearchError, DuplicatedStudyError, UpdateFinishedTrialError):
            raise
        except Exception as error:
            line, operation = self._file.applying or (0, {})
            if not line or operation["worker_id"] == self._replay_result.worker_id:
                raise  # what this process asked for can't be done
            what = f"Optuna can't apply it, {type(error).__name__} {error}".rstrip()
            raise self._file.damaged(line, what) from error


def open_journal(file: str, say: Callable[[str], None]) -> optuna.storages.JournalStorage:
    """Returns the storage in a journal file, made if it isn't there, with its folder.

    Raises:
      SearchError: it can't be used.
    """
    return _Journal(JournalFile(file, say))


def _values(operation: dict[str, Any]) -> list[float]:
    values: list[float] | None = operation.get("values")
    single = operation.get("value")
    return values if values is not None else [] if single is None else [single]


def _write(stream: IO[bytes], content: bytes) -> None:
    """Writes at the end of a file that isn't buffered, and to the disk."""
    stream.seek(0, os.SEEK_END)
    view = memoryview(content)
    while view:
        view = view[stream.write(view) :]
    os.fsync(stream.fileno())


def _start_of_tail(stream: IO[bytes], block: int = 1 << 16) -> int:
    """Returns where what follows the last line break begins."""
    end = stream.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - block)
        stream.seek(start)
        found = stream.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _identity(lock: pathlib.Path) -> tuple[int, int] | None:
    try:
        status = os.lstat(lock)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _wait_for(file: pathlib.Path, descriptor: int, lock: int, say: Callable[[str], None]) -> None:
    """Takes the lock, which the system releases when the process ends, however it does."""
    begin, reported = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, lock | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not reported and time.monotonic() - begin > SAY_SECONDS:
                say(f"waiting for another process that is using {file}")
                reported = True
            time.sleep(0.005)


@contextlib.contextmanager
def _hold_optunas_lock(file: pathlib.Path, say: Callable[[str], None]) -> Iterator[None]:
    """Holds the link that Optuna's own programs use as a lock.

    None of this package's processes waits here. A link that stays the same for GRACE_SECONDS is
    a killed process's, and is removed, as Optuna does.
    """
    lock = pathlib.Path(f"{file}.lock")
    seen, since, reported = _identity(lock), time.monotonic(), False
    while True:
        try:
            os.symlink(file, lock)
            break
        except FileExistsError:
            now, waited = _identity(lock), time.monotonic() - since
            if now != seen:
                seen, since = now, time.monotonic()
            elif waited > GRACE_SECONDS:
                lock.unlink(missing_ok=True)
            elif waited > SAY_SECONDS and not reported:
                say(
                    f"waiting for the process that holds {lock}; if it was killed, for "
                    f"{GRACE_SECONDS:.0f} s"
                )
                reported = True
            time.sleep(0.005)
    own = _identity(lock)
    try:
        yield
    finally:
        if _identity(lock) == own:
            lock.unlink(missing_ok=True)
