"""Finished runs that go on to more epochs, and runs that end before their last."""

import io
import json

import jax
import numpy as np
import pytest

from cnn_jax import checkpoints, config, epochs, records, train
from cnn_jax.display import Display, Silent
from cnn_jax.errors import ConfigError, RunDirectoryError
from cnn_jax.figures import run_figures
from cnn_jax.reports import comparison, run_groups
from cnn_jax.sweeps import population, spaces, sweep_record
from tests import commands

reproduce = commands.load("reproduce")

SETTINGS = config.Config(
    dataset=config.DatasetConfig("fashion_mnist_mini", train_examples=300, holdout=0.2),
    model=config.ModelConfig("mlp", hidden=(8,), dropout=(0.2,), norm="batch"),
    optimizer=config.OptimizerConfig(
        learning_rate=0.1, momentum=0.9, warmup_epochs=0.5, ema_decay=0.9
    ),
    augment=config.AugmentConfig(pad=1),
    records=config.RecordsConfig(tensorboard=False, figures=False),
    epochs=3,
    batch_size=64,
)


def with_values(**values):
    return config.with_values(SETTINGS, {name.replace("__", "."): v for name, v in values.items()})


def outcome(run):
    rows = records.read_metrics(run)
    rows = [{n: v for n, v in row.items() if n not in reproduce.certificate.TIMES} for row in rows]
    kept = sorted(path.name for path in (run / "checkpoints").glob("[0-9]*"))
    return rows, kept, checkpoints.restore_variables(run, evaluated=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of three epochs."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train.train_and_evaluate(SETTINGS, run, Silent())
    return run


def test_a_finished_run_goes_on_to_the_bits_of_a_longer_one(whole, tmp_path):
    shown = io.StringIO()
    train.train_and_evaluate(with_values(epochs=1), tmp_path, Silent())
    train.train_and_evaluate(SETTINGS, tmp_path, Display(shown))
    assert "resuming at epoch 1, step 5" in shown.getvalue()
    (rows, kept, variables), expected = outcome(tmp_path), outcome(whole)
    assert (rows, kept) == expected[:2]
    jax.tree.map(np.testing.assert_array_equal, variables, expected[2])
    assert records.read_config(tmp_path) == records.read_config(whole)


@pytest.mark.slow
def test_members_of_a_population_go_on_too(tmp_path):
    def fit(count):
        members = [with_values(epochs=count, seed=seed) for seed in (0, 1)]
        return population.train_population(members, [tmp_path / "0", tmp_path / "1"])

    fit(1)
    assert [member.row["epoch"] for member in fit(2)] == [2, 2]


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        (
            {"optimizer__schedule": "cosine"},
            {"epochs": 4},
            r"a run of config\.epochs=3, over which its cosine schedule spreads the .*; start "
            r"a new run from its weights, with another --workdir and --config\.init_from=",
        ),
        ({"optimizer__schedule": "linear"}, {"epochs": 2}, "its linear schedule"),
        ({}, {"epochs": 1}, r"a run of 2 epochs already, more than config\.epochs=1; choose"),
        ({}, {"epochs": 4, "batch_size": 32}, r"there config\.batch_size=64, here 32"),
    ],
)
def test_what_cannot_go_on_says_why(tmp_path, there, here, said):
    settings = config.resolve(with_values(**there))
    with records.RunDirectory(tmp_path, settings) as record:
        for epoch in (1, 2):
            record.append_metrics(
                {**dict.fromkeys(records.Row.__annotations__, 0.5), **EPOCHS[epoch]}
            )
    before = (tmp_path / "config.json").read_bytes()
    changed = config.resolve(with_values(**there, **here))
    with pytest.raises(RunDirectoryError, match=said), records.RunDirectory(tmp_path, changed):
        pass
    assert (tmp_path / "config.json").read_bytes() == before


EPOCHS = {epoch: {"epoch": epoch, "step": 4 * epoch} for epoch in (1, 2)}


def test_falls_of_the_learning_rate_at_given_epochs_are_the_same_in_a_longer_run(tmp_path):
    settings = with_values(optimizer__schedule="step", optimizer__step_epochs=(1.0,))
    with records.RunDirectory(tmp_path, config.resolve(settings)) as record:
        record.append_metrics({**dict.fromkeys(records.Row.__annotations__, 0.5), **EPOCHS[1]})
    longer = config.resolve(config.with_values(settings, {"epochs": 9}))
    with records.RunDirectory(tmp_path, longer):
        assert records.read_config(tmp_path).epochs == 9


@pytest.mark.parametrize(
    ("values", "patience", "expected"),
    [
        ([], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.6], 1, False),
        ([0.5, 0.5], 1, True),
        ([0.5, 0.4], 2, False),
        ([0.5, 0.4, 0.5], 2, True),
        ([0.5, 0.4, 0.6, 0.5], 2, False),
        ([0.5, 0.4, 0.3, 0.2], 0, False),
    ],
)
def test_patience_is_the_epochs_since_the_highest_accuracy(values, patience, expected):
    history = [{"test_accuracy": value} for value in values]
    assert epochs.has_stalled(history, patience) is expected


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that learns next to nothing, so that it stops early, and what it showed."""
    run, shown = tmp_path_factory.mktemp("stopped") / "run", io.StringIO()
    settings = with_values(
        epochs=9, early_stopping=2, optimizer__learning_rate=1e-9, optimizer__ema_decay=0.0
    )
    row = train.train_and_evaluate(settings, run, Display(shown))
    return run, settings, row, shown.getvalue()


def test_a_run_stops_early_and_says_so_again(stopped):
    run, settings, row, shown = stopped
    rows = records.read_metrics(run)
    best = np.argmax([row["test_accuracy"] for row in rows]) + 1
    assert row["epoch"] == len(rows) == best + 2 < 9
    assert [row.get("stopped_early") for row in rows] == [None] * (len(rows) - 1) + [True]
    note = f"stopped early after epoch {len(rows)} of 9: no higher test_accuracy than "
    assert f"{note}{rows[best - 1]['test_accuracy']:.4f} of epoch {best}\n" in shown
    for values in ({}, {"epochs": 20}):  # more epochs don't help: it would have stopped there too
        again = io.StringIO()
        changed = config.with_values(settings, values)
        assert train.train_and_evaluate(changed, run, Display(again)) == row
        assert f"finished at epoch {len(rows)}" in again.getvalue()
        assert f"stopped early after epoch {len(rows)} of " in again.getvalue()
    train.train_and_evaluate(settings, run, Silent())
    checkpoints.restore_variables(run, checkpoint="best")


def test_a_run_that_stopped_early_is_finished_for_all_that_read_it(stopped, tmp_path, capsys):
    run, settings, row, _ = stopped
    (found,) = run_groups.find_runs([run])
    assert found.finished
    assert comparison._describe_progress(found) == f"{row['epoch']}, stopped early"
    trial = spaces.Trial(run.name, {}, settings)
    for until in (None, 9):
        assert sweep_record.find_result(run.parent, trial, until) == row
    assert sweep_record.find_result(run.parent, trial, 1)["epoch"] == 1
    assert reproduce.reproduce(run, tmp_path / "again") == 0
    assert "identical" in capsys.readouterr().out


def test_early_stopping_goes_by_held_out_examples_and_one_run_at_a_time(tmp_path):
    with pytest.raises(ConfigError, match="the test set must not choose when to stop"):
        config.check(with_values(early_stopping=2, dataset__holdout=0.0))
    members = [with_values(early_stopping=2, seed=seed) for seed in (0, 1)]
    with pytest.raises(ConfigError, match=r"at different epochs; train them one by one"):
        population.train_population(members, [tmp_path / "0", tmp_path / "1"])


def test_figures_of_a_run_that_went_on_are_drawn_anew(whole, monkeypatch):
    drawn = []
    monkeypatch.setattr(run_figures, "draw", lambda evaluated, kind, *_: drawn.append(kind) or [])
    monkeypatch.setattr(run_figures, "choose_images", lambda evaluated: [])
    evaluated = run_figures.Evaluated(whole)
    for expected in (len(run_figures.KINDS), 0):
        run_figures.draw_missing(evaluated)
        assert len(drawn) == expected
        drawn.clear()
    file = whole / "figures" / run_figures.DRAWN
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, run_figures.STEP: ["4"]}))
    run_figures.draw_missing(evaluated)
    assert len(drawn) == len(run_figures.KINDS)
