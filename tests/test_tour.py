"""The notebook, cell by cell in this process; its asserts are tests."""

import json
import pathlib
import sys

import pytest

from cnn_jax.figures import notebook

NOTEBOOK = pathlib.Path(__file__).parent.parent / "experiments" / "tour.ipynb"


@pytest.mark.slow
def test_the_tour_runs_from_the_first_cell_to_the_last(capsys):
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names = {"__name__": "__main__"}
    for number, source in enumerate(sources):
        source = source.replace("epochs=10", "epochs=2")  # enough for what it asserts
        exec(compile(source, f"cell {number}", "exec"), names)
    out = capsys.readouterr().out
    assert "28 pixels, kernel 11, padding 0, stride 4: 5" in out
    assert "test accuracy 0." in out
    # What the notebook shows are the outputs of these cells, run in order.
    assert [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"] == list(
        range(1, len(sources) + 1)
    )


class Screen:
    """Stands for IPython.display."""

    def __init__(self):
        self.shown, self.updates = [], []

    def Image(self, content, width):
        assert content.startswith(b"\x89PNG")
        return (len(content), width)

    def display(self, picture, display_id):
        assert display_id
        self.shown.append(picture)
        return self

    def update(self, picture):
        self.updates.append(picture)


def row(epoch):
    numbers = dict.fromkeys(("train_loss", "test_loss", "train_accuracy", "test_accuracy"), 0.5)
    return {"epoch": epoch, "learning_rate": 0.1, **numbers}


def test_a_notebook_shows_one_picture_that_grows(monkeypatch):
    screen = Screen()
    names = {
        "display": screen,
        "get_ipython": staticmethod(lambda: object()),
        "version_info": (9, 0, 0),  # which matplotlib looks at
    }
    monkeypatch.setitem(sys.modules, "IPython", type("IPython", (), names))
    shown = notebook.Notebook()
    shown.header({"network": "lenet"})
    for epoch in (1, 2, 3):
        shown.end_epoch(row(epoch), 3)
    assert (len(screen.shown), len(screen.updates)) == (1, 2)
