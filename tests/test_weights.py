"""Runs that start from weights: of a run, of one of its checkpoints, of a file."""

import json
import shutil

import jax
import numpy as np
import pytest

from cnn_jax import checkpoints, config, records, train, weights
from cnn_jax.display import Silent
from cnn_jax.errors import CheckpointError, ConfigError, RunDirectoryError
from cnn_jax.reports import run_groups
from cnn_jax.sweeps import population, spaces, sweep_record
from experiments import reproduce

SETTINGS = config.Config(
    dataset=config.DatasetConfig("fashion_mnist_mini", train_examples=100),
    model=config.ModelConfig("lenet_bn", channels=(2, 4), hidden=(16,)),
    optimizer=config.OptimizerConfig(learning_rate=0.05, momentum=0.9),
    records=config.RecordsConfig(tensorboard=False, figures=False),
    epochs=2,
    batch_size=50,
)


def start_from(source, **values):
    return config.with_values(SETTINGS, {"init_from": str(source), **values})


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    run = tmp_path_factory.mktemp("base") / "run"
    train.train_and_evaluate(SETTINGS, run, Silent())
    return run


@pytest.fixture(scope="module")
def file(base):
    path = base.with_name("weights.safetensors")
    weights.save(path, checkpoints.restore_variables(base))
    return path


def test_a_run_a_checkpoint_and_a_file_hold_the_same_weights(base, file):
    expected = checkpoints.restore_variables(base)
    for source in (base, f"{base}@step=4", base / "checkpoints" / "4", file):
        assert_equal(weights.load_initial(str(source)), expected)
    earlier = weights.load_initial(f"{base}@step=2")
    assert weights.fingerprint(earlier) != weights.fingerprint(expected)
    assert weights.fingerprint(expected) == weights.fingerprint(weights.load(file))


def test_training_goes_on_from_the_weights_with_a_new_optimizer(base, file, tmp_path):
    settings = start_from(file, **{"epochs": 1, "optimizer.learning_rate": 1e-12})
    row = train.train_and_evaluate(settings, tmp_path / "run", Silent())
    kept = checkpoints.restore_variables(base)["params"]
    params = checkpoints.restore_variables(tmp_path / "run")["params"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params, kept)
    random = train.train_and_evaluate(
        config.with_values(settings, {"init_from": None}), tmp_path / "random", Silent()
    )
    assert row["train_loss"] < random["train_loss"] - 0.1
    recorded = records.read_environment(tmp_path / "run")["initial_weights"]
    assert recorded == {"fingerprint": weights.fingerprint(weights.load(file))}


def test_the_run_resumes_without_the_file_and_is_not_reproduced_with_another(
    base, file, tmp_path, capsys
):
    copy = shutil.copy(file, tmp_path / "w.safetensors")
    settings = start_from(copy)
    train.train_and_evaluate(settings, tmp_path / "run", Silent(), lambda row: row["epoch"] == 1)
    moved = shutil.move(copy, tmp_path / "elsewhere")
    whole = train.train_and_evaluate(settings, tmp_path / "run", Silent())
    shutil.move(moved, copy)
    assert reproduce.reproduce(tmp_path / "run", tmp_path / "again") == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["init_from"] == str(copy)
    weights.save(copy, weights.load_initial(f"{base}@step=2"))
    with pytest.raises(ConfigError, match="holds other weights than the run started from"):
        reproduce.reproduce(tmp_path / "run", tmp_path / "other")
    assert whole["epoch"] == 2


def test_members_of_a_population_start_from_them_too(file, tmp_path):
    members = [start_from(file, seed=seed) for seed in (0, 1)]
    paths = [tmp_path / "0", tmp_path / "1"]
    together = population.train_population(members, paths)
    alone = train.train_and_evaluate(members[1], tmp_path / "alone", Silent())
    assert together[1].row["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-3)
    for path in paths:
        assert "initial_weights" in records.read_environment(path)


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("{base}@best", ConfigError, r"is no run's directory \(which may end in @step=NUMBER\)"),
        ("{base}@step=3", CheckpointError, "has no checkpoint of step 3; it has those of 2, 4"),
        ("{base}/config.json", ConfigError, "no checkpoint and no .safetensors file; give one"),
        ("{base}/empty.safetensors", ConfigError, "holds no 'params/…'; experiments.export writes"),
        ("{base}/checkpoints/4@step=2", ConfigError, "may stand only behind a run's directory"),
        ("{base}/none.safetensors", ConfigError, "can't be read: .*No such file"),
        ("{base}/damaged.safetensors", ConfigError, "can't be read: "),
    ],
)
def test_what_holds_no_weights_is_one_sentence(base, tmp_path, source, error, said):
    run = shutil.copytree(base, tmp_path / "base")
    (run / "damaged.safetensors").write_bytes(b"no weights")
    weights.save(run / "empty.safetensors", {"Conv_0.weight": np.zeros(3)})
    settings = start_from(source.format(base=run))
    with pytest.raises(error, match=said):
        train.train_and_evaluate(settings, tmp_path / "run", Silent())


def test_weights_of_another_network_are_refused(file, tmp_path):
    settings = start_from(file, **{"model.channels": (3, 4)})
    with pytest.raises(ConfigError, match=r"has .* as float32.*of this network"):
        train.train_and_evaluate(settings, tmp_path / "run", Silent())
    settings = start_from(
        file, **{"model.name": "softmax", "model.channels": None, "model.hidden": None}
    )
    with pytest.raises(ConfigError, match="is of another network or optimizer: it differs in"):
        train.train_and_evaluate(settings, tmp_path / "run2", Silent())


def test_trials_and_groups_are_of_the_same_weights(base, file, tmp_path):
    source = tmp_path / "w.safetensors"
    shutil.copy(file, source)
    trials = [
        spaces.Trial(f"seed={seed}", {"seed": seed}, start_from(source, seed=seed))
        for seed in (0, 1)
    ]
    train.train_and_evaluate(trials[0].config, tmp_path / "seed=0", Silent())
    assert sweep_record.find_result(tmp_path, trials[0])["epoch"] == 2
    weights.save(source, weights.load_initial(f"{base}@step=2"))
    sweep_record.find_initial_weights.cache_clear()
    with pytest.raises(RunDirectoryError, match="started from other weights than the trials to"):
        sweep_record.find_result(tmp_path, trials[0])
    train.train_and_evaluate(trials[1].config, tmp_path / "seed=1", Silent())
    groups, _ = run_groups.group_runs(run_groups.find_runs([tmp_path]))
    assert [len(group.runs) for group in groups] == [1, 1]
    sweep_record.find_initial_weights.cache_clear()
