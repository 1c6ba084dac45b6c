"""The parts of today's recipes together: resumed, in populations, on several devices, ordered."""

import jax
import numpy as np
import pytest

from cnn_jax import checkpoints, config, train
from cnn_jax.display import Silent
from cnn_jax.sweeps import population

RECIPE = config.Config(
    dataset=config.DatasetConfig(
        "synthetic:size=12,channels=3,train=70,test=32", image_size=8, normalization="standardize"
    ),
    augment=config.AugmentConfig(
        flip=True, crop_area=0.3, brightness=0.3, hue=0.1, rand_augment=1, mixup=0.2, cutmix=1.0
    ),
    model=config.ModelConfig("mlp", hidden=(16,), dropout=(0.2,)),
    optimizer=config.OptimizerConfig(
        "adamw",
        learning_rate=0.01,
        weight_decay=0.05,
        schedule="restarts",
        restart_epochs=1.0,
        minimum_factor=0.1,
    ),
    records=config.RecordsConfig(tensorboard=False, figures=False),
    epochs=2,
    batch_size=16,
    eval_batch_size=16,
    label_smoothing=0.1,
    test_flip=True,
)
QUICK = ("augment.cutmix", "augment.hue", "augment.brightness")  # 0, as they take long to compile
RESULTS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


@pytest.fixture(autouse=True)
def as_in_use():
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integers
        yield


def digest(run):
    return [x.tobytes() for x in jax.tree.leaves(checkpoints.restore_variables(run))]


@pytest.mark.parametrize(
    "changes",
    [
        {**dict.fromkeys(QUICK, 0.0), "augment.rand_augment": 0, "accumulate": 2},
        pytest.param({"accumulate": 2}, marks=pytest.mark.slow),
        pytest.param({"reduction": "ordered"}, marks=pytest.mark.slow),
        pytest.param({"parallel": "pmap", "accumulate": 4}, marks=pytest.mark.slow),
        pytest.param({"parallel": "jit", "optimizer.name": "muon"}, marks=pytest.mark.slow),
        pytest.param({"optimizer.name": "lion"}, marks=pytest.mark.slow),
    ],
    ids=lambda changes: "-".join(map(str, changes)),
)
def test_a_run_of_everything_resumes_in_the_same_bits(changes, tmp_path):
    settings = config.with_values(RECIPE, changes)
    whole = train.train_and_evaluate(settings, tmp_path / "whole", Silent())
    train.train_and_evaluate(settings, tmp_path / "part", Silent(), lambda row: True)
    part = train.train_and_evaluate(settings, tmp_path / "part", Silent())
    assert [part[name] for name in RESULTS] == [whole[name] for name in RESULTS]
    assert digest(tmp_path / "part") == digest(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["map", "vmap"])
def test_members_of_a_population_have_everything_too(how, tmp_path):
    settings = config.with_values(RECIPE, {"accumulate": 2, "epochs": 1})
    members = [config.with_values(settings, {"seed": seed}) for seed in (0, 1)]
    found = population.train_population(members, [tmp_path / "0", tmp_path / "1"], how=how)
    for seed, (settings, member) in enumerate(zip(members, found, strict=True)):
        alone = train.train_and_evaluate(settings, tmp_path / f"alone{seed}", Silent())
        for name in ("train_loss", "test_loss"):
            np.testing.assert_allclose(member.row[name], alone[name], rtol=1e-3)
