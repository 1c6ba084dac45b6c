"""Python files of the user that add networks, metrics, optimizers, …: imported in every process."""

import importlib
import pathlib
import sys
from collections.abc import Sequence

from cnn_jax.errors import ConfigError

_imported: list[str] = []


def import_files(paths: Sequence[str | pathlib.Path]) -> None:
    """Imports Python files, each with what stands beside it.

    Raises:
      ConfigError: one isn't there.
    """
    for path in map(pathlib.Path, paths):
        if path.suffix != ".py" or not path.is_file():
            raise ConfigError(f"--import={path} is no Python file; give the path of one, x.py.")
        sys.path.insert(0, str(path.absolute().parent))
        importlib.import_module(path.stem)
        _imported.append(str(path.absolute()))


def imported() -> list[str]:
    """Returns the paths of what was imported here, for another process to import."""
    return list(dict.fromkeys(_imported))
