"""A local web page that shows what a trained network makes of a picture, layer by layer.

python -m experiments.demo --run=runs/lenet

Then open http://127.0.0.1:5000 in a browser: upload a picture, or draw one. The page is served to
this machine only, unless --host says otherwise. It needs Flask and waitress, which are optional:
pip install flask waitress

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
import io
import json
import logging
import os
import pathlib
import re
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from cnn_jax import data, files
from cnn_jax.data import pictures
from cnn_jax.errors import UserError
from cnn_jax.inspection import trained_network
from experiments import demo_origins, demo_view, launch

RUN = launch.define_path("run", None, "The directory of a run.")
CHECKPOINT = launch.define_checkpoint()
HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "The address or name to serve at; 0.0.0.0 is all addresses, :: IPv6's too."
)
PORT = flags.DEFINE_integer("port", 5000, "The port to serve at.", lower_bound=1, upper_bound=65535)
PAGE = pathlib.Path(__file__).with_name("demo.html")

UPLOAD_BYTES = 8_000_000  # of a request's body; the page knows it too
PIXELS = 16_000_000  # of a picture
SIDE = 16_384  # pixels of a picture's longer side
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

    GET / is the page. POST /see takes the bytes of a picture, with ?invert=1 for dark on light or
    ?invert=auto to find that out, and answers with JSON: {'classes': [[name, probability, number],
    …], likeliest first, 'layers': [{'name', 'shape', 'picture', …}, …], 'kinds', 'inverted',
    'warning': a sentence where the picture's ground is much lighter or darker than the training
    images', or null}, pictures as data: URLs, the first what the network was given. POST /explain
    with ?kind=, &layer= and &class= answers with {'picture', 'caption'}: what in the picture speaks
    for the class. Else it is {'error': a sentence} with status 400, or 403 (of another origin), 413
    (too large) or 503 (busy). A probability that isn't finite is null.
    """
    import flask
    from werkzeug import exceptions

    app = flask.Flask("cnn_jax")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # an upload's faults are its sender's
    text, policy = read_page(f"{network.config.model.name} on {network.config.dataset.name}")
    take_turn = make_queue()

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

    def respond(compute: Callable[[bytes, str], dict[str, Any]]) -> Any:
        upload, invert = flask.request.stream, flask.request.args.get("invert", "0")
        try:
            found = take_turn(lambda: json.dumps(compute(upload.read(), invert)))
        except UserError as error:
            flask.abort(400, " ".join(str(error).split()))
        except Busy as error:
            raise exceptions.ServiceUnavailable(str(error), retry_after=RETRY_SECONDS) from error
        return flask.Response(found, mimetype="application/json")

    @app.post("/see")
    def see() -> Any:
        return respond(lambda content, invert: answer(network, content, invert))

    @app.post("/explain")
    def explain() -> Any:
        kind, layer = (flask.request.args.get(name, "") for name in ("kind", "layer"))
        label = flask.request.args.get("class", default=-1, type=int)

        def compute(content: bytes, invert: str) -> dict[str, Any]:
            image, _ = read_picture(network, content, invert)
            return dict(demo_view.explain(network, image, kind, layer, label))

        return respond(compute)

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


def read_page(title: str) -> tuple[str, str]:
    """Returns the page with this title and the Content-Security-Policy that it needs."""
    text = PAGE.read_text(encoding="utf-8")
    policy = "default-src 'none'; img-src data: blob:; connect-src 'self'; base-uri 'none'; "
    policy += "form-action 'none'; frame-ancestors 'none'"
    for kind in ("script", "style"):
        [code] = re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        policy += f"; {kind}-src 'sha256-{digest}'"
    return text.replace("TITLE", html.escape(title)), policy


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


class Upload(io.BytesIO):
    """Bytes that error messages call by a name."""

    def __str__(self) -> str:
        return "the picture"


def answer(network: trained_network.Trained, content: bytes, invert: str) -> dict[str, Any]:
    """Returns what `demo_view.look` says of a picture file; raises what `decode` raises."""
    image, inverted = read_picture(network, content, invert)
    return {**demo_view.look(network, image), "inverted": inverted}


def read_picture(
    network: trained_network.Trained, content: bytes, invert: str
) -> tuple[np.ndarray, bool]:
    """Returns a picture file as pixels, and whether light and dark were exchanged.

    They are for `invert` '1', and for 'auto' where the picture is dark on light and the training
    images are light on dark, or the other way round.
    """
    image = decode(content, network.image_shape, choose_fit(network))
    inverted = invert == "1" or (invert == "auto" and demo_view.should_invert(network.data, image))
    return 255 - image if inverted else image, inverted


def choose_fit(network: trained_network.Trained) -> data.Fit:
    """Returns how pictures are brought to the network's size: as the training images were.

    Where those had their size already, pictures keep their proportions.
    """
    kind = network.config.dataset.name.partition(":")[0]
    return "pad" if kind in data.DATASETS else network.fit


def decode(content: bytes, shape: tuple[int, int, int], fit: data.Fit = "stretch") -> np.ndarray:
    """Returns a picture file as uint8 pixels of the shape [H, W, C], brought to it as `fit` says.

    For C other than 1 and 3 every channel holds the gray picture. To be called by one thread at a
    time, as what Python does with warnings is the whole process's.

    Raises:
      DataError: it is no picture, damaged, or larger than the page takes.
    """
    height, width, channels = shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on damaged metadata, which the picture may do without
        try:
            check_size(content)
            kinds = 3 if channels == 3 else 1
            image = data.decode_picture(Upload(content), kinds, (height, width), fit)
        except data.DataError:
            raise
        except Exception as error:  # decoders raise what they like
            raise data.DataError(
                f"the picture is truncated or damaged ({type(error).__name__}); replace it."
            ) from error
    return image if channels == kinds else np.repeat(image, channels, -1)


def check_size(content: bytes) -> None:
    """Raises DataError if a picture announces more pixels than the page takes."""
    try:
        with Image.open(io.BytesIO(content), formats=pictures.FORMATS) as picture:
            tags = getattr(picture, "tag_v2", {})  # TIFF's tiles may be larger than the picture
            width, height = (
                max(size, *np.ravel(tags.get(tag, 0)).tolist())
                for size, tag in zip(picture.size, (322, 323), strict=True)
            )
    except (OSError, Image.DecompressionBombError):
        return  # `data.decode_picture` says what is wrong
    if width * height > PIXELS or max(width, height) > SIDE:
        raise data.DataError(
            f"the picture announces {width}x{height} pixels; scale it down to at most {PIXELS:,} "
            f"pixels, and at most {SIDE:,} on a side."
        )


if __name__ == "__main__":
    launch.run(main)
