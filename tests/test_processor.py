"""The pool of threads that a run's bits depend on: found, chosen, recorded and used again."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import pytest

from cnn_jax import (
    checkpoints,
    epochs,
    extensions,
    hashes,
    models,
    pool,
    processor,
    records,
    train,
)
from cnn_jax.errors import ConfigError, RunDirectoryError
from cnn_jax.sweeps import own_process
from tests import commands

SMOKE = "--config=experiments/configs/softmax.py:smoke"


@pytest.fixture
def not_started(monkeypatch):
    monkeypatch.setattr(processor, "running_pool", lambda: 0)
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(processor, "_DEVICES", "no_such_option")
    monkeypatch.setattr(jax.config, "no_such_option", -1, raising=False)


def test_the_running_pool_is_counted():
    jax.block_until_ready(jax.numpy.ones(3))
    assert processor.pool_size() == processor.running_pool() > 0


def test_before_the_start_it_is_what_the_process_will_get(monkeypatch, not_started):
    assert processor.pool_size() == len(os.sched_getaffinity(0))
    monkeypatch.setenv("NPROC", "5")
    assert processor.pool_size() == 5
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    assert processor.pool_size() == 8
    with pytest.raises(ConfigError, match=r"there are 8 devices of the CPU.*; take at most 3"):
        processor.use_threads(3)


def test_a_pool_that_has_started_is_not_changed():
    running = processor.pool_size()
    processor.use_threads(running)
    with pytest.raises(ConfigError, match=rf"a pool of {running + 1} threads.*NPROC={running + 1}"):
        processor.use_threads(running + 1)


def test_instruction_sets_are_known_and_can_only_be_lowered(monkeypatch, not_started):
    monkeypatch.setattr(processor, "_cpu_flags", lambda: {"sse4_2", "avx", "avx2", "avx512f"})
    assert processor.instruction_set() == "AVX512"
    processor.use_instruction_set("AMX")
    processor.use_instruction_set("aarch64")
    assert "XLA_FLAGS" not in os.environ
    monkeypatch.setenv("XLA_FLAGS", "--xla_other=1")
    processor.use_instruction_set("AVX2")
    assert os.environ["XLA_FLAGS"] == "--xla_other=1 --xla_cpu_max_isa=AVX2"
    assert processor.instruction_set() == "AVX2"


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({"pool": 4, "threads": 2, "backend": "cpu"}, 4),
        ({"pool": None, "threads": 2, "backend": "gpu"}, None),
        ({"threads": 2, "backend": "cpu", "devices": ["cpu"]}, 2),
        ({"threads": 2, "backend": "cpu", "devices": ["cpu"] * 8}, 8),
        ({"threads": 2, "backend": "cpu", "devices": ["cpu"] * 8, "processes": 4}, 2),
        ({"threads": 2, "backend": "gpu"}, None),
        ({"backend": "cpu"}, None),
    ],
)
def test_the_pool_of_a_recorded_run(environment, threads):
    assert pool.read_pool(environment) == threads


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with a pool of three threads, in a process of its own."""
    directory = tmp_path_factory.mktemp("threads") / "run"
    ended = commands.run(
        "experiments.train", SMOKE, f"--workdir={directory}", "--config.threads=3",
        "--config.records.figures=false", "--config.records.tensorboard=false",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert json.loads((directory / "environment.json").read_text())["pool"] == 3
    return directory


def test_a_run_is_resumed_with_the_threads_that_it_was_begun_with(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    command = ("experiments.train", SMOKE, f"--workdir={copy}", "--config.records.figures=false")
    again = commands.run(*command, "--config.records.tensorboard=false")
    assert again.returncode == 0
    environment = json.loads((copy / "environment.json").read_text())
    assert [start["pool"] for start in environment["resumed"]] == [3]
    other = commands.run(*command, "--config.threads=2")
    assert other.returncode == 2
    assert "with a pool of 3 threads, here config.threads=2. Choose another" in other.stderr


def test_a_sweep_goes_on_with_the_threads_of_its_first_trial(run):
    with pytest.raises(RunDirectoryError, match="trained with a pool of 3 threads, here"):
        pool.use_threads_of_sweep(2, run.parent)


def test_a_run_beside_others_is_none_of_a_sweep(run):
    pool.use_threads_of_run(0, run.parent)  # nothing was begun there


def test_a_run_is_reproduced_with_its_threads(run):
    ended = commands.run("experiments.reproduce", run)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "expected: the same bits" in ended.stdout
    assert "identical: " in ended.stdout


def test_a_run_of_other_versions_is_not_expected_to_be_the_same(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    file = copy / "environment.json"
    environment = json.loads(file.read_text())
    environment["packages"]["jaxlib"] = "0.1"
    environment["caches"] = ["1K", "2K"]
    file.write_text(json.dumps(environment))
    ended = commands.run("experiments.reproduce", copy)
    assert "differences by rounding, which training amplifies (jaxlib 0.1 there" in ended.stdout
    assert "caches: 1K, 2K there" in ended.stdout


def test_an_own_process_that_started_otherwise_is_told(run):
    config = records.read_config(run)
    with pytest.raises((ConfigError, RunDirectoryError), match="a pool of 3 threads"):
        train.train_and_evaluate(config, pathlib.Path(run))


SMALL = (
    "--config.records.figures=false",
    "--config.records.tensorboard=false",
    "--config.dataset.train_examples=300",
)


def test_trials_that_need_other_pools_are_trained_in_processes_of_their_own(tmp_path):
    command = ("experiments.sweep", SMOKE, f"--workdir={tmp_path}", "--grid=threads=1,3", *SMALL)
    ended = commands.run(*command)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    runs = sorted(path.parent for path in tmp_path.glob("*/environment.json"))
    assert [records.read_environment(run)["pool"] for run in runs] == [1, 3]
    ended = commands.run("experiments.reproduce", runs[1])
    assert ended.returncode == 0, ended.stdout
    assert "identical: " in ended.stdout
    assert "(finished before)" in commands.run(*command).stdout


@pytest.fixture
def elsewhere(run, tmp_path, monkeypatch):
    """A run's configuration, and a process that seems to have started with another pool."""
    settings = dataclasses.replace(records.read_config(run), threads=3)
    assert processor.running_pool() != 3  # what the tests run with
    return settings, tmp_path / "run"


@pytest.mark.slow
def test_what_another_process_trains_is_the_same_run(run, elsewhere):
    settings, path = elsewhere
    row = own_process.train_and_evaluate(settings, path)
    assert row == records.read_metrics(path)[-1]
    assert hashes.read(path) == hashes.read(run)
    accuracies = [records.read_metrics(one)[-1]["test_accuracy"] for one in (path, run)]
    assert accuracies[0] == accuracies[1]


@pytest.mark.slow
def test_another_process_asks_whether_to_stop(elsewhere):
    settings, path = elsewhere
    asked = []

    def stop(row):
        asked.append(row["epoch"])
        return True

    row = own_process.train_and_evaluate(dataclasses.replace(settings, epochs=3), path, stop)
    assert (asked, row["epoch"]) == ([1], 1)


@pytest.mark.slow
def test_what_goes_wrong_in_another_process_is_raised_here(elsewhere):
    settings, path = elsewhere
    big = dataclasses.replace(settings, batch_size=100_000)
    with pytest.raises(ConfigError, match="larger than the training set"):
        own_process.train_and_evaluate(big, path)


def test_an_interrupt_saves_the_run_in_another_process(elsewhere, run):
    settings, path = elsewhere
    long = dataclasses.replace(settings, epochs=1000)

    def stop(row):
        os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C
        return False

    with pytest.raises(epochs.Interrupted, match="SIGINT; saved at step") as error:
        own_process.train_and_evaluate(long, path, stop)
    assert checkpoints.find_newest(path) == error.value.step > 0


@pytest.mark.slow
def test_a_network_of_the_users_own_is_known_in_another_process(elsewhere, tmp_path, monkeypatch):
    settings, path = elsewhere
    (tmp_path / "own_network.py").write_text(
        "from cnn_jax import models\nmodels.MODELS['own_softmax'] = models.MODELS['softmax']\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(extensions, "_imported", [])
    extensions.import_files([tmp_path / "own_network.py"])
    try:
        model = dataclasses.replace(settings.model, name="own_softmax")
        row = own_process.train_and_evaluate(dataclasses.replace(settings, model=model), path)
        assert row["epoch"] == settings.epochs
    finally:
        models.MODELS.pop("own_softmax")


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 4, 8])
def test_pinning_to_one_core_changes_no_bit_of_a_run(tmp_path, threads):
    train_lenet = [
        *(sys.executable, "-m", "experiments.train", "--config=experiments/configs/lenet.py:smoke"),
        *(f"--config.threads={threads}", "--config.records.figures=false"),
    ]
    found = []
    for name, pinned in (("free", []), ("pinned", ["taskset", "-c", "0"])):
        command = [*pinned, *train_lenet, f"--workdir={tmp_path / name}"]
        subprocess.run(command, cwd=commands.ROOT, check=True, capture_output=True)
        assert records.read_environment(tmp_path / name)["pool"] == threads
        found.append(hashes.read(tmp_path / name))
    assert found[0] == found[1]
