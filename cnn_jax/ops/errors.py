"""The error of operations, layers and networks."""


class ArgumentError(ValueError):
    """An argument that an operation can't take; the message is one sentence."""
