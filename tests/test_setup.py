"""What a fresh clone relies on: locks, package list, license files."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import cnn_jax

ROOT = Path(__file__).parent.parent
LOCKS = ("requirements.txt", "requirements-cuda13.txt", "requirements-tpu.txt")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def normalized(name):
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=;! ]", name)[0]).lower()


def pins(lock):
    """Name and marker → version."""
    found = {}
    for line in (ROOT / lock).read_text().splitlines():
        match = re.match(r"([\w.-]+)==(\S+)(?: ; (.*?))? \\$", line)
        if match:
            found[normalized(match[1]), match[3]] = match[2]
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_every_direct_dependency_is_locked_with_hashes(lock):
    names = {name for name, _ in pins(lock)}
    project = PROJECT["project"]
    for name in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        assert normalized(name) in names
    text = (ROOT / lock).read_text()
    blocks = re.findall(r"^[\w.-]+==.*?(?=^[\w.-]+==|\Z)", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == len(pins(lock)) > 50
    assert all("--hash=sha256:" in block for block in blocks)


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_say_how_they_are_made_and_name_no_host(lock):
    text = (ROOT / lock).read_text()
    assert "Made by `make lock`" in text.splitlines()[1]
    assert f"-o {lock}" in text.splitlines()[2]
    assert "://" not in text


@pytest.mark.parametrize("lock", LOCKS[1:])
def test_accelerators_use_the_same_versions(lock):
    versions = {}
    for (name, _), version in pins("requirements.txt").items():
        versions.setdefault(name, set()).add(version)
    for (name, _), version in pins(lock).items():
        assert version in versions.get(name, {version})
    assert set(versions) <= {name for name, _ in pins(lock)}


def test_the_package_has_nothing_but_modules_and_known_data():
    """All that stands below cnn_jax goes into the wheel; each folder has to be a package."""
    known = {"data/fashion_mnist_mini.npz", "data/fashion_mnist_mini.LICENSE"}
    known |= {"py.typed", "reports/published.json"}
    files = [path for path in (ROOT / "cnn_jax").rglob("*") if path.is_file()]
    files = [path for path in files if "__pycache__" not in path.parts]
    others = {str(p.relative_to(ROOT / "cnn_jax")) for p in files if p.suffix != ".py"}
    assert others - {"README.md"} == known
    assert all((path.parent / "__init__.py").is_file() for path in files)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("flit_core") is None, reason="flit_core is not installed")
def test_a_wheel_holds_the_package_and_building_it_leaves_nothing(tmp_path):
    shutil.copytree(ROOT / "cnn_jax", tmp_path / "clone" / "cnn_jax")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "clone")
    before = {path.name for path in (tmp_path / "clone").iterdir()}
    program = f"from flit_core import buildapi; buildapi.build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path / "clone", check=True)
    assert {path.name for path in (tmp_path / "clone").iterdir()} == before
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run(
        [sys.executable, "-I", "-c", INSTALLED, wheel], check=True, cwd=tmp_path, timeout=120
    )


# A wheel of pure Python can be imported from as it is.
INSTALLED = """
import sys
sys.path.insert(0, sys.argv[1])
import importlib.resources
import cnn_jax
assert cnn_jax.__file__.startswith(sys.argv[1])
assert type(cnn_jax.models.create("lenet")).__name__ == "LeNet"
for name in "py.typed", "data/fashion_mnist_mini.npz", "reports/published.json":
    assert importlib.resources.files("cnn_jax").joinpath(name).is_file(), name
"""


def test_version_and_licenses():
    assert cnn_jax.__version__ == PROJECT["project"]["version"]
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    for name in PROJECT["project"]["license-files"]:
        assert (ROOT / name).is_file()
    slice_license = (ROOT / "cnn_jax" / "data" / "fashion_mnist_mini.LICENSE").read_text()
    assert "MIT License" in slice_license
    assert "Zalando SE" in slice_license
    assert (ROOT / "cnn_jax" / "data" / "fashion_mnist_mini.npz").stat().st_size < 2_000_000


def test_files_are_written_by_one_writer():
    """Whatever writes a file goes through cnn_jax.files: at once or not at all, through no link."""
    other_ways = (
        r"\w+\.write_(?:text|bytes)\(|\.touch\(|\bopen\([^)\n]*, \"[wax]|"
        r"\.savefig\(file, f"
    )
    fine = re.compile(r"files\.|records\.|open\(os\.(devnull|open)")
    found = {
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sorted([*ROOT.glob("cnn_jax/**/*.py"), *ROOT.glob("experiments/**/*.py")])
        for line in path.read_text().splitlines()
        if path.name != "files.py" and re.search(other_ways, line) and not fine.search(line)
    }
    assert found == set()
