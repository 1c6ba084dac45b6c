"""Reports: which runs belong together, their statistics, published numbers, tables and pictures."""

import importlib
import json
import pathlib
import shlex

import pytest
from PIL import Image
from scipy import stats

from cnn_jax import config, errors, records
from cnn_jax.figures import plots
from cnn_jax.reports import group_figures, published, run_groups, significance, tables
from cnn_jax.sweeps import spaces, sweep_record
from tests import commands
from tests.recorded_runs import lenet, write_run

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = ROOT / "experiments" / "configs"


def groups_of(directory):
    runs = run_groups.find_runs([directory])
    return run_groups.best_first(run_groups.group_runs(runs)[0])


# Comparisons


def compared(tmp_path, accuracies):
    for rate, values in accuracies.items():
        for seed, value in values.items():
            settings = lenet(seed=seed, epochs=1, **{"optimizer.learning_rate": rate})
            write_run(tmp_path / f"{rate}_{seed}", settings, [value])
    return groups_of(tmp_path)


def test_groups_are_compared_seed_by_seed(tmp_path):
    """Against scipy's paired test; Holm's factors by hand."""
    base = {0: 0.80, 1: 0.82, 2: 0.81, 3: 0.79}
    better = {0: 0.82, 1: 0.85, 2: 0.82, 3: 0.81}
    same = {1: 0.83, 2: 0.80, 3: 0.79, 7: 0.99}  # seed 7 has no partner
    groups = compared(tmp_path, {0.1: base, 0.2: better, 0.3: same, 0.4: {0: 0.9}})
    baseline = significance.find_baseline(groups, "optimizer.learning_rate=0.1")
    found = dict(
        zip(
            [g.config.optimizer.learning_rate for g in groups],
            significance.compare(groups, baseline),
            strict=True,
        )
    )
    assert found[0.1] is None
    assert found[0.4] is None
    p = {}
    for rate, values in ((0.2, better), (0.3, same)):
        seeds = sorted(set(values) & set(base))
        expected = stats.ttest_rel([values[s] for s in seeds], [base[s] for s in seeds])
        interval = expected.confidence_interval(0.95)
        p[rate] = expected.pvalue
        assert found[rate].n == len(seeds)
        assert found[rate].low == pytest.approx(interval.low)
        assert found[rate].high == pytest.approx(interval.high)
    assert found[0.2].difference == pytest.approx(0.02)
    assert p[0.2] < p[0.3]
    assert found[0.2].p == pytest.approx(2 * p[0.2])
    assert found[0.3].p == pytest.approx(p[0.3])
    text = tables.report(groups, [], [], baseline)
    assert " baseline | " in text
    assert " +0.0200 | " in text
    assert "Holm" in text


def test_equal_accuracies_are_no_difference_and_a_constant_one_is(tmp_path):
    groups = compared(tmp_path, {0.1: {0: 0.5, 1: 0.6}, 0.2: {0: 0.5, 1: 0.6}})
    baseline = significance.find_baseline(groups, "optimizer.learning_rate=0.1")
    (other,) = filter(None, significance.compare(groups, baseline))
    assert (other.difference, other.p) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("model.name=lenet", "fits 2 configurations of the 2; it must fit one"),
        ("optimizer.learning_rate=7", "fits 0 configurations"),
        ("learning_rat=7", "--baseline"),
    ],
)
def test_a_baseline_is_one_configuration(tmp_path, chosen, expected):
    groups = compared(tmp_path, {0.1: {0: 0.5}, 0.2: {0: 0.5}})
    with pytest.raises(ValueError, match=expected):
        significance.find_baseline(groups, chosen)


# Statistics


def test_statistics_by_hand():
    # Deviations from .82 are -.02, 0, .02: the sum of squares is .0008, over n - 1 = 2.
    found = run_groups.summarize([0.80, 0.82, 0.84])
    assert found == (3, pytest.approx(0.82), pytest.approx(0.0004**0.5), 0.80, 0.84)
    assert tables.format_mean(found) == "0.8200 ± 0.0200"


def test_a_single_value_has_no_spread():
    found = run_groups.summarize([0.5])
    assert found == (1, 0.5, None, 0.5, 0.5)
    assert tables.format_mean(found) == "0.5000 ± –"


# Groups


def test_runs_that_differ_in_the_seed_or_in_what_changes_nothing_are_a_group(tmp_path):
    write_run(tmp_path / "b", lenet(seed=2, epochs=2), [0.1, 0.84])
    write_run(tmp_path / "a", lenet(epochs=2, **{"records.figures": False}), [0.2, 0.80])
    write_run(tmp_path / "deep" / "c", lenet(seed=1, epochs=2), [0.3, 0.82])
    write_run(tmp_path / "other", lenet(epochs=2, **{"optimizer.learning_rate": 0.5}), [0.1, 0.9])
    best, group = groups_of(tmp_path)
    assert [run.config.seed for run in group.runs] == [0, 1, 2]
    assert group.values("test_accuracy") == [0.80, 0.82, 0.84]
    assert run_groups.speed(group) == 1500.0
    assert run_groups.seconds(group) == 3.0
    assert best.values("test_accuracy") == [0.9]


def test_a_run_counts_once_however_often_it_is_found_or_repeated(tmp_path):
    write_run(tmp_path / "a", lenet(epochs=1), [0.8])
    write_run(tmp_path / "again", lenet(epochs=1), [0.8])
    runs = run_groups.find_runs([tmp_path, tmp_path / "a"])
    assert len(runs) == 2
    groups, repeated = run_groups.group_runs(runs)
    assert len(groups[0].runs) == 1
    assert [(r.path.name, kept.path.name) for r, kept in repeated] == [("again", "a")]
    text = tables.report(groups, repeated, runs)
    assert "again repeats" in text
    assert "with the same accuracy" in text


def test_unfinished_and_failed_runs_are_listed_and_not_averaged(tmp_path):
    write_run(tmp_path / "seed=0", lenet(epochs=2), [0.1, 0.8])
    write_run(tmp_path / "seed=1", lenet(epochs=2, seed=1), [0.3])
    write_run(tmp_path / "seed=2", lenet(epochs=2, seed=2), [])
    error = {"kind": "DivergedError", "error": "the loss was not finite", "time": 0.0}
    records.write_json(tmp_path / "seed=2" / "error.json", error)
    runs = run_groups.find_runs([tmp_path])
    groups, repeated = run_groups.group_runs(runs)
    assert groups[0].values("test_accuracy") == [0.8]
    assert len(groups[0].unfinished) == 2
    text = tables.report(groups, repeated, runs)
    assert "Unfinished, and not in the table: 2." in text
    assert "seed=1: 1 of 2 epochs\n" in text
    assert "seed=2: 0 of 2 epochs; the loss was not finite" in text
    assert "not in the mean, which flatters it" in text


def test_a_run_with_damaged_metrics_is_listed_as_such(tmp_path):
    write_run(tmp_path / "a", lenet(epochs=1), [0.8])
    write_run(tmp_path / "b", lenet(epochs=1, seed=1), [0.8])
    with open(tmp_path / "b" / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "te')
    runs = run_groups.find_runs([tmp_path])
    groups, repeated = run_groups.group_runs(runs)
    assert len(groups[0].runs) == 1
    assert "metrics.jsonl can't be read" in tables.report(groups, repeated, runs)


def test_the_columns_are_what_differs():
    def paths(*configs):
        return run_groups.differing_paths([config.resolve(c) for c in configs])

    assert paths(lenet(), lenet(seed=1)) == []
    assert paths(lenet(), lenet(**{"dataset.data_dir": "elsewhere"})) == []
    assert paths(lenet(), lenet(**{"model.pool": "max", "epochs": 3})) == ["model.pool", "epochs"]
    mlp = importlib.import_module("experiments.configs.mlp").get_config("")
    # Another network has other options; that says nothing.
    assert paths(lenet(), mlp) == ["model.name", "optimizer.learning_rate"]
    assert paths(lenet(), lenet(**{"model.pool": "max"}), mlp)[:2] == ["model.name", "model.pool"]


def test_short_names_of_columns_stay_different():
    names = tables.column_names(["model.name", "optimizer.learning_rate", "a.x", "b.x"])
    assert list(names.values()) == ["model.name", "learning_rate", "a.x", "b.x"]


# Published numbers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("softmax", 0.8317),
        ("mlp", 0.8440),
        ("mlp_dropout", 0.8601),
        ("lenet", 0.808),
        ("lenet_max", 0.834),
    ],
)
def test_a_published_number_belongs_to_its_recipe_only(name, value):
    recipe = importlib.import_module(f"experiments.configs.{name}").get_config("")

    def numbers(**values):
        return published.find_published(config.resolve(config.with_values(recipe, values)))

    assert numbers()[0].value == value
    same = {"seed": 5, "parallel": "jit", "eval_batch_size": 500, "model.bias_init": "torch"}
    assert numbers(**same)[0].value == value
    assert numbers(epochs=11) == ()
    assert numbers(**{"optimizer.learning_rate": 0.2}) == ()
    assert numbers(**{"dataset.holdout": 0.1}) == ()
    assert numbers(**{"dataset.name": "mnist"}) == ()
    assert numbers(**{"model.kernel_init": "orthogonal"}) == ()


def test_two_names_of_one_network_share_their_numbers():
    assert (
        published.find_published(config.resolve(lenet(**{"model.pool": "max"})))[0].value == 0.834
    )


def test_published_numbers_are_sound_and_say_where_they_are_from():
    entries = json.loads(published.FILE.read_text())["recipes"]
    for entry in entries:
        values = {path: config.as_tuples(value) for path, value in entry["recipe"].items()}
        tree = config.with_values(config.Config(), values)
        config.check(tree)
        numbers = published.find_published(config.resolve(tree))
        assert len(numbers) == len(entry["published"]) > 0
        for number in numbers:
            assert 0.5 < number.value < 1
            assert number.source
            assert number.what
            if number.minimum is not None:
                assert number.minimum <= number.value <= number.maximum
                assert number.n > 1


# Commands


def test_the_command_of_a_group_repeats_what_started_it(tmp_path):
    command = ["/usr/bin/python3", "-m", "experiments.train", "--workdir", "x", "--config"]
    command += ["/home/me/experiments/configs/lenet.py:pool=max", "--config.epochs=1"]
    for seed in (3, 1):
        started = [*command, f"--config.seed={seed}", "--config.dataset.data_dir=/data"]
        write_run(tmp_path / str(seed), lenet(seed=seed, epochs=1), [0.8], started)
    (group,) = groups_of(tmp_path)
    assert tables.config_name(group) == "experiments/configs/lenet.py:pool=max"
    expected = (
        "python -m experiments.sweep --config=experiments/configs/lenet.py:pool=max "
        "--config.epochs=1 --grid=seed=1,3 --workdir=runs/lenet_again"
    )
    assert tables.make_command(group) == expected
    single = group._replace(runs=group.runs[:1])
    assert "experiments.train" in tables.make_command(single)
    assert "--config.seed=1" in shlex.split(tables.make_command(single))


def test_the_command_of_a_sweeps_trial_is_in_the_sweeps_record(tmp_path):
    axes = {"optimizer.learning_rate": (0.1, 0.3), "seed": (0, 1)}
    trials = spaces.expand(lenet(epochs=1), axes)
    record = sweep_record.make_record(
        "experiments/configs/lenet.py", {"epochs": 1}, lenet(), trials
    )
    sweep_record.claim_directory(tmp_path, record)
    for trial in trials:
        write_run(tmp_path / trial.name, trial.config, [trial.values["optimizer.learning_rate"]])
    best = groups_of(tmp_path)[0]
    assert tables.make_command(best) == (
        "python -m experiments.sweep --config=experiments/configs/lenet.py --config.epochs=1 "
        "--config.optimizer.learning_rate=0.3 --grid=seed=0,1 --workdir=runs/lenet_again"
    )


def test_a_run_started_otherwise_has_no_command(tmp_path):
    write_run(tmp_path / "a", lenet(epochs=1), [0.8], ["python", "mine.py"])
    (group,) = groups_of(tmp_path)
    assert tables.make_command(group) is None
    assert tables.config_name(group) is None


# Tables, rows and pictures


def test_the_table_has_numbers_and_sources(tmp_path):
    for seed, accuracy in enumerate((0.80, 0.82, 0.84)):
        write_run(tmp_path / f"a{seed}", lenet(seed=seed), [0.5] * 9 + [accuracy])
    write_run(tmp_path / "b", lenet(**{"optimizer.learning_rate": 0.5}), [0.5] * 9 + [0.7])
    runs = run_groups.find_runs([tmp_path])
    groups, repeated = run_groups.group_runs(runs)
    text = tables.report(run_groups.best_first(groups), repeated, runs)
    lines = text.splitlines()
    table = [line for line in lines if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert cells[0] == [
        *("learning_rate", "n", "test accuracy", "min", "max", "loss"),
        *("training", "examples/s", "published"),
    ]
    assert cells[2][:4] == ["0.9", "3", "0.8200 ± 0.0200", "0.8000"]
    assert cells[2][4:] == ["0.8400", "0.3000", "0.8300", "5,500", "0.808 (0.752 to 0.828) [1]"]
    assert cells[3][:3] == ["0.5", "1", "0.7000 ± –"]
    assert cells[3][-1] == "–"
    assert len({len(line) for line in table}) == 1
    assert "model.name=lenet, dataset.name=fashion_mnist, epochs=10" in text
    assert "on Abacus, 2 cores" in text
    assert any(line.startswith("- [1] 0.808 (0.752 to 0.828): median of 130") for line in lines)


def test_held_out_accuracy_is_called_so(tmp_path):
    write_run(tmp_path / "a", lenet(epochs=1, **{"dataset.holdout": 0.1}), [0.8])
    runs = run_groups.find_runs([tmp_path])
    groups, repeated = run_groups.group_runs(runs)
    text = tables.report(groups, repeated, runs)
    assert "held-out accuracy" in text
    assert "test accuracy" not in text
    assert tables.result_rows(groups, lambda run: 1)[0]["part"] == "held-out"


def test_rows_for_programs(tmp_path):
    write_run(tmp_path / "a", lenet(), [0.5] * 9 + [0.8])
    write_run(tmp_path / "b", lenet(seed=1), [0.5] * 9 + [0.9])
    (row,) = tables.result_rows(groups_of(tmp_path), lambda run: 61706)
    assert {k: row[k] for k in ("model", "dataset", "epochs", "parameters", "n")} == {
        "model": "lenet",
        "dataset": "fashion_mnist",
        "epochs": 10,
        "parameters": 61706,
        "n": 2,
    }
    assert row["test_accuracy_mean"] == pytest.approx(0.85)
    assert row["test_accuracy_sd"] == pytest.approx(0.005**0.5)
    assert row["test_accuracies"] == [0.8, 0.9]
    assert row["published"] == 0.808
    assert row["seconds"] == 15.0
    assert row["device"] == "Abacus, 2 cores"
    assert row["versions"] == {"jax": "0.10.2", "python": "3.11.7", "commit": "abc"}
    assert {"config", "command"} < set(row)


@pytest.mark.parametrize(
    ("axes", "drawn"),
    [
        ({"seed": (0, 1)}, False),
        ({"optimizer.learning_rate": (0.01, 0.1, 1.0)}, True),
        ({"optimizer.learning_rate": (0.1, 1.0), "model.activation": ("relu", "tanh")}, True),
        ({"optimizer.learning_rate": (0.1, 1.0), "batch_size": (32, 64), "epochs": (1, 2)}, True),
    ],
)
def test_pictures(tmp_path, axes, drawn):
    for i, trial in enumerate(spaces.expand(lenet(epochs=2), {**axes, "seed": (0, 1)})):
        accuracies = [0.5 + 0.01 * i, 0.6 + 0.01 * i][: trial.config.epochs]
        write_run(tmp_path / trial.name, trial.config, accuracies)
    groups = groups_of(tmp_path)
    curves, picture = tmp_path / "p" / "curves.png", tmp_path / "p" / "sensitivity.png"
    group_figures.draw_group_curves(groups, curves)
    assert group_figures.draw_sensitivity(groups, picture) is drawn
    for file in [curves, picture][: 1 + drawn]:
        with Image.open(file) as image:
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(2**24)) > 50
    labels = group_figures.label_groups(groups)
    assert len(set(labels)) == len(groups)


RATE, BATCH = "optimizer.learning_rate", "batch_size"


@pytest.mark.parametrize(
    ("settings", "panels"),
    [
        ([{RATE: r, BATCH: b} for r in (0.1, 0.9) for b in (32, 64)], 0),
        # One trial of a grid failed.
        ([{RATE: r, BATCH: b} for r in (0.1, 0.3, 0.9) for b in (32, 64, 128)][:-1], 0),
        # Two runs that differ twice, one that differs from either of two, a random search.
        ([{RATE: 0.1, BATCH: 32}, {RATE: 0.9, BATCH: 64}], 2),
        ([{RATE: 0.1, BATCH: 32}, {RATE: 0.9, BATCH: 32}, {RATE: 0.1, BATCH: 64}], 2),
        ([{RATE: 0.1 * i, BATCH: 32 * i} for i in range(1, 6)], 2),
    ],
)
def test_only_what_was_crossed_is_drawn_as_a_matrix(tmp_path, monkeypatch, settings, panels):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, file: figures.append(figure))
    for i, values in enumerate(settings):
        write_run(tmp_path / str(i), lenet(epochs=1, **values), [0.5 + 0.01 * i])
    assert group_figures.draw_sensitivity(groups_of(tmp_path), tmp_path / "sensitivity.png")
    axes = figures[0].axes
    assert bool(axes[0].images) == (panels == 0)
    if panels:
        assert [a.get_xlabel() for a in axes] == [RATE, BATCH]
        assert "the others vary too" in figures[0].get_suptitle()
    else:
        cells = [text.get_text() for text in axes[0].texts]
        assert cells.count("no run") == len(cells) - len(settings)


def test_figures_name_own_data_without_its_folder(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, file: figures.append(figure))
    for name in ("cats", "dogs"):
        settings = lenet(epochs=1, **{"dataset.name": f"{tmp_path}/{name}:size=32"})
        write_run(tmp_path / "runs" / name, settings, [0.5])
    groups = groups_of(tmp_path / "runs")
    assert sorted(group_figures.label_groups(groups)) == [
        "dataset.name=cats",
        "dataset.name=dogs",
    ]
    group_figures.draw_sensitivity(groups, tmp_path / "sensitivity.png")
    ticks = {label.get_text() for label in figures[0].axes[0].get_xticklabels()}
    assert ticks == {"cats", "dogs"}


# The command


def test_the_command_writes_markdown_pictures_and_json(tmp_path):
    write_run(tmp_path / "runs" / "a", lenet(epochs=1), [0.8])
    out = tmp_path / "report.md"
    options = f"--output={out}", f"--json={tmp_path / 'rows.json'}"
    done = commands.run("experiments.report", tmp_path / "runs", *options)
    assert done.returncode == 0, done.stderr
    assert "![Learning curves](report_curves.png)" in out.read_text()
    assert (tmp_path / "report_curves.png").stat().st_size > 10_000
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert row["test_accuracies"] == [0.8]
    assert row["parameters"] is None  # these records have no checkpoint


def test_bad_input_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(errors.ReportError, match="is not a directory"):
        run_groups.find_runs([tmp_path / "none"])
    with pytest.raises(errors.ReportError, match="no run found in"):
        run_groups.find_runs([tmp_path])
    write_run(tmp_path / "a", lenet(epochs=1), [0.8])
    (tmp_path / "a" / "config.json").write_text("{")
    with pytest.raises(records.RunDirectoryError, match=r"config\.json can't be read"):
        run_groups.find_runs([tmp_path])
    done = commands.run("experiments.report", tmp_path / "none")
    assert done.returncode == 2
    assert (
        done.stderr == f"error: {tmp_path / 'none'} is not a directory; give one that holds runs.\n"
    )
