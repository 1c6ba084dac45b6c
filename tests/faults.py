"""Kills a short run at random moments and damages its files, many times over.

python tests/faults.py --kills=50 --damages=200 [--attacks] [--seed=0]

Every killed run must resume to the bits of an uninterrupted one; every damaged run directory must
end in those bits too, or in an error of one sentence. It takes some ten seconds per kill.

A run is killed (kill -9) in a stage drawn at random: starting, loading data, compiling, training,
saving, evaluating, writing records, ending. It tells this process through a pipe where it is; the
kill comes at a random moment within a random one of the stage's occurrences. --attacks tries what
`tests/attacks.py` has.
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
from tests import commands  # noqa: E402

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
    if kilobytes is None:
        done = commands.run(*command(workdir)[2:], JAX_PLATFORMS="cpu")
        return done.returncode, done.stdout + done.stderr
    done = subprocess.run(
        ["bash", "-c", f'ulimit -f {kilobytes}; exec "$@"', "-", *command(workdir)],
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
    arrays = flax.traverse_util.flatten_dict(
        checkpoints.restore_variables(workdir, evaluated=False)
    )
    return rows, {name: np.asarray(value).tobytes() for name, value in arrays.items()}


def run_telling(pipe):
    """Runs experiments.train with the flags in sys.argv, writing each stage it enters to a pipe."""
    stages = ["starting"]

    def tell():
        os.write(pipe, f"{stages[-1]}\n".encode())

    def telling(stage, function):
        def told(*args, **kwargs):
            stages.append(stage)
            tell()
            try:
                return function(*args, **kwargs)
            finally:
                stages.pop()
                tell()

        return told

    def wrap(owner, name, stage):
        setattr(owner, name, telling(stage, getattr(owner, name)))

    tell()
    from cnn_jax import train
    from experiments import launch
    from experiments import train as command

    build = train.build

    def build_telling(*args):
        experiment = build(*args)
        program = experiment.program
        told = program._replace(
            train_steps=telling("training", program.train_steps),
            eval_steps=telling("evaluating", program.eval_steps),
        )
        return experiment._replace(program=told)

    def ends(display, row, epochs):
        end_epoch(display, row, epochs)
        if row["epoch"] == epochs:
            stages[0] = "ending"

    end_epoch = train.Display.end_epoch
    train.Display.end_epoch = ends
    train.build = build_telling
    wrap(train, "load_dataset", "loading data")
    wrap(train.Experiment, "init_state", "compiling")
    wrap(train._Loop, "start", "compiling")
    for name in ("save", "wait", "__exit__"):
        wrap(checkpoints.Checkpoints, name, "saving")
    for name in ("write_environment", "rewrite_metrics", "append_metrics"):
        wrap(records.RunDirectory, name, "writing records")
    launch.run(command.main)


def watch(workdir, stage=None, occurrence=0, moment=0.0):
    """Runs, and kills the run after a fraction `moment` of that occurrence of the stage.

    Returns the stages it went through, each with its seconds, the last being where it ended; and
    the exit code, -SIGKILL unless it ended before the kill.
    """
    read, write = os.pipe()
    _, _, _, *flags = command(workdir)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    with open(workdir.parent / f"{workdir.name}.out", "w") as out:
        process = subprocess.Popen(
            [sys.executable, __file__, f"--telling={write}", *flags],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
            pass_fds=[write],
        )
    os.close(write)
    passed, begin, seen = [], time.monotonic(), 0
    with os.fdopen(read) as pipe:
        for line in pipe:
            now = time.monotonic()
            if passed:
                passed[-1][1] = now - begin
            begin = now
            passed.append([line.strip(), 0.0])
            seen += line.strip() == stage
            if stage is not None and line.strip() == stage and seen == occurrence:
                time.sleep(moment)
                process.send_signal(signal.SIGKILL)
                stage = None
        if passed:
            passed[-1][1] = time.monotonic() - begin
    return passed, process.wait()


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
    usual, code = watch(directory / "whole")
    assert code == 0, "the run that is not killed failed"
    expected = outcome(directory / "whole")
    stages = sorted({stage for stage, _ in usual})
    killed, wrong = collections.Counter(), 0
    i = 0
    while i < count:
        workdir = directory / f"kill{i}"
        stage = rng.choice(stages)
        lengths = [seconds for name, seconds in usual if name == stage]
        # Long occurrences are likelier, as for a kill at any moment of the stage.
        (occurrence,) = rng.choices(range(len(lengths)), lengths)
        moment = rng.uniform(0, lengths[occurrence])
        passed, code = watch(workdir, stage, occurrence + 1, moment)
        if code != -signal.SIGKILL:  # it was quicker
            shutil.rmtree(workdir, ignore_errors=True)
            continue
        i += 1
        where, _ = passed[-1]
        if any("tmp" in path.name for path in (workdir / "checkpoints").glob("*")):
            where += " (a checkpoint half written)"
        code, text = finish(workdir)
        same = code == 0 and outcome(workdir) == expected
        killed[where] += 1
        wrong += not same
        after = f"{moment:.3f} s into {stage} {occurrence + 1} of {len(lengths)}, {where}"
        print(f"kill {i}: {after}: {'same bits' if same else text}", flush=True)
        if same:
            shutil.rmtree(workdir, ignore_errors=True)
    told = ", ".join(f"{n} {name}" for name, n in killed.most_common())
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
    parser.add_argument("--attacks", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--telling", type=int, help=argparse.SUPPRESS)
    arguments, flags = parser.parse_known_args()
    if arguments.telling is not None:
        sys.argv[1:] = flags
        return run_telling(arguments.telling)
    if flags:
        parser.error(f"unknown: {flags[0]}")
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="faults_") as directory:
        wrong = try_kills(arguments.kills, rng, pathlib.Path(directory)) if arguments.kills else 0
        if arguments.damages:
            wrong += try_damages(arguments.damages, rng, pathlib.Path(directory))
        if arguments.attacks:
            from tests import attacks

            wrong += attacks.try_all(pathlib.Path(directory))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
