"""The command lines: `python -m experiments.NAME --help` says what each one does."""

import sys
from types import TracebackType


def _excepthook(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Shows no traceback for Ctrl-C, from the first import on."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _excepthook
