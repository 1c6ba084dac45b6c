"""Writing files atomically, and reading regular files only.

A file is written at once or not at all, and never through a link, so that neither a full disk, nor
a kill, nor a directory made by a stranger can destroy anything. Pipes and devices, which could keep
a program waiting forever, aren't read, and no file beyond a limit.
"""

import contextlib
import os
import pathlib
import secrets
import stat
from collections.abc import Iterator
from typing import IO, Any, BinaryIO

from cnn_jax.errors import RunDirectoryError


def say_reason(error: OSError) -> str:
    """Returns the system's reason, such as 'No space left on device'."""
    return error.strerror or str(error) or type(error).__name__


@contextlib.contextmanager
def writing(file: pathlib.Path) -> Iterator[None]:
    """Makes the system's refusal to write `file` a RunDirectoryError."""
    try:
        yield
    except OSError as error:
        raise RunDirectoryError(
            f"can't write {file}: {say_reason(error)}. What was saved before is intact; mend it "
            "and run the same command again."
        ) from error


@contextlib.contextmanager
def replacing(file: pathlib.Path) -> Iterator[BinaryIO]:
    """Yields a new file to write to, which replaces `file` if the block raises nothing.

    If `file` is a link, the link is replaced and its target is left alone.

    Raises:
      OSError: the system refused it.
    """
    new = file.with_name(f".{file.name[:100]}.{secrets.token_hex(8)}.new")
    # O_EXCL opens no file that is there already, and follows no link.
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with open(descriptor, "w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(descriptor)
        os.replace(new, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


def write_bytes(file: pathlib.Path, content: bytes) -> None:
    """Writes a file atomically.

    Raises:
      RunDirectoryError: the system refused it.
    """
    with writing(file), replacing(file) as stream:
        stream.write(content)


def write_text(file: pathlib.Path, text: str) -> None:
    """Writes a text file as `write_bytes` does, in UTF-8; lone surrogates become escapes."""
    write_bytes(file, text.encode("utf-8", "backslashreplace"))


def open_to_append(file: pathlib.Path) -> IO[str]:
    """Opens a text file, made if need be, to append to.

    Raises:
      OSError: the system refused it, or it is a link.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    return open(os.open(file, flags, 0o666), "a", encoding="utf-8", errors="backslashreplace")


def make_folder(root: pathlib.Path, *parts: str) -> pathlib.Path:
    """Returns the folder `parts` below `root`, made if need be.

    Raises:
      RunDirectoryError: a link on the way leads out of `root`, or the system refused it.
    """
    folder = root.joinpath(*parts)
    with writing(folder):
        top = root.resolve()
        if not folder.resolve().is_relative_to(top):
            raise RunDirectoryError(
                f"{folder} is a link that leads out of {root}; nothing is written there. Replace "
                "it by a folder."
            )
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a regular file to read its bytes.

    Raises:
      OSError: the system refused it, or it isn't a regular file.
    """
    # Without O_NONBLOCK, opening a pipe waits for somebody to write into it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(21, "Is a directory", str(path))
        if not stat.S_ISREG(mode):
            raise OSError(22, f"it is {kind_of_file(mode)}, not a regular file", str(path))
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def kind_of_file(mode: int) -> str:
    """Returns the kind of a file that isn't regular, by its mode, such as 'a pipe'."""
    kinds: dict[str, Any] = {
        "a folder": stat.S_ISDIR,
        "a pipe": stat.S_ISFIFO,
        "a socket": stat.S_ISSOCK,
    }
    return next((name for name, holds in kinds.items() if holds(mode)), "a device")


def read_bytes(path: str | os.PathLike[str], most: int) -> bytes:
    """Returns the content of a regular file.

    Raises:
      OSError: the system refused it, it isn't a regular file, or it has more than `most` bytes.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(27, f"it has more than the {most:,} bytes expected", str(path))
    return content
