"""The tree is the architecture: imports go one way."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parent.parent
# From the bottom; the spine is every other module of the package.
LAYERS = ("ops", "spine", "inspection", "figures", "sweeps", "reports", "experiments")
MODULES = [*ROOT.glob("cnn_jax/**/*.py"), *ROOT.glob("experiments/**/*.py")]


def layer_of(module: str) -> int:
    """The layer of a module, as 'cnn_jax.ops.dense'; the package itself names all of its parts."""
    if module == "cnn_jax.__init__":
        return LAYERS.index("reports")
    package, _, rest = module.partition(".")
    name = rest.partition(".")[0] if package == "cnn_jax" else package
    return LAYERS.index(name if name in LAYERS else "spine")


def imports_of(file: pathlib.Path) -> set[str]:
    """The modules of ours that a file imports, also within its functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.partition(".")[0] in ("cnn_jax", "experiments")}


def test_imports_go_one_way():
    for file in MODULES:
        own = layer_of(".".join(file.relative_to(ROOT).with_suffix("").parts))
        upwards = {name for name in imports_of(file) if layer_of(name) > own}
        assert not upwards, file


def test_operations_import_nothing_but_operations():
    for file in ROOT.glob("cnn_jax/ops/**/*.py"):
        assert all(name.startswith("cnn_jax.ops") for name in imports_of(file)), file
