"""Measures training speed, side by side with PyTorch where it is installed.

python -m experiments.benchmark --models=lenet,cifar_quick --against=torch --output=speed.json

For each network: examples per second of a training step (many steps in one call, divided), of an
epoch of 20 batches (shuffling, all steps, the epoch's metrics) and of an evaluation of them (the
forward pass, loss and accuracy); for this package also the share of the device's speed at matrix
products, measured in the same round, that a training step reaches with its network's multiply-adds.

Contenders run in turn, round after round, in one process; a figure is the median over the rounds,
and the ratio is the median of the rounds' ratios. PyTorch runs the same network, batch and plain
SGD on tensors already in memory, without a loader: eagerly, with channels last, and with
torch.compile where --compile is given.

--batch_size takes one in place of each network's own; --full_size the images and widths of the
books and papers, for a GPU; --dtype=bfloat16 computes in it, with float32 parameters, as PyTorch's
autocast does. On a GPU PyTorch may use TF32 where float32 is asked for, as JAX does.

--population=N measures N runs trained as one program too, in each of the ways that
cnn_jax/sweeps/population_program.py knows: examples per second are those of all members together.
"""

import functools
import importlib.util
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from cnn_jax import programs, records
from cnn_jax.errors import UserError
from cnn_jax.experiment import Experiment
from cnn_jax.inspection import layer_table
from cnn_jax.sweeps import population_program
from experiments import benchmark_cases as cases
from experiments import launch
from experiments.benchmark_cases import Case

MODELS = flags.DEFINE_list("models", ["softmax", "mlp", "lenet", "lenet_max"], "Networks.")
AGAINST = flags.DEFINE_enum("against", None, ["torch"], "What to compare with.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds, after one that warms up.", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 1.0, "About how long one measurement takes.")
COMPILE = flags.DEFINE_bool(
    "compile", False, "Also measure torch.compile; it needs a C++ compiler."
)
POPULATION = flags.DEFINE_integer(
    "population", 0, "Also measure populations of N runs.", lower_bound=0
)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 0, "Examples in a batch; 0: the network's own.", lower_bound=0
)
FULL_SIZE = flags.DEFINE_bool("full_size", False, "Large networks at their full size.")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "What is computed in.")
OUTPUT = launch.define_path("output", None, "Write the figures to this JSON file.")


MEASURED = ("step", "epoch", "evaluation")
CALLS = 20  # batches in memory, gone through again and again: an epoch


class Contender(NamedTuple):
    """One way to train a network; the functions return the seconds they took."""

    steps: Callable[[int], float]  # a number of training steps
    epoch: Callable[[], float]  # one pass over the examples
    evaluate: Callable[[], float] | None  # one evaluation of them
    members: int = 1  # runs that are trained at once


def main() -> int:
    names = read_models()
    if POPULATION.value:
        launch.use_all_cores()
    rows = []
    head = f"{'network':<12} {'batch':>5}  {'contender':<20}"
    head += "".join(f" {name + ', ex/s':>17}" for name in MEASURED)
    compared = AGAINST.value or POPULATION.value
    print(head + ("   ratio to cnn_jax (step, epoch, evaluation)" if compared else ""))
    for name in names:
        for row in measure(name, choose_case(name)):
            rows.append(row)
            print(format_row(row), flush=True)
    if OUTPUT.value:
        write_rows(OUTPUT.value, rows)
    return 0


def format_row(row: dict[str, Any]) -> str:
    """Returns a row as it is printed."""
    text = f"{row['model']:<12} {row['batch_size']:>5}  {row['contender']:<20}"
    for name in MEASURED:
        rate = row.get(f"{name}_examples_per_second")
        text += f" {'–':>17}" if rate is None else f" {rate:>17,.0f}"
    if "share_of_matrix_rate" in row:
        text += f"   {row['share_of_matrix_rate']:.1%} of the rate of matrix products"
    if "step_ratio" in row:
        low, high = row["step_ratio_range"]
        text += f"   {row['step_ratio']:.2f} ({low:.2f}–{high:.2f}), {row['epoch_ratio']:.2f}"
    if "evaluation_ratio" in row:
        text += f", {row['evaluation_ratio']:.2f}"
    return text


def read_models() -> list[str]:
    """Returns the networks to measure.

    Raises:
      UserError: one can't be measured, or what to compare with isn't installed.
    """
    if unknown := set(MODELS.value) - set(cases.CASES):
        raise UserError(
            f"--models names {', '.join(sorted(unknown))}; it can measure {', '.join(cases.CASES)}."
        )
    if AGAINST.value and importlib.util.find_spec(AGAINST.value) is None:
        raise UserError("--against=torch needs PyTorch, which isn't installed: pip install torch.")
    return list(MODELS.value)


def choose_case(name: str) -> Case:
    """Returns the size at which a network is measured."""
    case = cases.FULL.get(name, cases.CASES[name]) if FULL_SIZE.value else cases.CASES[name]
    return case._replace(batch_size=BATCH_SIZE.value) if BATCH_SIZE.value else case


def write_rows(file: str, rows: list[dict[str, Any]]) -> None:
    """Writes the figures as JSON, with what they were measured on."""
    result = {"environment": launch.describe_environment(), "rounds": ROUNDS.value, "rows": rows}
    records.write_json(pathlib.Path(file), result)


def measure(name: str, case: Case) -> list[dict[str, Any]]:
    """Returns a row for each contender, cnn_jax first."""
    contenders = {"cnn_jax": jax_contender(name, case)}
    for how in population_program.MAPPINGS if POPULATION.value else ():
        contender = population_contender(name, case, how, POPULATION.value)
        contenders[f"{POPULATION.value} by {how}"] = contender
    if AGAINST.value == "torch":
        contenders["torch"] = torch_contender(name, case)
        contenders["torch channels-last"] = torch_contender(name, case, channels_last=True)
        if COMPILE.value:
            contenders["torch.compile"] = torch_contender(name, case, compiled=True)
    counts = {}
    for key, contender in contenders.items():
        contender.steps(1)
        counts[key] = max(1, min(1000, round(SECONDS.value / contender.steps(2) * 2)))
        contender.epoch()
        if contender.evaluate:
            contender.evaluate()
    # Seconds for each example, of each round.
    times: dict[str, dict[str, list[float]]] = {key: {} for key in contenders}
    rates = []  # of the device, in each round
    for _ in range(ROUNDS.value):
        rates.append(matrix_rate())
        for key, contender in contenders.items():
            steps_examples = counts[key] * case.batch_size * contender.members
            examples = CALLS * case.batch_size
            found = {
                "step": contender.steps(counts[key]) / steps_examples,
                "epoch": contender.epoch() / examples / contender.members,
            }
            if contender.evaluate:
                found["evaluation"] = contender.evaluate() / examples
            for measured, took in found.items():
                times[key].setdefault(measured, []).append(took)
    rows = []
    for key, values in times.items():
        row: dict[str, Any] = {
            "model": name,
            "shape": case.shape,
            "options": case.options,
            "batch_size": case.batch_size,
            "dtype": DTYPE.value,
            "contender": key,
        }
        for measured, seconds in values.items():
            row[f"{measured}_examples_per_second"] = 1 / statistics.median(seconds)
            if key != "cnn_jax":
                ours = times["cnn_jax"][measured]
                ratios = [theirs / mine for theirs, mine in zip(seconds, ours, strict=True)]
                row[f"{measured}_ratio"] = statistics.median(ratios)
                row[f"{measured}_ratio_range"] = [min(ratios), max(ratios)]
        if key == "cnn_jax":
            table = layer_table.analyze(build_case(name, case).model, case.shape)
            row["training_multiply_adds"] = table.multiply_adds + table.backward_multiply_adds
            row["matrix_multiply_adds_per_second"] = statistics.median(rates)
            shares = [
                row["training_multiply_adds"] / seconds / rate
                for seconds, rate in zip(values["step"], rates, strict=True)
            ]
            row["share_of_matrix_rate"] = statistics.median(shares)
        rows.append(row)
    return rows


def time_call(call: Callable[[], Any]) -> float:
    """Returns the seconds that a call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def matrix_rate() -> float:
    """Returns the multiply-adds per second of a product of two square matrices on the device."""
    multiply, a = _matrix_product()
    seconds = [time_call(lambda: jax.block_until_ready(multiply(a))) for _ in range(3)]
    return a.shape[0] ** 3 / statistics.median(seconds)


@functools.cache
def _matrix_product() -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    # Of sizes from 1024 to 4096, 2048 was among the quickest on two CPU cores, 4096 the slowest.
    size = 2048 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((size, size), DTYPE.value)
    multiply = jax.jit(lambda a: a @ a).lower(a).compile(programs.compiler_options())
    jax.block_until_ready(multiply(a))
    return multiply, a


def jax_contender(name: str, case: Case) -> Contender:
    """This package's compiled loop, as `experiments.train` runs it."""
    experiment = build_case(name, case)
    program = experiment.program
    held = [program.put_state(experiment.init_state())]
    on_device = program.put_data(experiment.train_data)
    order = program.put_order(experiment.train_order(0))

    def run(order: programs.Order, stop: int) -> None:
        totals = program.put_state(experiment.start_totals())
        held[0], totals = program.train_steps(held[0], totals, on_device, order, 0, stop)
        program.get(totals)

    def epoch() -> None:
        run(program.put_order(experiment.train_order(1)), CALLS)

    def evaluate() -> None:
        program.get(program.eval_steps(held[0], on_device, order))

    return make_contender(functools.partial(run, order), epoch, evaluate)


def population_contender(name: str, case: Case, how: str, members: int) -> Contender:
    """This package's populations, as `experiments.sweep --population` runs them."""
    experiment = build_case(name, case)
    program = population_program.compile_program(experiment, how, members)
    values = program.put_members([population_program.traced_values(experiment.config)] * members)
    held = [program.put_members([jax.device_get(experiment.init_state())] * members)]
    on_device = program.put(experiment.train_data)
    order = program.put_members([experiment.train_order(0)] * members)

    def run(order: programs.Order, stop: int) -> None:
        totals = program.put_members([experiment.start_totals()] * members)
        bounds = np.int32(0), np.int32(stop)
        held[0], totals = program.train_steps(values, held[0], totals, on_device, order, *bounds)
        jax.device_get(totals)

    def epoch() -> None:
        run(program.put_members([experiment.train_order(i) for i in range(members)]), CALLS)

    return make_contender(functools.partial(run, order), epoch, None, members)


def make_contender(
    run: Callable[[int], None],
    epoch: Callable[[], None],
    evaluate: Callable[[], None] | None,
    members: int = 1,
) -> Contender:
    """Returns the contender that these functions are timed for; `run` takes at most CALLS steps."""

    def run_all(count: int) -> None:
        for start in range(0, count, CALLS):
            run(min(count - start, CALLS))

    return Contender(
        lambda count: time_call(lambda: run_all(count)),
        lambda: time_call(epoch),
        evaluate and (lambda: time_call(evaluate)),
        members,
    )


def build_case(name: str, case: Case) -> Experiment:
    """Returns the network with random images and plain SGD."""
    return cases.build_case(name, case, {"model.dtype": DTYPE.value}, CALLS)


def torch_contender(name: str, case: Case, **options: Any) -> Contender:
    """PyTorch's loop; the options are those of `torch_networks.make_loop`."""
    from experiments import torch_networks

    network = torch_networks.build(name, **case.options)
    data = cases.random_images(case, CALLS)
    loop = torch_networks.make_loop(network, *data, case.batch_size, DTYPE.value, **options)
    return Contender(*loop)


if __name__ == "__main__":
    launch.run(main)
