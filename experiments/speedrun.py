r"""How soon a recipe reaches an accuracy: seconds of training from the data on the device.

python -m experiments.speedrun --config=experiments/configs/speedrun/fashion_mnist_90.py \
    --mark=0.90 --runs=10

Protocol. The clock of a run starts with the data set on the device, as uint8, and all functions
compiled; it covers the initial parameters, the order of the examples, all training, and one
evaluation of the final network on the whole test set, whose accuracy is the run's. No augmentation
or averaging at test time, no choice among checkpoints, no early stop. The runs have the seeds 0, 1,
…, none is left out, and the mark counts as reached if their mean accuracy isn't below it. Loading
and compiling are timed too, and said apart.

Exit codes: 0 the mark is reached, 1 it isn't, 2 wrong input, or a run's loss was not finite.
"""

import pathlib
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from cnn_jax import config, records, train
from cnn_jax.experiment import build, load_dataset
from cnn_jax.reports import run_groups, tables
from experiments import config_options, launch

CONFIG = launch.define_config()
RUNS = flags.DEFINE_integer("runs", 10, "How many seeds.", lower_bound=2)
MARK = flags.DEFINE_float("mark", None, "The mean test accuracy to reach.")
OUTPUT = launch.define_path("output", None, "Write the numbers there as JSON.")


class Run(NamedTuple):
    """One run: from the data on the device to the accuracy of the final network."""

    seed: int
    seconds: float
    accuracy: float


def main() -> int:
    launch.require(config=CONFIG.value)
    if MARK.value is None or not 0 < MARK.value < 1:
        return launch.fail("give the accuracy to reach, between 0 and 1, for example --mark=0.90.")
    launch.check_folder("output")
    config.check(CONFIG.value)
    settings = config.resolve(CONFIG.value)
    recipe = CompiledRecipe(settings)
    print(f"loaded in {recipe.load_seconds:.1f} s, compiled in {recipe.compile_seconds:.1f} s")
    runs = []
    for seed in range(RUNS.value):
        runs.append(recipe.run(seed))
        print(f"seed {seed}: {runs[-1].accuracy:.4f} after {runs[-1].seconds:.2f} s", flush=True)
    accuracy = run_groups.summarize([run.accuracy for run in runs])
    seconds = run_groups.summarize([run.seconds for run in runs])
    reached = accuracy.mean >= MARK.value
    print(
        f"{settings.model.name}, {settings.epochs} epochs: mean accuracy "
        f"{tables.format_mean(accuracy)} (n={accuracy.n}), which is "
        f"{'at or above' if reached else 'BELOW'} {MARK.value}; {seconds.mean:.2f} ± "
        f"{seconds.sd:.2f} s, fastest {seconds.minimum:.2f} s"
    )
    if OUTPUT.value:
        entry = make_entry(config_options.format_given(), recipe, runs)
        records.write_json(pathlib.Path(OUTPUT.value), entry)
        print(f"wrote {OUTPUT.value}")
    return 0 if reached else 1


def make_entry(given: str, recipe: "CompiledRecipe", runs: list[Run]) -> dict[str, Any]:
    """Returns what is written: every run, the times that the clock leaves out, the environment.

    `given` are the flags of the configuration.
    """
    accuracy = run_groups.summarize([run.accuracy for run in runs])
    seconds = run_groups.summarize([run.seconds for run in runs])
    return {
        "config": given.removeprefix("--config="),
        "command": f"python -m experiments.speedrun {given} --mark={MARK.value} --runs={len(runs)}",
        "mark": MARK.value,
        "n": len(runs),
        "accuracy_mean": accuracy.mean,
        "accuracy_sd": accuracy.sd,
        "accuracies": [run.accuracy for run in runs],
        "seconds_mean": seconds.mean,
        "seconds_sd": seconds.sd,
        "seconds": [run.seconds for run in runs],
        "load_seconds": recipe.load_seconds,
        "compile_seconds": recipe.compile_seconds,
        "configuration": config.to_dict(recipe.experiment.config),
        "environment": launch.describe_environment(),
    }


class CompiledRecipe:
    """A recipe with its data on the device and everything compiled, ready to be run."""

    def __init__(self, settings: config.Config) -> None:
        if settings.init_from:
            raise config.ConfigError("a speedrun starts from random weights: no config.init_from.")
        begin = time.perf_counter()
        dataset = load_dataset(settings.dataset)
        self.experiment = build(settings, dataset)
        program = self.experiment.program
        self.train_data = program.put_data(self.experiment.train_data)
        self.test_data = program.put_data(self.experiment.test_data)
        self.test_order = program.put_order(self.experiment.test_order())
        jax.block_until_ready((self.train_data, self.test_data, self.test_order))
        self.load_seconds = time.perf_counter() - begin
        begin = time.perf_counter()
        self.init = jax.jit(self.experiment.init_state)
        self.run(0, epochs=0)
        self.compile_seconds = time.perf_counter() - begin

    def run(self, seed: int, epochs: int | None = None) -> Run:
        """Trains with a seed from the initial parameters on, and evaluates once.

        Raises:
          DivergedError: the loss was not finite.
        """
        settings = self.experiment.config
        own = self.experiment._replace(config=config.with_values(settings, {"seed": seed}))
        program, count = own.program, own.steps_per_epoch
        begin = time.perf_counter()
        state, totals = program.put_state(self.init(seed)), program.put_state(own.start_totals())
        for epoch in range(settings.epochs if epochs is None else epochs):
            order = program.put_order(own.train_order(epoch))
            state, totals = program.train_steps(state, totals, self.train_data, order, 0, count)
        if epochs == 0:  # no steps, but the program for any number of them
            order = program.put_order(own.train_order(0))
            state, totals = program.train_steps(state, totals, self.train_data, order, 0, 0)
        test = program.get(program.eval_steps(state, self.test_data, self.test_order))
        seconds = time.perf_counter() - begin
        if (bad := int(program.get(totals).bad_step)) >= 0:
            raise train.DivergedError(f"seed {seed}: the loss was not finite in step {bad}.")
        if not np.isfinite(test.sums["loss"]):
            raise train.DivergedError(f"seed {seed}: the test loss was not finite.")
        return Run(seed, seconds, float(test.sums["accuracy"]) / float(test.examples))


if __name__ == "__main__":
    launch.run(main)
