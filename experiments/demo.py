"""A local web page that shows what a trained network makes of a picture, layer by layer.

python -m experiments.demo --run=runs/lenet

Then open http://127.0.0.1:5000 in a browser: draw, choose an example or upload a picture. The page
is served to this machine only, unless --host says otherwise. It needs Flask and waitress, which are
optional: pip install flask waitress

The constants below bound what clients can take: the bytes and the pixels of a picture, read from
its header before anything is decoded, the requests that wait, and their time. One picture is
answered at a time, which takes 32 bytes a pixel, some 500 MB; where WAITING requests wait already,
or after WAIT_SECONDS, the answer is 503 with Retry-After, and the page tries again. A connection is
cut off if its request doesn't arrive, or its answer isn't taken, within channel_timeout seconds.

Only the page itself may use /see: a request that a browser sends for a page of another origin is
refused, and so is one under a name that isn't this machine's. Programs that send no Origin, Referer
or Sec-Fetch-Site, such as curl, are served.
"""

import base64
import concurrent.futures
import hashlib
import html
import importlib.util
import json
import logging
import os
import pathlib
import re
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import flags

from cnn_jax import data, files
from cnn_jax.errors import UserError
from cnn_jax.inspection import trained_network
from experiments import demo_origins, demo_pictures, demo_view, launch

RUN = launch.define_path("run", None, "The directory of a run.")
CHECKPOINT = launch.define_checkpoint()
HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "The address or name to serve at; 0.0.0.0 is all addresses, :: IPv6's too."
)
PORT = flags.DEFINE_integer("port", 5000, "The port to serve at.", lower_bound=1, upper_bound=65535)
PAGE = pathlib.Path(__file__).with_name("demo.html")

UPLOAD_BYTES = 8_000_000  # of a request's body; the page knows it too
WAITING = 8  # requests that wait while one is looked at; fewer than threads, the page needs some
WAIT_SECONDS = 10.0
RETRY_SECONDS = 2  # what Retry-After says
SERVER = {  # see waitress's documentation
    "threads": 12,
    "connection_limit": 200,
    "channel_timeout": 15,
    "max_request_header_size": 16_384,
    "max_request_body_size": UPLOAD_BYTES + 1,  # the least that is refused
    "inbuf_overflow": 65_536,
    "outbuf_overflow": 65_536,
}


def main() -> int:
    missing = [name for name in ("flask", "waitress") if not importlib.util.find_spec(name)]
    if missing:
        needs = f"the page needs {' and '.join(missing)}, not installed here"
        return launch.fail(f"{needs}: pip install {' '.join(missing)}.")
    from experiments import demo_server

    launch.require(run=RUN.value)
    host, port = HOST.value.removeprefix("[").removesuffix("]"), PORT.value
    if not host:
        return launch.fail("--host needs an address, for example --host=127.0.0.1.")
    app = make_app(trained_network.load(RUN.value, CHECKPOINT.value), host)
    try:
        sockets = demo_server.listen(app, host, port, **SERVER)
    except (OSError, ValueError) as error:
        reason = files.say_reason(error) if isinstance(error, OSError) else "there is no such host"
        return launch.fail(
            f"port {port} of {host} can't be served ({reason}); choose another --port, or an "
            "address of this machine as --host."
        )
    try:
        print(announcement(host, port), flush=True)
        demo_server.serve(sockets)
    except KeyboardInterrupt:
        os._exit(0)  # a thread that computes can't be ended otherwise, and may do so for long
    return 0


def announcement(host: str, port: int) -> str:
    """Returns the line that says where the page is to be opened."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    shown = everywhere.get(host, host)
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
    elsewhere = ""
    if host in everywhere:
        elsewhere = f", or http://{socket.gethostname()}:{port} on another machine"
    return f"open {address} in a browser{elsewhere}; Ctrl-C ends it"


def make_app(network: trained_network.Trained, host: str = "127.0.0.1") -> Any:
    """Returns the Flask application, to be opened at `host`.

    GET / is the page. POST /see takes the bytes of a picture and answers with JSON: what
    `demo_view.look` returns, 'done': sentences on how the picture was prepared, and 'warning': a
    sentence if its ground is much lighter or darker than the training images', or null. A
    probability that isn't finite is null. POST /explain takes &kind=, &layer= and &class= too and
    answers with {'picture', 'caption'}: what in the picture speaks for the class.

    Both take invert=0, 1 or auto, which inverts a picture if its ground is like that of the
    training images then, and fit=stretch, pad or crop; as they are left out, 0 and `choose_fit`.
    Else the answer is {'error': a sentence} with status 400, or 403 (of another origin), 413 (too
    large) or 503 (busy).
    """
    import flask
    from werkzeug import exceptions

    app = flask.Flask("cnn_jax")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # an upload's faults are its sender's
    text, policy = read_page(network)
    take_turn = make_queue()
    choices: dict[str, list[Any]] = {
        "invert": ["0", "1", "auto"],
        "fit": sorted(data.FITS, key=lambda fit: fit != demo_pictures.choose_fit(network)),
    }

    @app.before_request
    def refuse() -> None:
        name = flask.request.headers.get("Host", "")
        if not demo_origins.is_served(name, host):
            sentence = f"this page isn't served as {name[:200]!r}; open it where the command says, "
            flask.abort(400, sentence + "or start it with that name as --host.")
        headers = dict(flask.request.headers)
        if flask.request.method == "POST" and not demo_origins.is_same_origin(headers, name):
            sentence = "only the page itself may send pictures; open it and upload the picture."
            flask.abort(403, sentence)

    @app.get("/")
    def page() -> Any:
        return flask.Response(text, mimetype="text/html")

    def respond(compute: Callable[[np.ndarray], dict[str, Any]]) -> Any:
        upload, given = flask.request.stream, flask.request.args
        chosen: list[Any] = []
        for name, values in choices.items():
            chosen.append(given.get(name) or values[0])
            if chosen[-1] not in values:
                sentence = f"{name}={chosen[-1][:200]!r} is unknown; choose one of "
                flask.abort(400, f"{sentence}{', '.join(values)}.")

        def answer() -> str:
            image, done = demo_pictures.prepare(network, upload.read(), *chosen)
            return json.dumps({"done": done, **compute(image)})

        try:
            found = take_turn(answer)
        except UserError as error:
            flask.abort(400, " ".join(str(error).split()))
        except Busy as error:
            raise exceptions.ServiceUnavailable(str(error), retry_after=RETRY_SECONDS) from error
        return flask.Response(found, mimetype="application/json")

    @app.post("/see")
    def see() -> Any:
        def compute(image: np.ndarray) -> dict[str, Any]:
            warning = demo_pictures.warn_of_ground(network, image)
            return {"warning": warning, **demo_view.look(network, image)}

        return respond(compute)

    @app.post("/explain")
    def explain() -> Any:
        kind, layer = (flask.request.args.get(name, "") for name in ("kind", "layer"))
        label = flask.request.args.get("class", default=-1, type=int)
        return respond(lambda image: dict(demo_view.explain(network, image, kind, layer, label)))

    @app.errorhandler(Exception)
    def describe(error: Exception) -> Any:
        if not isinstance(error, exceptions.HTTPException):
            sentence = f"{type(error).__name__}: {error}".strip().split("\n")[0]
            print(f"error: the network failed on a picture: {sentence}", file=sys.stderr)
            return flask.jsonify(error=f"the network failed on the picture ({sentence})."), 500
        headers = [(k, v) for k, v in error.get_headers() if k in ("Allow", "Retry-After")]
        return flask.jsonify(error=error.description or error.name), error.code, headers

    @app.after_request
    def secure(response: Any) -> Any:
        response.headers.update({**demo_origins.HEADERS, "Content-Security-Policy": policy})
        return response

    return app


def read_page(network: trained_network.Trained) -> tuple[str, str]:
    """Returns the page for a network and the Content-Security-Policy that it needs."""
    text = PAGE.read_text(encoding="utf-8")
    policy = "default-src 'none'; img-src data: blob:; connect-src 'self'; base-uri 'none'; "
    policy += "form-action 'none'; frame-ancestors 'none'"
    for kind in ("script", "style"):
        [code] = re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        policy += f"; {kind}-src 'sha256-{digest}'"
    name, (height, width, _) = network.config.dataset.name, network.image_shape
    examples = demo_pictures.load_examples(name, network.class_names)
    values = {
        "title": f"{network.config.model.name} on {name}",
        "classes": list_classes(network.class_names),
        "example": "choose an example, " if examples else "",
        "height": height,
        "width": width,
        "fit": demo_pictures.choose_fit(network),
        "ground": "#fff" if network.data.get("border", [0.0])[0] > 0.5 else "#000",
    }
    written = {key: html.escape(str(value)) for key, value in values.items()}
    written["examples"] = write_examples(examples)
    return re.sub(r"\{\{(\w+)\}\}", lambda match: written[match[1]], text), policy


def list_classes(names: Sequence[str]) -> str:
    """Returns how many classes there are, and their names, as many as guesses.

    >>> list_classes(["cat", "dog"])
    '2 classes: cat, dog'
    """
    listed = f"{len(names):,} classes: {', '.join(names[: demo_view.CLASSES])}"
    more = len(names) - demo_view.CLASSES
    return f"{listed} and {more:,} more" if more > 0 else listed


def write_examples(examples: Sequence[tuple[str, np.ndarray]]) -> str:
    """Returns the HTML of a button for each image [H, W, C] with its name; '' without any."""
    if not examples:
        return ""
    buttons = [
        f'<button type="button" class="example" title="{html.escape(name)}" aria-pressed="false">'
        f'<img alt="{html.escape(name)}" src="{demo_view.show(image)}">'
        "</button>"
        for name, image in examples
    ]
    return (
        '<p id="examples">Examples: a test image of each class. Drawings that look like these '
        "are recognized best.</p>\n"
        f'<div class="row" role="group" aria-labelledby="examples">{"".join(buttons)}</div>'
    )


class Busy(Exception):
    """Too many requests wait already."""


def make_queue() -> Callable[[Callable[[], Any]], Any]:
    """Returns a function that calls another and returns what it returns, one call at a time.

    All are made by one thread: the system's allocator keeps memory for each thread that has taken
    much. The function raises Busy where WAITING calls wait already, or where the turn doesn't come
    within WAIT_SECONDS.
    """
    places = threading.Semaphore(1 + WAITING)
    pool = concurrent.futures.ThreadPoolExecutor(1, "look")
    sentence = f"other pictures come first; try again in {RETRY_SECONDS} seconds."

    def take_turn(call: Callable[[], Any]) -> Any:
        if not places.acquire(blocking=False):
            raise Busy(sentence)
        try:
            future = pool.submit(call)
            concurrent.futures.wait([future], WAIT_SECONDS)
            if future.cancel():  # not begun
                raise Busy(sentence)
            return future.result()
        finally:
            places.release()

    return take_turn


if __name__ == "__main__":
    launch.run(main)
