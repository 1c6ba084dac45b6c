"""What a run prints: a progress bar with small curves on a terminal, lines in a log."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

import tqdm

from cnn_jax import losses
from cnn_jax.sparkline import LEVELS, Sparkline

DRAWN = ("loss", "accuracy")  # as curves beside the bar, since the start, while training
CURVE = (4, 16)  # columns of a curve, at least and at most
BAR = 8  # columns that are left to the bar itself
NARROW = "{l_bar}{bar}| {remaining}{postfix}"  # makes room for the curves


class Display:
    """Prints a header, a progress bar if the stream is a terminal, and a line for each epoch."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._bar: tqdm.tqdm | None = None
        self._form: str | None = None  # tqdm's bar_format; None is its own
        self._curves = {name: Sparkline() for name in DRAWN}
        self._before: Mapping[str, Any] = {}  # the sums at the curves' newest points

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def header(self, items: dict[str, Any]) -> None:
        width = max(map(len, items))
        for name, value in items.items():
            self.note(f"{name:<{width}}  {value}")

    def start_epoch(self, epoch: int, epochs: int, position: int, steps: int) -> None:
        self._before = {}
        if self._stream.isatty():
            self._bar = tqdm.tqdm(
                total=steps,
                initial=position,
                desc=f"epoch {epoch}/{epochs}",
                unit="step",
                bar_format=self._form,
                leave=False,
                dynamic_ncols=True,
                file=self._stream,
            )

    def steps(self, count: int, sums: Mapping[str, Any], seconds: float) -> None:
        """Moves the bar by `count` steps; `sums` and `seconds` are the epoch's so far."""
        if self._bar is not None:
            self._add_points(sums)
            examples = sums["examples"]
            means = losses.means({name: sums[name] for name in losses.METRICS}, examples)
            numbers = {n: f"{x:.3f}" for n, x in means.items() if isinstance(x, float)}
            speed = f"{examples / seconds:,.0f} examples/s"
            self._form, shown = self._arrange(self._bar, numbers, speed)
            self._bar.bar_format = self._form
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(count)

    def _add_points(self, sums: Mapping[str, Any]) -> None:
        """Adds to the curves what came since the last call."""
        examples = sums["examples"] - self._before.get("examples", 0.0)
        for name, curve in self._curves.items():
            curve.add(sums[name] - self._before.get(name, 0.0), examples)
        self._before = dict(sums)

    def _arrange(
        self, bar: tqdm.tqdm, numbers: Mapping[str, str], speed: str
    ) -> tuple[str | None, str]:
        """Returns tqdm's format and what stands behind the bar, as far as there is room.

        The curves come before the speed and the count of steps, which NARROW leaves out; a terminal
        that is narrower still, or has no such characters, shows numbers alone.
        """
        plain = [f"{name} {number}" for name, number in numbers.items()]
        before = _columns(self._stream) - len(f"{bar.desc}: 100%|") - BAR
        steps = f"| {bar.total}/{bar.total} [00:00<00:00, 100.00step/s, ]"
        wide = before - len(steps) - len(", ".join([*plain, speed]))
        narrow = before - len("| 00:00, ") - len(", ".join(plain))
        if _can_show(self._stream, LEVELS):
            for form, room, more in ((None, wide, [speed]), (NARROW, narrow, [])):
                width = min(room // len(DRAWN) - 1, CURVE[1])  # a space before each
                if width >= CURVE[0]:
                    curves = {name: f"{self._curves[name].draw(width)} " for name in DRAWN}
                    texts = [f"{n} {curves.get(n, '')}{number}" for n, number in numbers.items()]
                    return form, ", ".join([*texts, *more])
        return (None, ", ".join([*plain, speed])) if wide >= 0 else (NARROW, ", ".join(plain))

    def evaluating(self) -> None:
        """Shows on the bar that the test set is being evaluated."""
        if self._bar is not None:
            self._bar.set_postfix_str("evaluating")

    def end_epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Replaces the bar by the epoch's line."""
        self.close()
        self.note(
            f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"
            f"  train {_metrics_text(row, 'train')}  test {_metrics_text(row, 'test')}"
            f"  rate {row['learning_rate']:.4g}"
            f"  {row['examples_per_second']:,.0f} examples/s  {row['seconds']:.1f} s"
        )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def show_progress(names: Sequence[str], doing: str, stream: TextIO | None = None) -> Iterator[str]:
    """Yields the names; a terminal shows in a line which of them is on, and nothing at the end."""
    stream = stream or sys.stdout
    shown = "{desc} ({n_fmt} of {total_fmt} done, {elapsed})"
    with tqdm.tqdm(
        total=len(names), bar_format=shown, file=stream, disable=not stream.isatty(), leave=False
    ) as line:
        for name in names:
            line.set_description_str(f"{doing} {name}")
            yield name
            line.update()


def _columns(stream: TextIO) -> int:
    """The width of a terminal; 80 if it has none."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _can_show(stream: TextIO, characters: str) -> bool:
    """Whether a stream's encoding has these characters."""
    try:
        characters.encode(stream.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def _metrics_text(row: Mapping[str, Any], part: str) -> str:
    """The metrics in a row of one part, 'train' or 'test', that are numbers."""
    numbers = {name: row.get(f"{part}_{name}") for name in losses.METRICS}
    return " ".join(f"{n} {loss_text(x)}" for n, x in numbers.items() if isinstance(x, float))


def loss_text(loss: float) -> str:
    """Returns a loss with four decimals, or in scientific notation if it is huge."""
    return f"{loss:.4f}" if loss < 1e6 else f"{loss:.4e}"


class Silent(Display):
    """Prints notes only."""

    def header(self, items: dict[str, Any]) -> None: ...
    def start_epoch(self, epoch: int, epochs: int, position: int, steps: int) -> None: ...
    def end_epoch(self, row: dict[str, Any], epochs: int) -> None: ...
