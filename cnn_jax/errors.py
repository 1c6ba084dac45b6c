"""All that is said to a user when something is wrong: which errors there are.

The message of each is one sentence: what was wrong, what was expected, what to do. A command
prints it and exits; any other exception is a bug and keeps its traceback.
"""


class UserError(ValueError):
    """Something that the user can put right; the message is one sentence that says how."""


class ConfigError(UserError):
    """A configuration that can't work."""


class DataError(UserError):
    """Data that can't be used: which file or setting is wrong."""


class DataNotFoundError(DataError):
    """The data are not there at all, rather than wrong."""


class RunDirectoryError(UserError):
    """A file or a directory of records that can't be read, written or used."""


class RunDirectoryBusyError(RunDirectoryError):
    """Another process is training in the run directory."""


class CheckpointError(UserError):
    """Checkpoints that can't be used."""


class DivergedError(UserError):
    """The loss stopped being a number; the message says when, and what is kept."""


class DisagreementError(UserError):
    """The processes of a distributed run were started with different things."""


class ReportError(UserError):
    """Nothing to report on."""


class ResultsError(UserError):
    """Rows of results that can't be used."""


class SearchError(UserError):
    """A study that can't be opened or used."""
