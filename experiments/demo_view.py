"""What the demo page shows of a picture: guesses, the layers' maps, and what speaks for a class."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from cnn_jax import data
from cnn_jax.figures import explanations, plots, style
from cnn_jax.inspection import trained_network

CLASSES = 20  # named, the likeliest ones
MAPS = 16  # shown of each layer
MAP_SIDE = 512  # pixels of a feature map's side; a larger one is shown coarser


def should_invert(about: Any, image: np.ndarray) -> bool:
    """Whether a picture's ground fits the training images' better with light and dark exchanged."""
    here, turned = (
        trained_network.warn_of_ground(about, data.border_brightness(one[None]))
        for one in (image, 255 - image)
    )
    return here is not None and turned is None


def look(network: trained_network.Trained, image: np.ndarray) -> dict[str, Any]:
    """Returns the classes with their probabilities and the layers' pictures.

    'layers' has of each its name, shape [h, w, C], how many maps are shown, their largest magnitude
    and their picture; the first is the image itself. 'kinds' are the names of `explanations.KINDS`.
    """
    probabilities = network.probabilities(image[None])[0]
    order = np.argsort(-probabilities, kind="stable")
    known = [round(float(p), 6) if np.isfinite(p) else None for p in probabilities]
    first = {"shown": image.shape[-1], "scale": None, "maps": False}
    layers = [{"name": "input", "shape": list(image.shape), **first, "picture": show(image)}]
    for name, maps in network.feature_maps(image[None]).items():
        picture, scale = draw_maps(maps[0])
        drawn = {"shown": min(MAPS, maps.shape[-1]), "scale": scale, "maps": maps.ndim == 4}
        layers.append(
            {"name": name, "shape": list(maps.shape[1:]), **drawn, "picture": data_url(picture)}
        )
    brightness = data.border_brightness(image[None])
    warning = trained_network.warn_of_ground(network.data, brightness, "exchange light and dark")
    return {
        "warning": warning,
        "classes": [[network.class_names[i], known[i], int(i)] for i in order[:CLASSES]],
        "layers": layers,
        "kinds": {kind: about.name for kind, about in explanations.KINDS.items()},
    }


def explain(
    network: trained_network.Trained, image: np.ndarray, kind: str, layer: str, label: int
) -> dict[str, str]:
    """Returns the picture and the caption of `explanations.explain`, and raises what it raises."""
    picture, caption = explanations.explain(network, image, kind, layer, label)
    return {"picture": data_url(picture), "caption": caption}


def draw_maps(maps: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the first MAPS of [H, W, C] as one uint8 picture [h, w, 3], and their scale.

    Colors are `style.SIGNED`, up to the largest magnitude of all; white lines are between the maps.
    """
    step = -(-max(maps.shape[:2]) // MAP_SIDE)
    values = maps[::step, ::step, :MAPS].astype(np.float64)
    scale = style.measure_scale(values)
    colors = style.color_signed(np.moveaxis(values, -1, 0), scale)
    tiles = np.pad(colors, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=255)
    return np.concatenate(list(tiles), 1), scale


def show(image: np.ndarray) -> str:
    """Returns the data: URL of what can be seen of a uint8 image [H, W, C]."""
    return data_url(plots.select_visible(image))


def data_url(pixels: np.ndarray) -> str:
    """Returns uint8 pixels [H, W] or [H, W, 3] as the data: URL of a PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
