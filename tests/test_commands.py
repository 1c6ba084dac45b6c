"""Every command as a person runs it: in a process of its own, from the table of all commands."""

import os
import pathlib
import re
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from experiments.commands import COMMANDS
from tests import commands

ROOT = pathlib.Path(__file__).parent.parent
# What needs nothing and takes long; the others end within seconds, some with a sentence.
LONG = {"benchmark", "benchmark_primitives", "benchmark_startup", "generalization", "results"}
LONG |= {"weight_decay", "edge_detection", "learn_kernel", "polynomial"}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}


def run_all(wanted, folder):
    """[(module, arguments)] → [(exit code, standard output, standard error)]."""
    ends = [commands.run(module, *arguments, folder=folder) for module, arguments in wanted]
    return [(done.returncode, done.stdout, done.stderr) for done in ends]


def test_the_table_has_every_command():
    found = {
        path.stem
        for path in (ROOT / "experiments").glob("*.py")
        if 'if __name__ == "__main__"' in path.read_text()
    }
    assert set(COMMANDS) == found - {"__main__"}


def test_every_command_without_arguments_works_or_says_what_it_needs(tmp_path):
    names = sorted(set(COMMANDS) - LONG - {"prepare_data"})  # which fetches Fashion-MNIST
    ends = run_all([(f"experiments.{name}", ()) for name in names], tmp_path)
    for name, (code, out, err) in zip(names, ends, strict=True):
        assert code == 2, (name, out, err)
        assert out == "", name
        assert re.fullmatch(r"error: [^\n]+\n", err), (name, err)
        assert re.search(r"--\w+|see --help", err), (name, err)


def test_help_of_every_command_has_its_flags_and_an_example(tmp_path):
    names = sorted(COMMANDS)
    wanted = [(f"experiments.{name}", ("--help",)) for name in names]
    *ends, (all_code, table, _) = run_all([*wanted, ("experiments", ())], tmp_path)
    for name, (code, out, err) in zip(names, ends, strict=True):
        assert (code, err) == (0, ""), (name, err)
        assert f"python -m experiments.{name}" in out, name
        source = (ROOT / "experiments" / f"{name}.py").read_text()
        for flag in re.findall(r"(?:DEFINE_\w+|define_path)\(\s*\"(\w+)\"", source):
            assert re.search(rf"--(\[no\])?{flag}(=…)?\s", out), (name, flag)
        assert ("--config.a.b=VALUE" in out) == ("define_config()" in source), name
        assert "orbax" not in out
    assert all_code == 0
    assert all(f"  {name} " in table for name in COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LONG))
def test_commands_that_need_nothing_begin_their_work(name, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", f"experiments.{name}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, "PYTHONUNBUFFERED": "1"},
        cwd=tmp_path if name != "results" else ROOT,
    )
    first = process.stdout.readline()
    process.terminate()
    err = process.stderr.read()
    process.wait()
    assert first.strip(), err
    assert "Traceback" not in err
    assert not re.search("^error", err, re.M)


# What makes the README's commands small.
SMALL = {
    "train": "--config.dataset.name=fashion_mnist_mini --config.epochs=1",
    "sweep": "--config.dataset.name=fashion_mnist_mini --config.epochs=1",
    "search": "--config.dataset.name=fashion_mnist_mini --config.epochs=1 --trials=2",
    "results": "--list",
    "ablation": None,  # two recipes; named in passing
    "speedrun": None,
    "benchmark": None,
    "benchmark_startup": None,
    "benchmark_primitives": None,
    "generalization": "--seeds=2 --steps=20",
    "weight_decay": "",
    "polynomial": "--seeds=2",
    "demo": None,  # serves until it is stopped
    "prepare_data": None,  # the internet
}


def readme_commands():
    """The README's commands with their arguments, in their order."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    found = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        found += re.findall(r"^python -m experiments\.(\w+)(.*)$", block, re.M)
    found += re.findall(r"^\| `python -m experiments\.(\w+)([^`]*)` \|", text, re.M)
    return found


def test_the_readme_names_commands_that_are_there():
    text = (ROOT / "README.md").read_text()
    names = set(re.findall(r"python\s+-m\s+experiments\.(\w+)", text))
    assert names <= set(COMMANDS)
    assert len(readme_commands()) > 10


@pytest.mark.slow
def test_the_readme_commands_work_as_they_are_typed(tmp_path):
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for name in ("shirt.png", "pictures/boot.png"):
        Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(tmp_path / name)
    typed = [("train", " --config=experiments/configs/lenet.py --workdir=runs/lenet")]
    for name, arguments in [*typed, *readme_commands()]:
        if (more := SMALL.get(name, "")) is None:
            continue
        command = [sys.executable, "-m", f"experiments.{name}", *shlex.split(arguments)]
        begin = time.monotonic()
        done = subprocess.run(
            [*command, *shlex.split(more)],
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            cwd=tmp_path,
            timeout=600,
        )
        assert done.returncode == 0, (name, arguments, done.stderr[-2000:])
        assert "Traceback" not in done.stderr
        assert done.stdout.strip(), (name, time.monotonic() - begin)
