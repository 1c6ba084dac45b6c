"""Importing the modules of a package when they are first asked for (PEP 562)."""

import importlib
import sys
from collections.abc import Callable, Sequence
from types import ModuleType


def import_when_asked(
    package: str, modules: Sequence[str]
) -> tuple[Callable[[str], ModuleType], Callable[[], list[str]]]:
    """Returns the `__getattr__` and the `__dir__` of a package with these modules."""

    def get(name: str) -> ModuleType:
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return get, names
