"""The whole job: train, evaluate, record, resume, refuse."""

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from cnn_jax import checkpoints, config, epochs, hashes, records, train
from cnn_jax.display import Display, Silent
from cnn_jax.experiment import compute_normalization, load_dataset, make_preprocess
from tests import commands

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def settings(**changes):
    base = config.Config(
        dataset=config.DatasetConfig(name="fashion_mnist_mini", train_examples=600),
        model=config.ModelConfig(name="mlp", hidden=(32,), dropout=(0.2,), kernel_init="he_normal"),
        optimizer=config.OptimizerConfig(learning_rate=0.1, momentum=0.9, schedule="cosine"),
        augment=config.AugmentConfig(pad=1, flip=True),
        records=config.RecordsConfig(tensorboard=False, figures=False),
        epochs=3,
        batch_size=64,
    )
    return dataclasses.replace(base, **changes)


def numbers(row):
    return {k: v for k, v in row.items() if k not in ("seconds", "examples_per_second")}


def outcome(workdir):
    rows = [numbers(row) for row in records.read_metrics(workdir)]
    return rows, checkpoints.restore_variables(workdir, evaluated=False)


def assert_same(a, b):
    assert a[0] == b[0]
    jax.tree.map(np.testing.assert_array_equal, a[1], b[1])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    row = train.train_and_evaluate(settings(), workdir, Silent())
    return workdir, row


def test_a_run_learns_and_leaves_its_records(finished):
    workdir, row = finished
    rows = records.read_metrics(workdir)
    assert rows[-1] == row
    assert tuple(row) == tuple(records.Row.__annotations__)
    assert [r["epoch"] for r in rows] == [1, 2, 3]
    assert [r["step"] for r in rows] == [10, 20, 30]  # 600 = 9 × 64 + 24: the last batch counts
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] < 2.4
    assert row["test_accuracy"] > 0.5
    assert row["test_accuracy"] * 1000 == pytest.approx(round(row["test_accuracy"] * 1000))
    assert rows[0]["learning_rate"] > rows[2]["learning_rate"] > 0
    assert records.read_config(workdir) == config.resolve(settings())
    environment = json.loads((workdir / "environment.json").read_text())
    assert environment["packages"]["jax"] == jax.__version__
    assert "sha256" in environment["data"]["provenance"]
    assert set(environment["source"]) == {"commit", "clean", "diff_sha256"}


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(finished, tmp_path):
    train.train_and_evaluate(settings(), tmp_path / "again", Silent())
    assert_same(outcome(tmp_path / "again"), outcome(finished[0]))
    other = train.train_and_evaluate(settings(seed=1), tmp_path / "other", Silent())
    assert numbers(other) != numbers(finished[1])


def test_a_finished_run_returns_at_once(finished, capsys):
    workdir, row = finished
    before = (workdir / "metrics.jsonl").read_bytes()
    assert train.train_and_evaluate(settings(), workdir) == row
    assert "finished at epoch 3, step 30" in capsys.readouterr().out
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_a_run_that_was_told_to_stop_goes_on_to_the_same_bits(finished, tmp_path):
    asked = []

    def stop(row):
        asked.append(row["epoch"])
        return row["test_accuracy"] > 0 and row["epoch"] == 2

    row = train.train_and_evaluate(settings(), tmp_path / "run", Silent(), stop)
    assert row["epoch"] == 2
    assert asked == [1, 2]
    assert train.train_and_evaluate(settings(), tmp_path / "run", Silent(), stop) == row
    train.train_and_evaluate(settings(), tmp_path / "run", Silent())
    assert_same(outcome(tmp_path / "run"), outcome(finished[0]))


def test_a_run_that_a_callback_ended_or_broke_goes_on_to_the_same_bits(finished, tmp_path):
    rarely = config.RecordsConfig(checkpoint_epochs=3, tensorboard=False, figures=False)
    seen, shown = [], io.StringIO()

    def spoil(row):
        seen.append(dict(row))
        row.clear()
        return row  # neither True nor False

    def fail(row):
        raise ConnectionError("the board is gone")

    def start(*callbacks):
        return train.train_and_evaluate(
            settings(records=rarely), tmp_path, Display(shown), callbacks=[spoil, *callbacks]
        )

    with pytest.raises(ConnectionError, match="the board is gone"):
        start(fail)
    assert len(records.read_metrics(tmp_path)) == 1
    assert start(lambda row: np.bool_(row["epoch"] == 2))["epoch"] == 2
    assert shown.getvalue().endswith("ended by a callback after epoch 2 of 3, and saved\n")
    assert records.read_metrics(tmp_path) == seen[1:]
    last = start()
    assert [row["epoch"] for row in seen] == [1, 1, 2, 3]
    assert records.read_metrics(tmp_path) == seen[1:]
    assert_same(outcome(tmp_path), outcome(finished[0]))
    assert (start(fail), len(seen)) == (last, 4)  # finished: no callback is called


def test_another_configuration_in_the_same_directory_is_refused(finished):
    changed = settings(optimizer=config.OptimizerConfig(learning_rate=0.2))
    with pytest.raises(records.RunDirectoryError, match=r"config\.optimizer\.learning_rate=0\.1"):
        train.train_and_evaluate(changed, finished[0], Silent())


def test_what_changes_no_number_may_differ(finished):
    freely = settings(records=config.RecordsConfig(tensorboard=False, checkpoint_epochs=2))
    freely.records.figures = False
    assert train.train_and_evaluate(freely, finished[0], Silent()) == finished[1]


def test_two_processes_on_one_directory_the_second_is_refused(finished):
    resolved = config.resolve(settings())
    with (
        records.RunDirectory(finished[0], resolved),
        pytest.raises(records.RunDirectoryError, match="another process"),
        records.RunDirectory(finished[0], resolved),
    ):
        pass


class StopAt(Silent):
    """Sends this process a signal when the loop has reported so often, once."""

    def __init__(self, reports, signum=signal.SIGTERM):
        super().__init__()
        self.left, self.signum = reports, signum

    def steps(self, count, sums, seconds):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.signum)


@pytest.mark.parametrize(
    ("reports", "signum"),
    [
        pytest.param(1, signal.SIGTERM, marks=pytest.mark.slow),
        (2, signal.SIGUSR2),
        pytest.param(3, signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_anywhere_resumes_to_the_same_bits(
    finished, tmp_path, reports, signum, monkeypatch
):
    monkeypatch.setattr(epochs, "SECONDS_PER_CALL", 0.0)  # a report, and a chance to stop, per step
    with pytest.raises(train.Interrupted, match=f"{signum.name}; saved at step") as stopped:
        train.train_and_evaluate(settings(), tmp_path, StopAt(reports * 8, signum))
    assert stopped.value.signum == signum
    monkeypatch.undo()
    train.train_and_evaluate(settings(), tmp_path, Silent())
    assert_same(outcome(tmp_path), outcome(finished[0]))
    assert hashes.read(tmp_path) == hashes.read(finished[0])
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert len(environment["resumed"]) == 1


def test_rows_written_after_the_newest_checkpoint_are_computed_again(finished, tmp_path):
    """As after a kill between the row of an epoch and its checkpoint."""
    run = settings(epochs=3)
    train.train_and_evaluate(run, tmp_path, Silent())
    newest = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    (tmp_path / "checkpoints" / str(newest)).rename(tmp_path / "gone")
    train.train_and_evaluate(run, tmp_path, Silent())
    assert_same(outcome(tmp_path), outcome(finished[0]))
    assert hashes.read(tmp_path) == hashes.read(finished[0])


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    wild = settings(optimizer=config.OptimizerConfig(learning_rate=1e30), epochs=2)
    with (
        jax.debug_nans(False),
        pytest.raises(train.DivergedError, match=r"not finite in step \d+ \(epoch 1\)") as error,
    ):
        train.train_and_evaluate(wild, tmp_path, Silent())
    assert "no checkpoint was saved before" in str(error.value)
    assert "\n" not in str(error.value)


def test_batches_larger_than_the_data_are_refused(tmp_path):
    big = settings(dataset=config.DatasetConfig(name="fashion_mnist_mini"), batch_size=5000)
    with pytest.raises(config.ConfigError, match="larger than the training set of 2000"):
        train.train_and_evaluate(big, tmp_path, Silent())


def test_holding_out_replaces_the_test_set():
    dataset = load_dataset(config.DatasetConfig(name="fashion_mnist_mini", holdout=0.1))
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (1800, 200)


def test_standardized_inputs_have_mean_zero_and_variance_one():
    tree = settings(dataset=config.DatasetConfig("fashion_mnist_mini", normalization="standardize"))
    dataset = load_dataset(tree.dataset)
    x = np.asarray(
        make_preprocess(tree, *compute_normalization(tree, dataset))(
            jax.numpy.asarray(dataset.train_images), None
        )
    )
    np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=1e-4)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_reports_and_the_repositories_of_others_are_no_source(tmp_path, monkeypatch):
    (tmp_path / "cnn_jax").mkdir()
    (tmp_path / "experiments" / "reports").mkdir(parents=True)
    (tmp_path / "cnn_jax" / "records.py").write_text("1")
    (tmp_path / "README.md").write_text("1")
    monkeypatch.setattr(records, "__file__", str(tmp_path / "cnn_jax" / "records.py"))
    assert records.source_revision() == {"commit": None, "clean": None, "diff_sha256": None}
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    (tmp_path / "README.md").write_text("2")
    (tmp_path / "experiments" / "reports" / "results.md").write_text("2")
    assert records.source_revision()["clean"] is True
    (tmp_path / "experiments" / "new.py").write_text("2")
    assert records.source_revision()["clean"] is False

    installed = tmp_path / "lib" / "cnn_jax" / "records.py"  # in another project's repository
    installed.parent.mkdir(parents=True)
    installed.write_text("1")
    monkeypatch.setattr(records, "__file__", str(installed))
    assert records.source_revision() == {"commit": None, "clean": None, "diff_sha256": None}


def test_checkpoints_without_a_configuration_are_refused(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()
    with pytest.raises(records.RunDirectoryError, match=r"checkpoints but no config\.json"):
        train.train_and_evaluate(settings(), tmp_path / "run", Silent())
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("assert False, 'so'", "AssertionError so"),
        ("return {}['epochs']", "KeyError 'epochs'"),
        ("open('/nope')", "FileNotFoundError [Errno 2] No such file or directory: '/nope'"),
    ],
)
def test_a_configuration_that_fails_says_where(tmp_path, line, what):
    (tmp_path / "wrong.py").write_text(f"def get_config(options=''):\n    {line}\n")
    done = commands.run("experiments.train", f"--config={tmp_path / 'wrong.py'}")
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path / 'wrong.py'}, line 2: {what}\n"


def test_a_reader_that_leaves_and_an_early_interrupt_show_no_traceback():
    file = "experiments/configs/lenet.py"
    command = [sys.executable, "-m", "experiments.train", f"--config={file}", "--print_config"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen(command, **streams) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141  # 128 + SIGPIPE

    command = [sys.executable, "-c", "import experiments; raise KeyboardInterrupt"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "interrupted\n")


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("experiments/configs/nope.py", "configuration file experiments/configs/nope.py doesn't"),
        ("README.md", "README.md must be Python"),
        ("", "--config needs a file"),
        ("experiments/configs/lenet.py:smok", "config option 'smok' is unknown; did you mean smok"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_one_sentence(file, sentence):
    done = commands.run("experiments.train", f"--config={file}", "--workdir=unused")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_json_has_lists_of_numbers_in_one_line(tmp_path):
    value = {
        "mean": [0.1, -2e-05, 3, None, True, float("-inf")],
        "blocks": [[1, 64], [2, 128]],
        "names": ["a [1,\n  2]", "[", "]"],
        "none": [],
        "mixed": ["x", [1, 2]],
        "rows": [{"n": [1]}, {"n": [float("inf")]}],
    }
    records.write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == value
    lines = text.splitlines()
    assert '  "mean": [0.1, -2e-05, 3, null, true, -Infinity],' in lines
    assert "    [1, 64]," in lines
    assert '      "n": [1]' in lines


def test_the_command_prints_header_epochs_and_the_final_line(tmp_path):
    arguments = ["--config=experiments/configs/softmax.py:smoke", "--config.epochs=1"]
    done = commands.run("experiments.train", f"--workdir={tmp_path / 'run'}", *arguments)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "network   softmax, 7,850 parameters"
    assert any(line.startswith("epoch 1/1  train loss ") for line in lines)
    assert lines[-1].startswith("final test_accuracy=0.")
    names = [item.partition("=")[0] for item in lines[-1].split()[1:]]
    assert names == ["test_accuracy", "test_loss", "train_loss", "examples_per_second", "workdir"]
    made = {p.name for p in (tmp_path / "run").iterdir()}
    assert made >= {"config.json", "environment.json", "metrics.jsonl", "checkpoints"}
    assert (tmp_path / "run" / "figures" / "curves.png").stat().st_size > 10_000
    assert list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))
