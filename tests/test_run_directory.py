"""A run's directory: who may write there, what is recorded at each start, and how rows are added.

test_records.py is about records that somebody damaged.
"""

import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import struct
import subprocess
import sys

import jax
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from cnn_jax import config, data, events, identity, processor, records
from cnn_jax.errors import RunDirectoryBusyError, RunDirectoryError

PLAIN = config.resolve(config.Config(model=config.ModelConfig(name="softmax")))
PLAIN.records.tensorboard = False
OTHER = config.with_values(PLAIN, {"seed": 7, "optimizer.momentum": 0.25})
FIRST = {**dict.fromkeys(records.Row.__annotations__, 0.5), "epoch": 1, "step": 10}
SECOND = {**FIRST, "epoch": 2, "step": 20}


def dataset(**changes):
    images, labels = np.zeros((2, 3, 3, 1), np.uint8), np.array([0, 1], np.int32)
    names = ("shirt", "bag")
    made = data.Dataset(images, labels, images[:1], labels[:1], names, "made", "0" * 64)
    return made._replace(**changes)


def train_a_bit(run, settings=PLAIN):
    with records.RunDirectory(run, settings) as record:
        record.append_metrics(FIRST)


# Who may write there


def test_a_directory_is_made_with_those_above_it_and_may_be_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with records.RunDirectory("a/b", PLAIN) as record:
            assert record.path == tmp_path / "a" / "b"
            assert record.writer
    assert records.read_config(tmp_path / "a" / "b") == PLAIN


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunDirectoryError) as error:
        records.RunDirectory(tmp_path / "file", PLAIN)
    assert str(error.value) == (
        f"can't write to the run directory {tmp_path / 'file'}: File exists. Choose another "
        "--workdir."
    )


def test_a_process_that_does_not_write_leaves_no_trace(tmp_path):
    with records.RunDirectory(tmp_path / "run", PLAIN, writer=False) as record:
        assert record.path == tmp_path / "run"
        record.write_environment(dataset(), {})
        record.rewrite_metrics([FIRST])
        record.append_metrics(FIRST)
    assert not list(tmp_path.iterdir())


def test_one_process_at_a_time(tmp_path):
    with records.RunDirectory(tmp_path, PLAIN):
        second = records.RunDirectory(tmp_path, PLAIN)
        with pytest.raises(RunDirectoryBusyError) as error:
            second.__enter__()
        assert str(error.value) == (
            f"another process is training in {tmp_path}; wait for it or choose another --workdir."
        )
    with second:
        pass


def test_a_file_system_without_locks_is_not_taken_for_another_process(tmp_path, monkeypatch):
    def refuse(*given):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RunDirectoryError) as error:
        records.RunDirectory(tmp_path, PLAIN).__enter__()
    assert not isinstance(error.value, RunDirectoryBusyError)
    assert str(error.value) == (
        f"can't lock the run directory {tmp_path}: Function not implemented. Choose a --workdir "
        "on a file system with locks (Lustre has them with -o flock)."
    )


def test_another_configuration_is_refused_and_the_lock_given_back(tmp_path):
    train_a_bit(tmp_path)
    (tmp_path / "error.json").write_text("{}")
    before = (tmp_path / "config.json").read_bytes()
    refused = records.RunDirectory(tmp_path, OTHER)
    momentum = PLAIN.optimizer.momentum
    with pytest.raises(RunDirectoryError) as error:
        refused.__enter__()
    assert str(error.value) == (
        f"{tmp_path} holds a run with another configuration: there config.optimizer.momentum="
        f"{momentum!r}, here 0.25. Choose another --workdir, or the same configuration to resume."
    )
    assert (tmp_path / "config.json").read_bytes() == before
    with records.RunDirectory(tmp_path, PLAIN):  # while `refused` still exists
        assert (tmp_path / "error.json").exists()  # it is of this run


def test_what_changes_no_number_is_recorded_as_it_is_now(tmp_path):
    train_a_bit(tmp_path)
    free = config.with_values(PLAIN, {"records.figures": False, "dataset.data_dir": "/elsewhere"})
    with records.RunDirectory(tmp_path, free):
        assert records.read_config(tmp_path) == free


def test_an_attempt_that_trained_nothing_is_taken_over(tmp_path):
    with records.RunDirectory(tmp_path, PLAIN) as record:
        record.rewrite_metrics([])
        record.write_environment(dataset(), {})
    (tmp_path / "error.json").write_text("{}")
    with records.RunDirectory(tmp_path, OTHER) as record:
        assert records.read_config(tmp_path) == OTHER
        assert not (tmp_path / "error.json").exists()
        record.write_environment(dataset(fingerprint="1" * 64), {"data": {"provenance": "new"}})
    environment = records.read_environment(tmp_path)
    assert environment["data"] == {"provenance": "new"}
    assert "resumed" not in environment


def test_an_error_that_cannot_be_removed_is_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "error.json").mkdir()
    with (
        pytest.raises(RunDirectoryError, match=f"can't write {re.escape(str(tmp_path))}: "),
        records.RunDirectory(tmp_path, PLAIN),
    ):
        pass


def test_checkpoints_without_a_configuration_are_left_alone(tmp_path):
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    with (
        pytest.raises(RunDirectoryError) as error,
        records.RunDirectory(tmp_path, PLAIN),
    ):
        pass
    assert str(error.value) == (
        f"{tmp_path} has checkpoints but no config.json, which would say of what; choose another "
        "--workdir."
    )
    assert not (tmp_path / "config.json").exists()


def test_what_of_a_training_could_be_lost(tmp_path):
    assert not records.was_trained(tmp_path)
    (tmp_path / "checkpoints" / "temporary.7").mkdir(parents=True)
    (tmp_path / "metrics.jsonl").write_text("")
    assert not records.has_checkpoints(tmp_path)
    assert not records.was_trained(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("\n")
    assert records.was_trained(tmp_path)
    assert not records.has_checkpoints(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "checkpoints" / "7").mkdir()
    assert records.has_checkpoints(tmp_path)
    assert records.was_trained(tmp_path)


# What is recorded at each start


def start(run, dataset, **more):
    with records.RunDirectory(run, PLAIN) as record:
        record.write_environment(dataset, more)
    return records.read_environment(run)


def test_the_first_start_is_kept_and_the_others_listed(tmp_path):
    described = {"fingerprint": "0" * 64, "class_names": ["shirt", "bag"], "provenance": "here"}
    first = start(tmp_path, dataset(), data=described, population={"members": 3})
    assert first["data"] == described
    assert first["population"] == {"members": 3}
    train_a_bit(tmp_path)
    second = start(tmp_path, dataset(provenance="there"), data=described)
    (resumed,) = second.pop("resumed")
    assert second == first
    assert set(resumed) == set(first) - {"data", "population"}
    moved = {**described, "provenance": "moved"}
    third = start(tmp_path, dataset(), data=moved)
    assert third["resumed"][0] == resumed
    assert third["resumed"][1]["data"] == moved
    assert len(third["resumed"]) == 2


def test_other_data_are_refused_and_nothing_is_written(tmp_path):
    start(tmp_path, dataset(), data={"fingerprint": "0" * 64, "class_names": ["shirt", "bag"]})
    train_a_bit(tmp_path)
    before = (tmp_path / "environment.json").read_bytes()
    with pytest.raises(RunDirectoryError) as error:
        start(tmp_path, dataset(fingerprint="1" * 64))
    changed = identity.compare_data(
        identity.DataIdentity("0" * 16, ("shirt", "bag")),
        identity.DataIdentity("1" * 16, ("shirt", "bag")),
    )
    assert str(error.value) == (
        f"{tmp_path} holds a run on other data: {changed}. Put back the data that it was trained "
        "on, or choose another --workdir."
    )
    assert (tmp_path / "environment.json").read_bytes() == before


def test_environment(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "x", "--token=abc", "--seed=1"])
    monkeypatch.setenv("XLA_FLAGS", "--xla_flag=1")
    monkeypatch.setattr(records, "source_revision", lambda: {"commit": "abc", "clean": True})
    found = records.environment()
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}"
    assert re.fullmatch(time, found.pop("time"))
    options = {name: getattr(jax.config, name) for name in records.JAX_OPTIONS}
    assert found == {
        "command": [sys.executable, "-m", "x", "--token=***", "--seed=1"],
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "source": {"commit": "abc", "clean": True},
        "platform": platform.platform(),
        "processor": records._processor(),
        "cores": os.cpu_count(),
        "devices": [device.device_kind for device in jax.devices()],
        "backend": jax.default_backend(),
        "processes": 1,
        "XLA_FLAGS": "--xla_flag=1",
        "threads": len(os.sched_getaffinity(0)),
        "pool": processor.pool_size(),
        "instruction_set": processor.instruction_set(),
        "caches": processor.cache_sizes(),
        "jax_config": options,
    }
    assert (options["jax_enable_x64"], options["jax_numpy_dtype_promotion"]) == (False, "strict")
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.delattr(os, "sched_getaffinity")
    without = records.environment()
    assert (without["XLA_FLAGS"], without["threads"]) == ("", None)


PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml_collections")


def test_versions_are_one_table(monkeypatch):
    monkeypatch.setattr(records, "source_revision", lambda: {"commit": "abc", "clean": True})
    monkeypatch.setattr(records, "JAX_OPTIONS", ("jax_enable_x64", "jax_of_another_version"))
    assert records.versions() == {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "source.commit": "abc",
        "source.clean": True,
        "jax_enable_x64": False,
        "jax_of_another_version": None,
    }


def test_an_option_of_another_type_is_recorded_as_text(monkeypatch):
    monkeypatch.setattr(jax.config, "jax_made_up", pathlib.PurePosixPath("a"), raising=False)
    monkeypatch.setattr(records, "JAX_OPTIONS", ("jax_made_up",))
    assert records.environment()["jax_config"] == {"jax_made_up": "a"}


def test_the_processor_is_named_as_the_system_does(monkeypatch):
    def say(text):
        monkeypatch.setattr(pathlib.Path, "read_text", lambda path: text)

    monkeypatch.setattr(platform, "processor", lambda: "other")
    say("flags: model name\nmodel name\t: Abacus: 3000 \nmodel name: Abacus 2")
    assert records._processor() == "Abacus: 3000"
    say("flags: none\n")
    assert records._processor() == "other"

    def refuse(path):
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(pathlib.Path, "read_text", refuse)
    assert records._processor() == "other"


def test_the_source_is_a_commit_and_the_hash_of_what_differs(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, capture_output=True, check=True).stdout

    (tmp_path / "cnn_jax").mkdir()
    (tmp_path / "cnn_jax" / "records.py").write_text("1\n")
    (tmp_path / ".gitignore").write_text("ignored\n")
    (tmp_path / "README.md").write_text("1\n")
    monkeypatch.setattr(records, "__file__", str(tmp_path / "cnn_jax" / "records.py"))
    git("init", "-q")
    assert records.source_revision() == {"commit": None, "clean": None, "diff_sha256": None}
    git("add", ".")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD").decode().strip()
    for name in ("ignored", "README.md"):  # what commands write there is no source
        (tmp_path / name).write_text("2\n")
    assert records.source_revision() == {"commit": commit, "clean": True, "diff_sha256": None}
    (tmp_path / "cnn_jax" / "records.py").write_text("2\n")
    git("add", "cnn_jax/records.py")
    (tmp_path / "new.py").write_text("")
    differs = hashlib.sha256(git("diff", "HEAD", "cnn_jax") + b"new.py\n").hexdigest()
    assert records.source_revision() == {"commit": commit, "clean": False, "diff_sha256": differs}
    monkeypatch.setenv("PATH", "")
    assert records.source_revision()["commit"] is None  # git is not installed


# How rows are added


def events_of(run):
    """The TensorBoard events of each file of a run, the oldest file first."""
    found = []
    files = (run / "tensorboard").glob("events.*")
    for file in sorted(files, key=lambda file: file.stat().st_mtime_ns):
        content, at, own = file.read_bytes(), 0, []
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            own.append(Event.FromString(content[at + 12 : at + 12 + length]))
            at += 16 + length
        found.append(own)
    return found


def scalars(events):
    return {
        (value.tag, event.step): value.simple_value
        for event in events
        for value in event.summary.value
    }


def test_rows_are_lines_and_scalars_at_their_steps(tmp_path):
    settings = config.with_values(PLAIN, {"records.tensorboard": True})
    with records.RunDirectory(tmp_path, settings) as record:
        record.append_metrics(FIRST)
        record.append_metrics(SECOND)
    (written,) = events_of(tmp_path)
    shown = set(records.Row.__annotations__) - {"epoch", "step"}
    assert scalars(written) == {(name, step): 0.5 for name in shown for step in (10, 20)}
    assert not any(event.HasField("session_log") for event in written)
    lines = (tmp_path / "metrics.jsonl").read_text()
    assert lines == json.dumps(FIRST) + "\n" + json.dumps(SECOND) + "\n"
    assert records.read_metrics(tmp_path) == [FIRST, SECOND]


@pytest.mark.parametrize(("history", "first_forgotten"), [([FIRST], 11), ([], 0)])
def test_rows_that_no_checkpoint_knows_are_forgotten(tmp_path, history, first_forgotten):
    settings = config.with_values(PLAIN, {"records.tensorboard": True})
    with records.RunDirectory(tmp_path, settings) as record:
        record.append_metrics(FIRST)
        record.append_metrics(SECOND)
    with records.RunDirectory(tmp_path, settings) as record:
        record.rewrite_metrics(history)
        assert records.read_metrics(tmp_path) == history
        record.append_metrics(SECOND)
    starts = [
        event.step
        for own in events_of(tmp_path)
        for event in own
        if event.session_log.status == SessionLog.START
    ]
    assert starts == [first_forgotten]


def test_without_tensorboard_nothing_is_shown_there(tmp_path):
    train_a_bit(tmp_path)
    assert not (tmp_path / "tensorboard").exists()


def test_rows_that_cannot_be_written_are_one_sentence(tmp_path):
    settings = config.with_values(PLAIN, {"records.tensorboard": True})
    with records.RunDirectory(tmp_path, settings) as record:
        (tmp_path / "metrics.jsonl").mkdir()
        with pytest.raises(RunDirectoryError) as error:
            record.append_metrics(FIRST)
        assert f"can't write {tmp_path / 'metrics.jsonl'}: Is a directory." in str(error.value)
        (tmp_path / "metrics.jsonl").rmdir()
        (tmp_path / "tensorboard").write_text("")
        with pytest.raises(RunDirectoryError) as error:
            record.append_metrics(FIRST)
        assert f"can't write {tmp_path / 'tensorboard'}: File exists." in str(error.value)


def test_two_boards_of_one_second_are_two_files(tmp_path):
    for _ in range(2):
        board = events.open_writer(tmp_path)
        board.add_scalar("a", 1.0, 3)
        events.close_writer(board)
        assert board.all_writers is None
    assert [scalars(own) for own in events_of(tmp_path)] == [{("a", 3): 1.0}] * 2


def test_a_board_that_cannot_be_closed_is_not_tried_again_when_python_ends(tmp_path):
    board = events.open_writer(tmp_path)
    board.add_scalar("a", 1.0, 3)
    (writer,) = board.all_writers.values()

    def refuse():
        raise OSError(28, "No space left on device")

    stop = writer.event_writer.close
    writer.event_writer.flush = refuse
    events.close_writer(board)
    assert writer.event_writer._closed is True
    del writer.event_writer.flush
    writer.event_writer._closed = False
    stop()


# Reading them again


def test_what_is_no_run_directory(tmp_path):
    with pytest.raises(RunDirectoryError) as error:
        records.read_config(tmp_path)
    assert str(error.value) == f"{tmp_path} is not a run directory: it has no config.json."
    with pytest.raises(RunDirectoryError) as error:
        records.read_metrics(tmp_path)
    assert str(error.value) == f"{tmp_path} has no metrics.jsonl; no epoch is finished."
    assert records.find_environment(tmp_path) == {}
    with pytest.raises(RunDirectoryError, match="can't be read: No such file or directory"):
        records.read_environment(tmp_path)


def test_records_with_a_wrong_value_are_one_sentence(tmp_path):
    records.write_json(tmp_path / "config.json", {**config.to_dict(PLAIN), "seed": "1"})
    with pytest.raises(RunDirectoryError) as error:
        records.read_config(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'config.json'} can't be read: config.seed='1'")
    records.write_json(tmp_path / "environment.json", {"cores": "2"})
    for read in (records.read_environment, records.find_environment):
        with pytest.raises(RunDirectoryError, match=r"cores is '2', where int \| None is expected"):
            read(tmp_path)
    rows = [FIRST, {**SECOND, "step": None}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(RunDirectoryError) as error:
        records.read_metrics(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'metrics.jsonl'} can't be read: line 2: step is None, where int is expected."
    )
    (tmp_path / "metrics.jsonl").write_text(json.dumps(FIRST) + "\n" + json.dumps(FIRST))
    with pytest.raises(RunDirectoryError) as error:
        records.read_metrics(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'metrics.jsonl'} can't be read: line 2: epoch is 1, where 2 is expected."
    )


def test_json_has_lists_of_numbers_in_one_line(tmp_path):
    value = {"a": [1, -2.5, None], "b": ["x", 1], "c": [], "d": data.dataset.Dataset._fields[:1]}
    records.write_json(tmp_path / "a.json", value)
    assert (tmp_path / "a.json").read_text() == (
        '{\n  "a": [1, -2.5, null],\n  "b": [\n    "x",\n    1\n  ],\n  "c": [],\n'
        '  "d": [\n    "train_images"\n  ]\n}\n'
    )
    records.write_json(tmp_path / "a.json", {"model": PLAIN.model})
    found = json.loads((tmp_path / "a.json").read_text())
    assert found == {"model": json.loads(json.dumps(config.to_dict(PLAIN)["model"]))}


@pytest.mark.parametrize("place", ["flowers", "flowers/run", "flowers/rose", "link/run"])
def test_a_directory_among_the_data_is_refused_before_anything_is_written(tmp_path, place):
    for name in ("rose", "lily"):
        (tmp_path / "flowers" / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "flowers")
    before = sorted(tmp_path.rglob("*"))
    own = config.DatasetConfig(name=f"{tmp_path}/flowers:size=8")
    settings = config.resolve(config.Config(dataset=own))
    with pytest.raises(records.RunDirectoryError, match="lies among the data"):
        records.RunDirectory(tmp_path / place, settings)
    assert sorted(tmp_path.rglob("*")) == before
    records.check_apart(tmp_path / "flowers_run", own)
    records.check_apart(tmp_path, own)  # what the data lie in


def test_the_folder_of_the_data_sets_is_no_run_directory(tmp_path):
    dataset = config.DatasetConfig(name="mnist", data_dir=str(tmp_path))
    with pytest.raises(records.RunDirectoryError, match="lies among the data"):
        records.check_apart(tmp_path, dataset)
    records.check_apart(tmp_path / "runs", dataset)
