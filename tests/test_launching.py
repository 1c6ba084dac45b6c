"""Launching on clusters: preempted and requeued, a run ends in the same bits."""

import importlib.util
import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import time

import psutil
import pytest
import yaml

from cnn_jax import checkpoints, config, hashes, records, train
from cnn_jax.sweeps import spaces
from experiments import cluster
from tests import commands
from tests.test_train import assert_same, numbers

ROOT = pathlib.Path(__file__).parent.parent
LAUNCHING = ROOT / "experiments/launching"
SBATCH = LAUNCHING / "slurm.sbatch"


def settings(**changes):
    return config.Config(
        dataset=config.DatasetConfig(name="fashion_mnist_mini", train_examples=500),
        model=config.ModelConfig(name="mlp_dropout", hidden=(32,), dropout=(0.2,)),
        records=config.RecordsConfig(tensorboard=False, figures=False),
        batch_size=50,
        **changes,
    )


def outcome(run):
    rows = [numbers(row) for row in records.read_metrics(run)]
    return rows, checkpoints.restore_variables(run)


# The files


def load(name):
    return yaml.safe_load((LAUNCHING / name).read_text())


def job_template():
    (replicated,) = load("jobset.yaml")["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def pod():
    return job_template()["template"]["spec"]


def scripts():
    """Every shell script of the files, by name."""
    task = load("skypilot.yaml")
    (container,) = pod()["containers"]
    return {
        "slurm": SBATCH.read_text(),
        "jobset": "#!/bin/bash\n" + container["args"][0],
        "skypilot setup": "#!/bin/bash\n" + task["setup"],
        "skypilot run": "#!/bin/bash\n" + task["run"],
    }


@pytest.fixture
def folder(tmp_path):
    """An empty folder with commands that write down what they are given, in calls.jsonl.

    `python` ends with the number in the file code.
    """
    write = "import json, sys; open('calls.jsonl', 'a').write(json.dumps(sys.argv[1:]) + '\\n')"
    note = f'{sys.executable} -c "{write}"'
    for name, body in {
        "python": f'{note} python "$@" "JAX_LOCAL_DEVICE_IDS=$JAX_LOCAL_DEVICE_IDS"\n'
        "exit $(cat code)",
        "scontrol": f'{note} scontrol "$@"',
        "srun": 'exec "$@"',
    }.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/bash\n{body}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv/bin").symlink_to(tmp_path / "bin")
    (tmp_path / "code").write_text("0")
    return tmp_path


def bash(folder, script, *arguments, **variables):
    """Runs a script in a folder; returns its exit code, its errors and what it called."""
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HOME": str(folder), **variables}
    done = subprocess.run(
        ["bash", "-c", script, "script", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    calls = folder / "calls.jsonl"
    called = [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []
    calls.unlink(missing_ok=True)
    return done.returncode, done.stderr, called


def train_arguments(call):
    assert call[:3] == ["python", "-m", "experiments.train"]
    return call[3:-1]


def assert_read_by_train(arguments):
    wanted = json.dumps([["train", arguments]])
    ((code, error),) = json.loads(commands.run("tests.parsing", wanted).stdout)
    assert (code, error) == (0, "")


SLURM = {
    "SLURM_JOB_ID": "71",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_NTASKS": "1",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_GPUS_ON_NODE": "1",
    "SLURM_RESTART_COUNT": "0",
    "PYTHON": "python",
    "RUNS": "runs",
}


@pytest.mark.parametrize("name", scripts())
def test_scripts_are_in_the_language_of_bash(name):
    done = subprocess.run(["bash", "-n"], input=scripts()[name], text=True, check=False)
    assert done.returncode == 0


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
@pytest.mark.parametrize("name", scripts())
def test_shellcheck_finds_nothing_in_the_scripts(name):
    command = ["shellcheck", "--shell=bash", "-"]
    done = subprocess.run(command, input=scripts()[name], text=True, check=False)
    assert done.returncode == 0


def test_slurm_is_asked_for_a_signal_and_a_restart():
    lines = SBATCH.read_text().splitlines()
    asked = {line.split()[1] for line in lines if line.startswith("#SBATCH")}
    assert {"--requeue", "--signal=USR2@180", "--open-mode=append", "--array=0-4"} <= asked
    first = next(i for i, line in enumerate(lines) if line.strip() and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])  # Slurm reads no further


def test_a_slurm_job_trains_the_seed_of_its_number(folder):
    code, error, (call,) = bash(folder, SBATCH.read_text(), "--config.epochs=2", **SLURM)
    assert (code, error) == (0, "")
    arguments = train_arguments(call)
    assert "--workdir=runs/lenet/seed=3" in arguments
    assert arguments[-2:] == ["--config.seed=3", "--config.epochs=2"]
    assert_read_by_train(arguments)


@pytest.mark.parametrize(
    ("tasks", "gpus", "flags", "devices"),
    [
        (1, 8, ["--config.parallel=jit"], ""),
        (2, 8, ["--config.parallel=jit", "--distributed"], "0,1,2,3,4,5,6,7"),  # one a node
        (16, 8, ["--config.parallel=jit", "--distributed"], ""),  # one for each GPU
    ],
)
def test_slurm_processes_share_all_gpus(folder, tasks, gpus, flags, devices):
    nodes = {"SLURM_JOB_NUM_NODES": "1" if tasks == 1 else "2"}
    layout = {**SLURM, **nodes, "SLURM_NTASKS": str(tasks), "SLURM_GPUS_ON_NODE": str(gpus)}
    _, _, (call,) = bash(folder, SBATCH.read_text(), **layout)
    assert [flag for flag in train_arguments(call) if flag in flags] == flags
    assert call[-1] == f"JAX_LOCAL_DEVICE_IDS={devices}"


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [
        (0, 0, False),
        (1, 0, False),
        (2, 0, False),
        (3, 0, True),
        (134, 0, True),
        (128 + signal.SIGUSR2, 0, True),
        (128 + signal.SIGUSR2, 49, True),
        (128 + signal.SIGUSR2, 50, False),
        (128 + signal.SIGTERM, 0, False),
    ],
)
def test_a_slurm_job_is_requeued_when_that_helps(folder, code, restarts, requeued):
    (folder / "code").write_text(str(code))
    (folder / "runs/lenet/seed=3").mkdir(parents=True)
    count = {"SLURM_RESTART_COUNT": str(restarts)}
    ended, error, calls = bash(folder, SBATCH.read_text(), **{**SLURM, **count})
    assert ended == code
    assert calls[1:] == ([["scontrol", "requeue", "71"]] if requeued else [])
    assert error.startswith("error: not started again after 50") == (restarts == 50)


def test_the_slurm_script_started_without_slurm_is_one_sentence(folder):
    code, error, calls = bash(folder, SBATCH.read_text())
    expected = "error: this file is for Slurm; submit it with sbatch script.\n"
    assert (code, error, calls) == (2, expected, [])


def test_a_slurm_job_restarted_where_its_run_is_not_is_one_sentence(folder):
    code, error, calls = bash(folder, SBATCH.read_text(), **{**SLURM, "SLURM_RESTART_COUNT": "1"})
    assert (code, calls) == (2, [])
    assert error.startswith("error: runs/lenet/seed=3, which the first start made, is not on ")
    assert len(error.splitlines()) == 1


def test_the_processes_of_a_jobset_find_each_other_and_are_all_restarted(folder):
    jobset, job, (container,) = load("jobset.yaml"), job_template(), pod()["containers"]
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    assert (job["completionMode"], job["backoffLimit"]) == ("Indexed", 0)
    assert pod()["restartPolicy"] == "Never"
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    assert job["parallelism"] == job["completions"] == int(given["PROCESSES"])
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert rule["onExitCodes"]["values"] == [1, 2]  # what would fail again
    code, error, (call,) = bash(folder, container["args"][0], **given, JOB_COMPLETION_INDEX="1")
    assert (code, error) == (0, "")
    arguments = train_arguments(call)
    assert {"--processes=2", "--process_id=1", "--distributed"} <= {*arguments}
    name, (replicated,) = jobset["metadata"]["name"], jobset["spec"]["replicatedJobs"]
    host = f"{name}-{replicated['name']}-0-0.{name}"
    (port,) = container["ports"]
    assert f"--coordinator={host}:{port['containerPort']}" in arguments
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod()["volumes"]}
    assert f"--workdir={mounts['runs']}/alexnet" in arguments  # outlives the pods
    assert_read_by_train(arguments)


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_job_of_skypilot_writes_to_its_bucket(folder, nodes):
    task = load("skypilot.yaml")
    assert task["resources"]["use_spot"]
    assert not {0, 1, 2} & {*task["resources"]["job_recovery"]["recover_on_exit_codes"]}
    ((mounted, bucket),) = task["file_mounts"].items()
    assert bucket["mode"] == "MOUNT_CACHED"
    variables = {**task["envs"], "SKYPILOT_NUM_NODES": str(nodes), "SKYPILOT_NODE_RANK": "1"}
    variables["SKYPILOT_NODE_IPS"] = "10.0.0.1\n10.0.0.2"
    code, error, (call,) = bash(folder, task["run"], **variables)
    assert (code, error) == (0, "")
    arguments = train_arguments(call)
    assert f"--workdir={mounted}/alexnet" in arguments
    several = {"--distributed", "--coordinator=10.0.0.1:8476", "--processes=2", "--process_id=1"}
    assert {*arguments} & several == (several if nodes == 2 else set())
    assert_read_by_train(arguments)


@pytest.mark.skipif(not importlib.util.find_spec("sky"), reason="skypilot is not installed")
def test_skypilot_reads_its_file(tmp_path):
    read = f"import sky; print(sky.Task.from_yaml({str(LAUNCHING / 'skypilot.yaml')!r}).resources)"
    done = subprocess.run(
        [sys.executable, "-c", read],
        cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "[Spot], {'H100': 8}" in done.stdout


# Jobs of submitit


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """Calls a job of one trial, in which training is interrupted by a signal."""

    def call(signum):
        def stop(*given):
            raise train.Interrupted(signum, 4)

        monkeypatch.setattr(train, "train_and_evaluate", stop)
        trials = spaces.expand(settings(epochs=1), {"seed": (0,)})
        return cluster.Job()(trials, tmp_path)

    return call


def test_a_job_preempted_leaves_its_signal_to_submitit_when_the_run_is_saved(interrupted):
    received = []
    old = signal.signal(signal.SIGUSR2, lambda *given: received.append(given[0]))
    try:
        with pytest.raises(SystemExit) as ended:
            interrupted(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, old)
    assert received == [signal.SIGUSR2]
    assert ended.value.code == 128 + signal.SIGUSR2


def test_a_job_that_is_told_to_end_is_not_submitted_again(interrupted):
    with pytest.raises(SystemExit) as ended:
        interrupted(signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM


def run_job(trials, directory, preemptions):
    """Trains one trial as a job, sent SIGUSR2 so often; returns its directory and its log."""
    executor = cluster.make_executor("local", directory / "jobs", ["timeout_min=10"])
    job = executor.submit(cluster.Job(), trials, directory)
    controller = psutil.Process(int(job.job_id))
    metrics, known = directory / trials[0].name / "metrics.jsonl", 0
    for _ in range(preemptions):
        while not metrics.exists() or len(metrics.read_text().splitlines()) < known + 2:
            assert controller.is_running(), job.stderr()
            time.sleep(0.05)
        (task,) = controller.children()
        task.send_signal(signal.SIGUSR2)
        task.wait(60)
        known = len(metrics.read_text().splitlines())
    (done,) = job.result()
    assert done.error is None
    return directory / done.trial.name, job.stderr()


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("submitit"), reason="submitit is not installed")
def test_a_job_preempted_and_requeued_ends_in_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    trials = spaces.expand(settings(epochs=20), {"seed": (3,)})
    preempted, log = run_job(trials, tmp_path / "preempted", 2)
    assert log.count("Requeued job") == 2
    assert len(records.read_environment(preempted)["resumed"]) == 2
    # Another job, as this process compiles with other options.
    whole, _ = run_job(trials, tmp_path / "whole", 0)
    assert_same(outcome(preempted), outcome(whole))
    assert hashes.read(preempted) == hashes.read(whole)


@pytest.mark.slow
def test_a_slurm_job_stopped_before_its_limit_resumes_to_the_same_bits(folder):
    """srun and scontrol are stand-ins; the script, the signal and the training are real."""
    values = [
        "--config.epochs=20",
        "--config.model.name=mlp_dropout",
        "--config.model.hidden=(32,)",
    ]
    values += ["--config.dataset.train_examples=500", "--config.batch_size=50"]
    values += ["--config.model.dropout=(0.2,)", "--config.records.figures=False"]
    config_file = str(ROOT / "experiments/configs/mlp_dropout.py:smoke")

    def start(runs, restarts):
        variables = {"PYTHON": sys.executable, "RUNS": runs, "PYTHONPATH": str(ROOT)}
        variables |= {"CONFIG": config_file, "SLURM_RESTART_COUNT": str(restarts)}
        path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            ["bash", str(SBATCH), *values],
            cwd=folder,
            env={**os.environ, **SLURM, **variables, "PATH": path},
        )

    preempted, whole = (folder / runs / "mlp_dropout/seed=3" for runs in ("preempted", "whole"))
    job = start("preempted", 0)
    metrics = preempted / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 2:
        assert job.poll() is None
        time.sleep(0.05)
    (process,) = psutil.Process(job.pid).children()
    process.send_signal(signal.SIGUSR2)
    assert job.wait(60) == 128 + signal.SIGUSR2
    assert json.loads((folder / "calls.jsonl").read_text()) == ["scontrol", "requeue", "71"]
    assert start("preempted", 1).wait(120) == 0
    assert start("whole", 0).wait(120) == 0
    assert len(records.read_environment(preempted)["resumed"]) == 1
    assert_same(outcome(preempted), outcome(whole))
    assert hashes.read(preempted) == hashes.read(whole)
