"""Runs that are killed, files that are damaged, disks that are full: no run is lost.

`python tests/faults.py --kills=50 --damages=200` tries it in larger numbers.
"""

import random
import shutil
import subprocess
import sys
import time
import warnings
from typing import NamedTuple

import numpy as np
import pytest

from cnn_jax import config, records, train
from cnn_jax.checkpoints import CheckpointError, Checkpoints, Progress
from cnn_jax.display import Silent
from tests import attacks, commands, faults

ROOT = faults.ROOT
SETTINGS = config.Config(
    dataset=config.DatasetConfig(name="fashion_mnist_mini", train_examples=256),
    model=config.ModelConfig(name="softmax"),
    records=config.RecordsConfig(tensorboard=False, figures=False),
    epochs=3,
    batch_size=64,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("faults") / "run"
    train.train_and_evaluate(SETTINGS, path, Silent())
    return path


def try_one(workdir, expected):
    """Runs again in a damaged directory; the result, or a one-sentence error of ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            train.train_and_evaluate(SETTINGS, workdir, Silent())
    except (records.RunDirectoryError, CheckpointError, config.ConfigError) as error:
        return str(error)
    assert faults.outcome(workdir) == expected
    return "result"


# TensorStore's other reads tell their event loop after it was closed, as in launch.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_file_ends_in_the_same_bits_or_in_one_sentence(finished, tmp_path):
    rng = random.Random(1)
    expected = faults.outcome(finished)
    ends = []
    names = [path.relative_to(finished) for path in faults.run_files(finished)]
    chosen = ["config.json", "metrics.jsonl", "environment.json", *rng.sample(names, 5)]
    for i, name in enumerate(chosen):
        workdir = shutil.copytree(finished, tmp_path / str(i))
        faults.damage(workdir / name, rng)
        ends.append(try_one(workdir, expected))
    assert "result" in ends
    assert all(end and "\n" not in end for end in ends), ends


@pytest.mark.parametrize("content", ["", "[]", "{", '{"seed": [', '{"seed": "x"}', "\x00"])
def test_a_configuration_that_is_none_is_one_sentence(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    with pytest.raises(ValueError) as error:
        train.train_and_evaluate(SETTINGS, tmp_path, Silent())
    assert isinstance(error.value, records.RunDirectoryError)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["environment.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff\xfe"])
def test_records_that_are_none_are_one_sentence(tmp_path, file, content):
    (tmp_path / file).write_bytes(content)
    read = {"environment.json": records.read_environment, "metrics.jsonl": records.read_metrics}
    with pytest.raises(records.RunDirectoryError, match="can't be read") as error:
        read[file](tmp_path)
    assert "\n" not in str(error.value)


class State(NamedTuple):
    step: np.ndarray
    kernel: np.ndarray


def state(step):
    rng = np.random.default_rng(step)
    return State(np.int32(step), rng.standard_normal(100_000, np.float32))


def progress(epoch):
    return Progress(epoch, 0, {}, 0.0, [{"test_accuracy": 0.5}] * epoch)


# In a process of its own, which ends with the failure, as a run does: TensorStore's other writes go
# on for a while, and there must be no room for them again. Its files can't grow beyond a limit.
FILL = """
import pathlib, resource, sys
from cnn_jax.checkpoints import CheckpointError, Checkpoints
from tests.test_faults import progress, state
for size in (20_000, 1_000, 0):
    with Checkpoints(pathlib.Path(sys.argv[1], str(size))) as saving:
        saving.save(state(1), progress(1))
for size in (20_000, 1_000, 0):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        with Checkpoints(pathlib.Path(sys.argv[1], str(size))) as saving:
            saving.save(state(2), progress(2))
    except CheckpointError as error:
        print(size, error, flush=True)
"""


def test_when_the_disk_is_full_the_checkpoints_before_are_intact(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FILL, tmp_path], capture_output=True, text=True, cwd=ROOT
    )
    lines = done.stdout.splitlines()
    assert [line.split(" ", 1)[0] for line in lines] == ["20000", "1000", "0"], done.stderr
    assert all("can't write a checkpoint: " in line for line in lines)
    for size in ("20000", "1000", "0"):
        with Checkpoints(tmp_path / size) as again:
            restored, back = again.restore(state(0))
            assert (restored.step, back.epoch) == (1, 1)
            np.testing.assert_array_equal(restored.kernel, state(1).kernel)
            again.save(state(2), progress(2))
        with Checkpoints(tmp_path / size) as again:
            assert again.restore(state(0))[0].step == 2


def test_a_flipped_bit_anywhere_in_a_checkpoint_is_found(tmp_path):
    """Numbers that don't compress are stored as they are: a checksum protects them."""
    with Checkpoints(tmp_path / "c") as saving:
        saving.save(state(1), progress(1))
        saving.save(state(2), progress(2))
    (newest,) = (tmp_path / "c").glob("2")
    largest = max((f for f in newest.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with Checkpoints(tmp_path / "c") as again, pytest.warns(UserWarning, match="step 2 can't"):
        assert again.restore(state(0))[0].step == 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of the command that tests/faults.py kills."""
    path = tmp_path_factory.mktemp("whole") / "run"
    code, text = faults.finish(path)
    assert code == 0, text
    return path


@pytest.mark.slow
def test_a_full_disk_ends_a_run_with_a_sentence_and_it_resumes(whole, tmp_path):
    code, text = faults.finish(tmp_path / "run", kilobytes=16)  # a checkpoint has 50 kB
    assert code == 2
    assert faults.one_sentence(text), text
    assert "error: can't write a checkpoint: " in text
    assert "File too large" in text
    code, text = faults.finish(tmp_path / "run")
    assert code == 0, text
    assert faults.outcome(tmp_path / "run") == faults.outcome(whole)


@pytest.mark.parametrize("part", ["run", "run/checkpoints", "run/metrics.jsonl"])
def test_what_stands_in_the_way_is_named(tmp_path, part):
    blocked = tmp_path / part
    blocked.parent.mkdir(parents=True, exist_ok=True)
    if part.endswith("jsonl"):
        blocked.mkdir()
    else:
        blocked.write_text("")
    with pytest.raises((records.RunDirectoryError, CheckpointError)) as error:
        train.train_and_evaluate(SETTINGS, tmp_path / "run", Silent())
    assert str(blocked) in str(error.value)
    assert "\n" not in str(error.value)


def test_where_nothing_can_be_written_the_command_says_so():
    config = "--config=experiments/configs/softmax.py:smoke"
    done = commands.run("experiments.train", config, "--workdir=/proc/none/run")
    assert done.returncode == 2
    assert done.stderr.startswith("error: can't write to the run directory /proc/none/run: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_killed_run_resumes_to_the_same_bits(whole, tmp_path):
    out = tmp_path / "out"
    with out.open("w") as file:
        process = faults.start(tmp_path / "killed", file)
        saved = tmp_path / "killed" / "checkpoints"
        while not (saved.is_dir() and any(path.name.isdigit() for path in saved.iterdir())):
            assert process.poll() is None, out.read_text()
            time.sleep(0.01)
        process.kill()
        process.wait()
    code, text = faults.finish(tmp_path / "killed")
    assert code == 0, text
    assert "resuming at epoch " in text or "finished at epoch " in text
    assert faults.outcome(tmp_path / "killed") == faults.outcome(whole)


@pytest.mark.slow
def test_runs_killed_and_damaged_at_random(tmp_path):
    rng = random.Random(0)
    assert faults.try_kills(5, rng, tmp_path) == 0
    assert faults.try_damages(10, rng, tmp_path) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(attacks.ATTACKS))
def test_attacks_end_in_a_sentence_or_in_the_right_bits(name, tmp_path):
    assert attacks.try_all(tmp_path, [name]) == 0
