"""Scores of predictions by hand, and the command that prints them."""

import csv
import dataclasses
import json
import types

import jax
import numpy as np
import pytest
from absl import flags

from cnn_jax import checkpoints, config, data, losses, records, train
from cnn_jax.display import Silent
from cnn_jax.errors import CheckpointError, ConfigError, DataError
from cnn_jax.inspection import evaluation, trained_network
from cnn_jax.sweeps import population
from tests import commands

command = commands.load("evaluate")

# Rows: the label's class; what is predicted. Class d is never predicted, e isn't there.
LABELS = np.array([0, 0, 0, 1, 1, 2, 3], np.int32)
GUESSES = np.array([0, 0, 1, 1, 0, 2, 2])
NAMES = ("a", "b", "c", "d", "e")


def logits_of(guesses, classes=5, height=2.0):
    return height * np.eye(classes, dtype=np.float32)[guesses]


def test_scores_of_each_class_by_hand():
    a, b, c, d, e = evaluation.score_classes(LABELS, GUESSES, NAMES)
    assert a == ("a", 3, 2 / 3, 2 / 3, 2 / 3)
    assert b == ("b", 2, 1 / 2, 1 / 2, 1 / 2)
    assert c == ("c", 1, 1 / 2, 1.0, 2 / 3)
    assert d == ("d", 1, None, 0.0, 0.0)
    assert e == ("e", 0, None, None, None)
    macro = evaluation.average((a, b, c, d, e))
    assert macro.images == 7
    assert macro.precision == pytest.approx((2 / 3 + 1 / 2 + 1 / 2) / 3)
    assert macro.recall == pytest.approx((2 / 3 + 1 / 2 + 1 + 0) / 4)
    assert macro.f1 == pytest.approx((2 / 3 + 1 / 2 + 2 / 3 + 0) / 4)
    assert evaluation.average((e,))[2:] == (None, None, None)


def test_everything_about_some_predictions_by_hand():
    found = evaluation.evaluate(logits_of(GUESSES), LABELS, NAMES, k=2)
    right = 4 / 7
    z = np.exp(2) + 4
    assert found.metrics["accuracy"] == pytest.approx(right)
    assert found.metrics["loss"] == pytest.approx(np.log(z) - 2 * right, rel=1e-6)
    # All have the confidence e²/z = 0.65, in one bin.
    assert found.calibration_error == pytest.approx(abs(right - np.exp(2) / z), abs=1e-6)
    # Behind the likeliest class come equal ones, of which the first counts: a for b, b for a.
    assert found.top == {1: pytest.approx(right), 2: pytest.approx(6 / 7)}
    assert evaluation.evaluate(logits_of(GUESSES), LABELS, NAMES, k=6).top[6] is None


def test_sums_over_parts_are_those_over_all(monkeypatch):
    whole = evaluation.evaluate(logits_of(GUESSES), LABELS, NAMES)
    monkeypatch.setattr(evaluation, "BATCH", 3)
    parts = evaluation.evaluate(logits_of(GUESSES), LABELS, NAMES)
    assert parts.metrics == pytest.approx(whole.metrics)
    assert parts[2:] == whole[2:]


def test_calibration_by_hand():
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [1.0, 0.0]])
    means, accuracies, counts, error = evaluation.bin_confidences(np.zeros(4, int), p, 2)
    np.testing.assert_array_equal(counts, [0, 4])
    np.testing.assert_allclose(means, [0, 0.825])
    np.testing.assert_allclose(accuracies, [0, 0.75])
    assert error == pytest.approx(0.075)
    # Bins hold their upper ends: 0.5 is in the first of two, 0.75 in the third of four.
    assert evaluation.bin_confidences(np.zeros(1, int), np.array([[0.5, 0.5]]), 2)[2][0] == 1
    p = np.array([[0.75, 0.25], [0.25, 0.75], [0.8, 0.2]])
    _, _, counts, error = evaluation.bin_confidences(np.zeros(3, int), p, 4)
    np.testing.assert_array_equal(counts, [0, 0, 2, 1])
    assert error == pytest.approx((2 * 0.25 + 1 * 0.2) / 3)


def test_a_label_is_in_the_top_k_if_fewer_than_k_classes_are_likelier():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 7)).astype(np.float32)
    labels = rng.integers(0, 7, 200).astype(np.int32)
    ranks = (np.argsort(-logits, 1) == labels[:, None]).argmax(1)
    for k in (1, 3, 7):
        np.testing.assert_array_equal(losses.in_top(k)(logits, labels), ranks < k)
    ties = losses.in_top(2)(np.zeros((3, 3), np.float32), np.arange(3, dtype=np.int32))
    assert ties.tolist() == [True, True, False]
    with jax.debug_nans(False):
        nan = np.float32([[np.nan, 0, 1], [0, np.nan, 1]])
        assert losses.in_top(1)(nan, np.int32([0, 2])).tolist() == [False, False]


def test_more_than_the_classes_are_no_metric(monkeypatch, tmp_path):
    monkeypatch.setitem(losses.METRICS, "top20", losses.in_top(20))
    settings = config.Config(dataset=config.DatasetConfig("fashion_mnist_mini"))
    with pytest.raises(ConfigError, match="top 20 of 10 classes can't be told; choose a k from 1"):
        train.train_and_evaluate(settings, tmp_path, Silent())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A softmax regression that held out a fifth of its training set, and learned at first."""
    path = tmp_path_factory.mktemp("evaluated") / "run"
    settings = config.Config(
        dataset=config.DatasetConfig("fashion_mnist_mini", holdout=0.2, train_examples=400),
        model=config.ModelConfig("softmax"),
        optimizer=config.OptimizerConfig(
            learning_rate=0.5, schedule="step", step_epochs=(2.0,), step_factor=0.0
        ),
        records=config.RecordsConfig(tensorboard=False, figures=False),
        epochs=4,
        batch_size=100,
    )
    train.train_and_evaluate(settings, path, Silent())
    return path


# Flags of other commands have some of these names too.
DEFAULTS = {"dataset": None, "split": "test", "checkpoint": "last", "top": 5, "format": "text"}
DEFAULTS |= {"json": False, "flip": None}


def evaluate(run, monkeypatch, capsys, **values):
    """What the command prints of a run, given values of its flags."""
    monkeypatch.setattr(flags.FLAGS["top"], "present", "top" in values)
    for name, value in {**DEFAULTS, "run": str(run), **values}.items():
        monkeypatch.setattr(command, name.upper(), types.SimpleNamespace(value=value))
    assert command.main() == 0
    return capsys.readouterr().out


def test_the_parts_of_the_data_are_the_runs(run, monkeypatch, capsys):
    rows = records.read_metrics(run)
    parts = {
        split: json.loads(evaluate(run, monkeypatch, capsys, split=split, format="json"))
        for split in ("test", "holdout", "train")
    }
    counts = {split: found["n"] for split, found in parts.items()}
    assert counts == {"test": 1000, "holdout": 400, "train": 400}
    held_out = parts["holdout"]
    assert held_out["metrics"]["accuracy"] == rows[-1]["test_accuracy"]
    assert held_out["metrics"]["loss"] == pytest.approx(rows[-1]["test_loss"], rel=1e-5)
    assert held_out["top"]["1"] == rows[-1]["test_accuracy"]
    assert held_out["macro"]["recall"] == pytest.approx(rows[-1]["test_accuracy"])  # balanced
    assert held_out["checkpoint"] == rows[-1]["step"] == 16
    dataset = data.load("fashion_mnist_mini")
    p = trained_network.load(run).probabilities(dataset.test_images)
    scores = evaluation.score_classes(dataset.test_labels, p.argmax(1), dataset.class_names)
    for got, want in zip(parts["test"]["classes"], scores, strict=True):
        assert tuple(got.values()) == want


def test_each_checkpoint_that_is_kept_can_be_chosen(run, monkeypatch, capsys):
    rows = {row["step"]: row for row in records.read_metrics(run)}
    assert checkpoints.find_step(run, "last") == 16
    best = checkpoints.find_step(run, "best")
    assert rows[best]["test_accuracy"] == max(row["test_accuracy"] for row in rows.values())
    shown = evaluate(run, monkeypatch, capsys, checkpoint=12, split="holdout", format="json")
    assert json.loads(shown)["metrics"]["accuracy"] == rows[12]["test_accuracy"]
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 4; it has those of .*12, 16"):
        evaluate(run, monkeypatch, capsys, checkpoint=4)


def test_mirrored_images_are_averaged_in_the_run_and_afterwards(run, monkeypatch, capsys, tmp_path):
    settings = config.with_values(records.read_config(run), {"test_flip": True, "epochs": 1})
    row = train.train_and_evaluate(settings, tmp_path, Silent())
    network = trained_network.load(tmp_path)
    dataset = data.split(data.load("fashion_mnist_mini"), 0.2, 0)
    plain = dataclasses.replace(network, config=config.with_values(settings, {"test_flip": False}))
    p = [plain.probabilities(x) for x in (dataset.test_images, dataset.test_images[:, :, ::-1])]
    mean = (p[0] + p[1]) / 2
    np.testing.assert_allclose(network.probabilities(dataset.test_images), mean, atol=1e-6)
    loss = -np.log(mean[np.arange(400), dataset.test_labels]).mean()
    assert row["test_loss"] == pytest.approx(loss, rel=1e-4)
    (member,) = population.train_population([settings], [tmp_path / "member"])
    assert member.row["test_loss"] == pytest.approx(loss, rel=1e-4)
    for flip, known in ((None, loss), (False, None)):
        shown = evaluate(tmp_path, monkeypatch, capsys, json=True, split="holdout", flip=flip)
        found = json.loads(shown)["metrics"]["loss"]
        assert (found == pytest.approx(known or loss, rel=1e-4)) == (known is not None)


def test_formats_have_the_same_numbers(run, monkeypatch, capsys):
    shown = {
        name: evaluate(run, monkeypatch, capsys, format=name)
        for name in ("text", "markdown", "csv", "json")
    }
    found = json.loads(shown["json"])
    rows = list(csv.DictReader(shown["csv"].splitlines()))
    assert [row["kind"] for row in rows] == ["class"] * 10 + ["macro"] + ["metric"] * 4
    assert float(rows[3]["recall"]) == found["classes"][3]["recall"]
    assert float(rows[-1]["value"]) == found["expected_calibration_error"]
    assert shown["text"].startswith("softmax, weights of step 16, on 1,000 images: fashion_mnist_m")
    bag = found["classes"][8]
    cells = ["Bag", "100", *(f"{bag[name]:.4f}" for name in ("precision", "recall", "f1"))]
    assert cells in [line.split() for line in shown["text"].splitlines()]
    assert f"| {' | '.join(cells)} |" in shown["markdown"].splitlines()
    for name in ("text", "markdown"):
        assert f"{found['top']['5']:.4f}" in shown[name]
    top = json.loads(evaluate(run, monkeypatch, capsys, json=True, top=3))["top"]
    assert set(top) == {"1", "3"}


@pytest.mark.filterwarnings("ignore:.*occurs in neither part")
def test_what_is_undefined_is_said(run, monkeypatch, capsys, tmp_path):
    mini = data.load("fashion_mnist_mini")
    file = tmp_path / "own.npz"
    there = np.flatnonzero(mini.test_labels == 8)[:2], np.flatnonzero(mini.test_labels == 1)[:2]
    images = mini.test_images[np.array([there[0][0], there[1][0], there[0][1], there[1][1]])]
    names = ["Trouser", "bag", "SANDAL"]
    labels = np.array([1, 0, 1, 0])
    parts = {"train_images": images, "test_images": images}
    np.savez(file, **parts, train_labels=labels, test_labels=labels, class_names=names)
    shown = evaluate(run, monkeypatch, capsys, dataset=str(file))
    assert "4 images" in shown
    assert "recall is undefined for classes without images: T-shirt/top, Pullover, " in shown
    found = json.loads(evaluate(run, monkeypatch, capsys, dataset=str(file), json=True))
    assert [found["classes"][i]["images"] for i in (1, 8, 5)] == [2, 2, 0]
    assert found["classes"][5]["recall"] is None
    recalls = [found["classes"][i]["recall"] for i in (1, 8)]
    assert found["macro"]["recall"] == pytest.approx(np.mean(recalls))


def test_data_that_do_not_fit_are_one_sentence(run, monkeypatch, capsys, tmp_path):
    for values, error, said in (
        ({"dataset": "synthetic:size=14"}, DataError, "are 14×14×1, and the run's 28×28×1"),
        (
            {"dataset": "synthetic"},
            DataError,
            "the classes of the data set aren't the run's: it has ",
        ),
        ({"dataset": "fashion_mnist_mini", "split": "holdout"}, ConfigError, "is another data"),
        ({"dataset": "nothing_there"}, DataError, "nothing_there"),
        ({"top": 11}, ConfigError, "--top=11 is more than the 10 classes"),
    ):
        with pytest.raises(error, match=said), monkeypatch.context() as patch:
            evaluate(run, patch, capsys, **values)
    whole = tmp_path / "whole"
    settings = records.read_config(run)
    settings = config.with_values(settings, {"dataset.holdout": 0.0, "epochs": 2})
    train.train_and_evaluate(settings, whole, Silent())
    with pytest.raises(ConfigError, match="held out none; choose test or train"):
        evaluate(whole, monkeypatch, capsys, split="holdout")


def test_the_command_as_it_is_typed(run):
    done = commands.run("experiments.evaluate", f"--run={run}", "--data=fashion_mnist_mini")
    assert (done.returncode, done.stderr) == (0, "")
    assert "macro average" in done.stdout
