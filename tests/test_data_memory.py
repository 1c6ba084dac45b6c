"""Data too large for the memory there is: refused in one sentence."""

import gzip
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from cnn_jax import data
from cnn_jax.data import archives, cifar, folders, memory
from tests.data_sets import base, make_set, refusal

pytestmark = pytest.mark.usefixtures("elsewhere")


# Sizes against the memory there is.


@pytest.fixture
def little(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 3000)


def test_sets_beyond_the_memory_there_is_are_refused(tmp_path, little, monkeypatch):
    tail = "more than the 0.0 MiB that there is; "
    for name in ("synthetic:train=3,test=2", "synthetic:train=2,test=2,channels=64,size=1024"):
        assert tail + "choose smaller numbers" in refusal(data.load, name)
    make_set(tmp_path / "set", count=30)
    assert tail + "choose a smaller size" in refusal(data.load, "./set")
    assert tail + "choose a smaller size" in refusal(data.load, "./set:size=64,channels=3")
    np.savez_compressed("own.npz", **base())
    assert tail + "save a smaller set" in refusal(data.load, "./own.npz")
    monkeypatch.setattr(archives, "_STEP", 1 << 10)
    content = archives.idx_bytes(np.zeros((100, 10, 10), np.uint8))
    for name in archives.IDX_FILES:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    assert tail + "end other programs" in refusal(data.load, "mnist", tmp_path)
    folder = tmp_path / "cifar10" / cifar.CIFAR10.folder
    folder.mkdir(parents=True)
    for name in cifar.CIFAR10.files:
        (folder / name).write_bytes(bytes(6000))
    assert tail in refusal(data.load, "cifar10", tmp_path)


def test_memory_that_runs_out_is_a_sentence(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise MemoryError

    make_set(tmp_path / "set")
    monkeypatch.setattr(folders, "decode", fail)
    assert refusal(data.load, "./set").startswith("./set takes more memory than there is; ")


def test_the_limits_of_the_process_and_its_groups_count(tmp_path):
    assert 0 < memory.available() < 1 << 50
    code = (
        "import resource, psutil; from cnn_jax import data\n"
        "now = psutil.Process().memory_info().vms\n"
        "resource.setrlimit(resource.RLIMIT_AS, (now + 10**8, now + 10**8))\n"
        "try: data.load('synthetic:train=150000')\n"
        "except data.DataError as error: print(error)\n"
    )
    root = pathlib.Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert "MiB that there is; choose smaller numbers." in done.stdout, done.stderr
    for group, limit, usage in (("", "max", 700), ("a", "1000", 600), ("a/b", "max", 100)):
        folder = tmp_path / "cgroup" / group
        folder.mkdir(exist_ok=True)
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text(f"{usage}\n")
        (folder / "memory.stat").write_text("anon 5\ninactive_file 200\n")
    (tmp_path / "groups").write_text("0::/a/b\n")
    assert list(memory._left_in_groups(tmp_path / "cgroup", tmp_path / "groups")) == [600]
    old = tmp_path / "cgroup" / "memory" / "docker"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("500")
    (old / "memory.usage_in_bytes").write_text("400")
    (old / "memory.stat").write_text("total_inactive_file 50\n")
    (tmp_path / "groups").write_text("4:cpu,cpuacct:/x\n7:memory:/docker\n")
    assert list(memory._left_in_groups(tmp_path / "cgroup", tmp_path / "groups")) == [150]
    assert list(memory._left_in_groups(tmp_path, tmp_path / "none")) == []
