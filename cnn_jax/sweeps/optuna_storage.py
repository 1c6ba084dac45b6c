"""Optuna's storage of studies in a journal, whose errors say which line is to blame.

Imported only where a study is opened, since Optuna is optional.
"""

from collections.abc import Callable

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError

from cnn_jax.errors import SearchError
from cnn_jax.sweeps.optuna_journal import JournalFile


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
