"""Every command as a person runs it: in a process of its own, from the table of all commands."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from experiments.commands import COMMANDS
from tests import commands

ROOT = pathlib.Path(__file__).parent.parent
# What needs nothing and takes long; the others end within seconds, some with a sentence.
LONG = {
    "benchmark",
    "benchmark_primitives",
    "benchmark_startup",
    "generalization",
    "results",
    "same_bits",
}
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
