"""Runs that start from weights: of a run, of one of its checkpoints, of a file."""

import json
import pickle
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from cnn_jax import (
    checkpoints,
    config,
    experiment,
    models,
    records,
    torch_weights,
    train,
    weights,
)
from cnn_jax.display import Silent
from cnn_jax.errors import CheckpointError, ConfigError, RunDirectoryError
from cnn_jax.reports import run_groups
from cnn_jax.sweeps import population, spaces, sweep_record
from tests import commands, networks

SETTINGS = config.Config(
    dataset=config.DatasetConfig("fashion_mnist_mini", train_examples=100),
    model=config.ModelConfig("lenet_bn", channels=(2, 4), hidden=(16,)),
    optimizer=config.OptimizerConfig(learning_rate=0.05, momentum=0.9),
    records=config.RecordsConfig(tensorboard=False, figures=False),
    epochs=2,
    batch_size=50,
)

reproduce = commands.load("reproduce")


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


def test_the_best_checkpoint_is_that_of_the_highest_accuracy(base):
    rows = {row["step"]: row["test_accuracy"] for row in records.read_metrics(base)}
    kept = [int(path.name) for path in (base / "checkpoints").glob("[0-9]*")]
    best = max(kept, key=lambda step: rows[step])
    assert_equal(weights.load_initial(f"{base}@best"), weights.load_initial(f"{base}@step={best}"))
    assert_equal(weights.load_initial(f"{base}@last"), weights.load_initial(str(base)))


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
    with pytest.raises(RunDirectoryError, match="run started from other weights than"):
        train.train_and_evaluate(settings, tmp_path / "run", Silent())
    assert whole["epoch"] == 2


@pytest.mark.slow
def test_members_of_a_population_start_from_them_too_and_are_frozen(file, tmp_path):
    frozen = {"optimizer.freeze": ("Conv_*", "BatchNorm_*")}
    scaled = {"optimizer.learning_rate_scale": ("Dense_1=0.5",)}
    members = [start_from(file, seed=seed, **frozen, **scaled) for seed in (0, 1)]
    paths = [tmp_path / "0", tmp_path / "1"]
    together = population.train_population(members, paths)
    alone = train.train_and_evaluate(members[1], tmp_path / "alone", Silent())
    assert together[1].row["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-3)
    kept = weights.load(file)
    for path in paths:
        assert "initial_weights" in records.read_environment(path)
        found = checkpoints.restore_variables(path)
        assert_equal(found["batch_stats"], kept["batch_stats"])
        assert_equal(found["params"]["Conv_1"], kept["params"]["Conv_1"])


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        (
            "{base}@first",
            ConfigError,
            r"no run's directory \(which may end in .*and nothing is the",
        ),
        ("{base}@step=3", CheckpointError, "has no checkpoint of step 3; it has those of 2, 4"),
        ("{base}/config.json", ConfigError, "no checkpoint and no .safetensors file; give one"),
        ("{base}/empty.safetensors", ConfigError, "holds no tensors"),
        ("{base}/other.safetensors", ConfigError, "another architecture: its tensors are called a"),
        ("{base}/weights.pth", ConfigError, "is a pickle, which could run any code and is never"),
        ("{base}/pickled.safetensors", ConfigError, "is a pickle, which could run any code and is"),
        (
            "{base}/zipped.safetensors",
            ConfigError,
            "write its state dict with safetensors.torch.sa",
        ),
        ("{base}/checkpoints/4@step=2", ConfigError, "may stand only behind a run's directory"),
        ("{base}/none.safetensors", ConfigError, "can't be read: .*No such file"),
        ("{base}/damaged.safetensors", ConfigError, "can't be read: "),
        ("{base}/cut.safetensors", ConfigError, "can't be read: "),
    ],
)
def test_what_holds_no_weights_is_one_sentence(base, file, tmp_path, source, error, said):
    assert file.parent == base.parent
    run = shutil.copytree(base, tmp_path / "base")
    (run / "damaged.safetensors").write_bytes(b"no weights")
    (run / "pickled.safetensors").write_bytes(pickle.dumps({"params/x": 1.0}))
    (run / "zipped.safetensors").write_bytes(b"PK\x03\x04\x00\x00\x08\x08 and so on")
    (run / "cut.safetensors").write_bytes((base.parent / "weights.safetensors").read_bytes()[:-1])
    (run / "empty.safetensors").write_bytes(safetensors.numpy.save({}))
    weights.save(run / "other.safetensors", {"a": np.zeros(3)})
    settings = start_from(source.format(base=run))
    with pytest.raises(error, match=said):
        train.train_and_evaluate(settings, tmp_path / "run", Silent())


def fit(loaded, settings, skip=()):
    """The variables that a run of `settings` would start from, and its random ones."""
    network = models.create(settings.model.name, **config.model_options(settings.model))
    fresh = networks.random_variables(network, (28, 28, 1))
    fitted = weights.fit_initial(loaded, fresh, network, (28, 28, 1), "x", skip)
    return fitted, fresh


def test_what_does_not_fit_is_named(file):
    loaded = weights.load(file)
    said = r"Conv_1/kernel is 5×5×2×4 there and 5×5×2×5 here.*init_from_skip=BatchNorm_1,Co"
    with pytest.raises(ConfigError, match=said):
        fit(loaded, start_from(file, **{"model.channels": (2, 5)}))
    other = {"model.name": "softmax", "model.channels": None, "model.hidden": None}
    with pytest.raises(ConfigError, match=r"is of another architecture: Dense_0/kernel is 100×1"):
        fit(loaded, start_from(file, **other))
    bias = loaded["params"]["Conv_0"]["bias"]
    doubled = jax.tree.map(lambda x: np.float64(x) if x is bias else x, loaded)
    with pytest.raises(ConfigError, match="Conv_0/bias is float64 there and float32 here"):
        fit(doubled, start_from(file))
    with pytest.raises(
        ConfigError, match=r"init_from_skip: .* no part 'Dens_0'; did you mean Dens"
    ):
        fit(loaded, start_from(file), ["Dens_0"])


def test_what_is_skipped_starts_anew(file):
    loaded = weights.load(file)
    names = ["*_1", "Dense_0/kernel"]
    fitted, fresh = fit(loaded, start_from(file, **{"model.channels": (2, 5)}), names)
    for kind, layer, name in [
        ("params", "Conv_0", "kernel"),
        ("params", "Dense_0", "bias"),
        ("batch_stats", "BatchNorm_0", "var"),
    ]:
        assert_equal(fitted[kind][layer][name], loaded[kind][layer][name])
    for kind, layer in [("params", "Conv_1"), ("batch_stats", "BatchNorm_1")]:
        assert_equal(fitted[kind][layer], fresh[kind][layer])
    assert_equal(fitted["params"]["Dense_0"]["kernel"], fresh["params"]["Dense_0"]["kernel"])
    # A layer that only the file has can be skipped too.
    more = {**loaded, "params": {**loaded["params"], "Dense_2": {"bias": np.zeros(3, np.float32)}}}
    with pytest.raises(
        ConfigError, match=r"Dense_2/bias is in no layer here.*_skip=Dense_2/bias\."
    ):
        fit(more, start_from(file))
    assert_equal(fit(more, start_from(file), ["Dense_2"])[0], fit(loaded, start_from(file))[0])


def test_skipped_parts_of_a_run_are_those_of_its_seed(file, tmp_path):
    settings = start_from(file, **{"init_from_skip": ("Dense_1",), "seed": 5})
    built = experiment.build(settings, experiment.load_dataset(settings.dataset))
    random = jax.device_get(built.init_state())
    state = built.start_from(random, weights.load_initial(str(file)))
    assert_equal(state.params["Dense_1"], random.params["Dense_1"])
    assert_equal(state.params["Conv_0"], weights.load(file)["params"]["Conv_0"])


def test_a_state_dict_is_read_by_its_names():
    network = models.create("vgg11_bn", width=0.03, hidden=(6, 5), dropout=(0.0, 0.0), classes=3)
    shape = (64, 64, 3)
    variables = networks.random_variables(network, shape)
    state = torch_weights.to_torch(variables, network, shape)
    names = dict(zip(state, torch_weights.list_torchvision_names(network, shape), strict=True))
    torchvision = {names[name]: state[name] for name in sorted(state)}
    dense = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2"}
    dense["classifier.6"] = "head.fc"
    timm = {}  # whose first two dense layers are convolutions
    for name, value in torchvision.items():
        layer, leaf = name.rsplit(".", 1)
        if layer in dense and leaf == "weight" and layer != "classifier.6":
            size = 2 if layer == "classifier.0" else 1
            value = value.reshape(len(value), -1, size, size)
        if leaf != "num_batches_tracked":
            timm[f"{dense.get(layer, layer)}.{leaf}"] = value
    for named in (state, torchvision, timm):
        fitted = weights.fit_initial(named, variables, network, shape, "x")
        jax.tree.map(np.testing.assert_array_equal, fitted, variables)
    other = {**timm, "head.fc.weight": np.zeros((7, 5), np.float32)}
    with pytest.raises(
        ConfigError, match=r"fit the network: Dense_2/kernel is 5×7 there and 5×3 h"
    ):
        weights.fit_initial(other, variables, network, shape, "x")
    skipped = weights.fit_initial(other, variables, network, shape, "x", ["Dense_2"])
    jax.tree.map(np.testing.assert_array_equal, skipped, variables)


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
