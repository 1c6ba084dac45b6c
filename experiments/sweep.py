r"""Trains one configuration with every combination of some values, or with values drawn at random.

python -m experiments.sweep --config=experiments/configs/lenet.py --workdir=runs/lenet_rates \
    --grid=optimizer.learning_rate=0.1,0.3,0.9 --grid=seed=0,1,2
python -m experiments.sweep --config=experiments/configs/lenet.py --workdir=runs/lenet_search \
    --sample=optimizer.learning_rate=log:1e-2,2 --sample=model.activation=choice:relu,sigmoid \
    --trials=20 --config.dataset.holdout=0.1

Values are separated by commas; a tuple stands in parentheses, in quotes for the shell:
'--grid=model.channels=(6,16),(8,24)'. Every trial is a run directory as experiments.train makes it,
such as WORKDIR/optimizer.learning_rate=0.1,seed=0. --dry_run lists the trials and their commands.

The same command again goes on where the sweep stopped; finished trials are not run twice. The
command may run several times at once, on several machines that share WORKDIR: each process takes
the trials that no other holds. A failed trial is recorded in its error.json and the others go on.
To choose hyperparameters without looking at the test set, set --config.dataset.holdout=0.1.

--population=N trains up to N trials at a time as one compiled program, where they differ only in
the seed and in numbers that leave the program as it is (learning rate, momentum, weight decay,
clipping norm, averaging, dropout, label smoothing). They are shared out to all devices, on a CPU to
all cores. A population saves at the ends of epochs only.

--halving=3 stops bad trials early: after --halving_epochs epochs the best third goes on, after
three times as many the best third of these, and so on. --cluster=slurm makes every trial, or every
population, a job of one Slurm array, by submitit (optional, in requirements.txt); --cluster=local
starts them all here, to try it out.

Exit codes: 0 all trials finished, 1 some failed or their jobs died, 2 wrong input, 128 + n stopped
by signal n.
"""

import functools
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from cnn_jax import epochs, pool
from cnn_jax.reports import tables
from cnn_jax.sweeps import driver, halving, population, spaces, sweep_record
from experiments import cluster, config_options, launch, trial_loop

CONFIG = launch.define_config()
WORKDIR = launch.define_path("workdir", None, "The sweep's directory; made if need be.")
GRID = flags.DEFINE_multi_string("grid", [], "PATH=VALUE,VALUE,…; repeat for other paths.")
SAMPLE = flags.DEFINE_multi_string(
    "sample", [], "PATH=log:A,B or uniform:A,B or choice:X,Y,…, to draw from; repeat."
)
TRIALS = flags.DEFINE_integer("trials", 0, "How many draws --sample makes.", lower_bound=0)
SWEEP_SEED = flags.DEFINE_integer("sweep_seed", 0, "Decides the draws of --sample.", lower_bound=0)
POPULATION = flags.DEFINE_integer(
    "population", 1, "How many trials to train at a time as one program, at most.", lower_bound=1
)
HALVING = flags.DEFINE_integer("halving", 0, "N: one of N trials goes on; 0: all do.")
HALVING_EPOCHS = flags.DEFINE_integer("halving_epochs", 1, "When --halving first stops trials.")
CLUSTER = flags.DEFINE_enum("cluster", None, ["slurm", "local"], "Submit the trials as jobs.")
CLUSTER_OPTIONS = flags.DEFINE_list(
    "cluster_options", [], "Of the jobs, for submitit: timeout_min=60,slurm_partition=gpu,…"
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "List the trials and their commands and stop.")


def main() -> int:
    launch.require(config=CONFIG.value, workdir=WORKDIR.value)
    axes, samples = spaces.parse_grid(GRID.value), spaces.parse_sample(SAMPLE.value)
    trials = spaces.expand(CONFIG.value, axes, samples, TRIALS.value, SWEEP_SEED.value)
    trials = sweep_record.identify_trials(trials)
    directory = pathlib.Path(WORKDIR.value)
    file, overrides = config_options.read_given()
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
        return launch.fail("--cluster_options need --cluster.")
    stops = []
    if HALVING.value:
        stops = halving.list_stops(CONFIG.value.epochs, HALVING_EPOCHS.value, HALVING.value)
    executor = None
    if not CLUSTER.value:
        pool.use_threads_of_sweep(CONFIG.value.threads, directory)
    if POPULATION.value > 1 and not CLUSTER.value:
        launch.use_all_cores()
    if CLUSTER.value:
        executor = cluster.make_executor(CLUSTER.value, directory / "jobs", CLUSTER_OPTIONS.value)
    sweep_record.claim_directory(
        directory, sweep_record.make_record(file, overrides, CONFIG.value, trials)
    )
    with trial_loop.StopSignals() as signals:
        progress = trial_loop.Progress(len(trials))
        train_until = functools.partial(
            trial_loop.train_trials,
            directory=directory,
            progress=progress,
            signals=signals,
            size=POPULATION.value,
        )
        if executor:
            progress.pending = len(trials) + 1  # they run side by side: no telling how long
            groups = population.group_alike(POPULATION.value)(trials)
            outcomes = cluster.run_jobs(executor, groups, directory, print)
        elif stops:
            outcomes = halving.halve_trials(trials, stops, HALVING.value, train_until)
        else:
            outcomes = train_until(trials, None)
        told, signum = trial_loop.print_outcomes(outcomes, progress.describe, signals)
    return summarize(told, signum, trials, directory)


def summarize(
    outcomes: Sequence[driver.Outcome],
    signum: int,
    trials: Sequence[spaces.Trial],
    directory: pathlib.Path,
) -> int:
    """Prints the table of what was trained until a signal came, or 0; returns the exit code."""
    newest = {outcome.trial.name: outcome for outcome in outcomes}
    print()
    print(tables.trial_table(list(newest.values())))
    missing, failed = len(trials) - len(newest), sum(o.row is None for o in newest.values())
    ended = any(o.row and epochs.is_last(o.row, o.trial.config.epochs) for o in newest.values())
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


if __name__ == "__main__":
    launch.run(main)
