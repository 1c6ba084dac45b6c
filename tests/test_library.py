"""The package as a library: what it offers, and that importing it costs nothing."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import cnn_jax
from cnn_jax import figures, inspection, reports, sweeps

PACKAGES = (cnn_jax, figures, inspection, reports, sweeps)
# What is promised to others, who write their own programs with it.
PUBLIC = {
    "ops": "conv max_pool avg_pool min_pool lp_pool softmax_pool global_avg_pool dropout softmax "
    "cross_entropy ArgumentError",
    "layers": "Conv Dense BatchNorm Dropout Flatten MaxPool AvgPool GlobalAvgPool",
    "models": "MODELS create ModelConfig",
    "data": "load synthetic split subset Dataset DatasetConfig DataError",
    "augment": "augment AugmentConfig",
    "losses": "METRICS",
    "optimizers": "OPTIMIZERS OptimizerConfig make schedule",
    "config": "Config RecordsConfig ConfigError check to_dict from_dict with_values",
    "experiment": "build load_dataset",
    "train": "train_and_evaluate Row Callback Interrupted DivergedError",
    "records": "read_config read_metrics read_environment",
    "checkpoints": "restore_variables",
    "errors": "UserError",
    "display": "Display Silent",
}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_a_package_offers_its_modules_without_an_import_of_each(package):
    folder = Path(package.__file__).parent
    there = {path.stem.removesuffix(".py") for path in folder.iterdir() if path.name[0] != "_"}
    assert set(package.__all__) <= there
    assert set(package.__all__) <= set(dir(package))
    assert package.__all__ == sorted(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is importlib.import_module(f"{package.__name__}.{name}")
    with pytest.raises(AttributeError, match=f"'{package.__name__}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_what_is_public_is_there():
    for module, names in PUBLIC.items():
        assert module in cnn_jax.__all__
        missing = [name for name in names.split() if not hasattr(getattr(cnn_jax, module), name)]
        assert not missing, module
        assert getattr(cnn_jax, module).__doc__


def test_importing_the_package_imports_nothing_else_and_a_network_is_one_line_away(tmp_path):
    program = """
import sys
def is_standard(name): return name.partition(".")[0] in sys.stdlib_module_names
before = set(sys.modules)
import cnn_jax
new = {name for name in set(sys.modules) - before if not is_standard(name)}
assert new == {"cnn_jax", "cnn_jax.lazy"}, new
print(type(cnn_jax.models.create("lenet", activation="relu")).__name__)
assert "cnn_jax.train" not in sys.modules
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
    environment = {"PYTHONPATH": str(Path(cnn_jax.__file__).parent.parent), "HOME": str(tmp_path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (done.stdout, done.stderr) == ("LeNet\n", "")
