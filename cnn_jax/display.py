"""What a run prints: a progress bar on a terminal, lines in a log."""

import sys
from collections.abc import Mapping
from typing import Any, TextIO

import tqdm

from cnn_jax import losses


class Display:
    """Prints a header, a progress bar if the stream is a terminal, and a line for each epoch."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._bar: tqdm.tqdm | None = None

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def header(self, items: dict[str, Any]) -> None:
        width = max(map(len, items))
        for name, value in items.items():
            self.note(f"{name:<{width}}  {value}")

    def start_epoch(self, epoch: int, epochs: int, position: int, steps: int) -> None:
        if self._stream.isatty():
            self._bar = tqdm.tqdm(
                total=steps,
                initial=position,
                desc=f"epoch {epoch}/{epochs}",
                unit="step",
                leave=False,
                dynamic_ncols=True,
                file=self._stream,
            )

    def steps(self, count: int, sums: Mapping[str, Any], seconds: float) -> None:
        """Moves the bar by `count` steps; `sums` and `seconds` are the epoch's so far."""
        if self._bar is not None:
            examples = sums["examples"]
            numbers = losses.means({name: sums[name] for name in losses.METRICS}, examples)
            shown = [f"{n} {x:.3f}" for n, x in numbers.items() if isinstance(x, float)]
            shown.append(f"{examples / seconds:,.0f} examples/s")
            self._bar.set_postfix_str(", ".join(shown), refresh=False)
            self._bar.update(count)

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
