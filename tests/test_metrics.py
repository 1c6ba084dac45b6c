"""A metric is one entry of a table; rows, displays, figures and reports follow from it."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, nn

from cnn_jax import config, epochs, losses, records, steps, train
from cnn_jax.checkpoints import Checkpoints
from cnn_jax.display import Display, Silent
from cnn_jax.errors import CheckpointError, ConfigError, UserError
from cnn_jax.experiment import build, load_dataset
from cnn_jax.figures import plots
from cnn_jax.inspection import trained_network
from cnn_jax.reports import run_groups, tables

SETTINGS = config.Config(
    dataset=config.DatasetConfig("fashion_mnist_mini", train_examples=120),
    model=config.ModelConfig("softmax"),
    records=config.RecordsConfig(tensorboard=False, figures=False),
    epochs=2,
    batch_size=50,
)


def in_top_5(logits, labels):
    """Whether the label is among the five largest: bool [N]."""
    return (lax.top_k(logits, 5)[1] == labels[:, None]).any(1)


def confusion(logits, labels):
    """True in the label's row and the guess's column: bool [N, classes, classes]."""
    classes = logits.shape[1]
    guesses = nn.one_hot(logits.argmax(1), classes, dtype=bool)
    return nn.one_hot(labels, classes, dtype=bool)[:, :, None] & guesses[:, None]


@pytest.fixture
def more_metrics(monkeypatch):
    monkeypatch.setitem(losses.METRICS, "top5", in_top_5)
    monkeypatch.setitem(losses.METRICS, "confusion", confusion)


def test_sums_leave_out_what_has_no_weight_and_count_exactly():
    weights = jnp.array([1.0, 0.0, 1.0])
    values = jnp.array([1.5, 1e30, 2.0])
    assert losses.weighted_sum(values, weights) == 3.5
    total = losses.weighted_sum(values > 1.6, weights)
    assert (total, total.dtype) == (1, jnp.int32)
    large = losses.weighted_sum(jnp.full(3, 2**30, jnp.int32), weights)
    assert (large, large.dtype) == (2.0**31, jnp.float32)  # no int32 would hold it
    matrices = jnp.arange(12.0).reshape(3, 2, 2)
    np.testing.assert_array_equal(losses.weighted_sum(matrices, weights), [[8, 10], [12, 14]])


def test_two_entries_reach_the_row_the_line_the_figure_and_the_report(
    more_metrics, tmp_path, monkeypatch
):
    out = io.StringIO()
    row = train.train_and_evaluate(SETTINGS, tmp_path / "run", Display(out))
    assert row == records.read_metrics(tmp_path / "run")[-1]
    network = trained_network.load(tmp_path / "run")
    test = load_dataset(SETTINGS.dataset)
    probabilities = network.probabilities(test.test_images)
    guesses = probabilities.argmax(1)
    five = np.argsort(-probabilities, 1)[:, :5]
    assert row["test_top5"] == (five == test.test_labels[:, None]).any(1).mean()
    matrix = np.zeros((10, 10))
    np.add.at(matrix, (test.test_labels, guesses), 1)
    np.testing.assert_array_equal(np.array(row["test_confusion"]) * 1000, matrix)
    assert np.trace(np.array(row["test_confusion"])) == pytest.approx(row["test_accuracy"])
    names = list(row)
    assert names[3:5] == ["train_loss", "train_accuracy"]
    assert f"  test loss {row['test_loss']:.4f} accuracy {row['test_accuracy']:.4f} top5 " in (
        out.getvalue()
    )
    panels = []
    monkeypatch.setattr(plots, "save", lambda figure, file: panels.extend(figure.axes))
    plots.draw_learning_curves(records.read_metrics(tmp_path / "run"), "", None)
    assert [axes.get_title() for axes in panels] == ["loss", "accuracy", "top5", "learning rate"]
    groups, _ = run_groups.group_runs([run_groups.read_run(tmp_path / "run")])
    assert f"| {row['test_top5']:.4f} |" in tables.report(groups, [], [])


def test_an_epoch_goes_on_with_the_sums_it_was_saved_with(more_metrics, tmp_path, monkeypatch):
    whole = train.train_and_evaluate(SETTINGS, tmp_path / "whole", Silent())
    monkeypatch.setattr(epochs, "SECONDS_PER_CALL", 0.0)
    dataset = load_dataset(SETTINGS.dataset)
    experiment = build(config.resolve(SETTINGS), dataset)
    program, state = experiment.program, experiment.init_state()
    totals = program.put_state(experiment.start_totals())
    data, order = (
        program.put_data(experiment.train_data),
        program.put_order(experiment.train_order(0)),
    )
    state, totals = program.train_steps(program.put_state(state), totals, data, order, 0, 2)
    sums = json.loads(json.dumps(epochs.sums_of(program.get(totals))))
    again = experiment.start_totals(sums)
    for name, value in program.get(totals).sums.items():
        np.testing.assert_array_equal(again.sums[name], value)
        assert again.sums[name].dtype == value.dtype
    with records.RunDirectory(tmp_path / "part", config.resolve(SETTINGS)) as record:
        record.write_environment(dataset, {})
        with Checkpoints(record.path / "checkpoints") as checkpoints:
            progress = train.Progress(0, 2, sums, 1.0, [])
            checkpoints.save(program.get(state), progress)
    monkeypatch.delitem(losses.METRICS, "top5")
    with pytest.raises(
        CheckpointError, match=r"saved within an epoch with the metrics loss, .*top5"
    ):
        train.train_and_evaluate(SETTINGS, tmp_path / "part", Silent())
    monkeypatch.setitem(losses.METRICS, "top5", in_top_5)
    row = train.train_and_evaluate(SETTINGS, tmp_path / "part", Silent())
    for name in (n for n in whole if "seconds" not in n and "second" not in n):
        assert row[name] == whole[name]
    assert isinstance(CheckpointError(""), UserError)


def test_zero_sums_have_the_shapes_of_sums(more_metrics):
    logits, labels = jnp.zeros((4, 7)), jnp.zeros(4, jnp.int32)
    sums = losses.sum_metrics(logits, labels, jnp.ones(4))
    zeros = steps.Totals.zeros(7).sums
    assert {n: (x.shape, x.dtype) for n, x in sums.items()} == {
        n: (x.shape, x.dtype) for n, x in zeros.items()
    }


def test_what_is_not_finite_is_null_and_the_run_is_read_again(tmp_path, monkeypatch):
    nan = {"undefined": lambda logits, labels: logits[:, 0] / 0}
    monkeypatch.setitem(losses.METRICS, "undefined", nan["undefined"])
    with jax.debug_nans(False):
        row = train.train_and_evaluate(SETTINGS, tmp_path, Display(io.StringIO()))
    assert row["test_undefined"] is None
    assert records.read_metrics(tmp_path)[-1] == row
    assert losses.means({"m": np.array([1.0, np.inf])}, 2.0) == {"m": [0.5, None]}


@pytest.mark.parametrize(
    ("name", "metric", "said"),
    [
        ("examples", in_top_5, "needs a name in printable characters other than 'examples'"),
        ("a\nb", in_top_5, "needs a name in printable characters"),
        ("mean", lambda logits, labels: logits.mean(), r"must return a number .* has shape \(\)"),
        ("none", lambda logits, labels: None, "must return a number for each example"),
        (
            "complex",
            lambda logits, labels: logits[:, 0].astype("complex64"),
            "must return a number for each",
        ),
        ("loss", confusion, r"'loss'\] must return a number for each example, \[N\]; of"),
    ],
)
def test_an_entry_that_cannot_be_summed_is_one_sentence(name, metric, said, monkeypatch, tmp_path):
    monkeypatch.setitem(losses.METRICS, name, metric)
    with pytest.raises(ConfigError, match=said):
        train.train_and_evaluate(SETTINGS, tmp_path, Silent())


def test_loss_and_accuracy_must_be_there(monkeypatch):
    monkeypatch.delitem(losses.METRICS, "accuracy")
    with pytest.raises(ConfigError, match="has no accuracy, which every run needs"):
        losses.zero_sums(10)


def test_a_run_does_not_go_on_with_other_metrics(more_metrics, tmp_path, monkeypatch):
    train.train_and_evaluate(SETTINGS, tmp_path, Silent(), lambda row: True)
    monkeypatch.delitem(losses.METRICS, "top5")
    with pytest.raises(CheckpointError, match=r"has the metrics accuracy, confusion, loss, top5"):
        train.train_and_evaluate(SETTINGS, tmp_path, Silent())
    assert len(records.read_metrics(tmp_path)) == 1
