"""Stand-ins for a network, pictures and a server, for tests of the demo page."""

import contextlib
import io
import pathlib
import socket
import threading
import types

import numpy as np
from PIL import Image

from experiments import demo_server

ROOT = pathlib.Path(__file__).parent.parent
GRAY = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8) * 5)


def saved(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def stub(shape=(28, 28, 1), maps=None, probabilities=(0.25, 0.75), **others):
    """What the page needs of a network."""
    named = types.SimpleNamespace(name="stub")
    values = {
        "config": types.SimpleNamespace(model=named, dataset=named),
        "data": {},
        "fit": "stretch",
        "image_shape": shape,
        "class_names": ("<b>", "\u2028"),
        "probabilities": probabilities
        if callable(probabilities)
        else lambda images: np.float32([probabilities]),
        "feature_maps": lambda images: maps or {},
    }
    return types.SimpleNamespace(**{**values, **others})


@contextlib.contextmanager
def served(app, host="127.0.0.1", port=0, seconds=15.0, **limits):
    """Serves an application, on a free port unless one is given; yields the port."""
    sockets = demo_server.listen(app, host, port, **limits)
    servers = [one for one in sockets.values() if hasattr(one, "effective_port")]
    servers[0].adj.channel_timeout = seconds  # waitress's flag takes whole seconds
    thread = threading.Thread(target=demo_server.serve, args=(sockets, 0.05))
    thread.start()
    try:
        yield int(servers[0].effective_port)
    finally:
        left = list(sockets.values())
        sockets.clear()  # which ends the loop
        servers[0].pull_trigger()
        thread.join(10)
        servers[0].task_dispatcher.shutdown()
        for one in left:
            one.close()
    assert not thread.is_alive()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def at_once(count, function):
    """What the calls of a function with 0, 1, … return, one thread each."""
    answers = [None] * count

    def call(index):
        answers[index] = function(index)

    threads = [threading.Thread(target=call, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers
