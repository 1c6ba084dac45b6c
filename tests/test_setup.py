"""What a fresh clone relies on: locks, package list, license files."""

import re
import tomllib
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


def test_every_package_is_listed():
    found = {
        ".".join(init.parent.relative_to(ROOT).parts)
        for init in ROOT.glob("cnn_jax/**/__init__.py")
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


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
