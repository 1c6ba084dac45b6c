"""The flags of a configuration: --config=FILE and --config.a.b=value, where None is None.

ml_collections reads `None` as a text, as a tuple with None in it or not at all, by the type of the
option. Here it is None for every option; `config.check` refuses it where an option can't be None.
"""

import shlex
from typing import Any, Literal

from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags import tuple_parser

from cnn_jax import config
from cnn_jax.sweeps import spaces


class _OrNone(flags.ArgumentParser):
    """Reads values as another parser does, and `None` as None."""

    def __init__(self, parser: flags.ArgumentParser) -> None:
        self._parser = parser
        self.syntactic_help = parser.syntactic_help

    def parse(self, argument: Any) -> Any:
        return None if argument in ("None", None) else self._parser.parse(argument)

    def flag_type(self) -> str:
        return self._parser.flag_type()


class _Words(tuple_parser.TupleParser):
    """Reads a tuple of texts without quotes: Conv_*,Dense_0=0.1."""

    def parse(self, argument: Any) -> Any:
        if not isinstance(argument, str):
            return super().parse(argument)
        return (None,) if argument == "None" else spaces.parse_words(argument)


_PARSERS: dict[Any, flags.ArgumentParser] = {
    float: flags.FloatParser(),
    int: flags.IntegerParser(),
    bool: flags.BooleanParser(),
    str: flags.ArgumentParser(),
    Literal: flags.ArgumentParser(),
}


def define(name: str, help_string: str, **options: Any) -> Any:
    """Defines --NAME=FILE[:options] and the overrides --NAME.a.b=value; returns its holder.

    `options` are those of `config_flags.DEFINE_config_file`.
    """
    for kind, parser in _PARSERS.items():
        config_flags.register_flag_parser_for_type(kind, _OrNone(parser))
    config_flags.register_flag_parser_for_type(tuple[str, ...], _Words())
    holder = config_flags.DEFINE_config_file(name, None, help_string, **options)
    values = options.get("flag_values", flags.FLAGS)

    def settle(tree: Any) -> bool:
        # A flag may be given several times for a tuple, so that it can't be None until the end.
        if isinstance(tree, config.Config):
            overrides = config_flags.get_override_values(values[name])
            for path, value in overrides.items():
                if value == (None,):
                    overrides[path] = None
                    _set(tree, path, None)
        return True

    flags.register_validator(name, settle, flag_values=values)
    return holder


def read_given(name: str = "config") -> tuple[str, dict[str, Any]]:
    """Returns the file that --NAME gives, with its options, and the values overridden, by path."""
    flag = flags.FLAGS[name]
    return config_flags.get_config_filename(flag), config_flags.get_override_values(flag)


def format_given(name: str = "config") -> str:
    """Returns the flags --NAME=FILE --NAME.a.b=value … as they were given, for a shell."""
    file, overrides = read_given(name)
    options = (f"--{name}.{p}={spaces.format_value(value)}" for p, value in overrides.items())
    return shlex.join([f"--{name}={file}", *options])


def _set(tree: Any, path: str, value: Any) -> None:
    *nodes, leaf = path.split(".")
    for node in nodes:
        tree = getattr(tree, node)
    setattr(tree, leaf, value)
