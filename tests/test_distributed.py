"""Two processes with two devices each, on the loopback: the numbers of one process with four."""

import dataclasses
import importlib
import io
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import flax
import jax
import numpy as np
import pytest

from cnn_jax import checkpoints, config, data, records, train
from cnn_jax.display import Display, Silent
from cnn_jax.experiment import build
from tests import commands

ROOT = pathlib.Path(__file__).parent.parent
HEARTBEAT = 10
# Seconds: mostly at once, as a killed process closes its connections, else after a missing
# heartbeat; and the rest of its current step.
ENDS_WITHIN = HEARTBEAT + 30


def start(workdir, devices, *arguments, module="experiments.train"):
    command = [sys.executable, "-m", module, f"--workdir={workdir}"]
    command += ["--config=experiments/configs/mlp_dropout.py:smoke", "--config.parallel=jit"]
    command += ["--config.epochs=4"]
    command += ["--config.model.hidden=(32,)", "--config.model.dropout=(0.2,)"]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    # In a file, not a pipe, which could fill up.
    out = open(f"{workdir}.{len(list(workdir.parent.iterdir()))}.out", "w+")  # noqa: SIM115
    command += arguments
    process = subprocess.Popen(
        command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=ROOT
    )
    process.out = pathlib.Path(out.name)
    return process


def start_two(workdir, *arguments, module="experiments.train"):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    common = [*arguments, "--distributed", f"--coordinator={address}", "--processes=2"]
    common.append(f"--heartbeat={HEARTBEAT}")
    return [start(workdir, 2, *common, f"--process_id={i}", module=module) for i in range(2)]


def wait_for_checkpoint(workdir, processes):
    saved = workdir / "checkpoints"
    while not (saved.is_dir() and any(path.name.isdigit() for path in saved.iterdir())):
        for process in processes:
            assert process.poll() is None, process.out.read_text()
        time.sleep(0.02)


def settings():
    """What the commands train, on one device."""
    module = importlib.import_module("experiments.configs.mlp_dropout")
    values = {
        "epochs": 4,
        "model.hidden": (32,),
        "model.dropout": (0.2,),
        "records.tensorboard": False,
        "records.figures": False,
    }
    return config.with_values(module.get_config("smoke"), values)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The run by one process on one device."""
    path = tmp_path_factory.mktemp("one") / "run"
    train.train_and_evaluate(settings(), path, Silent())
    return path


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The run by two processes, of which one is killed during the second epoch.

    The other one ends by itself: its exit code, its last words, and how long that took.
    """
    path = tmp_path_factory.mktemp("two") / "run"
    first, second = start_two(path)
    wait_for_checkpoint(path, (first, second))
    second.kill()
    begin = time.monotonic()
    code, seconds = first.wait(120), time.monotonic() - begin
    second.wait()
    time.sleep(0.5)  # if JAX aborted it, the sentence comes after its end
    return path, code, first.out.read_text(), seconds


def test_when_a_process_is_killed_the_other_ends_with_a_sentence(killed):
    _, code, text, seconds = killed
    assert code in (3, -signal.SIGABRT)  # the latter if JAX's coordination service is faster
    assert re.fullmatch(
        r"error: process 0 .* because another process of this run is gone; start all of them again "
        r"to resume\.",
        text.splitlines()[-1],
    )
    assert seconds < ENDS_WITHIN


def assert_same(one, other):
    """Only the order of the sums over devices differs, hence the tolerance."""
    rows, others = (records.read_metrics(path) for path in (one, other))
    assert [row["epoch"] for row in others] == [1, 2, 3, 4]
    for a, b in zip(rows, others, strict=True):
        for name in set(a) - {"seconds", "examples_per_second"}:
            assert b[name] == pytest.approx(a[name], rel=1e-5), name
    trees = (checkpoints.restore_variables(path) for path in (one, other))
    a, b = (flax.traverse_util.flatten_dict(tree) for tree in trees)
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_allclose(b[name], a[name], rtol=1e-4, atol=1e-5)


def test_what_two_processes_began_one_ends_with_the_numbers_of_one(one, killed, tmp_path):
    path = shutil.copytree(killed[0], tmp_path / "run")
    said = io.StringIO()
    continued = dataclasses.replace(settings(), parallel="jit")
    train.train_and_evaluate(continued, path, Display(said))
    assert re.search("^resuming at epoch [1-3], step ", said.getvalue(), re.MULTILINE)
    assert_same(one, path)
    environment = records.read_environment(path)
    assert environment["processes"] == 2  # what the run began with
    assert environment["resumed"][-1]["processes"] == 1


@pytest.mark.slow
def test_two_processes_end_what_they_began_and_only_the_first_prints(one, killed, tmp_path):
    path = shutil.copytree(killed[0], tmp_path / "run")
    resumed = start_two(path)
    for process in resumed:
        assert process.wait() == 0, process.out.read_text()
    first, second = (process.out.read_text() for process in resumed)
    assert re.search("^resuming at epoch [1-3], step ", first, re.MULTILINE)
    assert first.splitlines()[-1].startswith("final test_accuracy=")
    # XLA's collectives report their connections; cut off, the count of peers may stand alone.
    gloo = re.compile(r"\[Gloo\]|peer ranks is :|^\d*$")
    assert [line for line in second.splitlines() if not gloo.search(line)] == []
    assert_same(one, path)
    environment = records.read_environment(path)
    assert (path / "figures" / "confusion.png").exists()
    assert [start["processes"] for start in (environment, environment["resumed"][-1])] == [2, 2]


@pytest.mark.slow
def test_a_signal_to_one_process_saves_and_ends_all_with_its_number(tmp_path):
    path = tmp_path / "run"
    first, second = start_two(path, "--config.epochs=100000")
    wait_for_checkpoint(path, (first, second))
    second.send_signal(signal.SIGUSR2)
    codes = [process.wait(120) for process in (first, second)]
    assert codes == [128 + signal.SIGUSR2] * 2, first.out.read_text()
    said = re.search(r"^interrupted by SIGUSR2; saved at step (\d+);", first.out.read_text(), re.M)
    assert checkpoints.find_newest(path) == int(said[1])


@pytest.mark.slow
def test_an_ordered_run_has_the_same_bits_in_two_processes_and_resumed_in_one(tmp_path):
    ordered = ["--config.reduction=ordered", "--config.threads=4"]
    ordered += ["--config.records.figures=false", "--config.records.tensorboard=false"]
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    assert start(whole, 1, *ordered).wait() == 0
    for process in (two := start_two(moved, *ordered)):
        wait_for_checkpoint(moved, two)
        process.kill()
        process.wait()
    last = start(moved, 1, *ordered)
    assert last.wait() == 0, last.out.read_text()
    assert "resuming at epoch" in last.out.read_text()
    times = {"seconds", "examples_per_second"}
    rows, others = (
        [{k: v for k, v in row.items() if k not in times} for row in records.read_metrics(run)]
        for run in (whole, moved)
    )
    assert rows == others
    trees = (checkpoints.restore_variables(run) for run in (whole, moved))
    a, b = (jax.tree.map(lambda x: np.asarray(x).tobytes(), tree) for tree in trees)
    assert a == b


@pytest.mark.parametrize("parallel", ["none", "pmap"])
def test_ways_to_compile_that_use_one_process_only_are_refused(monkeypatch, parallel):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    settings = config.Config(parallel=parallel)
    with pytest.raises(config.ConfigError, match="runs in one process, and there are 2; choose"):
        build(settings, data.synthetic(size=8, train=512))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--distributed"], "can't join the other processes: coordinator_address should be def"),
        (
            ["--distributed", "--coordinator=127.0.0.1:1", "--processes=2", "--process_id=2"],
            "can't join the other processes: process_id",
        ),
    ],
)
def test_flags_that_do_not_say_enough_are_one_sentence(tmp_path, arguments, expected):
    common = "--config=experiments/configs/mlp_dropout.py:smoke", f"--workdir={tmp_path / 'run'}"
    done = commands.run("experiments.train", *common, *arguments, JAX_PLATFORMS="cpu")
    assert done.returncode == 2
    assert expected in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_processes_of_srun_that_know_nothing_of_each_other_are_refused(tmp_path):
    common = "--config=experiments/configs/mlp_dropout.py:smoke", f"--workdir={tmp_path / 'run'}"
    done = commands.run("experiments.train", *common, SLURM_STEP_NUM_TASKS="4")
    assert done.returncode == 2
    assert done.stderr == (
        "error: srun has started 4 processes, which would each train this run by itself; give "
        "--distributed --config.parallel=jit, or start one with srun --ntasks=1.\n"
    )
    assert not (tmp_path / "run").exists()
