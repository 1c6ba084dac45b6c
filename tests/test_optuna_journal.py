"""A study's journal: half lines, full disks, damaged lines, locks left behind, other processes."""

import errno
import json
import os
import re
import subprocess
import sys
import threading
import time

import optuna
import pytest

from cnn_jax import config
from cnn_jax.errors import SearchError
from cnn_jax.sweeps import optuna_journal, optuna_search, optuna_study, spaces
from cnn_jax.sweeps.optuna_study import using

SPACE = {
    "epochs": optuna.distributions.IntDistribution(1, 9),
    "model.norm": optuna.distributions.CategoricalDistribution(["none", "batch"]),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def open_study(file, say=lambda line: None):
    return optuna_study.open_study("test", str(file), "random", say=say)


def add_trial(study, value=0.5):
    trial = study.ask(SPACE)
    trial.report(value, 1)
    study.tell(trial, value)


@pytest.fixture
def file(tmp_path):
    """The journal of a study with an attribute and two finished trials."""
    path = tmp_path / "optuna.log"
    study = open_study(path)
    study.set_user_attr("experiment", {"epochs": "2"})
    add_trial(study)
    add_trial(study)
    return path


def test_a_journal_that_ends_anywhere_goes_on_and_nothing_of_it_is_lost(tmp_path):
    file = tmp_path / "optuna.log"
    line = b'{"op_code":7,"worker_id":"","trial_id":0,"step":1,"intermediate_value":0.5}\n'
    whole = 3 * line
    aside = file.with_name("optuna.log.unfinished")
    operation = {"op_code": 10, "worker_id": ""}
    for end in range(len(line) - 1, len(whole) + 1):
        file.write_bytes(whole[:end])
        aside.unlink(missing_ok=True)
        said = []
        there = optuna_journal.JournalFile(str(file), said.append)
        before = list(there.read_logs(0))
        there.append_logs([operation, operation])
        kept, _, torn = whole[:end].rpartition(b"\n")
        if torn and not torn.endswith(b"}"):
            assert aside.read_bytes() == torn + b"\n"
            assert len(said) == 1
            assert "ended in half a line" in said[0]
            assert file.read_bytes().startswith(kept + b'\n{"op_code":10')
        else:
            assert file.read_bytes().startswith(whole[:end])
            assert not aside.exists()
            assert said == []
        logs = list(optuna_journal.JournalFile(str(file)).read_logs(0))
        assert logs[: len(before)] == before
        assert logs[-2:] == [operation, operation]
        assert list(there.read_logs(len(before))) == logs[len(before) :]


def test_a_study_whose_journal_ends_in_half_a_line_goes_on(file):
    file.write_bytes(file.read_bytes()[:-20])  # of the second trial's end
    study = open_study(file)
    add_trial(study, 0.25)
    states = [trial.state.name for trial in open_study(file).trials]
    assert states == ["COMPLETE", "RUNNING", "COMPLETE"]


def test_what_a_disk_has_no_room_for_is_taken_back(file, monkeypatch):
    study = open_study(file)
    before = file.read_bytes()
    write = optuna_journal._write
    monkeypatch.setattr(optuna_journal, "_write", fill_up)
    with pytest.raises(SearchError, match=r"can't be written: No space left on device\."):
        add_trial(study)
    monkeypatch.setattr(optuna_journal, "_write", write)
    assert file.read_bytes() == before
    add_trial(study)
    assert len(open_study(file).trials) == 3


def fill_up(stream, content):
    stream.seek(0, os.SEEK_END)
    stream.write(content[: len(content) // 2])
    raise OSError(errno.ENOSPC, "No space left on device")


def edits(operation):
    """The operation with each of its keys left out, and with other types and values."""
    for key in operation.keys() - {"worker_id"}:
        yield {k: v for k, v in operation.items() if k != key}
        for wrong in (None, True, "x", -1, 10**6, 1.5, float("nan"), 10**30, [], {}, [["x"]]):
            yield {**operation, key: wrong}


def refusal(file, searched):
    """What is said when a study is opened, used and ranked; None if nothing is wrong."""
    try:
        study = open_study(file)
        with using("the study"):
            add_trial(study)
        optuna_search.rank(study, searched, config.Config(), file.parent)
    except SearchError as error:
        return str(error)
    return None


def test_a_line_that_somebody_edited_is_named_or_harmless(file):
    whole = file.read_text().splitlines(keepends=True)
    searched = optuna_search.Space(
        spaces.parse_sample(["epochs=uniform:1,9", "model.norm=choice:none,batch"])
    )
    said = []
    for number, line in enumerate(whole[:7], 1):  # each kind once
        for operation in edits(json.loads(line)):
            edited = json.dumps(operation) + "\n"
            file.write_text("".join([*whole[: number - 1], edited, *whole[number:]]))
            said.append((number, refusal(file, searched)))
    refused = [(number, sentence) for number, sentence in said if sentence]
    assert len(refused) > 100
    for number, sentence in refused:
        assert "\n" not in sentence
        named = re.search(r"optuna\.log can't be read: line (\d+): ", sentence)
        # That line, or a later one which it makes impossible.
        if not named:
            assert "isn't in what is searched" in sentence or "doesn't maximize" in sentence
        else:
            assert int(named[1]) >= number


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[" * 100_000, "line 3: it is nested too deep"),
        ('{"op_code":99,"worker_id":""}', "line 3: op_code is 99, which Optuna doesn't know"),
        ('{"op_code":5', "line 3: Expecting"),
        ("", "line 3: Expecting value"),
        ("\0\0\0", "line 3: "),
        ('{"op_code":4,"worker_id":"","study_id":0}', "line 3: datetime_start is missing"),
        (
            '{"op_code":4,"worker_id":"","study_id":0,"datetime_start":"today"}',
            "line 3: Optuna can't apply it, ValueError Invalid isoformat string: 'today'",
        ),
    ],
)
def test_a_damaged_line_is_one_sentence_that_names_it(file, line, expected):
    lines = file.read_text().splitlines()
    damaged = "\n".join([*lines[:2], line, *lines[2:]]) + "\n"
    file.write_text(damaged)
    with pytest.raises(SearchError) as error:
        open_study(file)
    assert f"{file} can't be read: {expected}" in str(error.value)
    assert file.read_text() == damaged


def test_a_file_that_is_no_journal_is_left_alone(tmp_path):
    for content in (b"\x89PNG\r\n", b"text", b"no\nend", b'{"a": 1}'):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(SearchError, match=r"file can't be read: line [12]: "):
            open_study(tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == content
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name, expected in (("pipe", "a pipe"), ("link", "symbolic"), (".", "directory")):
        with pytest.raises(SearchError, match=f"can't be written: .*{expected}"):
            open_study(tmp_path / name)


def test_a_lock_that_a_killed_process_left_is_taken_away(file, monkeypatch):
    monkeypatch.setattr(optuna_journal, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(optuna_journal, "SAY_SECONDS", 0.1)
    lock = file.with_name("optuna.log.lock")
    for target in ("runs/optuna.log", str(file)):  # the first leads nowhere, as Optuna made it
        lock.symlink_to(target)
        said = []
        add_trial(open_study(file, said.append))
        assert not lock.is_symlink()
        assert len(said) == 1
        assert said[0].startswith(f"waiting for the process that holds {lock}")


def test_optunas_own_programs_can_write_the_same_file(file):
    theirs = optuna.load_study(
        study_name="test",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(file))
        ),
    )
    ours = open_study(file)
    threads = [threading.Thread(target=add_some, args=(study,)) for study in (ours, theirs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ours.trials) == len(theirs.trials) == 12
    assert not file.with_name("optuna.log.unfinished").exists()


def add_some(study):
    for _ in range(5):
        add_trial(study)


def test_a_process_that_is_killed_while_it_writes_leaves_a_journal_that_goes_on(file, monkeypatch):
    monkeypatch.setattr(optuna_journal, "GRACE_SECONDS", 0.5)  # it may have held the lock
    code = (
        "import sys; from cnn_jax.sweeps import optuna_study\n"
        "study = optuna_study.open_study('test', sys.argv[1], 'random')\n"
        "while True: study.tell(study.ask(), 0.5)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(file)])
    while len(open_study(file).trials) < 4:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    study = open_study(file)
    count = len(study.trials)
    add_trial(study)
    assert len(open_study(file).trials) == count + 1


def test_what_a_data_base_raises_is_a_sentence_without_its_password(tmp_path):
    (tmp_path / "no.db").write_text("this is no data base, but it is long enough to look at\n" * 9)
    (tmp_path / "folder.db").mkdir()
    for storage, expected in (
        (f"sqlite:///{tmp_path / 'no.db'}", "file is not a database"),
        (f"sqlite:///{tmp_path / 'folder.db'}", "unable to open database file"),
        (f"sqlite:///{tmp_path / 'none' / 'x.db'}", "unable to open database file"),
        ("nosuch://user:hunter2@host/base", "nosuch"),
        ("postgresql://user:hunter2@host:port/base?password=hunter2", ""),
    ):
        with pytest.raises(SearchError) as error:
            optuna_study.open_study("test", storage)
        message = str(error.value)
        assert message.startswith("the study 'test' in ")
        assert expected in message
        assert "hunter2" not in message
        assert "\n" not in message


def test_what_happens_to_a_data_base_later_is_a_sentence(tmp_path):
    study = optuna_study.open_study("test", f"sqlite:///{tmp_path / 'x.db'}", "random")
    add_trial(study)
    (tmp_path / "x.db").write_text("this is no data base, but it is long enough to look at\n" * 99)
    with (
        pytest.raises(SearchError, match="the study can't be used: "),
        using("the study"),
    ):
        add_trial(study)


def test_a_study_that_minimizes_is_refused(tmp_path):
    storage = f"sqlite:///{tmp_path / 'x.db'}"
    optuna.create_study(study_name="test", storage=storage, direction="minimize")
    with pytest.raises(SearchError, match="doesn't maximize one accuracy"):
        optuna_study.open_study("test", storage)
