"""What a notebook shows while a run goes on: learning curves that grow."""

import io
from typing import Any, TextIO

from cnn_jax.display import Display
from cnn_jax.figures import plots


class Notebook(Display):
    """Learning curves that grow with each epoch, in a notebook; elsewhere the lines of a log."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._rows: list[dict[str, Any]] = []
        self._shown: Any = None
        try:
            from IPython import display, get_ipython  # there in every notebook
        except ModuleNotFoundError:
            self._show = None
        else:
            self._show = display if get_ipython() else None

    def header(self, items: dict[str, Any]) -> None:
        if self._show is None:
            super().header(items)

    def end_epoch(self, row: dict[str, Any], epochs: int) -> None:
        if self._show is None:
            super().end_epoch(row, epochs)
            return
        self.close()
        self._rows.append(row)
        stream = io.BytesIO()
        title = f"epoch {row['epoch']} of {epochs}, test accuracy {row['test_accuracy']:.4f}"
        plots.draw_learning_curves(self._rows, title, stream)
        image = self._show.Image(stream.getvalue(), width=760)
        if self._shown is None:
            self._shown = self._show.display(image, display_id=True)
        else:
            self._shown.update(image)
