"""The table of results: what is run, what is kept, what is said."""

import json
import pathlib

import numpy as np
import pytest
from absl.testing import flagsaver

from cnn_jax import config, records
from cnn_jax.display import Silent
from cnn_jax.errors import ResultsError
from cnn_jax.reports import certificate, results, run_groups, study
from cnn_jax.sweeps import driver
from tests import commands

command = commands.load("results")
ROOT = pathlib.Path(__file__).parent.parent
SMALL = config.Config(
    dataset=config.DatasetConfig(name="fashion_mnist_mini", train_examples=200),
    model=config.ModelConfig(name="softmax"),
    epochs=1,
    batch_size=50,
)


def make_row(name="small", **options):
    options = {"seeds": (0, 1), **options}
    return results.Row(name, "same", "experiments/configs/softmax.py:smoke", SMALL, **options)


def train(row, directory):
    trials = study.make_trials(results.plan_study([row]))
    attempt = driver.train_alone(directory, lambda trials: Silent())
    return list(driver.run_trials(trials, directory, attempt))


def found(row, directory):
    return results.make_entry(row, results.read_group(row, directory), lambda run: 7850)


def test_a_row_is_run_once_for_each_seed_and_counts_when_all_are_finished(tmp_path):
    row = make_row("best/small")
    assert results.read_group(row, tmp_path) is None
    assert found(row, tmp_path)["n"] == 0
    outcomes = train(row._replace(seeds=(0,)), tmp_path)
    assert [o.trial.name for o in outcomes] == ["best/small/seed=0"]
    assert results.read_group(row, tmp_path) is None  # seed 1 is missing
    outcomes = train(row, tmp_path)
    assert [o.seconds is None for o in outcomes] == [True, False]  # seed 0 was finished before
    entry = found(row, tmp_path)
    rows = [records.read_metrics(tmp_path / "best/small" / f"seed={s}")[-1] for s in (0, 1)]
    accuracies = [r["test_accuracy"] for r in rows]
    assert entry["test_accuracies"] == accuracies
    assert entry["test_accuracy_mean"] == np.mean(accuracies)
    assert entry["test_accuracy_sd"] == pytest.approx(np.std(accuracies, ddof=1))
    assert (entry["n"], entry["parameters"], entry["epochs"]) == (2, 7850, 1)
    assert entry["config"] == "experiments/configs/softmax.py:smoke"
    assert entry["command"] == (
        "python -m experiments.sweep --config=experiments/configs/softmax.py:smoke "
        "--grid=seed=0,1 --workdir=runs/best_small"
    )
    assert entry["versions"]["jax"]
    json.dumps(entry)
    # A recipe that has changed since isn't mixed with the runs of the old one.
    changed = row._replace(config=config.with_values(SMALL, {"optimizer.momentum": 0.5}))
    assert results.read_group(changed, tmp_path) is None
    assert "another configuration" in train(changed, tmp_path)[0].error


def test_rows_not_run_here_stay_as_recorded_and_rows_never_run_say_so():
    names = ["a", "b", "c"]
    rows = [make_row(name, target=0.5) for name in names]

    def entry(name, *accuracies):
        found = {"name": name, "n": len(accuracies), "test_accuracies": list(accuracies)}
        return {**found, "recipe": results.flatten_recipe(rows[0])}

    recorded = [entry("a", 0.1, 0.2), entry("b", 0.3, 0.4), entry("gone", 0.9)]
    merged = results.merge_entries(rows, recorded, {"b": entry("b", 0.5, 0.6)})
    assert [e["name"] for e in merged] == names  # in the order of the table
    assert [e["test_accuracies"] for e in merged] == [[0.1, 0.2], [0.5, 0.6], []]
    assert [e["n"] for e in merged] == [2, 2, 0]
    assert all(e["target"] == 0.5 for e in merged)
    assert "target" not in recorded[0]  # the input is left as it was
    # What was recorded of another recipe isn't this row's.
    changed = rows[0]._replace(config=config.with_values(SMALL, {"epochs": 2}))
    (other,) = results.merge_entries([changed], recorded, {})
    assert (other["n"], other["epochs"]) == (0, 2)


def test_a_record_older_than_a_hyperparameter_had_its_default():
    row = make_row("a")
    old = {"name": "a", "n": 1, "test_accuracies": [0.5], "recipe": results.flatten_recipe(row)}
    for path in ("augment.pad_probability", "model.hidden"):  # a network's default is its own
        del old["recipe"][path]
    (same,) = results.merge_entries([row], [old], {})
    assert (same["n"], same["recipe"]) == (1, results.flatten_recipe(row))
    changed = row._replace(config=config.with_values(SMALL, {"augment.pad_probability": 0.5}))
    (other,) = results.merge_entries([changed], [old], {})
    assert other["n"] == 0


def test_published_numbers_are_of_the_recipe_or_of_the_row_named():
    same = command.make_row("lenet")
    best = results.Row("best/lenet", "best", "x", SMALL, (0,), highest=0.836, same_as="lenet")
    entries = results.merge_entries([same, best], [], {})
    for found in entries:
        assert (found["published"], found["published_minimum"]) == (0.808, 0.752)
    assert [e["published_highest"] for e in entries] == [None, 0.836]
    assert results.merge_entries([best], [], {})[0]["published"] is None  # SMALL's recipe has none


def test_agreement_is_measured_by_the_spread():
    def entry(*accuracies):
        return {"test_accuracies": accuracies}

    same = results.compare_entries(entry(0.8, 0.82), entry(0.8, 0.82))
    assert (same.same, same.within) == (True, True)
    # Standard errors .01 and .01: the difference's is .01414.
    near = results.compare_entries(entry(0.8, 0.82), entry(0.82, 0.84))
    assert (near.same, near.within) == (False, True)
    assert not results.compare_entries(entry(0.8, 0.82), entry(0.83, 0.85)).within
    assert not results.compare_entries(entry(0.8), entry(0.81)).within  # no spread is known


def test_sd_from_range():
    # d₂ of the tables of quality control: 1.128, 2.326, 3.078, 5.015.
    for n, d2 in ((2, 1.128), (5, 2.326), (10, 3.078), (100, 5.015)):
        assert results.estimate_sd(1.0, 2.0, n) == pytest.approx(1 / d2, rel=1e-3)
    with pytest.raises(ValueError, match="at least 2"):
        results.estimate_sd(0, 1, 1)


def test_a_table_is_put_between_its_marks():
    text = "before\n<a>\nold\n<b>\nafter\n"
    new = results.replace_between(text, "<a>", "<b>", "new")
    assert new == "before\n<a>\nnew\n<b>\nafter\n"
    assert results.replace_between(new, "<a>", "<b>", "new") == new
    for bad in ("no marks", "<b> <a>", "<a> <a> <b>"):
        with pytest.raises(ResultsError, match="no place"):
            results.replace_between(bad, "<a>", "<b>", "new")


def test_the_short_table_has_a_row_for_each_network_with_its_best_recipe():
    def entry(name, *accuracies, config="a.py", dataset="fashion_mnist", published=None, gpu=False):
        found = {"name": name, "config": config, "dataset": dataset, "published": published}
        found |= {"parameters": 1234, "needs_gpu": gpu}
        return {**found, "n": len(accuracies), "test_accuracies": accuracies}

    entries = [
        entry("a", 0.5, 0.6, published=0.55),
        entry("a_relu", 0.1, config="a.py:activation=relu"),
        entry("best/a", 0.7, 0.8),
        entry("best/b", config="best/b.py", dataset="cifar10"),
        entry("c", config="c.py", gpu=True),
        entry("best/c", 0.6, 0.6, config="best/c.py", gpu=True),
        entry("d", config="d.py", gpu=True, published=0.9),
        entry("best/d", config="best/d.py", gpu=True),
        entry("best/e", config="best/e.py", gpu=True, dataset="cifar10"),
    ]
    table = results.make_short_table(entries)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert rows == [
        ["[a](a.py)", "1,234", "0.550", "0.5500 ± 0.0707", "0.7500 ± 0.0707"],
        ["[b](best/b.py) on cifar10", "1,234", "–", "–", "–"],
        ["[c](c.py)", "1,234", "–", "–", "0.6000 ± 0.0000"],
    ]
    waiting = results.format_waiting(entries)
    assert waiting.endswith(
        " a GPU (published accuracies): [d](d.py) (0.900), [e](best/e.py) on cifar10."
    )
    assert results.format_waiting(entries[:6]) == ""


def test_documents_are_filled_between_their_marks_or_left_alone(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"a\n{command.START}\nold\n{command.END}\nb\n")
    entries = json.loads((ROOT / "experiments/reports/results.json").read_text())["rows"]
    with flagsaver.flagsaver(readme=str(readme), tables=""):
        (filled,) = command.fill_documents(entries).values()
    assert command.summarize(entries) in filled
    assert filled.startswith("a\n")
    assert filled.endswith("\nb\n")
    assert "old" not in filled
    said = r"--tables=.*can't be read.*Empty, --tables= leaves it"
    with (
        flagsaver.flagsaver(readme="", tables=str(tmp_path / "none.md")),
        pytest.raises(ResultsError, match=said),
    ):
        command.fill_documents(entries)


def test_every_row_can_run_and_says_where_its_numbers_are_from():
    rows = command.list_rows()
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    for row in rows:
        config.check(row.config)
        assert row.config.dataset.holdout == 0  # the real test set
        assert len(row.seeds) >= (5 if row.target else 3)
        assert (row.highest is None) == (not row.source)
        assert not row.same_as or row.same_as in names
        if row.name.startswith("best/"):
            assert row.target is not None
            if row.same_as:  # the same budget
                same = next(r for r in rows if r.name == row.same_as)
                assert row.config.epochs <= same.config.epochs
    published = [row.name for row in rows if not row.name.startswith("best/")]
    entries = results.merge_entries([row for row in rows if row.name in published], [], {})
    assert {e["name"] for e in entries if e["published"] is None} == {"cifar_quick_relu"}


def test_rows_are_chosen_by_name_or_section(monkeypatch):
    rows = command.list_rows()
    assert [r.name for r in command.choose(rows, ["mlp", "softmax"])] == ["mlp", "softmax"]
    best = command.choose(rows, ["best/"])
    assert all(r.name.startswith("best/") for r in best)
    assert len(best) == 12
    on_cpu = command.choose(rows, [])
    assert on_cpu
    assert not any(r.needs_gpu for r in on_cpu)
    with pytest.raises(config.ConfigError, match="did you mean best/mlp"):
        command.choose(rows, ["best/mpl"])


def test_the_recorded_results_are_whole_and_their_tables_are_theirs():
    """results.md and the tables are what results.json gives: nothing is put in by hand."""
    file = ROOT / "experiments/reports/results.json"
    entries = json.loads(file.read_text())["rows"]
    assert [e["name"] for e in entries] == [row.name for row in command.list_rows()]
    assert file.with_suffix(".md").read_text() == command.document(entries)
    for name, write in (
        ("README.md", command.summarize),
        ("experiments/reports/README.md", command.write_tables),
    ):
        text = (ROOT / name).read_text()
        assert results.replace_between(text, command.START, command.END, write(entries)) == text
    for entry, row in zip(entries, command.list_rows(), strict=True):
        assert entry["recipe"] == results.flatten_recipe(row)
        accuracies = entry["test_accuracies"]
        assert len(accuracies) == entry["n"]
        assert entry["n"] in (0, len(row.seeds))
        assert entry["parameters"] == results.count_row_parameters(row)
        if accuracies:
            statistics = run_groups.summarize(accuracies)
            assert entry["test_accuracy_mean"] == pytest.approx(statistics.mean)
            known = ("device", "versions", "seconds", "examples_per_second", "command")
            assert all(entry[name] for name in known)
        if accuracies and entry["section"] == command.SAME:  # the docstring says them too
            said = f"{statistics.mean:.4f} ± {statistics.sd:.4f}".replace("0.", ".")
            file = ROOT / entry["config"].partition(":")[0]
            assert f"{said} over {entry['n']} seeds" in file.read_text()
    softmax = entries[0]  # as the book asserts after training
    assert softmax["name"] == "softmax"
    assert softmax["train_loss_mean"] < 0.5
    assert 0.7 < softmax["train_accuracy_mean"] <= 1
    assert all(0.7 < accuracy <= 1 for accuracy in softmax["test_accuracies"])


CERTIFIED = sorted(command.CERTIFICATES.glob("*.json"))


@pytest.mark.parametrize("file", CERTIFIED, ids=lambda file: file.stem)
def test_a_certificate_is_of_the_recorded_run_with_seed_0(file):
    (row,) = [row for row in command.list_rows() if command.certificate_of(row.name) == file]
    settings, found = certificate.read(file)
    assert settings.seed == 0
    recipes = [run_groups.recipe_key(config.resolve(one)) for one in (settings, row.config)]
    assert recipes[0] == recipes[1]
    entries = command.read_entries(ROOT / "experiments/reports/results.json")
    (entry,) = [entry for entry in entries if entry["name"] == row.name]
    # The recorded runs are of several processors, on which some were rounded otherwise.
    difference = found["metrics"][-1]["test_accuracy"] - entry["test_accuracies"][0]
    assert abs(difference) <= entry["test_accuracy_sd"]


def test_rows_are_certified():
    assert len(CERTIFIED) >= 14
