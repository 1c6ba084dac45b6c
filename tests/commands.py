"""Commands in one process: each defines its flags when it is imported, some of the same name."""

import importlib

from absl import flags


def load(name):
    """Imports experiments.<name>; a flag that another command has defined is the newest one's."""
    for flag in flags.FLAGS:
        flags.FLAGS[flag].allow_override = True
    module = importlib.import_module(f"experiments.{name}")
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    return module
