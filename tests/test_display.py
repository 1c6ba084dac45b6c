"""What a run shows on a terminal: a bar, with curves where they have room; lines in a log."""

import doctest
import io
import os

import pytest

from cnn_jax import sparkline
from cnn_jax.display import Display
from cnn_jax.sparkline import LEVELS, MOST, Sparkline


def test_the_example_of_a_curve():
    assert doctest.testmod(sparkline).failed == 0


def test_a_curve_of_any_length_has_the_width_and_shows_first_and_last():
    curve = Sparkline()
    assert curve.draw(5) == ""
    curve.add(1.0, 1.0)
    assert curve.draw(5) == LEVELS[0]  # nothing to compare with
    for i in range(1, 10_000):
        curve.add(2.0 * i, 2.0)
    assert len(curve._points) <= MOST
    assert sum(weight for _, weight, _ in curve._points) == 2 * 10_000 - 1
    for width in (1, 2, 7, 16):
        shown = curve.draw(width)
        assert len(shown) <= width
        assert list(shown) == sorted(shown)
        assert shown[0] == LEVELS[0]
    assert curve.draw(8)[-1] == LEVELS[-1]


def test_a_point_of_a_curve_is_the_mean_of_its_examples():
    curve = Sparkline()
    for total, weight in ((10.0, 10.0), (0.0, 1.0), (0.0, 1.0), (0.0, 1.0), (0.9, 1.0), (0.0, 1.0)):
        curve.add(total, weight)
    assert curve.draw(3) == "█▁▄"  # 10/11, 0, 0.9/2
    curve.add(0.0, 0.0)  # of no example
    assert curve.draw(7) == "█▁▁▁▇▁"


class Terminal(io.StringIO):
    """A terminal of some width and encoding."""

    def __init__(self, columns, encoding, monkeypatch):
        super().__init__()
        self.wanted = encoding
        monkeypatch.setattr(
            os, "get_terminal_size", lambda descriptor: os.terminal_size((columns, 24))
        )
        monkeypatch.setenv("COLUMNS", str(columns))  # tqdm asks for it where there is no terminal

    @property
    def encoding(self):
        return self.wanted

    def fileno(self):
        return 99

    def isatty(self):
        return True


def last_bar(terminal):
    """Trains two epochs; returns the bar as it was last shown with numbers."""
    display = Display(terminal)
    for epoch in (1, 2):
        display.start_epoch(epoch, 2, 0, 300)
        for step in (100, 200, 300):
            examples = 10.0 * step
            sums = {"loss": examples / epoch, "accuracy": examples * 0.4 * epoch}
            display._bar.last_print_t = 0  # as if time had passed
            display.steps(100, {**sums, "examples": examples}, 1.0)
        bar = str(display._bar)
        display.close()
    return bar


@pytest.mark.parametrize(
    ("columns", "encoding", "there", "missing"),
    [
        (160, "utf-8", "loss ███▁▁▁ 0.500, accuracy ▁▁▁███ 0.800, 3,000 examples/s", "#"),
        (80, "utf-8", "loss ███▁▁▁ 0.500, accuracy ▁▁▁███ 0.800", "examples/s"),
        (60, "utf-8", "loss 0.500, accuracy 0.800", "▁"),
        (160, "ascii", "loss 0.500, accuracy 0.800, 3,000 examples/s", "▁"),
        (160, None, "loss 0.500, accuracy 0.800, 3,000 examples/s", "▁"),
    ],
)
def test_curves_stand_beside_the_bar_where_they_have_room(
    columns, encoding, there, missing, monkeypatch
):
    bar = last_bar(Terminal(columns, encoding, monkeypatch))
    assert there in bar
    assert missing not in bar
    assert len(bar) <= columns


def test_a_log_has_neither_bar_nor_curves():
    log = io.StringIO()
    display = Display(log)
    display.start_epoch(1, 1, 0, 10)
    display.steps(10, {"loss": 5.0, "accuracy": 5.0, "examples": 10.0}, 1.0)
    display.evaluating()
    assert log.getvalue() == ""
