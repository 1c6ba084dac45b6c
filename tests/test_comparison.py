"""Single runs side by side: what differs, their numbers, their curves."""

import json

import pytest
from PIL import Image

from cnn_jax import records
from cnn_jax.errors import ReportError
from cnn_jax.figures import plots
from cnn_jax.reports import comparison
from tests import commands
from tests.recorded_runs import lenet, write_run


@pytest.fixture
def runs(tmp_path):
    """Two that differ in activation and seed; the second has done two epochs of three."""
    write_run(tmp_path / "one" / "a", lenet(epochs=3), [0.5, 0.8, 0.7])
    changed = lenet(epochs=3, seed=4, **{"model.activation": "relu"})
    write_run(tmp_path / "two" / "b", changed, [0.6, 0.9])
    return tmp_path / "one" / "a", tmp_path / "two" / "b"


def rows_of(table):
    """The rows of a table in markdown by their first cell."""
    cells = [line.strip("| ").split("|") for line in table.splitlines() if line.startswith("| ")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in cells[2:]}


def test_the_table_has_what_differs_and_the_numbers_by_hand(runs):
    table = comparison.comparison_table(comparison.read_runs(runs))
    assert table.splitlines()[0].split() == ["|", "|", "one/a", "|", "two/b", "|"]
    assert rows_of(table) == {
        "model.activation": ["sigmoid", "relu"],
        "seed": ["0", "4"],
        "epochs trained": ["3", "2 of 3"],
        "final test accuracy": ["0.7000", "0.9000"],
        "final test loss": ["1.0000", "1.5000"],
        "final train accuracy": ["0.7100", "0.9100"],
        "final train loss": ["0.6667", "1.0000"],
        "best test accuracy": ["0.8000 (epoch 2)", "0.9000 (epoch 2)"],
        "best test loss": ["1.0000 (epoch 3)", "1.5000 (epoch 2)"],
        "seconds of training": ["4.5", "3.0"],
        "examples/s": ["2,000", "1,500"],
    }
    assert table.splitlines()[-1] == "two/b is unfinished: 2 of 3 epochs."


def test_other_data_are_said_and_not_refused(runs):
    for number, run in enumerate(runs):
        environment = json.loads((run / "environment.json").read_text())
        data = {"fingerprint": str(number) * 64, "class_names": ["cat", "dog"]}
        records.write_json(run / "environment.json", {**environment, "data": data})
    table = comparison.comparison_table(comparison.read_runs(runs))
    assert rows_of(table)["SHA-256 of the data"] == ["0" * 16, "1" * 16]
    assert (
        "Trained on different data, so that the numbers don't compare: in one/a images and "
        "labels have the SHA-256 0000000000000000…, in two/b 1111111111111111…."
    ) in table


def test_runs_that_do_not_differ_are_said_to_be_the_same(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, lenet(epochs=1), [0.5])
    table = comparison.comparison_table(
        comparison.read_runs([tmp_path / "a", tmp_path / "b", tmp_path / "a"])
    )
    assert table.startswith("The configurations and the data are the same.\n\n|")
    assert table.count("0.5000 (epoch 1)") == 2


def test_all_curves_are_in_one_picture_the_unfinished_marked(runs, monkeypatch, tmp_path):
    write_run(tmp_path / "nothing", lenet(epochs=3), [])
    found = comparison.read_runs([*runs, tmp_path / "nothing"])
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, file: figures.append(figure))
    comparison.draw_comparison(found, tmp_path / "curves.png")
    loss, accuracy = figures[0].axes
    lines = {line.get_label(): line for line in accuracy.lines}
    assert list(lines["one/a: activation=sigmoid"].get_ydata()) == [0.5, 0.8, 0.7]
    unfinished = lines["two/b: activation=relu (2 of 3 epochs)"]
    assert list(unfinished.get_xdata()) == [1, 2]
    crosses = [line for line in accuracy.lines if line.get_marker() == "x"]
    assert [list(line.get_xydata()[0]) for line in crosses] == [[2, 0.9]]
    assert "nothing: activation=sigmoid (0 of 3 epochs)" in lines
    assert len({line.get_color() for line in loss.lines}) == 3
    assert figures[0].get_suptitle() == "lenet on fashion_mnist"
    with pytest.raises(ReportError, match="none of these runs has a finished epoch"):
        comparison.draw_comparison(found[2:], tmp_path / "curves.png")


def test_looks_of_many_runs_differ(tmp_path, monkeypatch):
    for seed in range(15):
        write_run(tmp_path / str(seed), lenet(epochs=2, seed=seed), [0.1, 0.2])
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, file: figures.append(figure))
    runs = comparison.read_runs(sorted(tmp_path.iterdir()))
    comparison.draw_comparison(runs, tmp_path / "curves.png")
    thick = [line for line in figures[0].axes[0].lines if line.get_linewidth() == 2]
    looks = {(line.get_color(), str(line._dash_pattern)) for line in thick}
    assert len(thick) == len(looks) == 15


def test_the_command_prints_the_table_and_draws_the_picture(runs, tmp_path):
    file, damaged = tmp_path / "curves.png", tmp_path / "damaged"
    write_run(damaged, lenet(epochs=3), [0.5])
    (damaged / "metrics.jsonl").write_text("nonsense\n")
    done = commands.run("experiments.compare", *runs, damaged, f"--output={file}")
    assert (done.returncode, done.stderr) == (1, "")
    assert rows_of(done.stdout)["model.activation"] == ["sigmoid", "relu", "sigmoid"]
    assert rows_of(done.stdout)["final test accuracy"] == ["0.7000", "0.9000", "–"]
    assert f"damaged is unfinished: 0 of 3 epochs.\ndamaged: {damaged}/metr" in done.stdout
    assert done.stdout.endswith(f"\n\nwrote {file}\n")
    with Image.open(file) as picture:
        assert picture.width > picture.height > 400


def test_wrong_input_is_answered_in_one_sentence(runs, tmp_path):
    one = runs[0]
    for paths, said in (
        ([one, one / "."], "give at least two runs to compare; this is one"),
        ([one, tmp_path / "no"], "no is not a directory; give those of runs, as runs/lenet"),
        ([one, tmp_path / "one"], r"one holds runs, and is none; name those .*, as .*one/a, or"),
        ([one, tmp_path], "is not the directory of a run: it has no config.json"),
    ):
        with pytest.raises(ReportError, match=said):
            comparison.read_runs(paths)
    for arguments, said in (
        ([one], "RUN… is missing"),
        ([*runs, "--output=x.txt"], "--output=x.txt must end in .png, .svg, .pdf"),
    ):
        done = commands.run("experiments.compare", *arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
