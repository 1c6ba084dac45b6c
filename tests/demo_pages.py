"""A stand-in for a network, and pictures, for tests of the demo page."""

import io
import pathlib
import socket
import threading
import types

import numpy as np
from PIL import Image

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
