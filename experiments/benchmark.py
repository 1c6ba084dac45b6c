"""Measures training speed, side by side with PyTorch where it is installed.

python -m experiments.benchmark --models=lenet,cifar_quick --against=torch --output=speed.json

For each network, examples per second of a training step (many steps in one call, divided) and of an
epoch (shuffling, all steps, the epoch's metrics). Contenders run in turn, round after round, in one
process; a figure is the median over the rounds, and the ratio is the median of the rounds' ratios.
PyTorch runs the same network, batch and plain SGD on tensors already in memory, without a loader:
eagerly, with channels last, and with torch.compile where --compile is given.

--population=N measures N runs trained as one program too, in each of the ways that
cnn_jax/population_steps.py knows: examples per second are those of all members together.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from cnn_jax import config, data, population_steps, records, steps, train
from experiments import launch

MODELS = flags.DEFINE_list("models", ["softmax", "mlp", "lenet", "lenet_max"], "Networks.")
AGAINST = flags.DEFINE_enum("against", None, ["torch"], "What to compare with.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds, after one that warms up.", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 1.0, "About how long one measurement takes.")
COMPILE = flags.DEFINE_bool(
    "compile", False, "Also measure torch.compile; it needs a C++ compiler."
)
POPULATION = flags.DEFINE_integer(
    "population", 0, "Also measure populations of so many runs.", lower_bound=0
)
OUTPUT = flags.DEFINE_string("output", None, "Write the figures to this JSON file.")


class Case(NamedTuple):
    """A network at the size it is measured at."""

    shape: tuple[int, int, int]  # of the pictures, [H, W, C]
    batch_size: int
    options: dict[str, Any] = {}  # noqa: RUF012, never changed


# Smoke sizes for the large networks: a CPU needs seconds for one step at full size.
CASES = {
    "softmax": Case((28, 28, 1), 256),
    "mlp": Case((28, 28, 1), 256),
    "mlp_dropout": Case((28, 28, 1), 256),
    "lenet": Case((28, 28, 1), 256),
    "lenet_max": Case((28, 28, 1), 256),
    "cifar_quick": Case((32, 32, 3), 64),
    "alexnet": Case((96, 96, 1), 16),
    "vgg11": Case((64, 64, 1), 128, {"width": 0.25}),
    "nin": Case((96, 96, 1), 32),
    "googlenet": Case((96, 96, 1), 32),
}
CALLS = 20  # batches in memory, gone through again and again


class Contender(NamedTuple):
    """One way to train a network; both functions return the seconds they took."""

    steps: Callable[[int], float]  # so many training steps
    epoch: Callable[[], float]  # one pass over the examples
    members: int = 1  # runs that are trained at once


def main() -> int:
    """Runs the command."""
    if unknown := set(MODELS.value) - set(CASES):
        raise ValueError(
            f"--models names {', '.join(sorted(unknown))}; it can measure {', '.join(CASES)}."
        )
    if POPULATION.value:
        launch.use_all_cores()
    rows = []
    head = f"{'network':<12} {'batch':>5}  {'contender':<20} {'step, ex/s':>12} {'epoch, ex/s':>12}"
    print(head + ("   ratio to cnn_jax (step, epoch)" if AGAINST.value or POPULATION.value else ""))
    for name in MODELS.value:
        for row in measure(name, CASES[name]):
            rows.append(row)
            print(
                f"{name:<12} {row['batch_size']:>5}  {row['contender']:<20} "
                f"{row['step_examples_per_second']:>12,.0f} "
                f"{row['epoch_examples_per_second']:>12,.0f}"
                + (
                    f"   {row['step_ratio']:.2f} ({row['step_ratio_range'][0]:.2f}–"
                    f"{row['step_ratio_range'][1]:.2f}), {row['epoch_ratio']:.2f}"
                    if "step_ratio" in row
                    else ""
                ),
                flush=True,
            )
    if OUTPUT.value:
        environment = records.environment()
        environment["command"] = ["python", *sys.orig_argv[1:]]  # not where this machine has it
        result = {"environment": environment, "rounds": ROUNDS.value, "rows": rows}
        with open(OUTPUT.value, "w") as file:
            json.dump(result, file, indent=2)
            file.write("\n")
    return 0


def measure(name: str, case: Case) -> list[dict[str, Any]]:
    """Returns a row for each contender, cnn_jax first."""
    contenders = {"cnn_jax": jax_contender(name, case)}
    for how in population_steps.HOW[1:] if POPULATION.value else ():
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
    times: dict[str, list[tuple[float, float]]] = {key: [] for key in contenders}
    for _ in range(ROUNDS.value):
        for key, contender in contenders.items():
            one_step = contender.steps(counts[key]) / counts[key]
            times[key].append((one_step / contender.members, contender.epoch() / contender.members))
    examples = CALLS * case.batch_size
    rows = []
    for key, values in times.items():
        step = [value[0] for value in values]
        epoch = [value[1] for value in values]
        row: dict[str, Any] = {
            "model": name,
            "shape": case.shape,
            "options": case.options,
            "batch_size": case.batch_size,
            "contender": key,
            "step_examples_per_second": case.batch_size / statistics.median(step),
            "epoch_examples_per_second": examples / statistics.median(epoch),
        }
        if key != "cnn_jax":
            ours = times["cnn_jax"]
            ratios = [theirs / mine[0] for theirs, mine in zip(step, ours, strict=True)]
            row["step_ratio"] = statistics.median(ratios)
            row["step_ratio_range"] = [min(ratios), max(ratios)]
            row["epoch_ratio"] = statistics.median(
                theirs / mine[1] for theirs, mine in zip(epoch, ours, strict=True)
            )
        rows.append(row)
    return rows


def pictures(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Returns random uint8 pictures [CALLS × batch, H, W, C] and labels."""
    rng = np.random.default_rng(0)
    count = CALLS * case.batch_size
    images = rng.integers(0, 256, (count, *case.shape), np.uint8)
    return images, rng.integers(0, 10, count).astype(np.int32)


def jax_contender(name: str, case: Case) -> Contender:
    """This package's compiled loop, as `experiments.train` runs it."""
    experiment = build(name, case)
    program = experiment.program
    held = [program.put_state(experiment.init_state())]
    dataset = experiment.dataset
    on_device = program.put_data(steps.Data(dataset.train_images, dataset.train_labels))
    order = program.put_order(experiment.train_order(0))

    def run(order: steps.Order, start: int, stop: int) -> None:
        totals = program.put_state(steps.Totals.of())
        held[0], totals = program.train_steps(held[0], totals, on_device, order, start, stop)
        program.get(totals)

    def epoch() -> float:
        begin = time.perf_counter()
        run(program.put_order(experiment.train_order(1)), 0, CALLS)
        return time.perf_counter() - begin

    return Contender(in_parts(lambda part: run(order, 0, part)), epoch)


def population_contender(name: str, case: Case, how: str, members: int) -> Contender:
    """This package's populations, as `experiments.sweep --population` runs them."""
    experiment = build(name, case)
    program = population_steps.compile_program(experiment, how, members)
    rates = program.put_members([population_steps.traced_values(experiment.config)] * members)
    held = [program.put_members([jax.device_get(experiment.init_state())] * members)]
    dataset = experiment.dataset
    on_device = program.put(steps.Data(dataset.train_images, dataset.train_labels))
    order = program.put_members([experiment.train_order(0)] * members)

    def run(order: steps.Order, stop: int) -> None:
        totals = program.put_members([steps.Totals.of()] * members)
        bounds = np.int32(0), np.int32(stop)
        held[0], totals = program.train_steps(rates, held[0], totals, on_device, order, *bounds)
        jax.device_get(totals)

    def epoch() -> float:
        begin = time.perf_counter()
        run(program.put_members([experiment.train_order(i) for i in range(members)]), CALLS)
        return time.perf_counter() - begin

    return Contender(in_parts(lambda part: run(order, part)), epoch, members)


def in_parts(run: Callable[[int], None]) -> Callable[[int], float]:
    """Returns what runs so many steps, at most CALLS in one call, and says how long it took."""

    def many(count: int) -> float:
        begin = time.perf_counter()
        while count:
            part = min(count, CALLS)
            run(part)
            count -= part
        return time.perf_counter() - begin

    return many


def build(name: str, case: Case) -> train.Experiment:
    """Returns the network with random pictures and plain SGD."""
    images, labels = pictures(case)
    dataset = data.Dataset(images, labels, images[:10], labels[:10], tuple("0123456789"), "random")
    settings = config.Config(
        model=config.ModelConfig(name=name, **case.options),
        optimizer=config.OptimizerConfig(learning_rate=0.01),
        batch_size=case.batch_size,
    )
    return train.build(settings, dataset)


def torch_contender(
    name: str, case: Case, channels_last: bool = False, compiled: bool = False
) -> Contender:
    """PyTorch, with the whole data set as one float32 tensor [n, C, H, W] on the device."""
    import torch

    from experiments import torch_networks

    cuda = torch.cuda.is_available() and jax.default_backend() != "cpu"
    device = torch.device("cuda" if cuda else "cpu")
    torch.set_num_threads(os.cpu_count() or 1)
    images, labels = pictures(case)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).to(device)
    y = torch.from_numpy(labels).long().to(device)
    network: Any = torch_networks.build(name).to(device)
    network(x[:1] if name != "vgg11" else x[:2])
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, network = x.contiguous(memory_format=layout), network.to(memory_format=layout)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    loss_function = torch.nn.CrossEntropyLoss()
    forward = torch.compile(network) if compiled else network
    network.train()

    def step(rows: Any) -> tuple[Any, Any]:
        optimizer.zero_grad()
        logits = forward(x[rows])
        loss = loss_function(logits, y[rows])
        loss.backward()
        optimizer.step()
        return loss.detach(), (logits.detach().argmax(1) == y[rows]).sum()

    def wait() -> None:
        if cuda:
            torch.cuda.synchronize()

    size = case.batch_size
    fixed = torch.randperm(len(x), device=device).split(size)

    def many(count: int) -> float:
        begin = time.perf_counter()
        for i in range(count):
            step(fixed[i % CALLS])
        wait()
        return time.perf_counter() - begin

    def epoch() -> float:
        begin = time.perf_counter()
        total = [step(rows) for rows in torch.randperm(len(x), device=device).split(size)]
        sum(float(loss) for loss, _ in total)
        sum(int(correct) for _, correct in total)
        return time.perf_counter() - begin

    return Contender(many, epoch)


if __name__ == "__main__":
    launch.run(main)
