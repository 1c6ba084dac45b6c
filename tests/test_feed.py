"""Training and evaluation on data that are brought to the devices chunk by chunk."""

import dataclasses

import jax
import numpy as np
import pytest

from cnn_jax import checkpoints, config, data, feed, hashes, records, train
from cnn_jax.display import Silent
from cnn_jax.experiment import build, load_dataset

BASE = config.Config(
    dataset=config.DatasetConfig(
        name="synthetic:size=12,classes=4,train=100,test=50", normalization="standardize"
    ),
    augment=config.AugmentConfig(pad=1, flip=True),
    model=config.ModelConfig(name="mlp", hidden=(16,), dropout=(0.3,)),
    optimizer=config.OptimizerConfig(learning_rate=0.1, momentum=0.9),
    records=config.RecordsConfig(tensorboard=False, figures=False),
    epochs=2,
    batch_size=16,  # 7 steps, the last of 4 examples
    eval_batch_size=12,  # 5 steps, the last of 2 examples
)


def settings(**changes):
    values = {name.replace("__", "."): value for name, value in changes.items()}
    return config.with_values(BASE, values)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of three steps of training, four of evaluation."""
    monkeypatch.setattr(feed, "CHUNK_IMAGES", 48)


def outcome(run):
    times = ("seconds", "examples_per_second")
    rows = [{k: v for k, v in r.items() if k not in times} for r in records.read_metrics(run)]
    tree = checkpoints.restore_variables(run, evaluated=False)
    return rows, jax.tree.map(lambda x: np.asarray(x).tobytes(), tree), hashes.read(run)


def run(workdir, changed=BASE, **more):
    train.train_and_evaluate(changed, workdir, Silent(), **more)
    return outcome(workdir)


def test_streamed_training_has_the_bits_of_resident_training(tmp_path, small_chunks):
    resident = run(tmp_path / "memory", settings(dataset__feed="memory"))
    assert run(tmp_path / "stream", settings(dataset__feed="stream")) == resident
