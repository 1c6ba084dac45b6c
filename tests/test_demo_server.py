"""The demo page's server: what it gives to the application, and its bounds."""

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import pytest

from cnn_jax.errors import ConfigError
from experiments import demo_server
from tests import commands, demo_pages
from tests.demo_pages import GRAY, ROOT, free_port, saved, stub

demo = commands.load("demo")
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /see?a=%41 HTTP/1.1\r\nHost: localhost\r\n"


def echo(environ, start_response):
    """An application that says what it was asked, or answers with as many bytes as are asked."""
    body = environ["wsgi.input"].read()
    names = ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "CONTENT_LENGTH", "HTTP_HOST")
    seen = {name: environ.get(name) for name in names}
    content = json.dumps(seen | {"body": body.decode("latin-1")}).encode()
    if environ["PATH_INFO"].startswith("/bytes/"):
        content = bytes(int(environ["PATH_INFO"].removeprefix("/bytes/")))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [content]


def served(app=echo, **options):
    return demo_pages.served(app, **{**demo.SERVER, "threads": 4, **options})


@pytest.fixture(scope="module")
def server():
    with served() as port:
        yield port


def send(port, *parts, pause=0.0, host="127.0.0.1"):
    """Sends bytes, with pauses between them; returns (status, headers, body) of the answer."""
    with socket.create_connection((host, port), timeout=30) as connection:
        with contextlib.suppress(OSError):
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        return read_answer(connection)


def read_answer(connection):
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.headers, answer.read()


def test_the_server_gives_requests_to_the_application(server):
    chunks = b"3;ext=1\r\nabc\r\n0A\r\n0123456789\r\n0\r\n\r\n"
    status, headers, body = send(server, GET)
    assert (status, json.loads(body)["REQUEST_METHOD"]) == (200, "GET")
    assert headers["Connection"] == "close"
    assert "Server" not in headers
    for head, content, seen in (
        (b"Content-Length: 3\r\n\r\n", b"a\0b", "a\0b"),
        (b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n", b"abc", "abc"),
        (b"Transfer-Encoding: chunked\r\n\r\n", chunks, "abc0123456789"),
        (b"Content-Length: 300000\r\n\r\n", b"ab" * 150_000, "ab" * 150_000),  # in a file
        (b"Connection: keep-alive\r\n\r\n", GET * 3, ""),  # the others are left out
    ):
        for parts in ([POST + head + content], [POST[:9], POST[9:] + head, content]):
            status, headers, body = send(server, *parts, pause=0.01)
            assert (status, headers["Connection"]) == (200, "close")
            said = json.loads(body)
            assert (said["body"], said["CONTENT_LENGTH"] or "0") == (seen, str(len(seen)))
            assert (said["PATH_INFO"], said["QUERY_STRING"]) == ("/see", "a=%41")
            assert said["HTTP_HOST"] == "localhost"
    assert send(server, GET.replace(b"/ ", b"/bytes/3000000 "))[2] == bytes(3_000_000)


LARGE = b"x" * 1_000_000
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\r\n\r\n", 400),  # https://
        (b"POST\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 3000 + b"\r\n", 431),
        (b"GET /" + b"a" * 16_384 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\na: " + b"b" * 100_000, 431),
        (POST + b"Content-Length: -1\r\n\r\n", 400),
        (POST + b"Content-Length: \xb2\r\n\r\n", 400),
        (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
        (POST + b"Content-Length: 8000001\r\n\r\n", 413),
        (CHUNKED + b"7a1201\r\n" + LARGE * 9, 413),
        (CHUNKED + (b"f4240\r\n" + LARGE + b"\r\n") * 9, 413),
        (CHUNKED + b"-1\r\n\r\n", 400),
        (CHUNKED + b"1\r\nab\r\n", 400),
        (CHUNKED + b"0" * 100_000, 400),
        (CHUNKED + b"1;" + b"a" * 100_000, 400),
        (CHUNKED + b"0\r\n" + b"a" * 100_000, 400),
    ],
)
def test_malformed_and_too_large_requests_are_refused_in_a_sentence(server, sent, status):
    found, headers, body = send(server, sent)
    assert found == status
    [sentence] = json.loads(body).values()
    assert sentence.endswith(".")
    assert "\n" not in sentence
    if status == 413:
        assert sentence == "a picture may have at most 8,000,000 bytes."
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Connection"] == "close"


def test_the_largest_body_arrives(server):
    status, _, body = send(server, POST + b"Content-Length: 8000000\r\n\r\n", LARGE * 8)
    assert (status, json.loads(body)["CONTENT_LENGTH"]) == (200, "8000000")
    assert len(json.loads(body)["body"]) == 8_000_000


def test_slow_clients_are_cut_off_and_take_no_threads():
    starts = [
        b"",
        b"GET / HTTP/1.1\r\nHo",
        POST + b"Content-Length: 1000\r\n\r\n",
        POST + b"Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n",
        CHUNKED,
        CHUNKED + b"500\r\n",
        CHUNKED + b"0\r\n",
    ]
    before = threading.active_count()
    with served(seconds=0.4) as port, contextlib.ExitStack() as open_:
        slow = {}
        for start in starts * 20:
            begin = time.monotonic()
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            slow[open_.enter_context(connection)] = begin
            connection.sendall(start)
            connection.settimeout(0.001)
        times = []
        while slow and time.monotonic() < begin + 20:
            assert threading.active_count() <= before + 1 + 4
            assert send(port, GET)[0] == 200  # the others are served meanwhile
            for connection in list(slow):
                try:
                    connection.sendall(b"a")  # never silent for long
                    while answer := connection.recv(100):
                        assert answer == b"HTTP/1.1 100 Continue\r\n\r\n"
                except TimeoutError:
                    continue
                except ConnectionError:
                    pass
                times.append(time.monotonic() - slow.pop(connection))
            time.sleep(0.05)
        assert len(times) == len(starts) * 20
        assert 0.4 <= min(times) <= max(times) < 10


def test_an_answer_that_is_not_taken_is_cut_off():
    with served(seconds=0.3) as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(GET.replace(b"/ ", b"/bytes/50000000 "))
            time.sleep(0.7)
            received = 0
            with contextlib.suppress(ConnectionResetError):
                while more := connection.recv(1 << 20):
                    received += len(more)
            assert received < 50_000_000
        assert send(port, GET)[0] == 200


def test_an_answer_has_its_own_time():
    def late(environ, start_response):
        time.sleep(0.7)
        start_response("200 OK", [])
        return [bytes(5_000_000)]

    with served(late, seconds=0.5) as port:
        assert len(send(port, GET)[2]) == 5_000_000


def test_more_connections_wait_for_a_place():
    with served(seconds=0.3, connection_limit=5) as port, contextlib.ExitStack() as open_:
        slow = [
            open_.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(6)
        ]
        begin = time.monotonic()
        assert send(port, GET)[0] == 200
        assert time.monotonic() - begin > 0.1
        assert slow[0].recv(1) == b""


def test_sockets_are_had_for_every_form_of_an_address():
    for host, reached in (
        ("localhost", ["localhost"]),
        ("0.0.0.0", ["127.0.0.1"]),
        ("::1", ["::1"]),
        ("::", ["::1", "127.0.0.1"]),
    ):
        if ":" in host and not socket.has_ipv6:
            continue
        with served(host=host, port=free_port()) as port:
            for address in reached:
                assert send(port, GET, host=address)[0] == 200
    for host in ("nowhere.invalid", "a..b", "x" * 100, "1.2.3.4:80", "a b"):
        with pytest.raises(ValueError, match="Invalid host"):
            demo_server.listen(echo, host, 5000, threads=1)


BUSY = """
import sys, time
from experiments import demo, launch
from tests.demo_pages import stub
demo.trained_network.load = lambda *given: stub(probabilities=lambda images: time.sleep(60))
sys.argv = ["demo", "--run=.", "--port=" + sys.argv[1]]
launch.run(demo.main)
"""


def test_ctrl_c_ends_the_command_at_once_while_a_picture_is_looked_at():
    port = free_port()
    command = [sys.executable, "-c", BUSY, str(port)]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=-1, stderr=-1) as process:
        try:
            said = process.stdout.readline()
            assert said == f"open http://127.0.0.1:{port} in a browser; Ctrl-C ends it\n"
            assert send(port, GET)[0] == 200
            with socket.create_connection(("127.0.0.1", port)) as connection:
                picture = saved(GRAY)
                connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(picture) + picture)
                time.sleep(0.5)
                begin = time.monotonic()
                process.send_signal(signal.SIGINT)
                assert process.communicate(timeout=10) == ("", "")
            assert time.monotonic() - begin < 3
            assert process.returncode == 0
        finally:
            process.kill()


@pytest.fixture
def say(monkeypatch, capsys):
    """Returns a function that runs the command with flags' values; it returns what it says."""

    def run(**values):
        monkeypatch.setattr(demo.trained_network, "load", lambda *given: stub())
        for name, value in {"run": ".", "port": 5000, "host": "127.0.0.1", **values}.items():
            monkeypatch.setattr(demo, name.upper(), types.SimpleNamespace(value=value))
        assert demo.main() == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        return err

    return run


def test_what_cannot_be_served_is_one_sentence(say, monkeypatch):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        taken = one.getsockname()[1]
        expected = f"error: port {taken} of 127.0.0.1 can't be served (Address already in use); "
        assert say(port=taken).startswith(expected)
        assert "Address already in use" in say(port=taken, host="0.0.0.0")
    assert "of nowhere.invalid can't be served (there is no such host)" in say(
        host="nowhere.invalid"
    )
    assert say(host="").startswith("error: --host needs an address")
    with pytest.raises(ConfigError, match=r"^give the directory of a run, for example --run="):
        say(run=None)
    monkeypatch.setitem(sys.modules, "waitress", None)
    needs = "error: the page needs waitress, not installed here: pip install waitress.\n"
    assert say() == needs
    monkeypatch.setitem(sys.modules, "flask", None)
    assert say().endswith("pip install flask waitress.\n")
