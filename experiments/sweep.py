r"""Trains one configuration with every combination of some values, or with values drawn at random.

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
smoothing). They are shared out to all devices, on a CPU to all cores. A population saves at the
ends of epochs only.

--halving=3 stops bad trials early: after --halving_epochs epochs the best third goes on, after
three times as many the best third of these, and so on. --cluster=slurm makes every trial, or every
population, a job of one Slurm array, by submitit (optional, in requirements.txt); --cluster=local
starts them all here, to try it out.

Exit codes: 0 all trials finished, 1 some failed or their jobs died, 2 wrong input, 128 + n stopped
by signal n.
"""

import contextlib
import pathlib
import signal
import socket
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from absl import flags
from ml_collections import config_flags

from cnn_jax import train
from cnn_jax.reports import run_groups, tables
from cnn_jax.sweeps import driver, halving, population, spaces, sweep_record
from experiments import cluster, launch
from experiments.displays import PopulationDisplay, TrialDisplay

CONFIG = launch.define_config()
WORKDIR = launch.define_path("workdir", None, "The sweep's directory; made if need be.")
GRID = flags.DEFINE_multi_string("grid", [], "PATH=VALUE,VALUE,…; repeat for other paths.")
SAMPLE = flags.DEFINE_multi_string(
    "sample", [], "PATH=log:A,B or uniform:A,B or choice:X,Y,…, to draw from; repeat."
)
TRIALS = flags.DEFINE_integer("trials", 0, "How many draws --sample makes.", lower_bound=0)
SWEEP_SEED = flags.DEFINE_integer("sweep_seed", 0, "Decides the draws of --sample.", lower_bound=0)
POPULATION = flags.DEFINE_integer(
    "population", 1, "Train up to so many trials at a time as one program.", lower_bound=1
)
HALVING = flags.DEFINE_integer("halving", 0, "Let one of so many trials go on; 0: all of them.")
HALVING_EPOCHS = flags.DEFINE_integer("halving_epochs", 1, "When --halving first stops trials.")
CLUSTER = flags.DEFINE_enum("cluster", None, ["slurm", "local"], "Submit the trials as jobs.")
CLUSTER_OPTIONS = flags.DEFINE_list(
    "cluster_options", [], "Of the jobs, for submitit: timeout_min=60,slurm_partition=gpu,…"
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "List the trials and their commands and stop.")


def main() -> int:
    """Runs the command."""
    if CONFIG.value is None:
        return launch.fail("give a configuration, --config=experiments/configs/lenet.py say.")
    if WORKDIR.value is None:
        return launch.fail("give a directory for the sweep's runs, --workdir=runs/rates say.")
    axes, samples = spaces.parse_grid(GRID.value), spaces.parse_sample(SAMPLE.value)
    trials = spaces.expand(CONFIG.value, axes, samples, TRIALS.value, SWEEP_SEED.value)
    trials = sweep_record.identify_trials(trials)
    directory = pathlib.Path(WORKDIR.value)
    flag = flags.FLAGS["config"]
    file = config_flags.get_config_filename(flag)
    overrides = config_flags.get_override_values(flag)
    if DRY_RUN.value:
        done = sum(sweep_record.find_result(directory, trial) is not None for trial in trials)
        print(f"{len(trials)} trials in {directory}, {done} of them finished")
        for trial in trials:
            values = {**overrides, **trial.values}
            print(f"\n{trial.name}")
            print("  " + spaces.train_command(file, values, directory / trial.name))
        return 0
    if HALVING.value and CLUSTER.value:
        return launch.fail("--halving and --cluster don't go together; leave one of them out.")
    if CLUSTER_OPTIONS.value and not CLUSTER.value:
        return launch.fail("--cluster_options need --cluster=slurm, say.")
    stops = []
    if HALVING.value:
        stops = halving.list_rungs(CONFIG.value.epochs, HALVING_EPOCHS.value, HALVING.value)
    executor = None
    if CLUSTER.value:
        executor = cluster.make_executor(CLUSTER.value, directory / "jobs", CLUSTER_OPTIONS.value)
    sweep_record.claim_directory(
        directory, sweep_record.make_record(file, overrides, CONFIG.value, trials)
    )
    with _Signals() as signals:
        progress = _Progress(len(trials))
        if executor:
            progress.pending = len(trials) + 1  # they run side by side: no telling how long
            groups = population.group_alike(POPULATION.value)(trials)
            outcomes = cluster.run_jobs(executor, groups, directory, print)
        elif stops:
            train_until = _trainer(directory, signals, progress)
            outcomes = halving.halve_trials(trials, stops, HALVING.value, train_until)
        else:
            outcomes = _trainer(directory, signals, progress)(trials, None)
        return show(outcomes, trials, directory, signals, progress)


def _trainer(
    directory: pathlib.Path, signals: "_Signals", progress: "_Progress"
) -> Callable[[Sequence[spaces.Trial], int | None], Iterator[driver.Outcome]]:
    """Returns what trains trials here until some epoch, or their last, one by one or together."""
    if POPULATION.value > 1:
        launch.use_all_cores()

    def train_until(trials: Sequence[spaces.Trial], epochs: int | None) -> Iterator[driver.Outcome]:
        progress.start(len(trials), epochs)
        attempt = driver.train_alone(directory, TrialDisplay, driver.stop_at_epoch(epochs))
        group: driver.Grouping = driver.separate_trials
        if POPULATION.value > 1:
            attempt = population.train_together(directory, PopulationDisplay, epochs)
            group = population.group_alike(POPULATION.value)

        def unless_told(together: Sequence[spaces.Trial]) -> Sequence[driver.Outcome | None]:
            if signals.received():  # one that came too late to interrupt a run
                raise KeyboardInterrupt
            outcomes = attempt(together)
            progress.pending = sum(outcome is not None for outcome in outcomes)
            return outcomes

        return driver.run_trials(trials, directory, unless_told, group, _say_waiting, epochs)

    return train_until


def show(
    outcomes: Iterator[driver.Outcome],
    trials: Sequence[spaces.Trial],
    directory: pathlib.Path,
    signals: "_Signals",
    progress: "_Progress",
) -> int:
    """Prints outcomes as they come, and the table; returns the exit code."""
    newest: dict[str, driver.Outcome] = {}
    signum = 0
    try:
        for outcome in outcomes:
            newest[outcome.trial.name] = outcome
            print(progress.line(outcome), flush=True)
    except train.Interrupted as request:
        signum = request.signum
        print(request)
    except KeyboardInterrupt:
        signum = signals.received() or signal.SIGINT
    print()
    print(tables.trial_table(list(newest.values())))
    missing, failed = len(trials) - len(newest), sum(o.row is None for o in newest.values())
    ended = any(o.row and o.row["epoch"] >= o.trial.config.epochs for o in newest.values())
    if failed:
        none = "" if ended else "No trial was trained to its end: "
        print(
            f"{none}{failed} of {len(trials)} trials failed; error.json in their directories says "
            "why.",
            file=sys.stderr,
        )
    if missing:
        print(f"{missing} of {len(trials)} trials are left; the same command goes on from there.")
    elif signum and HALVING.value:
        print("halving isn't finished; the same command goes on from there.")
    else:
        print(f"Means over seeds: python -m experiments.report {directory}", end="")
        print("; plots with --output=FILE.md")
    unfinished = bool(missing or HALVING.value)
    return 128 + signum if signum and unfinished else int(failed > 0 or missing > 0)


class _Progress:
    """How far a sweep, or one of its stages, has come."""

    def __init__(self, count: int) -> None:
        self._count, self._done = count, 0
        self._took: list[float] = []
        self.pending = 0  # outcomes of the same group that are yet to be shown

    def start(self, count: int, epochs: int | None) -> None:
        """Begins a stage of so many trials; `epochs` if it isn't to the end."""
        self._count, self._done, self._took = count, 0, []
        if epochs is not None:
            print(f"until epoch {epochs}: {count} trials", flush=True)

    def line(self, outcome: driver.Outcome) -> str:
        """Returns what is said of an outcome."""
        self._done += 1
        part = run_groups.part_name(outcome.trial.config)
        line = f"[{self._done:>{len(str(self._count))}}/{self._count}] {outcome.trial.name}  "
        if outcome.seconds is not None:
            self.pending -= 1
            self._took.append(outcome.seconds)
        if outcome.row is None:
            return line + f"failed: {outcome.error}"
        line += f"{part} accuracy {outcome.row['test_accuracy']:.4f}"
        if outcome.seconds is None:
            return line + "  (finished before)"
        line += f"  {outcome.seconds:.1f} s"
        left = self._count - self._done
        if left == 0 or self.pending > 0:
            return line
        return line + f", about {_duration(statistics.mean(self._took) * left)} left"


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
