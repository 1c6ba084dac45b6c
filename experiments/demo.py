"""A local web page that shows what a trained network makes of a picture, layer by layer.

python -m experiments.demo --run=runs/lenet

Then open http://127.0.0.1:5000 in a browser: upload a picture, or draw one. The page is served to
this machine only, unless --host says otherwise. It needs Flask, which is optional (requirements.txt
has it).
"""

import base64
import html
import io
import logging
import pathlib
import socket
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from cnn_jax import config, data, trained
from experiments import launch

RUN = flags.DEFINE_string("run", None, "The directory of a run.")
HOST = flags.DEFINE_string("host", "127.0.0.1", "The address to serve at; 0.0.0.0 is all of them.")
PORT = flags.DEFINE_integer("port", 5000, "The port to serve at.", lower_bound=1, upper_bound=65535)
PAGE = pathlib.Path(__file__).with_name("demo.html")
UPLOAD_BYTES = 8_000_000
MAPS = 16  # shown of each layer


def main() -> int:
    """Runs the command."""
    if RUN.value is None:
        return launch.fail("give the directory of a run, --run=runs/lenet say.")
    app = make_app(trained.load(RUN.value), HOST.value)
    from werkzeug import serving  # Flask's server, as optional as Flask

    family = socket.AF_INET6 if ":" in HOST.value else socket.AF_INET
    with socket.socket(family) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((HOST.value, PORT.value))
        except OSError as error:
            return launch.fail(
                f"port {PORT.value} of {HOST.value} can't be served ({error.strerror}); choose "
                "another --port."
            )
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    print(f"open http://{HOST.value}:{PORT.value} in a browser; Ctrl-C ends it", flush=True)
    serving.run_simple(HOST.value, PORT.value, app, threaded=True)
    return 0


def make_app(network: trained.Trained, host: str = "127.0.0.1") -> Any:
    """Returns the Flask application.

    GET / is the page. POST /see takes the bytes of a picture, as the body or as the form's file
    'picture', with ?invert=1 for dark on light, and answers with JSON: {'classes': [[name,
    probability], …], likeliest first, 'layers': [{'name', 'shape', 'picture'}, …]}, pictures as
    data: URLs, the first what the network was given; or {'error': a sentence} with status 400.

    Raises:
      ConfigError: Flask isn't installed.
    """
    try:
        import flask
    except ModuleNotFoundError as error:
        raise config.ConfigError(
            "the page needs Flask, which isn't installed: pip install flask."
        ) from error
    app = flask.Flask("cnn_jax")
    app.config["MAX_CONTENT_LENGTH"] = UPLOAD_BYTES
    if host in ("127.0.0.1", "localhost", "::1"):  # else another site's name could lead here
        app.config["TRUSTED_HOSTS"] = ["127.0.0.1", "localhost", "[::1]"]

    @app.get("/")
    def page() -> Any:
        title = f"{network.config.model.name} on {network.config.dataset.name}"
        text = PAGE.read_text(encoding="utf-8").replace("TITLE", html.escape(title))
        return flask.Response(text, mimetype="text/html")

    @app.post("/see")
    def see() -> Any:
        content = flask.request.get_data(cache=True)  # before a form is looked for
        if upload := flask.request.files.get("picture"):
            content = upload.read()
        try:
            height, width, channels = network.image_shape
            image = data.decode_picture(Upload(content), channels, (height, width))
        except data.DataError as error:
            return flask.jsonify(error=str(error)), 400
        if flask.request.args.get("invert") == "1":
            image = 255 - image
        return flask.jsonify(look(network, image))

    @app.errorhandler(413)
    def too_large(error: Any) -> Any:
        del error
        return flask.jsonify(error=f"a picture may have at most {UPLOAD_BYTES:,} bytes."), 413

    return app


class Upload(io.BytesIO):
    """Bytes that error messages call by a name."""

    def __str__(self) -> str:
        return "the picture"


def look(network: trained.Trained, image: np.ndarray) -> dict[str, Any]:
    """Returns the classes with their probabilities and the layers' pictures; see `make_app`."""
    probabilities = network.probabilities(image[None])[0]
    order = np.argsort(-probabilities, kind="stable")
    classes = [[network.class_names[i], round(float(probabilities[i]), 6)] for i in order]
    squeezed = image[..., 0] if image.shape[-1] == 1 else image
    layers = [{"name": "input", "shape": list(image.shape), "picture": data_url(squeezed)}]
    for name, values in network.feature_maps(image[None]).items():
        shown = values[0, :, :, :MAPS]
        low, high = shown.min((0, 1)), shown.max((0, 1))
        gray = (255 * (shown - low) / np.where(high > low, high - low, 1)).astype(np.uint8)
        tiles = np.pad(gray, ((0, 0), (0, 1), (0, 0)), constant_values=255)
        row = np.concatenate(list(np.moveaxis(tiles, -1, 0)), 1)
        layers.append({"name": name, "shape": list(values.shape[1:]), "picture": data_url(row)})
    return {"classes": classes, "layers": layers}


def data_url(pixels: np.ndarray) -> str:
    """Returns uint8 pixels [H, W] or [H, W, 3] as the data: URL of a PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


if __name__ == "__main__":
    launch.run(main)
