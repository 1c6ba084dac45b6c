"""Running a recorded run again, and telling what differs."""

import json
import shutil

import numpy as np
import pytest

from cnn_jax import config, hashes, records, train
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


def test_the_first_steps_and_the_end_of_each_epoch_are_hashed(finished):
    digests = hashes.read(finished)
    assert list(digests) == [1, 2, 4, 5, 10]  # 300 examples in batches of 64: 5 steps
    final = reproduce.checkpoints.restore_variables(finished, evaluated=False)
    assert digests[10] == reproduce.weights.digest(final)
    assert len(set(digests.values())) == 5


def test_where_two_runs_part_is_bracketed_by_their_hashes():
    a = {1: "a", 2: "b", 4: "c", 10: "d"}
    assert hashes.find_parting(a, dict(a)) is None
    assert hashes.find_parting(a, {**a, 1: "x"}) == (0, 1)
    assert hashes.find_parting(a, {**a, 4: "x", 10: "y"}) == (2, 4)
    assert hashes.find_parting(a, {10: "x"}) == (0, 10)
    assert hashes.find_parting(a, {}) is None
    assert reproduce.describe_parting(3, 4, 4700) == "they part in step 4 of 4,700"
    assert "after step 4, in step 8 of 20 at the latest" in reproduce.describe_parting(4, 8, 20)


def test_the_ends_of_runs_that_differ_stand_beside_the_spread_over_seeds(copy, tmp_path, capsys):
    for seed, accuracy in ((1, 0.5), (2, 0.6)):
        other = shutil.copytree(copy, copy.parent / f"seed{seed}")
        tree = json.loads((other / "config.json").read_text())
        records.write_json(other / "config.json", {**tree, "seed": seed})
        rows = records.read_metrics(other)
        rows[-1]["test_accuracy"] = accuracy
        (other / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    digests = hashes.read(copy)
    lines = [{"step": step, "sha256": "0" if step in (2, 4) else digests[step]} for step in digests]
    (copy / hashes.FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert reproduce.reproduce(copy, tmp_path / "again") == 1
    out = capsys.readouterr().out
    assert "they part in step 2 of 10" in out
    accuracy = records.read_metrics(copy)[-1]["test_accuracy"]
    spread = np.std([accuracy, 0.5, 0.6], ddof=1)
    ends = f"{accuracy:.4f} → {accuracy:.4f} (+0.0000; the standard deviation over 3 seeds is "
    assert ends + f"{spread:.4f})" in out


@pytest.fixture(scope="module")
def certified(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    assert reproduce.reproduce(finished, folder / "again", folder / "mlp.json") == 0
    return folder / "mlp.json"


def test_a_certificate_is_checked_without_its_run(certified, tmp_path, capsys):
    content = certified.read_text()
    assert str(certified.parent.parent) not in content
    assert "seconds" not in json.loads(content)["metrics"][0]
    assert reproduce.reproduce(certified, tmp_path / "again") == 0
    assert "identical: 2 rows of metrics and 5 hashes of the network" in capsys.readouterr().out


def test_what_differs_from_a_certificate_is_told_and_not_certified(certified, tmp_path, capsys):
    tree = json.loads(certified.read_text())
    tree["config"]["seed"] = 3
    tree["environment"]["packages"]["flax"] = "0.0.1"
    records.write_json(tmp_path / "other.json", tree)
    new = tmp_path / "new.json"
    assert reproduce.reproduce(tmp_path / "other.json", tmp_path / "again", new) == 1
    out = capsys.readouterr().out
    assert "they part in step 1 of 10" in out
    assert "no runs of other seeds are recorded" in out
    assert "packages.flax: '0.0.1' → '0." in out
    assert "command" not in out.partition("environments")[2]
    assert not new.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tree: tree.update(format="x"), "format is 'x', where 'cnn_jax certificate 1'"),
        (lambda tree: tree["metrics"].pop(), "metrics of other epochs than the 2"),
        (lambda tree: tree["hashes"].pop(), "has no hash of step 10, the end of an epoch"),
        (lambda tree: tree["hashes"][0].update(step="1"), r"hashes\[0\].step is '1', where int"),
        (lambda tree: tree["config"].update(batch_size=-1), "batch_size=-1"),
        (
            lambda tree: tree["environment"]["data"].update(fingerprint="0" * 16),
            "was trained on other data than fashion_mnist_mini is now",
        ),
    ],
)
def test_a_damaged_certificate_is_one_sentence(certified, tmp_path, change, said):
    tree = json.loads(certified.read_text())
    change(tree)
    records.write_json(tmp_path / "bad.json", tree)
    with pytest.raises(ValueError, match=said):
        reproduce.reproduce(tmp_path / "bad.json", tmp_path / "again")


def test_damaged_hashes_are_left_out_when_a_run_goes_on(copy, recwarn):
    (copy / "hashes.jsonl").write_text('{"step": 1')
    train.train_and_evaluate(records.read_config(copy), copy, Silent())
    assert "hashes.jsonl can't be read" in str(recwarn.pop(UserWarning).message)
    assert hashes.read(copy) == {}
