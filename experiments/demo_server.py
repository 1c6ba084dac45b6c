"""An HTTP server for one WSGI application, with bounds on all that its clients can take.

The main thread reads requests and writes answers (asyncio), so that a slow client costs a socket
and no thread; a complete request goes to one of a few threads, which run the application. Every
connection carries one request. What the server itself refuses it answers with JSON, {'error': one
sentence}.
"""

import asyncio
import concurrent.futures
import contextlib
import errno
import http
import http.server
import io
import json
import os
import signal
import socket
import sys
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}  # of every answer
BODY = "demo_server.body"  # the key of the body in environ: reading it would copy it
RETRY_SECONDS = 2  # what Retry-After says where the server is busy
LINE_BYTES = 256  # of a line between the chunks of a body
LINGER_SECONDS = 2.0  # in which what a refused client still sends is thrown away
BACKLOG = 128  # connections that the system keeps until there is room for them

Application = Callable[[dict[str, Any], Callable[..., Any]], Any]


class Limits(NamedTuple):
    """What clients may take, all of them together where nothing else is said."""

    connections: int  # open at a time; more wait to be accepted
    threads: int  # that run the application
    request_seconds: float  # for one request to arrive, from its connection on
    answer_seconds: float  # for one answer to be taken
    head_bytes: int  # of one request's first line and headers
    body_bytes: int  # of one request's body
    held_bytes: int  # of bodies and answers in memory


class Refused(Exception):
    """A request that the server answers itself."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def listen(host: str, port: int) -> list[socket.socket]:
    """Returns listening sockets for every address of `host`; '::' includes those of IPv4.

    Raises:
      OSError: the host has no address of this machine, or the port can't be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError as error:
        raise OSError(errno.EADDRNOTAVAIL, "not a host's name") from error
    sockets: list[socket.socket] = []
    problem: OSError | None = None
    for family, address in dict.fromkeys((entry[0], entry[4]) for entry in found):
        try:
            sockets.append(_listen(family, address))
        except OSError as error:
            problem = error
            if error.errno == errno.EADDRINUSE:  # half the addresses would lead elsewhere
                break
    if problem and (not sockets or problem.errno == errno.EADDRINUSE):
        for one in sockets:
            one.close()
        raise problem
    return sockets


def _listen(family: int, address: Any) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would share a port that is in use
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        one.bind(address)
        one.listen(BACKLOG)
        one.setblocking(False)
    except OSError:
        one.close()
        raise
    return one


def serve(app: Application, sockets: Sequence[socket.socket], limits: Limits) -> bool:
    """Serves until Ctrl-C; returns whether a thread still runs the application then."""
    server = Server(app, limits)

    async def run() -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        with contextlib.suppress(NotImplementedError):  # Windows
            # Python's own handler only runs when the main thread wakes up next.
            loop.add_signal_handler(signal.SIGINT, task.cancel)
        await server.run(sockets)

    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(run())
    return server.running > 0


class Server:
    """Accepts connections, reads their requests and writes the application's answers."""

    def __init__(self, app: Application, limits: Limits) -> None:
        self.running = 0  # requests that the threads have or wait for
        self._app = app
        self._limits = limits
        self._held = 0  # bytes; changed by the main thread only

    async def run(self, sockets: Sequence[socket.socket]) -> None:
        """Serves until it is cancelled."""
        pool = concurrent.futures.ThreadPoolExecutor(self._limits.threads, "demo")
        slots = asyncio.Semaphore(self._limits.connections)
        try:
            await asyncio.gather(*(self._accept(one, slots, pool) for one in sockets))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for one in sockets:
                one.close()

    async def _accept(
        self, listening: socket.socket, slots: asyncio.Semaphore, pool: concurrent.futures.Executor
    ) -> None:
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps weak references only
        while True:
            await slots.acquire()
            try:
                client, _ = await loop.sock_accept(listening)
            except OSError:  # gone again, or no file descriptors left
                slots.release()
                await asyncio.sleep(0.1)
                continue
            client.setblocking(False)
            task = asyncio.create_task(self._converse(client, pool))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            task.add_done_callback(lambda _: slots.release())

    async def _converse(self, client: socket.socket, pool: concurrent.futures.Executor) -> None:
        with contextlib.suppress(OSError), client:  # a client may go, or be cut off, at any time
            answer = await self._answer(client, pool)
            with self._holding() as hold:
                try:
                    hold(len(answer))
                except Refused as refusal:
                    answer = _refusal(refusal)
                async with asyncio.timeout(self._limits.answer_seconds):
                    await asyncio.get_running_loop().sock_sendall(client, answer)
            client.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(LINGER_SECONDS):  # closed with bytes unread, a connection
                while await asyncio.get_running_loop().sock_recv(client, 65536):
                    pass  # would be reset, and the client might never see the answer

    async def _answer(self, client: socket.socket, pool: concurrent.futures.Executor) -> bytes:
        with self._holding() as hold:
            try:
                async with asyncio.timeout(self._limits.request_seconds):
                    environ = await _read_request(_Stream(client, hold), self._limits)
            except TimeoutError:
                seconds = f"{self._limits.request_seconds:g} seconds"
                return _refusal(Refused(408, f"a request must arrive within {seconds}; try again."))
            except Refused as refusal:
                return _refusal(refusal)
            self.running += 1
            future = pool.submit(_call, self._app, environ)
            try:
                return await asyncio.wrap_future(future)
            finally:
                self.running -= future.done()

    @contextlib.contextmanager
    def _holding(self) -> Iterator[Callable[[int], None]]:
        """Yields a function that counts bytes as held, until the end of the block."""
        mine = 0

        def hold(count: int) -> None:
            nonlocal mine
            if self._held + count > self._limits.held_bytes:
                raise Refused(503, f"the server is busy; try again in {RETRY_SECONDS} seconds.")
            mine += count
            self._held += count

        try:
            yield hold
        finally:
            self._held -= mine


class _Stream:
    """What a client sends, as lines and blocks."""

    def __init__(self, client: socket.socket, hold: Callable[[int], None]) -> None:
        self.client = client
        self._hold = hold
        self._buffer = bytearray()

    async def until(self, end: bytes, most: int, too_long: Refused) -> bytes:
        """Returns the bytes up to and with `end`, `most` of them at most."""
        searched = 0
        while (found := self._buffer.find(end, searched)) < 0 and len(self._buffer) <= most:
            searched = max(0, len(self._buffer) - len(end) + 1)
            await self._receive()
        if not 0 <= found <= most - len(end):
            raise too_long
        return self._take(found + len(end))

    async def exactly(self, count: int) -> bytes:
        """Returns `count` bytes."""
        while len(self._buffer) < count:
            await self._receive()
        return self._take(count)

    def _take(self, count: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return taken

    async def _receive(self) -> None:
        more = await asyncio.get_running_loop().sock_recv(self.client, 65536)
        if not more:
            raise Refused(400, "the request ended before it was complete; send it again.")
        self._hold(len(more))
        self._buffer += more


class _Head(http.server.BaseHTTPRequestHandler):
    """The first line and the headers of a request, parsed."""

    def __init__(self, head: bytes) -> None:  # no socket, which the parent would read from
        self.rfile = io.BytesIO(head)
        self.raw_requestline = self.rfile.readline()
        if not self.parse_request():
            raise Refused(400, "the request has no first line; send an HTTP request.")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        del explain
        what = message or http.HTTPStatus(code).phrase
        raise Refused(
            code, f"the request is not HTTP/1 ({what[:200]}); open the page in a browser."
        )


async def _read_request(stream: _Stream, limits: Limits) -> dict[str, Any]:
    """Reads a request and returns it as WSGI's environ.

    Raises:
      Refused: it is malformed or too large, or has ended early.
    """
    too_long = Refused(431, f"a request's headers may have at most {limits.head_bytes:,} bytes.")
    head = _Head(await stream.until(b"\r\n\r\n", limits.head_bytes, too_long))
    body = await _read_body(stream, head, limits.body_bytes)
    url = urllib.parse.urlsplit("/" + head.path.lstrip("/"))
    address = stream.client.getsockname()
    environ: dict[str, Any] = {
        "REQUEST_METHOD": head.command,
        "SCRIPT_NAME": "",
        "PATH_INFO": urllib.parse.unquote(url.path, "latin-1"),
        "QUERY_STRING": url.query,
        "SERVER_NAME": address[0],
        "SERVER_PORT": str(address[1]),
        "SERVER_PROTOCOL": head.request_version,
        "REMOTE_ADDR": stream.client.getpeername()[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        BODY: body,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in head.headers.items():
        key = "HTTP_" + name.upper().replace("-", "_")
        if "_" not in name:  # else it could pass for another
            environ[key] = f"{environ[key]},{value}" if key in environ else value
    environ["CONTENT_TYPE"] = environ.pop("HTTP_CONTENT_TYPE", "")
    environ["CONTENT_LENGTH"] = str(len(body))  # of a chunked one too
    environ.pop("HTTP_CONTENT_LENGTH", None)
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    return environ


async def _read_body(stream: _Stream, head: _Head, most: int) -> bytes:
    too_large = Refused(413, f"a picture may have at most {most:,} bytes.")
    lengths = head.headers.get_all("Content-Length", [])
    encoding = head.headers.get_all("Transfer-Encoding", [])
    if encoding and (lengths or [one.strip().lower() for one in encoding] != ["chunked"]):
        raise Refused(400, "a request's body must have a Content-Length or be chunked.")
    if lengths and not (len(lengths) == 1 and lengths[0].isascii() and lengths[0].isdigit()):
        raise Refused(400, "a request's Content-Length must be one whole number.")
    if lengths and (len(lengths[0]) > 18 or int(lengths[0]) > most):
        raise too_large
    if head.headers.get("Expect", "").lower() == "100-continue":
        proceed = b"HTTP/1.1 100 Continue\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(stream.client, proceed)
    if encoding:
        return await _read_chunks(stream, most, too_large)
    return await stream.exactly(int(lengths[0])) if lengths else b""


async def _read_chunks(stream: _Stream, most: int, too_large: Refused) -> bytes:
    body = bytearray()
    malformed = Refused(400, "the request's chunks are malformed; send a Content-Length.")
    while True:
        line = await stream.until(b"\r\n", LINE_BYTES, malformed)
        digits = line.partition(b";")[0].strip()
        if not digits or not set(digits) <= set(b"0123456789abcdefABCDEF"):
            raise malformed
        size = int(digits, 16)
        if size == 0:
            return bytes(body)  # lines may follow; they say nothing about the body
        if len(body) + size > most:
            raise too_large
        body += await stream.exactly(size)
        if await stream.exactly(2) != b"\r\n":
            raise malformed


def _call(app: Application, environ: dict[str, Any]) -> bytes:
    """Runs the application and returns its answer as bytes."""
    begun: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], failure: Any = None) -> None:
        del failure
        begun[:] = [status, headers]

    try:
        parts = app(environ, start_response)
        try:
            body = b"".join(parts)
        finally:
            if hasattr(parts, "close"):
                parts.close()
    except Exception as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return _refusal(Refused(500, "the request can't be answered; the terminal says why."))
    status, headers = begun
    return _response(status, headers, body)


def _refusal(refusal: Refused) -> bytes:
    headers = {**HEADERS, "Content-Type": "application/json"}
    if refusal.status == 503:
        headers["Retry-After"] = str(RETRY_SECONDS)
    body = json.dumps({"error": str(refusal)}).encode()
    headers["Content-Length"] = str(len(body))
    status = f"{refusal.status} {http.HTTPStatus(refusal.status).phrase}"
    return _response(status, list(headers.items()), body)


def _response(status: str, headers: Sequence[tuple[str, str]], body: bytes) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body
