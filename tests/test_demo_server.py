"""The demo page's server: what it gives to the application, and its bounds."""

import asyncio
import contextlib
import http.client
import json
import pathlib
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from experiments import demo_server
from tests import commands

demo = commands.load("demo")
ROOT = pathlib.Path(__file__).parent.parent
LIMITS = demo.LIMITS._replace(request_seconds=0.3, answer_seconds=0.3, threads=4)


def echo(environ, start_response):
    """An application that says what it was asked."""
    body = environ["wsgi.input"].read()
    names = ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "CONTENT_TYPE", "CONTENT_LENGTH")
    seen = {name: environ[name] for name in names}
    seen |= {"body": body.decode("latin-1"), "host": environ.get("HTTP_HOST")}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(seen).encode()]


@contextlib.contextmanager
def served(app=echo, limits=LIMITS):
    """Serves an application on a free port, which is yielded."""
    [listening] = demo_server.listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    loop = asyncio.new_event_loop()
    task = loop.create_task(demo_server.Server(app, limits).run([listening]))

    def run():
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
        for left in asyncio.all_tasks(loop):
            left.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(left)
        loop.close()
    assert not thread.is_alive()


def send(port, *parts, pause=0.0):
    """Sends bytes, with pauses between them; returns (status, headers, body) of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        with contextlib.suppress(OSError):
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        return read_answer(connection)


def read_answer(connection):
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.headers, answer.read()


GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /see?a=%41 HTTP/1.1\r\nHost: localhost\r\n"


def test_the_server_gives_requests_to_the_application():
    chunks = b"3;ext=1\r\nabc\r\n0A\r\n0123456789\r\n0\r\n\r\n"
    with served() as port:
        status, headers, body = send(port, GET)
        assert (status, json.loads(body)["REQUEST_METHOD"]) == (200, "GET")
        assert headers["Connection"] == "close"
        for head, content, seen in (
            (b"Content-Length: 3\r\n\r\n", b"a\0b", "a\0b"),
            (b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n", b"abc", "abc"),
            (b"Transfer-Encoding: chunked\r\n\r\n", chunks, "abc0123456789"),
            (b"\r\n", b"", ""),
        ):
            for parts in ([POST + head + content], [POST[:9], POST[9:] + head, content]):
                status, _, body = send(port, *parts, pause=0.01)
                assert status == 200, body
                said = json.loads(body)
                assert (said["body"], said["CONTENT_LENGTH"]) == (seen, str(len(seen)))
                assert (said["PATH_INFO"], said["QUERY_STRING"]) == ("/see", "a=%41")
                assert said["host"] == "localhost"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\r\n\r\n", 400),  # https://
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"GET / HTTP/\r\n\r\n", 400),
        (b"POST /see\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431),
        (b"GET /" + b"a" * demo.HEAD_BYTES + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\na: " + b"b" * 100_000, 431),
        (POST + b"Content-Length: -1\r\n\r\n", 400),
        (POST + b"Content-Length: \xb2\r\n\r\n", 400),
        (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na", 400),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", 400),
        (POST + b"Content-Length: 8000001\r\n\r\n", 413),
        (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n7a1201\r\n", 413),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 200 + b"\r\n", 413),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 9999, 400),
    ],
)
def test_malformed_and_too_large_requests_are_refused_in_a_sentence(server, sent, status):
    found, headers, body = send(server, sent)
    assert found == status
    [sentence] = json.loads(body).values()
    assert sentence.endswith(".")
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.fixture(scope="module")
def server():
    with served() as port:
        yield port


def test_a_request_cut_short_is_refused(server):
    for sent in (GET[:20], POST + b"Content-Length: 9\r\n\r\nabc"):
        with socket.create_connection(("127.0.0.1", server), timeout=10) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            assert read_answer(connection)[0] == 400


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"GET / HTTP/1.1\r\nHo",
        POST + b"Content-Length: 1000\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n500\r\n",
    ],
)
def test_a_slow_request_is_cut_off_after_its_whole_time(server, start):
    begin = time.monotonic()
    status, _, body = send(server, start, *[b"a"] * 9, pause=0.04)  # never silent for long
    assert status == 408
    assert 0.3 <= time.monotonic() - begin < 3
    sentence = "a request must arrive within 0.3 seconds; try again."
    assert json.loads(body) == {"error": sentence}


def test_an_answer_that_is_not_taken_is_cut_off():
    def large(environ, start_response):
        start_response("200 OK", [])
        return [bytes(20_000_000)]

    with served(large) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(GET)
        time.sleep(0.5)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while more := connection.recv(1 << 20):
                received += len(more)
        assert received < 20_000_000


def test_slow_clients_take_no_threads_and_others_are_served(monkeypatch):
    monkeypatch.setattr(demo_server, "LINGER_SECONDS", 0.2)
    before = threading.active_count()
    with served(limits=LIMITS._replace(request_seconds=2)) as port, contextlib.ExitStack() as open_:
        slow = [
            open_.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(200)
        ]
        for connection in slow:
            connection.sendall(POST + b"Content-Length: 1000\r\n\r\nabc")
        assert {send(port, GET)[0] for _ in range(20)} == {200}
        assert select.select(slow, [], [], 0)[0] == []  # while all the others are still open
        assert threading.active_count() <= before + 1 + LIMITS.threads
        assert [read_answer(connection)[0] for connection in slow] == [408] * 200


def test_more_connections_wait_for_a_place(monkeypatch):
    monkeypatch.setattr(demo_server, "LINGER_SECONDS", 0.2)
    limits = LIMITS._replace(connections=3)
    with served(limits=limits) as port, contextlib.ExitStack() as open_:
        slow = [
            open_.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(3)
        ]
        begin = time.monotonic()
        assert send(port, GET)[0] == 200
        assert time.monotonic() - begin > 0.2
        assert [read_answer(connection)[0] for connection in slow] == [408] * 3


def test_all_uploads_together_are_bounded():
    limits = LIMITS._replace(held_bytes=1_000_000, request_seconds=5)
    head = POST + b"Content-Length: 600000\r\n\r\n"
    with served(limits=limits) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as first:
            first.sendall(head + bytes(500_000))
            time.sleep(0.2)
            status, headers, body = send(port, head, bytes(600_000))
            assert (status, headers["Retry-After"]) == (503, "2")
            assert json.loads(body) == {"error": "the server is busy; try again in 2 seconds."}
            assert send(port, GET)[0] == 200
            first.sendall(bytes(100_000))
            assert read_answer(first)[0] == 503  # the answer, of 6 times as many bytes
        small = POST + b"Content-Length: 100000\r\n\r\n"
        assert {send(port, small, b"a" * 100_000)[0] for _ in range(20)} == {200}


def test_an_application_that_fails_is_one_line(capsys):
    def fail(environ, start_response):
        raise RuntimeError("no")

    with served(fail) as port:
        status, _, body = send(port, GET)
    assert status == 500
    assert list(json.loads(body)) == ["error"]
    assert capsys.readouterr().err == "error: RuntimeError: no\n"


def test_sockets_are_had_for_every_form_of_an_address():
    for host, reached in (
        ("127.0.0.1", ["127.0.0.1"]),
        ("localhost", ["localhost"]),
        ("0.0.0.0", ["127.0.0.1"]),
        ("::1", ["::1"]),
        ("::", ["::1", "127.0.0.1"]),
    ):
        if ":" in host and not socket.has_ipv6:
            continue
        port = 0 if host != "localhost" else free_port()
        sockets = demo_server.listen(host, port)
        port = sockets[0].getsockname()[1]
        try:
            for address in reached:
                socket.create_connection((address, port), timeout=5).close()
            with pytest.raises(OSError, match="in use"):
                demo_server.listen(host, port)
        finally:
            for one in sockets:
                one.close()
    for host in ("nowhere.invalid", "1.2.3.4", "a..b", "x" * 100):
        with pytest.raises(OSError) as caught:
            demo_server.listen(host, 0)
        assert caught.value.strerror


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


BUSY = """
import os, sys, time
from experiments import demo_server
def app(environ, start_response):
    print("busy", flush=True)
    time.sleep(60 if environ["PATH_INFO"] == "/slow" else 0)
    start_response("200 OK", [])
    return []
sockets = demo_server.listen("127.0.0.1", int(sys.argv[1]))
print("ready", flush=True)
if demo_server.serve(app, sockets, demo_server.Limits(*map(int, sys.argv[2:]))):
    os._exit(0)
"""


@pytest.mark.parametrize("busy", [False, True])
def test_ctrl_c_ends_the_server_at_once(busy):
    port = free_port()
    command = [sys.executable, "-c", BUSY, str(port), *(str(int(limit)) for limit in demo.LIMITS)]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=-1, stderr=-1) as process:
        assert process.stdout.readline() == "ready\n"
        assert send(port, GET)[0] == 200
        assert process.stdout.readline() == "busy\n"
        with socket.create_connection(("127.0.0.1", port)) as connection:
            if busy:
                connection.sendall(GET.replace(b"/ ", b"/slow "))
                assert process.stdout.readline() == "busy\n"
            begin = time.monotonic()
            process.send_signal(signal.SIGINT)
            try:
                _, errors = process.communicate(timeout=10)
            finally:
                process.kill()
    assert time.monotonic() - begin < 3
    assert (process.returncode, errors) == (0, "")
