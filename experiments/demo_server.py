"""The demo page's server: waitress, where a connection has one request and limited time for it.

waitress reads requests in one loop, large ones into temporary files, and gives each to one of its
threads when it is complete: a slow client costs a socket and no thread.
"""

import contextlib
import json
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

from waitress import channel, parser, server, task, utilities, wasyncore

from experiments import demo_origins

EVERYWHERE = {"localhost": "127.0.0.1", "::": "*"}  # what waitress calls them


def listen(app: Callable[..., Any], host: str, port: int, **limits: int) -> dict[int, Any]:
    """Returns the sockets at which `serve` serves the application; '::' includes those of IPv4.

    `limits` are waitress's arguments; channel_timeout is the seconds in which a request must
    arrive, and again those in which its answer must be taken.

    Raises:
      OSError: the port can't be had.
      ValueError: the host has no address.
    """
    logging.getLogger("waitress").setLevel(logging.CRITICAL)  # clients' faults are told to them
    sockets: dict[int, Any] = {}
    address = EVERYWHERE.get(host, host)
    options = {"ident": None, "asyncore_use_poll": True, **limits}
    server.create_server(app, sockets, host=address, port=port, **options)
    for one in sockets.values():
        if isinstance(one, server.TcpWSGIServer):
            one.channel_class = Channel
    return sockets


def serve(sockets: dict[int, Any], seconds: float = 1.0) -> None:
    """Serves until KeyboardInterrupt, which is raised; threads may still answer then.

    It looks for clients that are late every `seconds`, or more often.
    """
    wasyncore.loop(timeout=seconds, use_poll=True, map=sockets)


class Parser(parser.HTTPRequestParser):
    """Reads a connection's only request."""

    completed = False

    def parse_header(self, header_plus: bytes) -> None:
        """Parses the headers; adds that the connection ends with the answer."""
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # such as of a number with thousands of digits
            raise parser.ParsingError("Invalid header") from error
        self.headers["CONNECTION"] = "close"

    def received(self, data: bytes) -> int:
        """Takes bytes and returns how many; what is between chunks is as limited as headers are."""
        count = super().received(data)
        if self.chunked and not self.completed:
            between = max(len(self.body_rcv.control_line), len(self.body_rcv.trailer))
            if between > self.adj.max_request_header_size:
                self.error = utilities.BadRequest("Invalid chunk size")
                self.completed = True
        return count


class Refusal(task.ErrorTask):
    """Answers what the application never gets, with JSON as the application does."""

    def execute(self) -> None:
        error, limits = self.request.error, self.channel.adj
        sentence = {
            413: f"a picture may have at most {limits.max_request_body_size - 1:,} bytes.",
            431: f"headers may have at most {limits.max_request_header_size:,} bytes.",
        }.get(error.code, f"the request can't be answered ({error.body}).")
        body = json.dumps({"error": sentence}).encode()
        self.status, self.content_length = f"{error.code} {error.reason}", len(body)
        headers = {**demo_origins.HEADERS, "Content-Type": "application/json"}
        self.response_headers += headers.items()
        self.set_close_on_finish()
        self.write(body)


class Channel(channel.HTTPChannel):
    """A connection, cut off where its request doesn't arrive in time, or isn't taken."""

    parser_class = Parser
    error_task_class = Refusal

    def readable(self) -> bool:
        """Returns whether more may be read; the loop asks every second, or more often."""
        late = time.time() - self.creation_time > self.adj.channel_timeout
        if late and not self.requests:  # none that a thread has
            self.will_close = True
            with contextlib.suppress(OSError):  # what the client doesn't take would keep it open
                self.socket.shutdown(socket.SHUT_RDWR)
        return super().readable()

    def write_soon(self, data: Any) -> int:
        """Takes bytes of the answer, for which the time starts again."""
        self.creation_time = time.time()
        return super().write_soon(data)
