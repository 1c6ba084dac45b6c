"""Measures what a start costs: seconds from the command to the end of the first training step.

python -m experiments.benchmark_startup --models=lenet --against=torch

Every measurement is a process of its own: the interpreter, imports, the data set that comes with
the package, compilation, one step of a batch of 256. Beside it the process's peak memory. 'cold'
compiles everything, 'warm' finds it compiled by a start before (the cache is a temporary folder).
PyTorch trains the same network on an array in memory, eagerly. The processes run in turn; a figure
is the median over the rounds. Of experiments.benchmark's flags it heeds --models, --against,
--rounds and --output.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from cnn_jax.errors import UserError
from experiments import benchmark, benchmark_cases, launch

BATCH = 256
JAX = """
import jax
from cnn_jax import config
from cnn_jax.experiment import build, load_dataset
from experiments import launch
launch.keep_compiled()
settings = config.Config()
settings.dataset.name = "fashion_mnist_mini"
settings.model.name = {name!r}
experiment = build(settings, load_dataset(settings.dataset))
program = experiment.program
state = program.put_state(experiment.init_state())
data = program.put_data(experiment.train_data)
order = program.put_order(experiment.train_order(0))
totals = program.put_state(experiment.start_totals())
jax.block_until_ready(program.train_steps(state, totals, data, order, 0, 1))
"""
TORCH = """
import numpy as np, torch
from experiments import torch_networks
x = torch.from_numpy(np.random.default_rng(0).random(({batch}, 1, 28, 28), np.float32))
y = torch.zeros({batch}, dtype=torch.long)
network = torch_networks.build({name!r})
network(x[:1])
optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
torch.nn.functional.cross_entropy(network(x), y).backward()
optimizer.step()
"""
# Runs the script in a child and prints its seconds and its peak memory.
TIMED = """
import resource, subprocess, sys, time
begin = time.perf_counter()
code = subprocess.run([sys.executable, "-c", sys.argv[1]]).returncode
seconds = time.perf_counter() - begin
print(seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
sys.exit(code)
"""


def main() -> int:
    rows = []
    print(f"{'network':<12} {'contender':<14} {'first step, s':>14} {'peak memory, MiB':>17}")
    names = benchmark.read_models()
    if larger := [name for name in names if benchmark_cases.CASES[name].shape != (28, 28, 1)]:
        raise UserError(f"a start is measured with 28×28 images; not of {', '.join(larger)}.")
    for name in names:
        for row in measure(name):
            rows.append(row)
            print(
                f"{name:<12} {row['contender']:<14} {row['seconds']:>14.2f} "
                f"{row['peak_mebibytes']:>17,.0f}",
                flush=True,
            )
    if benchmark.OUTPUT.value:
        benchmark.write_rows(benchmark.OUTPUT.value, rows)
    return 0


def measure(name: str) -> list[dict[str, Any]]:
    """Returns a row for each contender."""
    script = JAX.format(name=name)
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as kept:
        run(script, kept)
        for _ in range(benchmark.ROUNDS.value):
            with tempfile.TemporaryDirectory() as empty:
                found.setdefault("cnn_jax, cold", []).append(run(script, empty))
            found.setdefault("cnn_jax, warm", []).append(run(script, kept))
            if benchmark.AGAINST.value == "torch":
                torch = TORCH.format(name=name, batch=BATCH)
                found.setdefault("torch", []).append(run(torch, kept))
    return [
        {
            "model": name,
            "contender": contender,
            "seconds": statistics.median(seconds for seconds, _ in values),
            "seconds_range": [min(values)[0], max(values)[0]],
            "peak_mebibytes": statistics.median(memory for _, memory in values),
        }
        for contender, values in found.items()
    ]


def run(script: str, cache: str) -> tuple[float, float]:
    """Runs a script in a process of its own; returns its seconds and its peak memory in MiB."""
    place = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
    # What `launch.keep_compiled` sets where the folder isn't given.
    place["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    root = pathlib.Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", TIMED, script],
        env=place,
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"a start failed: {lines[-1]}")
    seconds, memory = map(float, done.stdout.split())
    return seconds, memory


if __name__ == "__main__":
    launch.run(main)
