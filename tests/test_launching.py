"""Launching on clusters: preempted and requeued, a run ends in the same bits."""

import importlib.util
import pathlib
import signal
import time

import psutil
import pytest

from cnn_jax import checkpoints, config, hashes, records, train
from cnn_jax.sweeps import spaces
from experiments import cluster
from tests.test_train import assert_same, numbers

ROOT = pathlib.Path(__file__).parent.parent


def settings(**changes):
    return config.Config(
        dataset=config.DatasetConfig(name="fashion_mnist_mini", train_examples=500),
        model=config.ModelConfig(name="mlp_dropout", hidden=(32,), dropout=(0.2,)),
        records=config.RecordsConfig(tensorboard=False, figures=False),
        batch_size=50,
        **changes,
    )


def outcome(run):
    rows = [numbers(row) for row in records.read_metrics(run)]
    return rows, checkpoints.restore_variables(run)


# Jobs of submitit


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """Calls a job of one trial, in which training is interrupted by a signal."""

    def call(signum):
        def stop(*given):
            raise train.Interrupted(signum, 4)

        monkeypatch.setattr(train, "train_and_evaluate", stop)
        trials = spaces.expand(settings(epochs=1), {"seed": (0,)})
        return cluster.Job()(trials, tmp_path)

    return call


def test_a_job_preempted_leaves_its_signal_to_submitit_when_the_run_is_saved(interrupted):
    received = []
    old = signal.signal(signal.SIGUSR2, lambda *given: received.append(given[0]))
    try:
        with pytest.raises(SystemExit) as ended:
            interrupted(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, old)
    assert received == [signal.SIGUSR2]
    assert ended.value.code == 128 + signal.SIGUSR2


def test_a_job_that_is_told_to_end_is_not_submitted_again(interrupted):
    with pytest.raises(SystemExit) as ended:
        interrupted(signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM


def run_job(trials, directory, preemptions):
    """Trains one trial as a job, sent SIGUSR2 so often; returns its directory and its log."""
    executor = cluster.make_executor("local", directory / "jobs", ["timeout_min=10"])
    job = executor.submit(cluster.Job(), trials, directory)
    controller = psutil.Process(int(job.job_id))
    metrics, known = directory / trials[0].name / "metrics.jsonl", 0
    for _ in range(preemptions):
        while not metrics.exists() or len(metrics.read_text().splitlines()) < known + 2:
            assert controller.is_running(), job.stderr()
            time.sleep(0.05)
        (task,) = controller.children()
        task.send_signal(signal.SIGUSR2)
        task.wait(60)
        known = len(metrics.read_text().splitlines())
    (done,) = job.result()
    assert done.error is None
    return directory / done.trial.name, job.stderr()


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("submitit"), reason="submitit is not installed")
def test_a_job_preempted_and_requeued_ends_in_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    trials = spaces.expand(settings(epochs=20), {"seed": (3,)})
    preempted, log = run_job(trials, tmp_path / "preempted", 2)
    assert log.count("Requeued job") == 2
    assert len(records.read_environment(preempted)["resumed"]) == 2
    # Another job, as this process compiles with other options.
    whole, _ = run_job(trials, tmp_path / "whole", 0)
    assert_same(outcome(preempted), outcome(whole))
    assert hashes.read(preempted) == hashes.read(whole)
