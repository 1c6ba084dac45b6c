"""The loop of many trials: its lines and exit codes, through a stop in the middle and a resume."""

import re
import signal

import pytest

from cnn_jax import config, records, train
from cnn_jax.sweeps import driver, spaces
from experiments import trial_loop
from tests.test_commands import ROOT, run_all
from tests.test_sweep import base, fake_training

SOFTMAX = f"--config={ROOT}/experiments/configs/softmax.py"
SMALL = (
    "--config.epochs=1",
    "--config.dataset.train_examples=500",
    "--config.records.figures=False",
)
# The arguments of each command, its trials, what its lines measure, and how a stop is told of.
LEFT = "3 of 4 trials are left; the same command goes on from there."
STOPPED = "stopped; the same command goes on from there."
COMMANDS = {
    "sweep": ([SOFTMAX, *SMALL, "--workdir=runs", "--grid=seed=0,1,2,3"], 4, "test", LEFT),
    "results": (
        ["--rows=softmax", "--workdir=runs", "--output=r.md", "--readme="],
        5,
        "test",
        STOPPED,
    ),
    "ablation": (
        [
            SOFTMAX,
            *SMALL,
            f"--plain={ROOT}/experiments/configs/softmax.py",
            *(option.replace("config", "plain") for option in SMALL),
            "--plain.optimizer.learning_rate=0.2",
            "--config.optimizer.momentum=0.5",
            "--workdir=runs",
            "--noalone",
            "--seeds=0,1",
        ],
        4,
        "test",
        STOPPED,
    ),
    "search": (
        [
            SOFTMAX,
            *SMALL,
            "--config.dataset.holdout=0.1",
            "--workdir=runs",
            "--trials=3",
            "--sample=optimizer.learning_rate=log:1e-2,1",
        ],
        3,
        "held-out",
        "",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_stops_in_the_middle_and_goes_on_to_its_end(name, tmp_path):
    arguments, count, part, told = COMMANDS[name]
    # After the last step of a trial, which it finishes (but results have more epochs); at the start
    # of an epoch, within which it is saved; never.
    moments = ("end_epoch", "start_epoch", "never")
    wanted = [("tests.stopping", (moment, name, *arguments)) for moment in moments]
    (code, first, err), (again, second, _), (done, third, error) = run_all(wanted, tmp_path)
    assert (code, again, done) == (128 + signal.SIGTERM, 128 + signal.SIGTERM, 0), err + error
    assert (err, error) == ("", "")
    assert told in first
    assert re.search(r"interrupted by SIGTERM; saved at step \d+\n", second)
    lines = [re.findall(r"^\[.*$", out, re.M) for out in (first, second, third)]
    begins = rf"\[\d/{count}\] \S+  {part} accuracy 0\.\d{{4}}"
    ends = r"(  \d+\.\d s(, about \d+ s left)?|  \(finished before\))"
    assert all(re.fullmatch(begins + ends, line) for own in lines for line in own)
    finished = [sum("finished before" in line for line in own) for own in lines]
    if name == "search":  # which tells of every trial once
        assert [len(own) for own in lines] == [1, 0, count - 1]
    elif name == "results":
        assert [len(own) for own in lines] == [0, 0, count]
        assert finished == [0, 0, 0]
    else:
        assert [len(own) for own in lines] == [1, 1, count]
        assert finished == [0, 1, 1]
        assert "left" in lines[0][0]
    assert lines[2][-1].startswith(f"[{count}/{count}]")
    assert "left" not in lines[2][-1]


def run_small_study(tmp_path, monkeypatch, training):
    monkeypatch.setattr(train, "train_and_evaluate", training)
    return trial_loop.run_study(spaces.expand(base(), {"seed": (0, 1, 2)}), tmp_path)


def test_a_study_of_which_some_fail_goes_on_and_ends_with_1(tmp_path, monkeypatch, capsys):
    log = []
    assert run_small_study(tmp_path, monkeypatch, fake_training(log, fail=(1,))) == 1
    out, err = capsys.readouterr()
    assert re.sub(r"\d+(\.\d)? s", "… s", out).splitlines() == [
        "[1/3] seed=0  test accuracy 0.5000  … s, about … s left",
        "[2/3] seed=1  failed: disk full",
        "[3/3] seed=2  test accuracy 0.5000  … s",
    ]
    assert err == "1 of 3 trials failed; error.json in their directories says why.\n"
    assert run_small_study(tmp_path, monkeypatch, fake_training(log)) == 0
    assert log == ["seed=0", "seed=1", "seed=2", "seed=1"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_between_two_trials_stops_a_study(tmp_path, monkeypatch, capsys, signum):
    log = []
    training = fake_training(log)

    def interrupted(*arguments):
        if len(log) == 1:
            signal.raise_signal(signum)
        return training(*arguments)

    before = signal.getsignal(signum)
    assert run_small_study(tmp_path, monkeypatch, interrupted) == 128 + signum
    assert capsys.readouterr().out.splitlines()[1:] == [
        "stopped; the same command goes on from there."
    ]
    assert signal.getsignal(signum) == before
    assert run_small_study(tmp_path, monkeypatch, training) == 0
    assert log == ["seed=0", "seed=1", "seed=2"]


def test_ctrl_c_is_signal_2(capsys):
    def outcomes():
        yield "one"
        raise KeyboardInterrupt

    with trial_loop.StopSignals() as signals:
        ended = trial_loop.print_outcomes(outcomes(), str, signals)
    assert ended == (["one"], signal.SIGINT)
    assert capsys.readouterr().out == "one\n"


def test_a_signal_that_a_run_handled_is_heard_of_later():
    received = []
    with trial_loop.StopSignals() as signals:
        old = signal.signal(signal.SIGINT, lambda *given: received.append(given[0]))
        signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGINT, old)
        assert received == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signals.check()
        assert signals.received() == signal.SIGINT


def test_the_time_left_is_that_of_the_trials_before():
    trials = spaces.expand(base(), {"seed": tuple(range(12))})
    progress = trial_loop.Progress(12)
    row = {"test_accuracy": 0.25, "epoch": 1}

    def say(number, seconds, pending=0):
        progress.pending = pending + 1
        return progress.describe(driver.Outcome(trials[number], row, None, seconds))

    assert say(0, 30.0) == "[ 1/12] seed=0  test accuracy 0.2500  30.0 s, about 6 min left"
    assert say(1, 10.0, pending=1) == "[ 2/12] seed=1  test accuracy 0.2500  10.0 s"
    assert say(2, None) == "[ 3/12] seed=2  test accuracy 0.2500  (finished before)"
    assert say(3, 3560.0) == "[ 4/12] seed=3  test accuracy 0.2500  3560.0 s, about 2.7 h left"


def test_trials_that_other_processes_hold_are_waited_for(tmp_path, monkeypatch, capsys):
    log = []
    training = fake_training(log)
    (trial,) = spaces.expand(base(), {"seed": (0,)})
    other = records.RunDirectory(tmp_path / trial.name, config.resolve(trial.config))
    other.__enter__()

    def finish(seconds):
        other.__exit__()
        training(trial.config, tmp_path / trial.name)

    monkeypatch.setattr(train, "train_and_evaluate", training)
    monkeypatch.setattr(driver.time, "sleep", finish)
    assert trial_loop.run_study([trial], tmp_path) == 0
    assert capsys.readouterr().out.splitlines() == [
        "waiting for 1 trials that other processes are training",
        "[1/1] seed=0  test accuracy 0.5000  (finished before)",
    ]
