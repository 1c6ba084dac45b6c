"""Trains one configuration with every combination of some values, or with values drawn at random.

python -m experiments.sweep --config=experiments/configs/lenet.py --workdir=runs/lenet_rates \
    --grid=optimizer.learning_rate=0.1,0.3,0.9 --grid=seed=0,1,2
python -m experiments.sweep --config=experiments/configs/lenet.py --workdir=runs/lenet_search \
    --sample=optimizer.learning_rate=log:1e-2,2 --sample=model.activation=choice:relu,sigmoid \
    --trials=20 --config.dataset.holdout=0.1

Values are separated by commas; a tuple stands in parentheses, in quotes for the shell:
'--grid=model.channels=(6,16),(8,24)'. Every trial is a run directory as experiments.train makes it,
WORKDIR/optimizer.learning_rate=0.1,seed=0 say. --dry_run lists the trials and their commands.

The same command again goes on where the sweep stopped; finished trials are not run twice. The
command may run several times at once, on several machines that share WORKDIR: each process takes
the trials that no other holds. A failed trial is recorded in its error.json and the others go on.
To choose hyperparameters without looking at the test set, set --config.dataset.holdout=0.1.

--population=N trains up to N trials at a time as one compiled program, where they differ in nothing
but the seed and the rates (learning rate, momentum, weight decay, clipping norm, dropout, label
smoothing). A population saves at the ends of epochs only.

Exit codes: 0 all trials finished, 1 some failed, 2 wrong input, 128 + n stopped by signal n.
"""

import contextlib
import pathlib
import signal
import socket
import statistics
import sys
from collections.abc import Sequence
from types import FrameType

from absl import flags
from ml_collections import config_flags

from cnn_jax import population, reports, sweeps, train
from cnn_jax.display import Display, Silent
from experiments import launch

CONFIG = launch.define_config()
WORKDIR = flags.DEFINE_string("workdir", None, "The sweep's directory; made if need be.")
GRID = flags.DEFINE_multi_string("grid", [], "PATH=VALUE,VALUE,…; repeat for other paths.")
SAMPLE = flags.DEFINE_multi_string(
    "sample", [], "PATH=log:A,B or uniform:A,B or choice:X,Y,…, to draw from; repeat."
)
TRIALS = flags.DEFINE_integer("trials", 0, "How many draws --sample makes.")
SWEEP_SEED = flags.DEFINE_integer("sweep_seed", 0, "Decides the draws of --sample.")
POPULATION = flags.DEFINE_integer(
    "population", 1, "Train up to so many trials at a time as one program.", lower_bound=1
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "List the trials and their commands and stop.")


def main() -> int:
    """Runs the command."""
    if CONFIG.value is None:
        return launch.fail("give a configuration, --config=experiments/configs/lenet.py say.")
    if WORKDIR.value is None:
        return launch.fail("give a directory for the sweep's runs, --workdir=runs/rates say.")
    axes, samples = sweeps.parse_grid(GRID.value), sweeps.parse_sample(SAMPLE.value)
    trials = sweeps.expand(CONFIG.value, axes, samples, TRIALS.value, SWEEP_SEED.value)
    directory = pathlib.Path(WORKDIR.value)
    flag = flags.FLAGS["config"]
    file = config_flags.get_config_filename(flag)
    overrides = config_flags.get_override_values(flag)
    if DRY_RUN.value:
        done = sum(sweeps.finished(directory, trial) is not None for trial in trials)
        print(f"{len(trials)} trials in {directory}, {done} of them finished")
        for trial in trials:
            values = {**overrides, **trial.values}
            print(f"\n{trial.name}")
            print("  " + sweeps.train_command(file, values, directory / trial.name))
        return 0
    sweeps.claim(directory, sweeps.make_record(file, overrides, CONFIG.value, trials))
    return run(trials, directory)


def run(trials: Sequence[sweeps.Trial], directory: pathlib.Path) -> int:
    """Trains the trials, shows how far it is, and prints the table; returns the exit code."""
    outcomes: list[sweeps.Outcome] = []
    signum = 0
    with _Signals() as signals:
        try:
            attempt = sweeps.alone(directory, TrialDisplay)
            group: sweeps.Grouping = sweeps.one_by_one
            if POPULATION.value > 1:
                attempt = population.together(directory, PopulationDisplay)
                group = population.grouping(POPULATION.value)

            def unless_told(together: Sequence[sweeps.Trial]) -> Sequence[sweeps.Outcome | None]:
                nonlocal signum
                signum = signals.received()  # one that came too late to interrupt a run
                if signum:
                    raise KeyboardInterrupt
                return attempt(together)

            for outcome in sweeps.run(trials, directory, unless_told, group, _say_waiting):
                outcomes.append(outcome)
                print(_line(outcome, outcomes, len(trials)), flush=True)
        except train.Interrupted as request:
            signum = request.signum
            print(request)
        except KeyboardInterrupt:
            signum = signum or signals.received() or signal.SIGINT
    print()
    print(reports.trial_table(outcomes))
    missing, failed = len(trials) - len(outcomes), sum(o.row is None for o in outcomes)
    if failed:
        print(
            f"{failed} of {len(trials)} trials failed; error.json in their directories says why.",
            file=sys.stderr,
        )
    if missing:
        print(f"{missing} of {len(trials)} trials are left; the same command goes on from there.")
    else:
        print(f"Means over seeds and plots: python -m experiments.report {directory}")
    return 128 + signum if signum and missing else int(failed > 0)


class TrialDisplay(Silent):
    """A bar for the epoch that a trial is in, on a terminal; nothing else."""

    def __init__(self, trial: sweeps.Trial) -> None:
        super().__init__()
        self._name = trial.name

    def start_epoch(self, epoch: int, epochs: int, position: int, steps: int) -> None:
        """Shows an empty bar for the epoch, if the stream is a terminal."""
        Display.start_epoch(self, epoch, epochs, position, steps)
        if self._bar is not None:
            self._bar.set_description_str(f"{self._name}  epoch {epoch}/{epochs}")


class PopulationDisplay(TrialDisplay):
    """The same for several trials at once; the numbers are their means."""

    def __init__(self, trials: Sequence[sweeps.Trial]) -> None:
        super().__init__(trials[0])
        self._name = f"{len(trials)} trials"


def _line(outcome: sweeps.Outcome, outcomes: Sequence[sweeps.Outcome], count: int) -> str:
    part = reports.part_name(outcome.trial.config)
    line = f"[{len(outcomes):>{len(str(count))}}/{count}] {outcome.trial.name}  "
    if outcome.row is None:
        return line + f"failed: {outcome.error}"
    line += f"{part} accuracy {outcome.row['test_accuracy']:.4f}"
    if outcome.seconds is None:
        return line + "  (finished before)"
    took = [o.seconds for o in outcomes if o.seconds is not None]
    left = statistics.mean(took) * (count - len(outcomes))
    return line + f"  {outcome.seconds:.1f} s" + (f", about {_duration(left)} left" if left else "")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _say_waiting(count: int) -> None:
    print(f"waiting for {count} trials that other processes are training", flush=True)


class _Signals:
    """Makes SIGTERM stop the sweep as Ctrl-C does, and knows what came while a run handled it.

    A run takes the handlers over while it trains, and saves when a signal comes; but the last
    epoch it finishes first. The wake-up descriptor hears of every signal, whoever handles it.
    """

    def __init__(self) -> None:
        self._first = 0

    def __enter__(self) -> "_Signals":
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._old_descriptor = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._old_handler = signal.signal(signal.SIGTERM, self._interrupt)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGTERM, self._old_handler)
        signal.set_wakeup_fd(self._old_descriptor)
        self._read.close()
        self._write.close()

    def received(self) -> int:
        """Returns the number of the first signal that came, or 0."""
        with contextlib.suppress(BlockingIOError):
            for number in self._read.recv(64):
                if number in (signal.SIGINT, signal.SIGTERM):
                    self._first = self._first or number
        return self._first

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        self._first = self._first or signum  # its byte may have been read just now
        raise KeyboardInterrupt


if __name__ == "__main__":
    launch.run(main)
