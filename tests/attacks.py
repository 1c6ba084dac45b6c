"""Attacks that need processes: each must end in a sentence or in the right bits, nothing lost.

`python tests/faults.py --kills=0 --attacks` runs them all and counts them. An attack is a function
of a fresh directory that yields (what was tried, whether it ended right, what was printed).
"""

import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np

from cnn_jax import checkpoints, data
from cnn_jax.data import cache

ROOT = pathlib.Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
CONFIG = ROOT / "experiments/configs/softmax.py"
QUIET = "--config.records.tensorboard=false --config.records.figures=false"
OWN = f"--config={CONFIG} --config.dataset.name=./own.npz --config.batch_size=20 {QUIET}"


def start(folder, module, arguments, kilobytes=None, **environment):
    """Starts a command in a folder; its files can't grow beyond so many kilobytes."""
    limit = [] if kilobytes is None else ["bash", "-c", f'ulimit -f {kilobytes}; exec "$@"', "-"]
    command = [*limit, sys.executable, "-m", f"experiments.{module}", *shlex.split(arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**ENVIRONMENT, **environment},
        cwd=folder,
    )


def run(folder, module, arguments, kilobytes=None, **environment):
    """Runs a command to its end; returns its exit code and what it printed."""
    process = start(folder, module, arguments, kilobytes, **environment)
    text, _ = process.communicate(timeout=600)
    return process.returncode, text


def is_sentence(code, text, *parts):
    """Whether a command ended with exit code 2 and one line of error that has these parts."""
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    told = len(lines) == 1 and all(part in lines[0] for part in parts)
    return code == 2 and told and "Traceback" not in text


def write_own(folder, seed=0, names=("dark", "light"), channels=1):
    """Writes own.npz: 120 training and 40 test images of two classes, in an order by the seed."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 160)
    images = rng.integers(0, 90, (160, 8, 8, channels)) + 120 * labels[:, None, None, None]
    images = images.astype(np.uint8)
    np.savez(
        folder / "own.npz",
        train_images=images[:120],
        train_labels=labels[:120],
        test_images=images[120:],
        test_labels=labels[120:],
        class_names=np.array(names),
    )


def network_of(run_directory):
    """The bytes of a run's network."""
    variables = checkpoints.restore_variables(run_directory, evaluated=False)
    return {name: value.tobytes() for name, value in variables["params"]["Dense_0"].items()}


# Processes that disagree --------------------------------------------------------------------------


def run_two(folder, arguments, other, count=2, **environment):
    """Runs two processes of one run; the second has the arguments `other` and environment too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    common = f"{arguments} --config.parallel=jit --distributed --coordinator={address}"
    common += " --heartbeat=10"
    pair = [
        start(folder, "train", f"{common} --processes=2 --process_id=0"),
        start(
            folder,
            "train",
            f"{common} --processes={count} --process_id=1 {other}",
            **environment,
        ),
    ]
    return [(process.communicate(timeout=600)[0], process.returncode) for process in pair]


def attack_agreement(folder):
    """Two processes are started with different things: neither trains."""
    write_own(folder)
    other_data = folder / "elsewhere"
    other_data.mkdir()
    write_own(other_data, seed=1)
    base = f"{OWN} --config.epochs=2 --workdir={folder}/run"
    tries = {
        "another seed": ("--config.seed=7", "config.seed is 0 in process 0, 7 in process 1", {}),
        "another learning rate": (
            "--config.optimizer.learning_rate=0.01",
            "config.optimizer.learning_rate is 0.1 in process 0, 0.01 in process 1",
            {},
        ),
        "another option of JAX": (
            "",
            "jax_default_matmul_precision is None in process 0, 'highest' in process 1",
            {"JAX_DEFAULT_MATMUL_PRECISION": "highest"},
        ),
    }
    for what, (other, said, environment) in tries.items():
        ends = run_two(folder, base, other, **environment)
        right = all(code == 2 and said in text and "Traceback" not in text for text, code in ends)
        right = right and not (folder / "run").exists()
        yield f"two processes, {what}", right, ends
    ends = run_two(folder, base, "", count=3)
    right = all(code == 2 and "number of processes" in text for text, code in ends)
    yield "two processes, one of which expects three", right, ends
    # Each sees another file under the same name: process 1 is started in another folder.
    shutil.rmtree(folder / "run", ignore_errors=True)
    (folder / "own.npz").rename(folder / "first.npz")
    shutil.copy(other_data / "own.npz", folder / "second.npz")
    for i, name in enumerate(("first", "second")):
        (folder / str(i)).mkdir()
        (folder / str(i) / "own.npz").symlink_to(folder / f"{name}.npz")
    ends = run_two_folders(folder, base)
    right = all(code == 2 and "arrays is '" in text for text, code in ends)
    yield "two processes, other images", right and not has_rows(folder / "run"), ends


def run_two_folders(folder, arguments):
    """Runs two processes of one run, in the folders 0 and 1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    common = f"{arguments} --config.parallel=jit --distributed --coordinator={address}"
    pair = [
        start(folder / str(i), "train", f"{common} --processes=2 --process_id={i}") for i in (0, 1)
    ]
    return [(process.communicate(timeout=600)[0], process.returncode) for process in pair]


def has_rows(run_directory):
    """Whether a run recorded an epoch."""
    metrics = run_directory / "metrics.jsonl"
    return metrics.exists() and bool(metrics.read_text())


# Data that change ---------------------------------------------------------------------------------


def attack_data(folder):
    """The data set changes under its name: no command goes on as if it hadn't."""
    write_own(folder)
    train = f"{OWN} --config.epochs=2 --workdir=run"
    code, text = run(folder, "train", train)
    yield "a run on own data", code == 0, text
    recorded = (folder / "run" / "metrics.jsonl").read_bytes()
    changes = {
        "other images": {"seed": 1},
        "the class names exchanged": {"names": ("light", "dark")},
    }
    for what, change in changes.items():
        write_own(folder, **change)
        code, text = run(folder, "train", train)
        right = is_sentence(code, text, "holds a run on other data", "another --workdir")
        right = right and (folder / "run" / "metrics.jsonl").read_bytes() == recorded
        yield f"{what}: the finished run is refused", right, text
        code, text = run(folder, "reproduce", "run")
        right = is_sentence(code, text, "trained on other data")
        yield f"{what}: reproduce says so", right, text
        run(folder, "predict", "--run=run own.npz")
        code, text = run(folder, "train", train.replace("--workdir=run", "--workdir=other"))
        yield f"{what}: a new run works", code == 0, text
        code, text = run(folder, "report", "run other")
        rows = [line for line in text.splitlines() if line.startswith("|")]
        yield f"{what}: the two are not averaged", code == 0 and len(rows) == 4, text
        shutil.rmtree(folder / "other")
    write_own(folder)
    code, text = run(folder, "train", train)
    yield "the data put back: finished", code == 0 and "finished at epoch 2" in text, text


def attack_running(folder):
    """The data set changes while a run is interrupted, and between the trials of a sweep."""
    write_own(folder)
    train = f"{OWN} --config.epochs=400 --config.records.checkpoint_epochs=400 --workdir=run"
    process = start(folder, "train", train)
    while not has_rows(folder / "run"):
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    text = process.communicate()[0]
    yield "a run interrupted", process.returncode == 128 + signal.SIGTERM, text
    write_own(folder, seed=1)
    code, text = run(folder, "train", train)
    yield "resumed with other images", is_sentence(code, text, "on other data"), text
    write_own(folder)
    sweep = f"{OWN} --config.epochs=1 --workdir=sweep --grid=seed=0,1"
    code, text = run(folder, "sweep", sweep)
    yield "a sweep", code == 0, text
    shutil.rmtree(folder / "sweep" / "seed=1")
    write_own(folder, seed=1)
    code, text = run(folder, "sweep", sweep)
    right = is_sentence(code, text, "other data") and not (folder / "sweep" / "seed=1").exists()
    yield "the sweep goes on with other images", right, text
    (folder / "sweep" / "sweep.json").unlink()  # as if made anew
    code, text = run(folder, "sweep", sweep)
    yield "the same without its record", is_sentence(code, text, "other data"), text


# Disks that are full ------------------------------------------------------------------------------


def attack_disk(folder):
    """Files can't grow: a sentence; with room again the same command ends in the same bits."""
    write_own(folder)
    small = f"{OWN} --config.epochs=2"
    code, text = run(folder, "train", f"{small} --workdir=whole")
    yield "a run", code == 0, text
    whole = network_of(folder / "whole")
    for size in (0, 1, 2, 8):
        workdir = folder / f"run{size}"
        code, text = run(folder, "train", f"{small} --workdir={workdir}", kilobytes=size)
        right = code == 0 or is_sentence(code, text, "File too large")
        yield f"train, files of at most {size} kB", right, text
        code, text = run(folder, "train", f"{small} --workdir={workdir}")
        right = code == 0 and network_of(workdir) == whole
        yield f"train, room again after {size} kB", right, text
    sweep = f"{small} --grid=seed=0,1"
    for size in (0, 1, 2):
        code, text = run(folder, "sweep", f"{sweep} --workdir=sweep{size}", kilobytes=size)
        right = "Traceback" not in text and (code == 0 or "File too large" in text)
        yield f"sweep, files of at most {size} kB", right, text
        code, text = run(folder, "sweep", f"{sweep} --workdir=sweep{size}")
        right = code == 0 and network_of(folder / f"sweep{size}" / "seed=0") == whole
        yield f"sweep, room again after {size} kB", right, text
    search = f"{small} --config.dataset.holdout=0.2 --trials=2"
    search += " --sample=optimizer.learning_rate=log:0.01,1"
    for size in (0, 1, 2):
        code, text = run(folder, "search", f"{search} --workdir=search{size}", kilobytes=size)
        right = "Traceback" not in text and (code == 0 or "File too large" in text)
        yield f"search, files of at most {size} kB", right, text
        code, text = run(folder, "search", f"{search} --workdir=search{size}")
        yield f"search, room again after {size} kB", code == 0 and "best of" in text, text


# A cache whose bits flip --------------------------------------------------------------------------


def attack_cache(folder):
    """Every bit of what isn't an image is flipped: the same arrays, or none, and no exception."""
    source = folder / "source"
    source.write_text("x")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 5, 4, 1), np.uint8)
    labels = np.array([0, 1, 0, 1], np.int32)
    made = data.dataset.make_dataset((images, labels), (images, labels), ("a", "b"), "made")
    file = folder / "cached.npz"
    cache.write(file, cache.Kept(made), cache.snapshot([source]))
    content = file.read_bytes()
    flips, wrong, rebuilt = 0, 0, 0
    for position in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            file.write_bytes(damaged)
            flips += 1
            try:
                kept = cache.read(file)
            except Exception:
                wrong += 1
                continue
            rebuilt += kept is None
            same = kept is None or (
                all(np.array_equal(a, b) for a, b in zip(kept.dataset[:4], made[:4], strict=True))
                and kept.dataset[4:] == made[4:]
            )
            wrong += not same
    yield f"{flips} bits of a cached data set", wrong == 0, f"{wrong} wrong, {rebuilt} rebuilt"


ATTACKS = {
    "agreement": attack_agreement,
    "data": attack_data,
    "running": attack_running,
    "disk": attack_disk,
    "cache": attack_cache,
}


def try_all(directory, names=tuple(ATTACKS)):
    """Prints a line for each attempt; returns how many ended wrong."""
    tried = wrong = 0
    for name in names:
        folder = directory / name
        folder.mkdir(parents=True)
        for what, right, text in ATTACKS[name](folder):
            tried += 1
            wrong += not right
            print(f"attack {name}: {what}: {'right' if right else f'WRONG {text}'}", flush=True)
    print(f"{tried} attacks: {tried - wrong} ended right")
    return wrong
