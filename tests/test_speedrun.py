"""Speedruns: what a run is, and that its clock's results are those of ordinary training."""

import json

import pytest
from absl import flags

from cnn_jax import config, train
from cnn_jax.display import Silent
from tests import commands

speedrun = commands.load("speedrun")
SETTINGS = config.resolve(
    config.Config(
        dataset=config.DatasetConfig(name="fashion_mnist_mini", train_examples=300),
        model=config.ModelConfig(name="mlp", hidden=(16,), kernel_init="he_normal"),
        optimizer=config.OptimizerConfig(learning_rate=0.1, ema_decay=0.9),
        records=config.RecordsConfig(tensorboard=False, figures=False),
        epochs=2,
        batch_size=64,
    )
)


@pytest.fixture(scope="module")
def recipe():
    return speedrun.CompiledRecipe(SETTINGS)


def test_a_run_is_what_experiments_train_gives(recipe, tmp_path):
    for seed in (0, 3):
        run = recipe.run(seed)
        own = config.with_values(SETTINGS, {"seed": seed})
        row = train.train_and_evaluate(own, tmp_path / str(seed), Silent())
        assert run.accuracy == pytest.approx(row["test_accuracy"])
        assert run.seed == seed
        assert run.seconds > 0
    assert recipe.run(0).accuracy != recipe.run(3).accuracy


def test_nothing_is_compiled_within_the_clock(recipe):
    with jax_compilations() as count:
        recipe.run(1)
    assert count == []


def jax_compilations():
    import contextlib

    import jax

    @contextlib.contextmanager
    def counting():
        found = []

        def hear(event, duration, **more):
            if event == "/jax/core/compile/backend_compile_duration":
                found.append(event)

        jax.monitoring.register_event_duration_secs_listener(hear)
        try:
            yield found
        finally:
            jax.monitoring.unregister_event_duration_listener(hear)

    return counting()


def test_a_run_that_diverges_is_one_sentence():
    bad = config.with_values(SETTINGS, {"optimizer.learning_rate": 1e30})
    with pytest.raises(train.DivergedError, match="seed 0: the loss was not finite"):
        speedrun.CompiledRecipe(bad).run(0)


def test_what_is_written_has_every_run_and_the_protocol(recipe, monkeypatch):
    monkeypatch.setattr(flags.FLAGS["mark"], "value", 0.5)
    runs = [speedrun.Run(0, 2.0, 0.8), speedrun.Run(1, 4.0, 0.9)]
    found = speedrun.make_entry("--config=experiments/configs/mlp.py", recipe, runs)
    json.dumps(found)
    assert found["accuracies"] == [0.8, 0.9]
    assert found["accuracy_mean"] == pytest.approx(0.85)
    assert (found["seconds_mean"], found["n"], found["mark"]) == (3.0, 2, 0.5)
    assert found["compile_seconds"] > 0
    assert found["command"].endswith("--mark=0.5 --runs=2")
