"""Sweeps: their directory, failures, several processes, interruption."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
import types

import jax
import pytest

from cnn_jax import config, data, errors, identity, records, train
from cnn_jax.display import Silent
from cnn_jax.reports import tables
from cnn_jax.sweeps import driver, halving, population, spaces, sweep_record
from experiments import cluster
from tests import commands
from tests.recorded_runs import write_run

ROOT = pathlib.Path(__file__).parent.parent


def base(**changes):
    tree = config.Config(
        dataset=config.DatasetConfig(name="fashion_mnist_mini", train_examples=200),
        model=config.ModelConfig(name="softmax"),
        records=config.RecordsConfig(tensorboard=False, figures=False),
        epochs=1,
        batch_size=50,
    )
    return dataclasses.replace(tree, **changes)


def silent(trials):
    return Silent()


# The directory


def claim(directory, trials, tree=None):
    sweep_record.claim_directory(
        directory, sweep_record.make_record("softmax.py", {}, tree or base(), trials)
    )


def test_a_directory_keeps_to_its_sweep(tmp_path):
    axes = {"model.hidden": ((16,), (8,)), "seed": (0, 1)}
    tree = base(model=config.ModelConfig(name="mlp"))
    trials = spaces.expand(tree, axes)
    claim(tmp_path, trials, tree)
    claim(tmp_path, trials, tree)
    assert sweep_record.read_record(tmp_path)["trials"][trials[0].name] == {
        "model.hidden": [16],
        "seed": 0,
    }
    freely = dataclasses.replace(tree, records=config.RecordsConfig(figures=False))
    claim(tmp_path, spaces.expand(freely, axes), freely)
    with pytest.raises(records.RunDirectoryError, match=r"another sweep, of 4 trials.*seed=2, not"):
        claim(tmp_path, spaces.expand(tree, {**axes, "seed": (0, 1, 2)}), tree)
    other = dataclasses.replace(tree, batch_size=2)
    with pytest.raises(records.RunDirectoryError, match=r"config\.batch_size=\d+, here 2"):
        claim(tmp_path, spaces.expand(other, axes), other)


def test_a_sweep_goes_on_to_more_epochs_unless_its_learning_rate_depends_on_them(tmp_path):
    tree, axes = base(epochs=2), {"seed": (0,)}
    (trial,) = spaces.expand(tree, axes)
    claim(tmp_path, [trial], tree)
    write_run(tmp_path / trial.name, trial.config, [0.5, 0.6])
    (tmp_path / trial.name / "checkpoints" / "20").mkdir(parents=True)
    assert sweep_record.find_result(tmp_path, trial)["epoch"] == 2
    for epochs, found in [(1, 1), (3, None)]:
        other = base(epochs=epochs)
        claim(tmp_path, spaces.expand(other, axes), other)
        row = sweep_record.find_result(tmp_path, spaces.expand(other, axes)[0])
        assert (row and row["epoch"]) == found
    assert sweep_record.read_record(tmp_path)["base"]["epochs"] == 3
    other = config.with_values(base(epochs=5), {"optimizer.schedule": "cosine"})
    with pytest.raises(
        records.RunDirectoryError, match=r"optimizer\.schedule='constant', here 'cos"
    ):
        claim(tmp_path, spaces.expand(other, axes), other)


def inverted(dataset):
    """Other data under the same name."""
    return dataset._replace(train_images=255 - dataset.train_images, fingerprint="")


def test_a_sweep_keeps_to_its_data(tmp_path, monkeypatch, mini):
    trials = sweep_record.identify_trials(spaces.expand(base(), {"seed": (0, 1)}))
    assert [trial.data for trial in trials] == [identity.identify_data(mini)] * 2
    claim(tmp_path, trials)
    claim(tmp_path, trials)
    monkeypatch.setattr(data, "load", lambda name, folder=None, keep=True: inverted(mini))
    changed = sweep_record.identify_trials(spaces.expand(base(), {"seed": (0, 1)}))
    with pytest.raises(records.RunDirectoryError, match=r"a sweep on other data: .* of fashion"):
        claim(tmp_path, changed)
    # What an earlier version began says nothing of its data, and goes on.
    file = tmp_path / "sweep.json"
    record = json.loads(file.read_text())
    del record["data"]
    file.write_text(json.dumps(record))
    claim(tmp_path, changed)


def test_a_sweep_over_data_sets_knows_each_and_those_that_are_missing_fail_alone(tmp_path):
    names = ("fashion_mnist_mini", "synthetic:train=100,test=20", str(tmp_path / "none.npz"))
    trials = sweep_record.identify_trials(spaces.expand(base(), {"dataset.name": names}))
    first, second, missing = (trial.data for trial in trials)
    assert None not in (first, second)
    assert first != second
    assert missing is None
    claim(tmp_path / "sweep", trials)
    record = sweep_record.read_record(tmp_path / "sweep")["data"]
    assert record == {names[0]: first.arrays, names[1]: second.arrays}
    claim(tmp_path / "sweep", trials)
    ((outcome,)) = driver.run_trials(trials[2:], tmp_path, driver.train_alone(tmp_path, silent))
    assert outcome.row is None
    assert "none.npz" in outcome.error
    assert not outcome.diverged


def test_trials_after_the_data_were_swapped_fail_and_those_before_are_refused(
    tmp_path, monkeypatch, mini
):
    trials = sweep_record.identify_trials(spaces.expand(base(), {"seed": (0, 1)}))
    (first,) = driver.run_trials(trials[:1], tmp_path, driver.train_alone(tmp_path, silent))
    monkeypatch.setattr(data, "load", lambda name, folder=None, keep=True: inverted(mini))
    (second,) = driver.run_trials(trials[1:], tmp_path, driver.train_alone(tmp_path, silent))
    assert second.row is None
    assert "fashion_mnist_mini has changed since the other trials began" in second.error
    assert second.blocked
    assert sweep_record.find_result(tmp_path, trials[0]) == first.row
    again = sweep_record.identify_trials(spaces.expand(base(), {"seed": (0,)}))
    with pytest.raises(records.RunDirectoryError, match="seed=0 was trained on other data"):
        sweep_record.find_result(tmp_path, again[0])
    # A run of an earlier version says nothing of its data.
    (tmp_path / "seed=0" / "environment.json").write_text("{}")
    assert sweep_record.find_result(tmp_path, again[0]) == first.row


def test_a_run_directory_is_no_sweep_directory(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(records.RunDirectoryError, match="directory of a single run"):
        claim(tmp_path, spaces.expand(base(), {"seed": (0,)}))


# Running


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A trial that diverges and one that learns."""
    directory = tmp_path_factory.mktemp("sweep")
    trials = spaces.expand(base(), {"optimizer.learning_rate": (1e38, 0.1)})
    claim(directory, trials)
    with jax.debug_nans(False):
        outcomes = list(driver.run_trials(trials, directory, driver.train_alone(directory, silent)))
    return directory, trials, outcomes


def test_a_diverged_trial_is_recorded_and_the_others_go_on(swept):
    directory, trials, outcomes = swept
    assert [o.trial.name for o in outcomes] == [trial.name for trial in trials]
    assert [o.row is None for o in outcomes] == [True, False]
    assert "not finite" in outcomes[0].error
    error = json.loads((directory / trials[0].name / "error.json").read_text())
    assert error["kind"] == "DivergedError"
    assert error["error"] == outcomes[0].error
    assert "Traceback" in error["traceback"]
    for trial, outcome in zip(trials[1:], outcomes[1:], strict=True):
        run = directory / trial.name
        assert records.read_metrics(run)[-1] == outcome.row
        assert records.read_config(run) == config.resolve(trial.config)
        assert not (run / "error.json").exists()
        assert outcome.seconds > 0


def test_nothing_is_run_twice(swept, monkeypatch):
    directory, trials, outcomes = swept
    monkeypatch.setattr(train, "train_and_evaluate", None)  # a call would fail
    again = list(driver.run_trials(trials, directory, driver.train_alone(directory, silent)))
    assert [(o.row, o.error, o.seconds) for o in again] == [
        (o.row, o.error, None) for o in outcomes
    ]


def test_a_trial_without_its_last_checkpoint_is_not_finished(swept):
    directory, trials, outcomes = swept
    run = directory / trials[1].name
    step = str(outcomes[1].row["step"])
    (run / "checkpoints" / step).rename(run / "aside")
    assert sweep_record.find_result(directory, trials[1]) is None
    (run / "aside").rename(run / "checkpoints" / step)
    assert sweep_record.find_result(directory, trials[1]) == outcomes[1].row
    other = trials[1]._replace(config=base(batch_size=25))
    assert sweep_record.find_result(directory, other) is None


def test_the_table_shows_the_best_first_and_says_what_was_measured(swept):
    outcomes = swept[2]
    table = tables.trial_table(outcomes)
    lines = table.splitlines()
    header = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert header == ["learning_rate", "test accuracy", "test loss", "train loss"]
    best = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert best[:2] == ["0.1", f"{outcomes[1].row['test_accuracy']:.4f}"]
    assert [cell.strip() for cell in lines[3].strip("|").split("|")][:2] == ["1e+38", "failed"]
    assert "not finite" in table
    assert "Accuracy of the test set" in table


def fake_training(log, fail=()):
    """Stands for training where only the bookkeeping matters: the real records, no network."""

    def train_and_evaluate(settings, workdir, display=None, stop=None, dataset=None):
        settings = config.resolve(settings)
        with records.RunDirectory(workdir, settings) as run:
            log.append(pathlib.Path(workdir).name)
            if settings.seed in fail:
                raise OSError("disk full\nmore")
            row = dict.fromkeys(records.Row.__annotations__, 0.5) | {"epoch": 1, "step": 4}
            (run.path / "checkpoints" / "4").mkdir(parents=True)
            run.append_metrics(row)
        return row

    return train_and_evaluate


def test_other_failures_are_tried_again_by_the_next_command(tmp_path, monkeypatch):
    trials = spaces.expand(base(), {"seed": (0, 1, 2)})
    log = []
    monkeypatch.setattr(train, "train_and_evaluate", fake_training(log, fail=(1,)))
    outcomes = list(driver.run_trials(trials, tmp_path, driver.train_alone(tmp_path, silent)))
    assert [o.error for o in outcomes] == [None, "disk full", None]
    assert log == ["seed=0", "seed=1", "seed=2"]
    monkeypatch.setattr(train, "train_and_evaluate", fake_training(log))
    outcomes = list(driver.run_trials(trials, tmp_path, driver.train_alone(tmp_path, silent)))
    assert sorted(o.trial.name for o in outcomes if o.error is None) == log[:3]
    assert log[3:] == ["seed=1"]
    assert not (tmp_path / "seed=1" / "error.json").exists()


def test_a_trial_that_another_process_holds_is_passed_over_and_looked_at_again(
    tmp_path, monkeypatch
):
    trials = spaces.expand(base(), {"seed": (0, 1)})
    log = []
    training = fake_training(log)
    monkeypatch.setattr(train, "train_and_evaluate", training)
    monkeypatch.setattr(driver, "WAIT_SECONDS", 0.0)
    other = records.RunDirectory(tmp_path / "seed=0", config.resolve(trials[0].config))
    other.__enter__()
    waits = []

    def wait(count):
        waits.append(count)
        other.__exit__()
        training(trials[0].config, tmp_path / "seed=0")  # the other process finishes it

    outcomes = list(
        driver.run_trials(trials, tmp_path, driver.train_alone(tmp_path, silent), wait=wait)
    )
    assert waits == [1]
    assert [(o.trial.name, o.error) for o in outcomes] == [("seed=1", None), ("seed=0", None)]
    assert log == ["seed=1", "seed=0"]
    assert outcomes[1].seconds is None


# Successive halving


@pytest.mark.parametrize(
    ("epochs", "first", "factor", "expected"),
    [(10, 1, 3, [1, 3, 9, 10]), (9, 1, 3, [1, 3, 9]), (10, 2, 4, [2, 8, 10]), (3, 2, 9, [2, 3])],
)
def test_stops_of_halving(epochs, first, factor, expected):
    assert halving.list_stops(epochs, first, factor) == expected


@pytest.mark.parametrize(("first", "factor"), [(0, 3), (10, 3), (1, 1)])
def test_halving_without_sense_is_refused(first, factor):
    with pytest.raises(config.ConfigError, match="a first stop between 1 and 9 epochs"):
        halving.list_stops(10, first, factor)


def test_halving_trains_the_best_on():
    dataset = config.DatasetConfig(name="fashion_mnist_mini", holdout=0.1)
    trials = spaces.expand(base(dataset=dataset, epochs=4), {"seed": tuple(range(7))})
    accuracies = {1: [0.3, 0.9, None, 0.5, 0.7, 0.1, 0.6], 3: [0, 0.2, 0, 0, 0.8, 0, 0.4]}
    trained = []

    def train_until(left, epoch):
        trained.append((epoch, [trial.config.seed for trial in left]))
        for trial in left:
            value = accuracies.get(epoch, [0.5] * 7)[trial.config.seed]
            row = None if value is None else {"test_accuracy": value, "epoch": epoch}
            yield driver.Outcome(trial, row, None if row else "diverged", 1.0)

    outcomes = list(halving.halve_trials(trials, [1, 3, 4], 3, train_until))
    assert trained == [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [1, 4, 6]), (4, [4])]
    assert len(outcomes) == 7 + 3 + 1


def test_halving_ends_where_all_have_failed():
    dataset = config.DatasetConfig(name="fashion_mnist_mini", holdout=0.1)
    trials = spaces.expand(base(dataset=dataset, epochs=4), {"seed": (0, 1, 2)})
    stops = []

    def train_until(left, epoch):
        stops.append((epoch, len(left)))
        for trial in left:
            row = {"test_accuracy": 0.5, "epoch": 1} if epoch == 1 else None
            yield driver.Outcome(trial, row, None if row else "diverged", 1.0, not row)

    outcomes = list(halving.halve_trials(trials, [1, 3, 4], 3, train_until))
    assert stops == [(1, 3), (3, 1)]
    assert [outcome.diverged for outcome in outcomes] == [False] * 3 + [True]


def test_a_sweep_of_which_nothing_was_trained_to_its_end_says_so(tmp_path, capsys):
    module = commands.load("sweep")
    trials = spaces.expand(base(epochs=4), {"seed": (0, 1)})
    row = dict.fromkeys(records.Row.__annotations__, 0.5) | {"epoch": 1, "step": 4}
    stopped = driver.Outcome(trials[0], row, None, 1.0)
    failed = driver.Outcome(trials[1], None, "not finite", 1.0, True)
    whole = stopped._replace(row=row | {"epoch": 4})
    for outcomes, expected in (
        ([stopped, failed], "No trial was trained to its end: 1 of 2 trials failed; error.json"),
        ([whole, failed], "1 of 2 trials failed; error.json"),
    ):
        assert module.summarize(outcomes, 0, trials, tmp_path) == 1
        assert capsys.readouterr().err.startswith(expected)


def test_halving_does_not_go_with_a_sweep_over_epochs():
    held_out = base(dataset=config.DatasetConfig(name="fashion_mnist_mini", holdout=0.1))
    trials = spaces.expand(held_out, {"epochs": (1, 2)})
    with pytest.raises(config.ConfigError, match="don't sweep over epochs as well"):
        list(halving.halve_trials(trials, [1, 2], 2, None))


def test_halving_does_not_choose_by_the_test_set():
    with pytest.raises(config.ConfigError, match="must not be the test set's"):
        list(halving.halve_trials(spaces.expand(base(), {"seed": (0, 1)}), [1, 2], 2, None))


def test_a_trial_trained_until_some_epoch_goes_on_later(tmp_path):
    (trial,) = spaces.expand(base(epochs=3), {"seed": (0,)})

    def until(epoch):
        attempt = driver.train_alone(tmp_path, silent, driver.stop_at_epoch(epoch))
        (outcome,) = driver.run_trials([trial], tmp_path, attempt, until=epoch)
        return outcome

    first, third = until(1), until(3)
    assert (first.row["epoch"], third.row["epoch"]) == (1, 3)
    again = until(1)  # it has gone further
    assert again.row == first.row
    assert again.seconds is None
    whole = train.train_and_evaluate(trial.config, tmp_path / "whole", Silent())
    times = ("seconds", "examples_per_second")
    assert {k: v for k, v in third.row.items() if k not in times} == {
        k: v for k, v in whole.items() if k not in times
    }
    table = tables.trial_table([first, third._replace(trial=trial._replace(name="other"))])
    assert [cell.strip() for cell in table.splitlines()[2].split("|")][2] == "3"


# Jobs


class Here:
    """submitit's interface, but a job runs in this process, at once; the third one dies."""

    folder = "jobs"

    def __init__(self):
        self.count = 0

    @contextlib.contextmanager
    def batch(self):
        yield

    def submit(self, function, *arguments):
        self.count += 1
        dies = self.count == 3
        result = None if dies else function(*arguments)
        error = RuntimeError("Job has not produced any output\nout of memory") if dies else None
        return types.SimpleNamespace(
            job_id=str(self.count),
            done=lambda: True,
            exception=lambda: error,
            result=lambda: result,
        )


def test_trials_as_jobs_of_submitit(tmp_path):
    trials = spaces.expand(base(), {"seed": (0, 1, 2), "optimizer.learning_rate": (0.1, 0.2)})
    directory = tmp_path / "sweep"
    claim(directory, trials)

    def run(executor):
        said = []
        groups = population.group_alike(2)(trials)
        return list(cluster.run_jobs(executor, groups, directory, said.append)), said

    outcomes, said = run(Here())
    assert [o.trial.name for o in outcomes] == [t.name for t in trials[:4]]
    assert all(o.error is None and o.row["epoch"] == 1 for o in outcomes)
    assert said == [
        "submitted 3 jobs, 1 to 3",
        "their logs are in jobs",
        "job 3 failed: out of memory",
    ]
    again, said = run(Here())
    assert [o.trial.name for o in again] == [t.name for t in trials]
    assert said[0] == "submitted 1 jobs, 1 to 1"
    assert run(None)[1] == []  # nothing is left


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("slurm", [], "--cluster=slurm needs to know how long a job may take"),
        ("slurm", ["timeout_min=5"], "submitit can't submit to slurm: "),
        ("local", ["timeout_min"], "--cluster_options=timeout_min must be a name=value"),
        ("local", ["password"], "--cluster_options=password must"),
        ("local", ["token=hunter2"], "submitit can't submit to local: "),
        ("local", ["minutes=3"], "submitit can't submit to local: .*minutes"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_one_sentence(tmp_path, kind, options, expected):
    with pytest.raises(config.ConfigError, match=expected) as error:
        cluster.make_executor(kind, tmp_path, options)
    assert "hunter2" not in str(error.value)


# The command


def start(*arguments):
    command = [sys.executable, "-m", "experiments.sweep", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def test_a_dry_run_lists_commands_that_make_the_trials_and_writes_nothing(tmp_path):
    workdir = tmp_path / "sweep"
    done = commands.run(
        "experiments.sweep",
        "--config=experiments/configs/lenet.py:pool=max",
        f"--workdir={workdir}",
        "--grid=model.channels=(6,16),(8,24)",
        "--grid=model.kernel_init=None,torch",
        "--config.epochs=2",
        "--dry_run",
    )
    assert done.returncode == 0, done.stderr
    assert not workdir.exists()
    assert done.stdout.startswith("4 trials in ")
    last = shlex.split(done.stdout.splitlines()[-1])
    assert last[:3] == ["python", "-m", "experiments.train"]
    done = commands.run(*last[2:], "--print_config")
    tree = json.loads(done.stdout)
    assert tree["model"]["channels"] == [8, 24]
    assert (tree["model"]["kernel_init"], tree["model"]["pool"]) == ("torch", "max")
    assert tree["epochs"] == 2
    name = "model.channels=(8,24),model.kernel_init=torch"
    assert last[-1] == f"--workdir={workdir / name}"


@pytest.mark.slow
def test_the_command_stops_at_a_signal_and_goes_on(tmp_path):
    arguments = [
        "--config=experiments/configs/softmax.py:smoke",
        f"--workdir={tmp_path / 'sweep'}",
        "--grid=seed=0,1",
        "--config.epochs=1",
        "--config.records.figures=False",
    ]
    process = start(*arguments)
    assert process.stdout.readline().startswith("[1/2] seed=0  test accuracy 0.")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "1 of 2 trials are left; the same command goes on from there." in out
    assert "Traceback" not in err
    process = start(*arguments)
    out, err = process.communicate()
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert lines[0].endswith("(finished before)")
    assert any(line.startswith("[2/2] seed=1  test accuracy 0.") for line in lines)
    assert "experiments.report" in lines[-1]


@pytest.mark.slow
def test_the_command_halves_and_makes_jobs_and_a_population_stops_at_a_signal(tmp_path):
    common = [
        "--config=experiments/configs/softmax.py:smoke",
        "--config.dataset.holdout=0.1",
        "--config.epochs=3",
        "--grid=seed=0,1,2",
        "--config.records.figures=False",
    ]
    halving = start(*common, f"--workdir={tmp_path / 'halving'}", "--halving=2")
    out, err = halving.communicate()
    assert halving.returncode == 0, err
    assert [line for line in out.splitlines() if line.startswith("until")] == [
        "until epoch 1: 3 trials",
        "until epoch 2: 2 trials",
        "until epoch 3: 1 trials",
    ]
    jobs = start(*common, f"--workdir={tmp_path / 'jobs'}", "--cluster=local")
    out, err = jobs.communicate()
    assert jobs.returncode == 0, err
    assert out.startswith("submitted 3 jobs")
    assert "[3/3] seed=" in out

    together = [*common, "--config.epochs=100000", f"--workdir={tmp_path / 'together'}"]
    process = start(*together, "--population=3")
    while not list((tmp_path / "together").glob("*/metrics.jsonl")):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "interrupted by SIGTERM" in out
    assert "3 of 3 trials are left; the same command goes on from there." in out
    rows = [records.read_metrics(tmp_path / "together" / f"seed={i}") for i in range(3)]
    assert len({len(own) for own in rows}) == 1


@pytest.mark.slow
def test_two_processes_share_a_sweep_and_one_is_killed(tmp_path):
    workdir = tmp_path / "sweep"
    arguments = [
        "--config=experiments/configs/softmax.py:smoke",
        f"--workdir={workdir}",
        "--grid=seed=0,1,2,3",
        "--config.epochs=2",
        "--config.records.figures=False",
    ]
    first, second = start(*arguments), start(*arguments)
    while not list(workdir.glob("*/environment.json")):
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    out, err = second.communicate()
    assert second.returncode == 0, err
    finished = [line.split()[1] for line in out.splitlines() if line.startswith("[")]
    assert sorted(finished) == ["seed=0", "seed=1", "seed=2", "seed=3"]
    for name in finished:
        rows = records.read_metrics(workdir / name)
        assert [row["epoch"] for row in rows] == [1, 2]
    # Nothing is left to train.
    third = start(*arguments)
    out, err = third.communicate()
    assert out.count("(finished before)") == 4


def test_what_a_record_says_of_data_is_shown_without_escape_codes(tmp_path):
    base = config.with_values(config.Config(), {"dataset.name": "fashion_mnist_mini"})
    trials = [spaces.Trial("a", {"seed": 0}, base)]
    record = sweep_record.make_record("x.py", {}, base, trials)
    sweep_record.claim_directory(tmp_path, {**record, "data": {"mini": "\x1b[31m\n"}})
    with pytest.raises(records.RunDirectoryError, match="on other data") as error:
        sweep_record.claim_directory(tmp_path, {**record, "data": {"mini": "0" * 16}})
    assert not set("\x1b\n") & set(str(error.value))


def test_trials_of_other_classes_are_of_other_data(tmp_path):
    axes = {"dataset.classes": ((0, 1), (2, 3))}
    trials = sweep_record.identify_trials(spaces.expand(base(), axes))
    assert trials[0].data.arrays == trials[1].data.arrays
    assert trials[0].data.class_names != trials[1].data.class_names
    dataset = driver.load_trial_data(trials[1])
    assert len(dataset.class_names) == 2
    with pytest.raises(errors.DataError, match=r"there the classes are .*, here"):
        driver.load_trial_data(trials[1]._replace(data=trials[0].data))
    (wrong,) = spaces.expand(base(), {"dataset.classes": ((0, 77),)})
    assert sweep_record.identify_trials([wrong])[0].data is None
