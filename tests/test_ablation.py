"""Recipes taken apart: which variants there are, how their steps stay as large, what is said."""

import pytest

from cnn_jax import config, records
from cnn_jax.display import Silent
from cnn_jax.reports import ablation
from cnn_jax.sweeps import driver

PLAIN = config.Config(
    dataset=config.DatasetConfig(name="fashion_mnist_mini", train_examples=200),
    model=config.ModelConfig(name="mlp", hidden=(8,)),
    optimizer=config.OptimizerConfig(learning_rate=0.2),
    epochs=1,
    batch_size=100,
)
FULL = config.with_values(
    PLAIN,
    {
        "batch_size": 50,
        "dataset.normalization": "standardize",
        "optimizer.learning_rate": 0.01,
        "optimizer.momentum": 0.9,
        "optimizer.nesterov": True,
        "records.figures": False,
        "seed": 7,
    },
)


def test_every_variant_differs_in_one_ingredient_and_keeps_the_size_of_its_steps():
    variants = {v.name: v for v in ablation.make_recipes(PLAIN, FULL)}
    assert list(variants) == [
        "all",
        "without input normalization",
        "without momentum",
        "without batch size",
        "none",
        "input normalization alone",
        "momentum alone",
        "batch size alone",
    ]
    leaves = {name: config.flatten(v.config) for name, v in variants.items()}

    def changes(name):
        baseline = leaves[variants[name].baseline]
        return {p: v for p, v in leaves[name].items() if v != baseline[p]}

    assert changes("without input normalization") == {"dataset.normalization": "unit"}
    assert changes("without momentum") == {
        "optimizer.momentum": 0.0,
        "optimizer.nesterov": False,
        "optimizer.learning_rate": 0.1,
    }
    assert changes("without batch size") == {"batch_size": 100, "optimizer.learning_rate": 0.02}
    assert changes("momentum alone") == {
        "optimizer.momentum": 0.9,
        "optimizer.nesterov": True,
        "optimizer.learning_rate": 0.02,
    }
    assert changes("batch size alone") == {"batch_size": 50, "optimizer.learning_rate": 0.1}
    assert [v.name for v in ablation.make_recipes(PLAIN, FULL, alone=False)] == list(variants)[:4]


def test_every_hyperparameter_is_an_ingredient_or_of_the_recipe_as_a_whole():
    paths = [path for paths in ablation.INGREDIENTS.values() for path in paths]
    assert len(set(paths)) == len(paths)
    rest = set(config.leaf_types()) - set(paths) - set(ablation.WHOLE)
    free = {path for path in rest if path.startswith(config.FREE)}
    assert {path for path in rest - free if path.startswith(("optimizer.", "augment."))} == set()
    assert {"epochs", "seed", "dataset.name", "model.dtype", "parallel"} <= rest


def test_an_option_of_no_group_is_an_ingredient_by_its_path():
    plain = config.with_values(PLAIN, {"model.name": "nin", "model.hidden": None})
    full = config.with_values(plain, {"model.class_bias_init": "zeros"})
    names = [v.name for v in ablation.make_recipes(plain, full)]
    own = "model.class_bias_init"
    assert names == ["all", f"without {own}", "none", f"{own} alone"]
    half = config.with_values(plain, {"model.dtype": "bfloat16"})
    with pytest.raises(config.ConfigError, match=r"config\.model\.dtype .* which is no ingredient"):
        ablation.make_recipes(plain, half)


def test_recipes_that_cannot_be_compared_are_one_sentence():
    with pytest.raises(config.ConfigError, match="don't differ"):
        ablation.make_recipes(PLAIN, config.with_values(PLAIN, {"seed": 1}))
    with pytest.raises(config.ConfigError, match=r"config\.epochs \(1 and 2\), which is no ingred"):
        ablation.make_recipes(PLAIN, config.with_values(PLAIN, {"epochs": 2}))


def test_variants_are_run_with_every_seed_and_compared_in_pairs(tmp_path):
    full = config.with_values(PLAIN, {"dataset.normalization": "standardize"})
    variants = ablation.make_recipes(PLAIN, full, alone=False)
    planned = ablation.plan_study(variants, [0, 1])
    trials = ablation.make_trials(planned)
    without = "without input normalization"
    names = ["all,seed=0", "without_input_normalization,seed=0", "all,seed=1"]
    assert [t.name for t in trials[:3]] == names
    attempt = driver.train_alone(tmp_path, lambda trials: Silent())
    done = list(driver.run_trials(trials[:3], tmp_path, attempt))
    assert not any(outcome.error for outcome in done)
    found = ablation.read_groups(planned, tmp_path)
    assert [len(group.runs) for group in found.values()] == [2, 1]
    lines = ablation.make_table(variants, found).splitlines()
    assert [line.split("|")[3].strip() for line in lines[2:]] == ["2", "1"]
    assert "not run" in ablation.make_table(variants, {})

    list(driver.run_trials(trials, tmp_path, attempt))
    found = ablation.read_groups(planned, tmp_path)
    rows = {row["variant"]: row for row in ablation.make_rows(variants, found)}
    accuracies = {
        name: [
            records.read_metrics(tmp_path / f"{name.replace(' ', '_')},seed={seed}")[-1][
                "test_accuracy"
            ]
            for seed in (0, 1)
        ]
        for name in ("all", without)
    }
    assert {name: row["test_accuracies"] for name, row in rows.items()} == accuracies
    compared = rows[without]["against_baseline"]
    differences = [a - b for a, b in zip(accuracies[without], accuracies["all"], strict=True)]
    assert compared["difference"] == pytest.approx(sum(differences) / 2)
    assert rows["all"]["against_baseline"] is None
