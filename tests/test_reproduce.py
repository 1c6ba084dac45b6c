"""Running a recorded run again, and telling what differs."""

import json
import shutil

import numpy as np
import pytest

from cnn_jax import config, records, train
from cnn_jax.display import Silent
from tests import commands

reproduce = commands.load("reproduce")


@pytest.fixture(autouse=True, scope="module")
def _unchanged_source():
    """Somebody may edit the sources while the tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "source_revision", lambda: {"commit": "1", "clean": True})
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    settings = config.Config(
        dataset=config.DatasetConfig(name="fashion_mnist_mini", train_examples=300),
        model=config.ModelConfig(name="mlp", hidden=(8,), dropout=(0.2,)),
        records=config.RecordsConfig(tensorboard=False, figures=False),
        epochs=2,
        batch_size=64,
    )
    path = tmp_path_factory.mktemp("reproduce") / "run"
    train.train_and_evaluate(settings, path, Silent())
    return path


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def test_a_run_is_reproduced_to_the_bit_and_kept_where_asked(finished, tmp_path, capsys):
    assert reproduce.reproduce(finished, tmp_path / "again") == 0
    assert "identical: 2 rows of metrics and 6,370 numbers" in capsys.readouterr().out
    assert len(records.read_metrics(tmp_path / "again")) == 2


def test_what_differs_is_told_with_the_first_epoch_the_size_and_the_causes(copy, tmp_path, capsys):
    rows = records.read_metrics(copy)
    rows[1]["test_loss"] += 0.5
    (copy / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    environment = records.read_environment(copy)
    environment["packages"]["jax"] = "0.1.0"
    records.write_json(copy / "environment.json", environment)
    assert reproduce.reproduce(copy, tmp_path / "again") == 1
    out = capsys.readouterr().out
    assert f"epoch 2: test_loss {rows[1]['test_loss']!r} → " in out
    assert "packages.jax: '0.1.0' → '0." in out
    assert "parameters" not in out.partition("different:")[2].partition("and between")[0]


def test_another_seed_is_another_run(copy, tmp_path, capsys):
    tree = json.loads((copy / "config.json").read_text())
    tree["seed"] = 1
    records.write_json(copy / "config.json", tree)
    assert reproduce.reproduce(copy, tmp_path / "again") == 1
    out = capsys.readouterr().out
    assert "epoch 1: " in out
    assert "arrays of the network, the most by " in out
    assert "the two environments are the same" in out


def test_parameters_are_compared_by_their_bits():
    zero = {"params": {"Dense_0": {"bias": np.zeros(2, np.float32)}}}
    minus = {"params": {"Dense_0": {"bias": -np.zeros(2, np.float32)}}}
    longer = {"params": {"Dense_0": {"bias": np.zeros(3, np.float32)}}}
    assert reproduce.compare_parameters(zero, zero) == []
    (line,) = reproduce.compare_parameters(zero, minus)
    assert line == "1 of 1 arrays of the network, the most by 0 in params.Dense_0.bias"
    assert reproduce.compare_parameters(zero, longer) == [
        "the names, shapes or types of the parameters"
    ]


@pytest.mark.parametrize(("parallel", "asked"), [("jit", [2]), ("none", [])])
def test_a_run_on_several_cpu_devices_is_rerun_on_as_many(monkeypatch, parallel, asked):
    counts = []
    monkeypatch.setattr(reproduce.launch, "use_devices", counts.append)
    environment = {"devices": ["cpu", "cpu"], "backend": "cpu", "processes": 1}
    reproduce.use_devices_of(config.Config(parallel=parallel), environment)
    assert counts == asked


def test_a_run_of_several_processes_is_refused(copy, tmp_path):
    environment = records.read_environment(copy)
    records.write_json(copy / "environment.json", {**environment, "processes": 2})
    with pytest.raises(config.ConfigError, match="trained by 2 processes; only runs of one"):
        reproduce.reproduce(copy, tmp_path / "again")


def test_times_commands_and_resumptions_do_not_count():
    old = {"time": "a", "command": ["b"], "packages": {"jax": "1"}}
    assert reproduce.compare_environments(old, {**old, "time": "c", "resumed": [old]}) == []
    row = {"epoch": 1, "test_loss": 0.5, "seconds": 1.0, "examples_per_second": 2.0}
    assert reproduce.compare_metrics([row], [{**row, "seconds": 3.0}]) == []


def test_what_cannot_be_compared_is_one_sentence(copy, finished, tmp_path):
    with pytest.raises(ValueError, match="not a run directory: it has no config"):
        reproduce.reproduce(tmp_path, tmp_path / "again")
    with pytest.raises(ValueError, match=r"is not empty; choose a new --workdir"):
        reproduce.reproduce(finished, copy)
    first = (copy / "metrics.jsonl").read_text().splitlines()[0]
    (copy / "metrics.jsonl").write_text(first + "\n")
    with pytest.raises(ValueError, match="has 1 of 2 epochs; only a finished run"):
        reproduce.reproduce(copy, tmp_path / "again")
    shutil.copy(finished / "metrics.jsonl", copy)
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(ValueError, match="holds no checkpoints"):
        reproduce.reproduce(copy, tmp_path / "again")
