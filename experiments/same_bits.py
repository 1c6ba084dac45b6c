"""Varies what could change the last bits of a run, and writes a table of what did.

python -m experiments.same_bits [--models=lenet_max,mlp] [--output=FILE.md]

Each row trains some steps in a process of its own and compares the SHA-256 of all parameters and
optimizer states. With --price each network's step is timed instead, plain and ordered in turn, at
the sizes of experiments/benchmark_cases.py, and the memory of the two programs is compared.
"""

import ctypes
import hashlib
import json
import mmap
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np
from absl import flags

from cnn_jax import config, experiment, files, processor, steps
from cnn_jax.errors import UserError
from experiments import benchmark_cases, launch

MODELS = flags.DEFINE_list(
    "models", None, "The networks that are trained; lenet_max and mlp, or for --price all."
)
STEPS = flags.DEFINE_integer("steps", 60, "How many steps.", lower_bound=2)
PRICE = flags.DEFINE_bool("price", False, "Time a step of plain and of ordered reduction instead.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds of --price, plain and ordered in turn.")
BATCH = flags.DEFINE_integer(
    "batch_size",
    0,
    "Examples in a step, a multiple of 8; 0: 256, or for --price the network's own.",
)
COUNTS = flags.DEFINE_list("counts", ["1", "2", "4", "8"], "Of devices, for --price.")
OUTPUT = launch.define_path("output", None, "A Markdown file to write; else it is printed.")
DEVICES = flags.DEFINE_integer("devices", 0, "Train or time here, with so many devices of the CPU.")
FLUSH = flags.DEFINE_bool("flush_denormals", False, "Set the x86 flags by which they become 0.")
REDUCTION = flags.DEFINE_enum("reduction", "plain", ["plain", "ordered"], "With --devices.")

# What is varied: its name, the environment, and the flags; {} is the run to compare with.
PLAIN: tuple[tuple[str, dict[str, str], list[str]], ...] = (
    ("pool of 2 threads", {}, []),
    ("the same again", {}, []),
    ("pool of 1", {"NPROC": "1"}, []),
    ("pool of 4", {"NPROC": "4"}, []),
    ("pool of 8", {"NPROC": "8"}, []),
    ("pool of 2 on one core", {"PINNED": "1"}, []),
    ("2 devices, one of them used", {}, ["--devices=2"]),
    ("8 devices, one of them used (a pool of 8)", {}, ["--devices=8"]),
    ("compilation cache, filled by a pool of 4", {"CACHE": "4"}, []),
    ("denormals flushed to 0 by the process", {}, ["--flush_denormals"]),
    ("instructions up to AVX512", {"XLA_FLAGS": "--xla_cpu_max_isa=AVX512"}, []),
    ("instructions up to AVX2", {"XLA_FLAGS": "--xla_cpu_max_isa=AVX2"}, []),
    ("instructions up to AVX (no FMA)", {"XLA_FLAGS": "--xla_cpu_max_isa=AVX"}, []),
)
POOL = 8
MESHES = (1, 2, 4, 8)
GROUPS = 8
BITS = (
    "A cell has the first digits of the SHA-256 of all parameters and optimizer states, bold where "
    "they differ from the first row's."
)
TIMES = (
    "Batches and pictures are those of experiments/benchmark_cases.py. Milliseconds of a step: "
    "medians of rounds in which plain and ordered reduction, in 8 groups, ran in turn. Memory is "
    "what the compiled program needs on each device besides data and parameters, plain → ordered, "
    "by the compiler's own analysis. Gathered: what each of several devices receives in a step."
)


def main() -> int:
    launch.check_report("output")
    if wrong := [x for x in COUNTS.value if x not in map(str, MESHES)]:
        raise UserError(f"--counts={','.join(wrong)}: a price is measured on 1, 2, 4 or 8 devices.")
    for name in read_models():  # what is wrong is said before the first process
        price_settings(name, "ordered") if PRICE.value else make_config(name)
    if DEVICES.value:
        launch.use_devices(DEVICES.value)
        if FLUSH.value:
            flush_denormals()
        measure = time_steps if PRICE.value else train
        print(json.dumps({name: measure(name) for name in read_models()}))
        return 0
    text = price_table() if PRICE.value else bits_table()
    if OUTPUT.value:
        files.write_text(pathlib.Path(OUTPUT.value), text)
    else:
        print(text, end="")
    return 0


def read_models() -> list[str]:
    """Returns the networks to train.

    Raises:
      UserError: a price is asked for one that has no size to be measured at.
    """
    if not PRICE.value:
        return MODELS.value or ["lenet_max", "mlp"]
    names = MODELS.value or list(benchmark_cases.CASES)
    if unknown := [name for name in names if name not in benchmark_cases.CASES]:
        raise UserError(
            f"--models names {', '.join(unknown)}; it can price {', '.join(benchmark_cases.CASES)}."
        )
    return list(names)


def make_config(name: str, reduction: str = "ordered", parallel: str = "jit") -> config.Config:
    """Returns the configuration of a network with its default options and the data shipped here.

    Raises:
      ConfigError: there is no such network, or its batches can't be divided.
    """
    settings = config.Config(
        dataset=config.DatasetConfig(name="fashion_mnist_mini"),
        model=config.ModelConfig(name),
        batch_size=BATCH.value or 256,
        eval_batch_size=200,
    )
    values = {
        "parallel": parallel,
        "reduction": reduction,
        "optimizer.learning_rate": 0.05,
        "optimizer.momentum": 0.9,
    }
    settings = config.resolve(config.with_values(settings, values))
    config.check(settings)
    return settings


def make_experiment(name: str, reduction: str, parallel: str) -> experiment.Experiment:
    """Returns a network ready to train."""
    settings = make_config(name, reduction, parallel)
    return experiment.build(settings, experiment.load_dataset(settings.dataset))


class Runner:
    """Trains a network step by step, from its initial state."""

    def __init__(self, ready: experiment.Experiment) -> None:
        self.ready, program = ready, ready.program
        self.state = program.put_state(program.get(program.put_state(ready.init_state())))
        self.data = program.put_data(ready.train_data)

    def run(self, count: int) -> None:
        """Trains so many steps, epoch after epoch, and waits for them."""
        program, per_epoch = self.ready.program, self.ready.steps_per_epoch
        for epoch in range(-(-count // per_epoch)):
            order = program.put_order(self.ready.train_order(epoch))
            totals: steps.Totals = program.put_state(self.ready.start_totals())
            stop = min(per_epoch, count - epoch * per_epoch)
            self.state, _ = program.train_steps(self.state, totals, self.data, order, 0, stop)
        jax.block_until_ready(self.state)

    def measure_memory(self) -> float:
        """Returns the MiB that the compiled program needs besides its arguments and results."""
        program = self.ready.program
        order = program.put_order(self.ready.train_order(0))
        totals = program.put_state(self.ready.start_totals())
        steps_program: Any = program.train_steps
        lowered = steps_program.lower(self.state, totals, self.data, order, 0, 1)
        return float(lowered.compile().memory_analysis().temp_size_in_bytes) / 2**20


def train(name: str) -> str:
    """Returns the SHA-256 of a network's state after the steps."""
    parallel = "jit" if REDUCTION.value == "ordered" else "none"
    runner = Runner(make_experiment(name, REDUCTION.value, parallel))
    runner.run(STEPS.value)
    leaves = jax.tree.leaves(runner.state)
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in leaves)).hexdigest()


def price_settings(name: str, kind: str) -> tuple[benchmark_cases.Case, dict[str, Any]]:
    """Returns a network's size in the benchmark, and its settings with plain or ordered reduction.

    Raises:
      ConfigError: its batches can't be divided.
    """
    case = benchmark_cases.CASES[name]
    if BATCH.value:
        case = case._replace(batch_size=BATCH.value)
    values = {"parallel": "jit", "reduction": kind, "optimizer.momentum": 0.9}
    benchmark_cases.make_settings(name, case, values)
    return case, values


def time_steps(name: str) -> dict[str, Any]:
    """Returns medians in ms a step, the ratio's median and range, MiB of memory, bytes gathered."""
    kinds = ("plain", "ordered")
    runners = {
        kind: Runner(benchmark_cases.build_case(name, *price_settings(name, kind), 4))
        for kind in kinds
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS.value + 1):
        for kind, runner in runners.items():
            begin = time.perf_counter()
            runner.run(STEPS.value)
            times[kind].append((time.perf_counter() - begin) / STEPS.value * 1e3)
    plain, ordered = (times[kind][1:] for kind in kinds)  # the first round compiles
    ratios = sorted(b / a for a, b in zip(plain, ordered, strict=True))
    state = runners["plain"].state
    size = sum(x.nbytes for x in jax.tree.leaves((state.params, state.model_state)))
    return {
        "plain": statistics.median(plain),
        "ordered": statistics.median(ordered),
        "ratio": [statistics.median(ratios), ratios[0], ratios[-1]],
        "memory": [runner.measure_memory() for runner in runners.values()],
        "gathered": 0 if DEVICES.value == 1 else GROUPS * size,
        "batch_size": runners["plain"].ready.config.batch_size,
    }


def flush_denormals() -> None:
    """Sets this thread's, and so its later threads', x86 flags FTZ and DAZ.

    Raises:
      UserError: the processor is another one.
    """
    if not _is_x86():
        raise UserError("--flush_denormals knows the flags of x86-64 only; leave it out.")
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("0fae17c3"))  # ldmxcsr [rdi]; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    control = ctypes.c_uint32(0x1F80 | 0x8040)  # the default, and the two flags
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)(ctypes.addressof(control))


def _is_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


def run_process(
    models: list[str], environment: dict[str, str], arguments: list[str]
) -> dict[str, Any]:
    """Runs this command in a process of its own; returns what it prints."""
    environment = {"NPROC": "2", "JAX_COMPILATION_CACHE_DIR": "", **environment}
    pinned = ["taskset", "-c", "0"] if environment.pop("PINNED", "") else []
    command = [sys.executable, "-m", "experiments.same_bits", f"--models={','.join(models)}"]
    command += [f"--steps={STEPS.value}", f"--batch_size={BATCH.value}"]
    if not any(argument.startswith("--devices") for argument in arguments):
        arguments = ["--devices=1", *arguments]
    found = subprocess.run(
        [*pinned, *command, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    if found.returncode:
        last = found.stderr.strip().split("\n")[-1].removeprefix("error: ")
        raise UserError(f"a process of {' '.join(command[1:])} failed: {last}")
    return dict(json.loads(found.stdout))


def bits_table() -> str:
    """Returns the report of what changes the bits."""
    rows, models = [], read_models()
    varied = [row for row in PLAIN if row[2] != ["--flush_denormals"] or _is_x86()]
    for what, environment, arguments in varied:
        environment = dict(environment)
        with tempfile.TemporaryDirectory(prefix="same_bits_") as folder:
            if threads := environment.pop("CACHE", ""):
                environment["JAX_COMPILATION_CACHE_DIR"] = folder
                environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
                run_process(models, {**environment, "NPROC": threads}, arguments)
            rows.append((what, run_process(models, environment, arguments)))
    ordered = [
        (
            f"{count} device{'s' * (count > 1)}",
            run_process(models, {"NPROC": "8"}, [f"--devices={count}", "--reduction=ordered"]),
        )
        for count in MESHES
    ]
    ordered.append(
        (
            "4 devices on one core",
            run_process(
                models, {"NPROC": "8", "PINNED": "1"}, ["--devices=4", "--reduction=ordered"]
            ),
        )
    )
    return (
        f"{heading(BITS)}\n## Plain reduction, one device\n\n{table(rows)}\n"
        f"## Ordered reduction, a pool of 8 threads\n\n{table(ordered)}"
    )


def heading(cells: str) -> str:
    """Returns the head of the report: what was run, on what, and what the cells hold."""
    where = launch.describe_environment()
    caches = ", ".join(processor.cache_sizes())
    return (
        "# The same bits\n\n"
        f"`python {' '.join(where['command'][1:])}`, {STEPS.value} steps; "
        f"{where['processor']}, {processor.instruction_set()}, caches of {caches}, "
        f"{processor.count_cores()} cores, jax {where['packages']['jax']}. {cells}\n"
    )


def table(rows: list[tuple[str, dict[str, Any]]]) -> str:
    """Returns the digests as a Markdown table."""
    names = read_models()
    lines = [f"| varied | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for what, found in rows:
        cells = [
            found[name][:12] if found[name] == rows[0][1][name] else f"**{found[name][:12]}**"
            for name in names
        ]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def price_table() -> str:
    """Returns the report of what ordered reduction costs."""
    lines = [
        "| network | batch | devices | threads | plain, ms | ordered, ms | ratio (range of the "
        "rounds) | memory, MiB | gathered, MB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in read_models():
        for devices in map(int, COUNTS.value):
            size = processor.count_cores() if devices == 1 else POOL
            arguments = [f"--devices={devices}", "--price", f"--rounds={ROUNDS.value}"]
            with tempfile.TemporaryDirectory(prefix="same_bits_") as cache:  # it compiles twice
                environment = {"NPROC": str(size), "JAX_COMPILATION_CACHE_DIR": cache}
                found = run_process([name], environment, arguments)[name]
            middle, low, high = found["ratio"]
            memory = " → ".join(f"{mebibytes:.0f}" for mebibytes in found["memory"])
            lines.append(
                f"| {name} | {found['batch_size']} | {devices} | {size} | {found['plain']:.1f} | "
                f"{found['ordered']:.1f} | {middle:.2f} ({low:.2f}–{high:.2f}) | {memory} | "
                f"{found['gathered'] / 1e6:.1f} |"
            )
            print(lines[-1], file=sys.stderr, flush=True)
    return f"{heading(TIMES)}\n## The price of ordered reduction\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    launch.run(main)
