"""Kills a short run at random moments and damages its files, many times over.

python tests/faults.py --kills=50 --damages=200 [--seed=0]

Every killed run must resume to the bits of an uninterrupted one; every damaged run directory must
end in those bits too, or in an error of one sentence. It takes a few seconds per kill. The run is
tiny, and compiles anew each time, so that the kills fall into all of its life: starting, loading
data, compiling, training, saving, evaluating, ending.
"""

import argparse
import collections
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import flax
import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from cnn_jax import checkpoints, records  # noqa: E402

TIMES = ("seconds", "examples_per_second")


def command(workdir):
    """A run of six epochs that saves within its epochs, too."""
    return [
        sys.executable,
        "-m",
        "experiments.train",
        f"--workdir={workdir}",
        "--config=experiments/configs/mlp_dropout.py:smoke",
        "--config.epochs=6",
        "--config.batch_size=50",
        "--config.model.hidden=(16,)",
        "--config.model.dropout=(0.2,)",
        "--config.records.checkpoint_seconds=0.0",
        "--config.records.tensorboard=false",
        "--config.records.figures=false",
    ]


def start(workdir, out):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        command(workdir), stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=ROOT
    )


def finish(workdir, kilobytes=None):
    """Runs the command to its end; returns exit code and output.

    Its files can't grow beyond so many kilobytes, as on a disk that becomes full.
    """
    limit = [] if kilobytes is None else ["bash", "-c", f'ulimit -f {kilobytes}; exec "$@"', "-"]
    done = subprocess.run(
        [*limit, *command(workdir)],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
    )
    return done.returncode, done.stdout + done.stderr


def outcome(workdir):
    """The rows of metrics without times, and the bytes of the network."""
    rows = records.read_metrics(workdir)
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in rows]
    arrays = flax.traverse_util.flatten_dict(checkpoints.restore_variables(workdir))
    return rows, {name: np.asarray(value).tobytes() for name, value in arrays.items()}


def stage(workdir, text):
    """How far a killed run had come, from what it left behind."""
    rows = workdir / "metrics.jsonl"
    saved = workdir / "checkpoints"
    if not (workdir / "config.json").exists():
        return "starting"
    if not (workdir / "environment.json").exists():
        return "loading data"
    if not rows.exists() or not saved.is_dir() or not list(saved.iterdir()):
        return "compiling or in the first epoch"
    if any("tmp" in path.name for path in saved.iterdir()):
        return "saving"
    if "final" in text or "epoch 6/6" in text:
        return "ending"
    return "training or evaluating"


def kill_once(workdir, moment):
    """Kills a run after `moment` seconds; returns its stage then, or 'finished'."""
    out = workdir.parent / "out"
    with out.open("w") as file:
        process = start(workdir, file)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return stage(workdir, out.read_text())
    return "finished"


def damage(file, rng):
    """Truncates a file or flips one of its bytes; says what it did."""
    content = bytearray(file.read_bytes())
    if not content or rng.random() < 0.5:
        length = rng.randrange(len(content)) if content else 0
        file.write_bytes(content[:length])
        return f"cut to {length} of {len(content)} bytes"
    position, bit = rng.randrange(len(content)), rng.randrange(8)
    content[position] ^= 1 << bit
    file.write_bytes(content)
    return f"bit {bit} of byte {position} flipped"


def run_files(workdir):
    """The files of a run that it reads again."""
    files = [p for p in sorted(workdir.rglob("*")) if p.is_file() and p.name != ".lock"]
    return [p for p in files if p.relative_to(workdir).parts[0] not in ("figures", "tensorboard")]


def one_sentence(text):
    """Whether the output ends with an error of one line and holds no traceback."""
    lines = text.strip().splitlines()
    return bool(lines) and lines[-1].startswith("error: ") and "Traceback" not in text


def try_kills(count, rng, directory):
    """Prints one line for each kill and a summary; returns how many resumed to other bits."""
    begin = time.monotonic()
    code, text = finish(directory / "whole")
    assert code == 0, text
    length = time.monotonic() - begin
    expected = outcome(directory / "whole")
    stages, wrong = collections.Counter(), 0
    for i in range(count):
        workdir = directory / f"kill{i}"
        moment = rng.uniform(0.2, 1.0) * length
        where = kill_once(workdir, moment)
        code, text = finish(workdir)
        same = code == 0 and outcome(workdir) == expected
        stages[where] += 1
        wrong += not same
        print(f"kill {i + 1}: {moment:.2f} s, {where}: {'same bits' if same else text}", flush=True)
        if same:
            shutil.rmtree(workdir, ignore_errors=True)
    told = ", ".join(f"{n} {name}" for name, n in stages.most_common())
    print(f"{count} kills ({told}): {count - wrong} of {count} resumed to the same bits")
    return wrong


def try_damages(count, rng, directory):
    """Damages one file of a finished run, many times; returns how often it ended badly."""
    code, text = finish(directory / "good")
    assert code == 0, text
    expected = outcome(directory / "good")
    ends, bad = collections.Counter(), 0
    for i in range(count):
        workdir = directory / f"damage{i}"
        shutil.copytree(directory / "good", workdir)
        file = rng.choice(run_files(workdir))
        what = f"{file.relative_to(workdir)}, {damage(file, rng)}"
        code, text = finish(workdir)
        if code == 0 and outcome(workdir) == expected:
            end = "same bits"
        elif code == 2 and one_sentence(text):
            end = "one sentence"
        else:
            end = "wrong"
            bad += 1
            print(f"damage {i + 1}: {what}: exit code {code}\n{text}", flush=True)
        ends[end] += 1
        shutil.rmtree(workdir, ignore_errors=True)
    told = ", ".join(f"{n} {name}" for name, n in ends.most_common())
    print(f"{count} damaged files: {told}")
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--damages", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="faults_") as directory:
        wrong = try_kills(arguments.kills, rng, pathlib.Path(directory)) if arguments.kills else 0
        if arguments.damages:
            wrong += try_damages(arguments.damages, rng, pathlib.Path(directory))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
