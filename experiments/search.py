r"""Searches hyperparameters with Optuna: each trial is proposed by what the ones before have shown.

python -m experiments.search --config=experiments/configs/lenet.py --workdir=runs/lenet_search \
    --config.dataset.holdout=0.1 --trials=40 \
    --sample=optimizer.learning_rate=log:1e-2,2 --sample=model.activation=choice:relu,sigmoid

--sample is experiments.sweep's. Every trial is a run directory in WORKDIR. --population=N asks for
N proposals at a time and trains them as populations, as experiments.sweep does; --pruner stops
single runs that do worse than others did (median, halving, hyperband). Samplers: tpe, gp (needs
PyTorch), random.

The same command goes on where a search was stopped, until there are --trials of them; it may run
several times at once, each with another --search_seed. The study is WORKDIR/optuna.log, or in a
database, such as --storage=sqlite:///search.db, for Optuna's own tools to read. Optuna is optional
(requirements.txt has it).

If the disk is full, or something else is wrong with the machine, the search ends and nothing is
lost; the same command goes on. Trials whose loss stops being a number are told to Optuna as bad
ones, and never counted.

Exit codes: 0 finished, 1 no trial was trained to its end, 2 wrong input or the search can't go on,
128 + n stopped by signal n.
"""

import pathlib
import sys
from typing import Any

from absl import flags

from cnn_jax import config, epochs, files, pool, records
from cnn_jax.reports import run_groups
from cnn_jax.sweeps import driver, optuna_search, optuna_study, spaces
from experiments import config_options, launch, trial_loop

CONFIG = launch.define_config()
WORKDIR = launch.define_path("workdir", None, "The search's directory; made if need be.")
SAMPLE = flags.DEFINE_multi_string(
    "sample", [], "PATH=log:A,B or uniform:A,B or choice:X,Y,…, what is searched; repeat."
)
TRIALS = flags.DEFINE_integer("trials", 20, "How many, all processes together.", lower_bound=1)
SAMPLER = flags.DEFINE_enum("sampler", "tpe", optuna_study.SAMPLERS, "Which of Optuna's samplers.")
PRUNER = flags.DEFINE_enum("pruner", "none", optuna_study.PRUNERS, "Which of Optuna's pruners.")
PRUNE_FROM = flags.DEFINE_integer(
    "prune_from", 1, "The first epoch after which to prune.", lower_bound=1
)
POPULATION = flags.DEFINE_integer("population", 1, "Trials at a time.", lower_bound=1)
STORAGE = flags.DEFINE_string("storage", None, "A database's URL; else WORKDIR/optuna.log.")
STUDY = flags.DEFINE_string("study", "search", "The study's name in the storage.")
SEARCH_SEED = flags.DEFINE_integer(
    "search_seed", 0, "Decides the proposals.", lower_bound=0, upper_bound=10**9
)


def main() -> int:
    launch.require(config=CONFIG.value, workdir=WORKDIR.value)
    if not SAMPLE.value:
        return launch.fail("nothing is searched; give --sample=optimizer.learning_rate=log:0.01,1.")
    space = optuna_search.Space(spaces.parse_sample(SAMPLE.value))
    base: config.Config = CONFIG.value
    directory = pathlib.Path(WORKDIR.value)
    longest = max(space.samples["epochs"].values) if "epochs" in space.samples else base.epochs
    if PRUNER.value != "none" and PRUNE_FROM.value >= longest:
        return launch.fail(
            f"--prune_from={PRUNE_FROM.value} is not before the last of {longest} epochs, so that "
            "nothing would be pruned; choose a lower one, or --pruner=none."
        )
    pool.use_threads_of_sweep(base.threads, directory)
    if POPULATION.value > 1:
        launch.use_all_cores()
    records.check_apart(directory, base.dataset)
    with files.writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    study = optuna_study.open_study(
        STUDY.value,
        STORAGE.value or str(directory / "optuna.log"),
        SAMPLER.value,
        PRUNER.value,
        PRUNE_FROM.value,
        SEARCH_SEED.value,
        say,
    )
    with trial_loop.StopSignals() as signals:
        found = optuna_search.search(
            study,
            space,
            base,
            TRIALS.value,
            directory,
            trial_loop.TrialDisplay,
            POPULATION.value,
            say,
            signals.check,
        )
        _, signum = trial_loop.print_outcomes(found, describe_trial, signals)
    if signum:
        return 128 + signum
    return summarize(study, space, base, directory)


def say(line: str) -> None:
    """Prints what is waited for, or was repaired."""
    print(line, file=sys.stderr, flush=True)


def describe_trial(found: tuple[Any, driver.Outcome]) -> str:
    """Returns the line for a finished trial."""
    frozen, outcome = found
    line = trial_loop.describe_outcome(outcome, frozen.number + 1, TRIALS.value)
    if outcome.row is None:
        return line
    if not epochs.is_last(outcome.row, outcome.trial.config.epochs):
        line += f"  pruned after epoch {outcome.row['epoch']}"
    return line + (f"  {outcome.seconds:.1f} s" if outcome.seconds is not None else "")


def summarize(
    study: Any, space: optuna_search.Space, base: config.Config, directory: pathlib.Path
) -> int:
    """Prints the best trial, and how to train it on all training examples; returns the exit code.

    Trials that diverged, failed or were pruned are never the best one.
    """
    ranked = optuna_search.rank(study, space, base, directory)
    if not ranked:
        launch.fail(f"no trial was trained to its end; error.json in {directory}/* says why.")
        return 1
    frozen, best = ranked[0]
    print(f"\nbest of {len(ranked)}: {best.name}  {run_groups.part_name(base)} accuracy ", end="")
    print(f"{frozen.value:.4f}\nOn all training examples, evaluated on the test set:")
    file, overrides = config_options.read_given()
    values = {**overrides, **best.values, "dataset.holdout": 0.0}
    print("  " + spaces.train_command(file, values, _beside(directory)))
    print(f"Tables: python -m experiments.report {spaces.join([str(directory)])}", end="")
    print("; plots with --output=FILE.md")
    return 0


def _beside(directory: pathlib.Path) -> pathlib.Path:
    if not directory.name:  # such as '.'
        directory = directory.absolute()
    return directory.with_name(f"{directory.name}_best")


if __name__ == "__main__":
    launch.run(main)
