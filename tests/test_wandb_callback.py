"""The example of a callback: Weights & Biases, by a stand-in and, if it is installed, itself."""

import sys
import types

import pytest

from cnn_jax import config, records, train
from cnn_jax.display import Silent
from cnn_jax.errors import UserError
from experiments.wandb_callback import logging_to_wandb

SETTINGS = config.Config(
    dataset=config.DatasetConfig("fashion_mnist_mini", train_examples=300),
    model=config.ModelConfig(name="softmax"),
    records=config.RecordsConfig(tensorboard=False, figures=False),
    epochs=2,
)


class Board:
    """Stands for wandb's module and for the run that `init` gives."""

    def __init__(self):
        self.starts, self.logged, self.ends = [], [], []

    def init(self, **options):
        self.starts.append(options)
        return types.SimpleNamespace(log=self.log, finish=self.finish)

    def log(self, numbers, step):
        self.logged.append((step, numbers))

    def finish(self, exit_code=0):
        self.ends.append(exit_code)


def test_rows_are_logged_at_their_steps_and_a_resumed_run_goes_on_in_the_same(
    tmp_path, monkeypatch
):
    board = Board()
    monkeypatch.setitem(sys.modules, "wandb", board)
    run = tmp_path / "run"
    with logging_to_wandb(SETTINGS, run, project="fashion") as callback:
        train.train_and_evaluate(SETTINGS, run, Silent(), callbacks=[callback, lambda row: True])

    def fail(row):
        raise ConnectionError

    with (
        pytest.raises(ConnectionError),
        logging_to_wandb(SETTINGS, run, project="fashion") as callback,
    ):
        train.train_and_evaluate(SETTINGS, run, Silent(), callbacks=[callback, fail])
    assert board.ends == [0, 1]
    rows = records.read_metrics(run)
    assert [step for step, _ in board.logged] == [row["step"] for row in rows]
    assert [numbers | {"step": step} for step, numbers in board.logged] == rows
    first, second = board.starts
    assert first == second
    assert first["resume"] == "allow"
    assert (first["name"], first["dir"], first["project"]) == ("run", str(run), "fashion")
    assert first["config"]["model.name"] == "softmax"
    with logging_to_wandb(SETTINGS, tmp_path / "other"):
        assert board.starts[-1]["id"] != first["id"]


def test_without_wandb_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with (
        pytest.raises(UserError, match="isn't installed: pip install wandb"),
        logging_to_wandb(SETTINGS, tmp_path),
    ):
        pass


@pytest.mark.slow
def test_the_real_client_writes_what_is_logged(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    for name, value in {"MODE": "offline", "SILENT": "true", "CONSOLE": "off"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    run = tmp_path / "run"
    for stop in (True, False):
        with logging_to_wandb(SETTINGS, run, project="fashion") as callback:
            train.train_and_evaluate(
                SETTINGS, run, Silent(), callbacks=[callback, lambda row, stop=stop: stop]
            )
    wandb.teardown()
    assert len(records.read_metrics(run)) == 2
    written = b"".join(file.read_bytes() for file in run.glob("wandb/offline-run-*/*.wandb"))
    for name in (b"test_accuracy", b"train_loss", b"model.name", b"softmax"):
        assert name in written
