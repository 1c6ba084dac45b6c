"""What a person sees of many runs, while one or some of them are trained."""

from collections.abc import Sequence

from cnn_jax.display import Display, Silent
from cnn_jax.sweeps import spaces


class TrialDisplay(Silent):
    """A bar for the epoch that a trial is in, on a terminal; nothing else."""

    def __init__(self, trial: spaces.Trial) -> None:
        super().__init__()
        self._name = trial.name

    def start_epoch(self, epoch: int, epochs: int, position: int, steps: int) -> None:
        """Shows an empty bar for the epoch, if the stream is a terminal."""
        Display.start_epoch(self, epoch, epochs, position, steps)
        if self._bar is not None:
            self._bar.set_description_str(f"{self._name}  epoch {epoch}/{epochs}")


class PopulationDisplay(TrialDisplay):
    """The same for several trials at once; the numbers are their means."""

    def __init__(self, trials: Sequence[spaces.Trial]) -> None:
        super().__init__(trials[0])
        self._name = f"{len(trials)} trials"
