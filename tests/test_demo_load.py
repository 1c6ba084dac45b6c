"""The demo page under load: every answer, and what the process takes meanwhile."""

import collections
import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from PIL import Image

from cnn_jax import config, train
from cnn_jax.display import Silent
from experiments import demo_pictures
from tests import commands
from tests.demo_pages import GRAY, ROOT, at_once, free_port, saved

demo = commands.load("demo")
DECODED = 32 * demo_pictures.PIXELS  # bytes that one picture takes at most
SMALL = saved(GRAY)
LARGEST = saved(Image.new("RGBA", (4000, 4000), (1, 2, 3, 4)))
TOO_LARGE = saved(Image.new("1", (8000, 8000)))

STUB = """
import sys
from experiments import demo, launch
from tests.demo_pages import stub
demo.trained_network.load = lambda *given: stub()
sys.argv = ["demo", "--run=.", "--port=" + sys.argv[1]]
launch.run(demo.main)
"""


def ask(port, method, path, body=None, **headers):
    """Returns (status, headers, JSON) of an answer."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    with contextlib.closing(connection):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, body, headers)  # refused before all of it was sent
        answer = connection.getresponse()
        content = answer.read()
    found = json.loads(content) if answer.headers["Content-Type"] == "application/json" else {}
    return answer.status, answer.headers, found


@contextlib.contextmanager
def started(*arguments):
    """Yields a process, which ends with the block, whatever happens in it."""
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=-1, stderr=-1) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def watching(process):
    """Yields the largest of (bytes, threads) that the process takes beyond what it has now."""
    process, done = psutil.Process(process.pid), threading.Event()
    start = process.memory_info().rss, process.num_threads()
    peak = [0, 0]

    def watch():
        while not done.wait(0.01):
            peak[0] = max(peak[0], process.memory_info().rss - start[0])
            peak[1] = max(peak[1], process.num_threads() - start[1])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


@pytest.mark.slow
def test_several_large_pictures_at_once_take_the_memory_of_one():
    port = free_port()
    with started("-c", STUB, str(port)) as process:
        assert process.stdout.readline().startswith("open http")
        assert ask(port, "POST", "/see", SMALL)[0] == 200
        pictures = [LARGEST] * 2 + [TOO_LARGE] * 2
        with watching(process) as peak:
            answers = at_once(4, lambda index: ask(port, "POST", "/see", pictures[index]))
        assert [status for status, _, _ in answers] == [200] * 2 + [400] * 2
        assert "announces 8000x8000 pixels" in answers[2][2]["error"]
        assert 4 * demo_pictures.PIXELS < peak[0] < DECODED
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ("", "")


def dribble(port):
    """Sends an upload byte by byte; returns the seconds until it is cut off."""
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        head = b"POST /see HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
        with contextlib.suppress(ConnectionError):
            for byte in head * 2:
                connection.sendall(bytes([byte]))
                time.sleep(0.25)
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""
    return time.monotonic() - begin


KINDS = {  # a request, and the statuses that it may have: 503 is "busy"
    "page": (("GET", "/"), {}, {200}),
    "picture": (("POST", "/see", SMALL), {}, {200, 503}),
    "own": (("POST", "/see", SMALL), {"Sec_Fetch_Site": "same-origin"}, {200, 503}),
    "largest": (("POST", "/see", LARGEST), {}, {200, 503}),
    "damaged": (("POST", "/see", LARGEST[:999]), {}, {400, 503}),
    "text": (("POST", "/see", "no picture"), {}, {400, 503}),
    "pixels": (("POST", "/see", TOO_LARGE), {}, {400, 503}),
    "bytes": (("POST", "/see", bytes(8_000_001)), {}, {413}),
    "noise": (("POST", "/see", bytes(7_000_000)), {}, {400, 503}),
    "chunks": (("POST", "/see", lambda: (bytes(1_000_000) for _ in range(12))), {}, {413}),
    "origin": (("POST", "/see", SMALL), {"Origin": "http://elsewhere.example"}, {403}),
    "name": (("GET", "/"), {"Host": "elsewhere.example"}, {400}),
    "nothing": (("GET", "/nothing"), {}, {404}),
}


@pytest.mark.slow
def test_hundreds_of_requests_are_all_answered_within_the_bounds(tmp_path):
    settings = config.Config(
        dataset=config.DatasetConfig(name="fashion_mnist_mini", train_examples=100),
        model=config.ModelConfig(name="lenet"),
        records=config.RecordsConfig(tensorboard=False, figures=False),
        epochs=1,
        batch_size=50,
    )
    train.train_and_evaluate(settings, tmp_path / "run", Silent())
    port = free_port()
    command = ["-m", "experiments.demo", f"--run={tmp_path / 'run'}", f"--port={port}"]
    with started(*command) as process:
        expected = f"open http://127.0.0.1:{port} in a browser; Ctrl-C ends it\n"
        assert process.stdout.readline() == expected
        assert ask(port, "POST", "/see", SMALL)[0] == 200
        rng = np.random.default_rng(0)
        order = map(str, rng.permutation(list(KINDS) * 30))
        turns, found = order, collections.defaultdict(collections.Counter)
        longest, slow = collections.Counter(), []

        def client(index):
            if index < 150:
                slow.append(dribble(port))
            for name in turns if index >= 150 else ():
                (method, path, *body), headers, _ = KINDS[name]
                content = body[0] if body else None
                begin = time.monotonic()
                content = content() if callable(content) else content
                status, said, _ = ask(port, method, path, content, **headers)
                longest[name] = max(longest[name], time.monotonic() - begin)
                assert (said["Retry-After"] == "2") is (status == 503)
                found[name][status] += 1

        with watching(process) as peak:
            begin = time.monotonic()
            at_once(190, client)
            seconds = time.monotonic() - begin
        print(f"{seconds:.1f} s, {peak[0] / 1e6:.0f} MB, {peak[1]} threads", dict(found), longest)
        print(f"slow clients were cut off after {min(slow):.1f} to {max(slow):.1f} s")
        assert len(slow) == 150
        deadline = demo.SERVER["channel_timeout"]
        assert deadline - 1 < min(slow) <= max(slow) < deadline + 15
        assert set(found) == set(KINDS)
        for name, statuses in found.items():
            assert sum(statuses.values()) == 30, name
            assert set(statuses) <= KINDS[name][2], name
        assert found["page"] == {200: 30}
        assert found["origin"] == {403: 30}
        assert found["picture"][200] > 0
        assert peak[0] < 700_000_000
        assert peak[1] <= 1  # all are there already; some may end
        assert ask(port, "GET", "/")[0] == 200
        assert ask(port, "POST", "/see", SMALL)[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 0
