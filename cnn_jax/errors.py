"""The errors that are meant for a user.

A command prints the message, one sentence that says what was wrong, what was expected and what to
do, and exits; any other exception is a bug and keeps its traceback.
"""


class UserError(ValueError):
    """Something that the user can correct."""


class ConfigError(UserError):
    """A configuration that can't work."""


class DataError(UserError):
    """Data that can't be used: which file or setting is wrong."""


class DataNotFoundError(DataError):
    """Data that don't exist."""


class PictureError(DataError):
    """A file that is no picture, or a damaged one; a file that the system refuses is no such."""


class RunDirectoryError(UserError):
    """A file or a directory of records that can't be read, written or used."""


class RunDirectoryBusyError(RunDirectoryError):
    """Another process is training in the run directory."""


class CheckpointError(UserError):
    """Checkpoints that can't be used."""


class DivergedError(UserError):
    """The loss stopped being finite."""


class DisagreementError(UserError):
    """The processes of a distributed run were started with different things."""


class ReportError(UserError):
    """Nothing to report on."""


class ResultsError(UserError):
    """Rows of results that can't be used."""


class SearchError(UserError):
    """A study that can't be opened or used."""
