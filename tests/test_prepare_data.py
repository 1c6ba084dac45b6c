"""Fetching: from a server of the test's own, from a stand-in for Debian's tools, or not at all."""

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import http.server
import os
import threading
import time
import urllib.request

import numpy as np
import pytest

from cnn_jax import data
from cnn_jax.data import archives, mini, originals, tfds
from tests import commands

prepare_data = commands.load("prepare_data")


@pytest.fixture
def files(monkeypatch):
    """Four small IDX files, compressed, that pass for Fashion-MNIST's."""
    generator = np.random.default_rng(0)
    info = data.DATASETS["fashion_mnist"]
    splits = [
        (generator.integers(0, 256, (n, 28, 28, 1), np.uint8), np.arange(n, dtype=np.uint8) % 10)
        for n in (20, 10)
    ]
    payloads = info.format.encode(*splits)
    small = dataclasses.replace(
        info,
        train_size=20,
        test_size=10,
        payloads={n: hashlib.sha256(content).hexdigest() for n, content in payloads.items()},
    )
    monkeypatch.setitem(originals.DATASETS, "fashion_mnist", small)
    return {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in payloads.items()}


@contextlib.contextmanager
def serve(files):
    """Serves `files` on this machine; yields the address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.wfile.write(self.answer())

        def answer(self):
            content = files.get(self.path.lstrip("/"))
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            return content or b""

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def tfds_server(files, monkeypatch):
    """TFDS's builder of Fashion-MNIST with the address and the checksums of a local server."""
    import tensorflow_datasets as tfds

    with serve(files) as address:
        base = tfds.image_classification.FashionMNIST
        (known, *_) = base.url_infos.values()
        infos = {
            address + name: type(known)(
                size=len(content), checksum=hashlib.sha256(content).hexdigest(), filename=name
            )
            for name, content in files.items()
        }
        monkeypatch.setattr(base, "URL", address)
        monkeypatch.setattr(base, "url_infos", infos)
        yield address


@pytest.fixture
def debian(files, tmp_path, monkeypatch):
    """Stand-ins for apt-get and dpkg that behave as set in the file `mode`; calls go to `log`."""
    tools, package = tmp_path / "tools", tmp_path / "package"
    folder = package / prepare_data.DEBIAN_FOLDER
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    tools.mkdir()
    (tools / "apt-get").write_text(
        f"""#!/bin/sh
echo "apt-get $*" >> {tmp_path}/log
mode=$(cat {tmp_path}/mode)
case "$mode$*" in
  offline*) echo "E: Could not resolve host" >&2; exit 100;;
  "needs update"download\\ dataset*) echo "E: Unable to locate package" >&2; exit 100;;
esac
case "$*" in *download*) : > dataset-fashion-mnist_1_all.deb;; esac
"""
    )
    (tools / "dpkg").write_text(f'#!/bin/sh\ncp -r {package} "$3"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    # Not the machine's own package, which may be installed.
    monkeypatch.setattr(prepare_data.fetch_debian, "__defaults__", (tmp_path / "system",))
    (tmp_path / "mode").write_text("online")
    return tmp_path


def unreachable(monkeypatch):
    monkeypatch.setattr(tfds, "url", lambda name: "http://127.0.0.1:1/nobody-listens")


def test_reachable(files):
    with serve(files) as address:
        assert prepare_data.reachable(address + "t10k-labels-idx1-ubyte.gz")
        assert not prepare_data.reachable(address + "nothing")
    assert not prepare_data.reachable(address + "t10k-labels-idx1-ubyte.gz")
    assert not prepare_data.reachable("http://host.invalid/")


def test_a_host_that_hangs_costs_no_more_than_the_limit(monkeypatch):
    release = threading.Event()

    def hang(*_, **__):
        release.wait()
        raise OSError

    monkeypatch.setattr(urllib.request, "urlopen", hang)
    start = time.monotonic()
    assert not prepare_data.reachable("http://host.invalid/", seconds=0.2)
    assert time.monotonic() - start < 2
    release.set()


def test_download_by_tfds(tfds_server, files, tmp_path, capsys):
    dataset = prepare_data.prepare("fashion_mnist", tmp_path)
    assert dataset.train_images.shape == (20, 28, 28, 1)
    np.testing.assert_array_equal(dataset.train_labels, np.arange(20) % 10)
    assert "original files, prepared by TFDS" in dataset.provenance
    assert "fashion_mnist is not in" in capsys.readouterr().out


def test_download_with_a_wrong_checksum(tfds_server, files, tmp_path):
    files["train-labels-idx1-ubyte.gz"] += b"\0"
    with pytest.raises(data.DataError, match=r"TFDS could not prepare fashion_mnist"):
        prepare_data.prepare("fashion_mnist", tmp_path)


def test_debian_where_tfds_cannot_be_reached(debian, tmp_path, monkeypatch, capsys):
    unreachable(monkeypatch)
    dataset = prepare_data.prepare("fashion_mnist", tmp_path / "data")
    folder = tmp_path / "data" / "fashion_mnist"
    assert f"Fashion-MNIST, original files, from {folder}" in dataset.provenance
    assert sorted(p.name for p in folder.iterdir()) == sorted(f"{n}.gz" for n in archives.IDX_FILES)
    assert "copied from Debian's package dataset-fashion-mnist_1_all.deb" in capsys.readouterr().out
    # There now, so nothing is fetched again.
    (debian / "log").unlink()
    prepare_data.prepare("fashion_mnist", tmp_path / "data")
    assert not (debian / "log").exists()


def test_debian_without_package_lists(debian, tmp_path):
    (debian / "mode").write_text("needs update")
    origin = prepare_data.fetch_debian(tmp_path / "there", root=tmp_path)
    assert origin == "Debian's package dataset-fashion-mnist_1_all.deb"
    log = (debian / "log").read_text()
    assert "apt-get update -o Dir::State::lists=" in log
    assert len(list((tmp_path / "there").iterdir())) == 4


def test_installed_debian_package(debian, tmp_path):
    origin = prepare_data.fetch_debian(tmp_path / "there", root=debian / "package")
    assert origin == "the installed package dataset-fashion-mnist"
    assert len(list((tmp_path / "there").iterdir())) == 4
    assert not (debian / "log").exists()


def test_no_way_at_all(debian, tmp_path, monkeypatch):
    unreachable(monkeypatch)
    (debian / "mode").write_text("offline")
    folder = tmp_path / "data" / "fashion_mnist"
    with pytest.raises(
        data.DataError,
        match=r"could not be fetched \(http://127.0.0.1:1/nobody-listens cannot be reached; "
        r"Debian's package: `apt-get update` failed \(E: Could not resolve host\)\); "
        rf"put train-.* {folder}",
    ):
        prepare_data.prepare("fashion_mnist", tmp_path / "data")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(data.DataError, match="Debian's package: apt-get is not on this machine"):
        prepare_data.prepare("fashion_mnist", tmp_path / "data")
    with pytest.raises(data.DataError, match=r"cifar10 could not .*reached\); put cifar-10-binary"):
        prepare_data.prepare("cifar10", tmp_path / "data")
    with pytest.raises(data.DataError, match="Debian packages only fashion_mnist"):
        prepare_data.prepare("mnist", tmp_path / "data", source="debian")


@pytest.fixture
def kmnist(monkeypatch):
    """A server with small files that pass for KMNIST's; yields them and the data set."""
    info = data.DATASETS["kmnist"]
    generator = np.random.default_rng(1)
    splits = [
        (generator.integers(0, 256, (n, 28, 28, 1), np.uint8), np.arange(n, dtype=np.uint8) % 10)
        for n in (20, 10)
    ]
    contents = info.format.encode(*splits)
    served = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in contents.items()}
    with serve(served) as address:
        small = dataclasses.replace(
            info,
            train_size=20,
            test_size=10,
            packed={n: hashlib.sha256(content).hexdigest() for n, content in served.items()},
            urls=tuple(address + name for name in served),
        )
        monkeypatch.setitem(originals.DATASETS, "kmnist", small)
        yield served, splits


def test_archives_come_from_their_authors_and_are_kept(kmnist, tmp_path, capsys):
    served, splits = kmnist
    dataset = prepare_data.prepare("kmnist", tmp_path)
    np.testing.assert_array_equal(dataset.train_images, splits[0][0])
    np.testing.assert_array_equal(dataset.test_labels, splits[1][1])
    assert f"KMNIST, original files, from {tmp_path / 'kmnist'}" in dataset.provenance
    assert {p.name: p.read_bytes() for p in (tmp_path / "kmnist").iterdir()} == served
    assert capsys.readouterr().out.count("fetching http://127.0.0.1") == 4
    served.clear()  # there now, so nothing is fetched again
    prepare_data.prepare("kmnist", tmp_path)
    assert capsys.readouterr().out == ""


def test_a_download_that_is_not_the_original_leaves_nothing(kmnist, tmp_path, monkeypatch):
    served, _ = kmnist
    right = served["t10k-images-idx3-ubyte.gz"]
    served["t10k-images-idx3-ubyte.gz"] = b"<html>moved</html>"
    with pytest.raises(
        data.DataError,
        match=r"answered with 18 bytes that are not the original file .*\); put train-images",
    ):
        prepare_data.prepare("kmnist", tmp_path)
    there = sorted(p.name for p in (tmp_path / "kmnist").iterdir())
    assert there == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]
    del served["t10k-images-idx3-ubyte.gz"]
    with pytest.raises(data.DataError, match=r"gz cannot be fetched \(HTTP Error 404"):
        prepare_data.prepare("kmnist", tmp_path)
    monkeypatch.setattr(archives, "MAX_BYTES", 100)
    served["t10k-images-idx3-ubyte.gz"] = right
    with pytest.raises(data.DataError, match="answers with more bytes than the set has"):
        prepare_data.prepare("kmnist", tmp_path)
    with pytest.raises(
        data.DataError, match=r"kmnist could not .*TFDS is used for fashion_mnist, "
    ):
        prepare_data.prepare("kmnist", tmp_path, source="tfds")
    monkeypatch.setattr(archives, "MAX_BYTES", 1 << 20)
    assert len(prepare_data.prepare("kmnist", tmp_path).train_labels) == 20  # what was missing


@pytest.mark.parametrize("name", ["cifar100", "kmnist", "emnist", "emnist_letters"])
def test_what_is_fetched_has_a_checksum(name):
    info = data.DATASETS[name]
    for url in info.urls:
        file = url.rpartition("/")[2]
        assert len(info.packed[file]) == 64
        assert file in info.format.names


def test_damaged_files_are_not_fetched_over(debian, tmp_path):
    folder = tmp_path / "data" / "fashion_mnist"
    folder.mkdir(parents=True)
    for name in archives.IDX_FILES:
        (folder / name).write_bytes(b"damaged")
    with pytest.raises(data.DataError, match="is not an IDX file"):
        prepare_data.prepare("fashion_mnist", tmp_path / "data")
    assert not (debian / "log").exists()


def test_command_line(tmp_path):
    run = functools.partial(commands.run, "experiments.prepare_data")
    done = run("fashion_mnist_mini", "synthetic:train=10,test=5", f"--data_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("fashion_mnist_mini: 2,000 training and 1,000 test images, 10 classes")
    assert second.startswith("synthetic:train=10,test=5: 10 training and 5 test images")
    done = run("mnits")
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no data set 'mnits' (did you mean 'mnist'?)")
    assert "Traceback" not in done.stderr


def test_the_shipped_slice_is_made_from_the_whole(tmp_path):
    # Shapes stand in for Fashion-MNIST; the shipped file was made by the same function.
    whole = data.synthetic(size=8, train=2400, test=1100)
    mini.write_mini(whole, tmp_path / "mini.npz")
    made = data.load_npz(tmp_path / "mini.npz")
    assert (len(made.train_labels), len(made.test_labels)) == (2000, 1000)
    np.testing.assert_array_equal(np.bincount(made.train_labels), [200] * 10)
    assert set(map(bytes, made.train_images)) <= set(map(bytes, whole.train_images))
    assert made.class_names == whole.class_names


def test_a_file_that_cannot_be_written_leaves_what_was_there(debian, tmp_path, monkeypatch):
    there = tmp_path / "there"
    there.mkdir()
    old = there / f"{archives.IDX_FILES[0]}.gz"
    old.write_bytes(b"old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare_data.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        prepare_data.fetch_debian(there, root=debian / "package")
    assert [p.read_bytes() for p in there.iterdir()] == [b"old"]
    whole = data.synthetic(size=8, train=2400, test=1100)
    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space left"):
        mini.write_mini(whole, old)
    assert [p.read_bytes() for p in there.iterdir()] == [b"old"]
