"""Files: written at once or not at all, never through a link; read up to a limit."""

import io
import os
import re
import stat

import pytest

from cnn_jax import files
from cnn_jax.errors import RunDirectoryError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=[0o000, 0o027])
def mask(request):
    """The permissions that new files are not given, set for one test."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def permissions(file):
    return stat.S_IMODE(file.stat().st_mode)


def test_a_file_is_the_old_one_until_all_of_the_new_one_is_written(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(b"old")
    with files.replacing(file) as stream:
        stream.write(b"new")
        stream.flush()
        assert file.read_bytes() == b"old"
        (temporary,) = (name for name in names(tmp_path) if name != "a.json")
        assert re.fullmatch(r"\.a\.json\.[0-9a-f]{16}\.new", temporary)
        stream.seek(0)
        assert stream.read() == b"new"  # as a ZIP archive's writer needs
    assert file.read_bytes() == b"new"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt(), OSError(28, "full")])
def test_a_writer_that_fails_leaves_the_old_content_and_nothing_else(tmp_path, failure):
    file = tmp_path / "a.json"
    file.write_bytes(b"old")

    def write():
        with files.replacing(file) as stream:
            stream.write(b"half")
            raise failure

    with pytest.raises(type(failure)) as error:
        write()
    assert error.value is failure
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == ["a.json"]


def test_the_first_failure_is_told_though_the_new_file_cannot_be_removed(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(ValueError, match="first"), files.replacing(tmp_path / "a"):
        raise ValueError("first")


def test_all_bytes_are_on_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(os, "fsync", lambda file: events.append(os.fstat(file).st_size))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("named"), replace(*paths)))
    files.write_bytes(tmp_path / "a", b"12345")
    assert events == [5, "named"]


def test_a_link_is_replaced_and_what_it_leads_to_left_alone(tmp_path):
    (tmp_path / "mine").write_bytes(b"precious")
    (tmp_path / "a").symlink_to(tmp_path / "mine")
    files.write_bytes(tmp_path / "a", b"new")
    assert not (tmp_path / "a").is_symlink()
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "mine").read_bytes() == b"precious"


def test_the_new_file_is_never_one_that_is_there_already(tmp_path, monkeypatch):
    monkeypatch.setattr(files.secrets, "token_hex", lambda digits: "0" * 2 * digits)
    (tmp_path / "mine").write_bytes(b"precious")
    guessed = tmp_path / f".a.{'0' * 16}.new"
    guessed.symlink_to(tmp_path / "mine")
    with pytest.raises(RunDirectoryError, match=r"can't write .*/a: File exists\. What was saved"):
        files.write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "mine").read_bytes() == b"precious"
    assert guessed.is_symlink()


def test_permissions_are_those_of_any_new_file(tmp_path, mask):
    files.write_bytes(tmp_path / "a", b"")
    files.open_to_append(tmp_path / "b").close()
    assert [permissions(tmp_path / name) for name in "ab"] == [0o666 & ~mask] * 2


def test_a_name_of_the_longest_kind_can_be_replaced(tmp_path):
    file = tmp_path / ("a" * 255)
    with files.replacing(file) as stream:
        stream.write(b"1")
        assert re.fullmatch(r"\.a{100}\.[0-9a-f]{16}\.new", *names(tmp_path))
    assert file.read_bytes() == b"1"


def test_text_is_utf_8_and_a_single_surrogate_an_escape(tmp_path):
    files.write_text(tmp_path / "a", "é \ud800")
    assert (tmp_path / "a").read_bytes() == "é \\ud800".encode()
    for content in ("é", "\ud800"):
        with files.open_to_append(tmp_path / "b") as file:
            assert file.encoding == "utf-8"
            file.write(content)
    assert (tmp_path / "b").read_bytes() == "é\\ud800".encode()


def test_two_that_append_write_after_each_other(tmp_path):
    with files.open_to_append(tmp_path / "a") as one, files.open_to_append(tmp_path / "a") as two:
        for file in (one, two, one):
            file.write("line\n")
            file.flush()
    assert (tmp_path / "a").read_text() == "line\n" * 3


def test_nothing_is_appended_through_a_link_or_into_a_pipe(tmp_path):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(OSError, match=name):
            files.open_to_append(tmp_path / name)
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "/a"), "No space left on device"),
        (OSError("disk is gone"), "disk is gone"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_what_the_system_said(tmp_path, error, said):
    assert files.say_reason(error) == said
    with pytest.raises(RunDirectoryError) as caught, files.writing(tmp_path / "a"):
        raise error
    assert str(caught.value) == (
        f"can't write {tmp_path / 'a'}: {said}. What was saved before is intact; mend it and run "
        "the same command again."
    )


def test_folders_are_made_with_those_above_them_and_may_be_there(tmp_path):
    for _ in range(2):
        folder = files.make_folder(tmp_path / "run", "figures", "small")
        assert folder == tmp_path / "run" / "figures" / "small"
        assert folder.is_dir()


def test_a_folder_that_leads_out_or_cannot_be_made_is_refused(tmp_path):
    run = tmp_path / "run"
    (run / "inside").mkdir(parents=True)
    (run / "out").symlink_to(tmp_path)
    (run / "in").symlink_to(run / "inside")
    (run / "file").write_text("")
    assert files.make_folder(run, "in") == run / "in"
    with pytest.raises(RunDirectoryError) as error:
        files.make_folder(run, "out", "new")
    assert str(error.value) == (
        f"{run / 'out' / 'new'} is a link that leads out of {run}; nothing is written there. "
        "Replace it by a folder."
    )
    assert not (tmp_path / "new").exists()
    with pytest.raises(RunDirectoryError, match=r"can't write .*/run/file: File exists"):
        files.make_folder(run, "file")


def test_what_is_read_has_at_most_so_many_bytes(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"\xff" * 1500)
    assert files.read_bytes(tmp_path / "a", 1500) == b"\xff" * 1500
    with pytest.raises(OSError, match="it has more than the 1,499 bytes expected"):
        files.read_bytes(tmp_path / "a", 1499)

    class Endless(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            assert len(buffer) == 11, "more is read than is needed to tell"
            return len(buffer)

    monkeypatch.setattr(files, "open_regular", lambda path: Endless())
    with pytest.raises(OSError, match="more than the 10 bytes"):
        files.read_bytes(tmp_path / "a", 10)


def test_what_is_no_regular_file_is_not_read_and_not_left_open(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    opened = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    for path, said in (
        (tmp_path, "Is a directory"),
        (tmp_path / "pipe", "it is a pipe, not a regular file"),
        ("/dev/null", "it is a device, not a regular file"),
    ):
        with pytest.raises(OSError, match=said) as error:
            files.open_regular(path)
        assert error.value.filename == str(path)
    with pytest.raises(IsADirectoryError):
        files.open_regular(tmp_path)
    if opened is not None:
        assert len(os.listdir("/proc/self/fd")) == opened


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (stat.S_IFDIR, "a folder"),
        (stat.S_IFIFO, "a pipe"),
        (stat.S_IFSOCK, "a socket"),
        (stat.S_IFCHR, "a device"),
        (stat.S_IFBLK, "a device"),
    ],
)
def test_kinds_of_files(kind, said):
    assert files.kind_of_file(kind | 0o644) == said
