"""What the demo page shows of a picture: guesses, the layers' maps, and what speaks for a class."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from cnn_jax.figures import explanations, plots, style
from cnn_jax.inspection import trained_network

CLASSES = 20  # named, the likeliest ones
MAPS = 16  # shown of each layer
MAP_SIDE = 512  # pixels of a feature map's side; a larger one is shown coarser
COLORS = style.color_signed(np.linspace(-1, 1, 255), 1.0)  # of maps
READING = f"Each map is a channel of the layer's output: {style.SIGN}, on one scale for the layer."


def look(network: trained_network.Trained, image: np.ndarray) -> dict[str, Any]:
    """Returns the likeliest classes, what the network was given and the layers' feature maps.

    {'classes': [[name, probability, number], …], 'input': {'shape', 'picture'}, 'kinds': [[kind,
    name], …] of explanations.KINDS, 'reading': how to read the maps, 'legend': their colors,
    'layers': [{'name', 'shape': [h, w, c], 'shown': how many of the c maps, 'scale': their largest
    magnitude, 'picture': those shown, side by side}, …]}; pictures are data: URLs.
    """
    probabilities = network.probabilities(image[None])[0]
    order = np.argsort(-probabilities, kind="stable")
    known = [round(float(p), 6) if np.isfinite(p) else None for p in probabilities]
    layers = []
    for name, maps in network.feature_maps(image[None]).items():
        if maps.ndim != 4:
            continue
        step = -(-max(maps.shape[1:3]) // MAP_SIDE)
        shown = np.asarray(maps[0, ::step, ::step, :MAPS], np.float64)
        scale = style.measure_scale(shown)
        layers.append(
            {
                "name": name,
                "shape": list(maps.shape[1:]),
                "shown": shown.shape[-1],
                "scale": scale,
                "picture": data_url(draw_strip(shown, scale), COLORS),
            }
        )
    return {
        "classes": [[network.class_names[i], known[i], int(i)] for i in order[:CLASSES]],
        "input": {"shape": list(image.shape), "picture": show(image)},
        "kinds": [[kind, about.name] for kind, about in explanations.KINDS.items()],
        "reading": READING,
        "legend": data_url(np.arange(255, dtype=np.uint8)[None], COLORS),
        "layers": layers,
    }


def explain(
    network: trained_network.Trained, image: np.ndarray, kind: str, layer: str, label: int
) -> dict[str, str]:
    """Returns the picture and the caption of `explanations.explain`, and raises what it raises."""
    explanation = explanations.explain(network, image, kind, layer, label)
    return {"picture": data_url(explanation.picture), "caption": explanation.reading}


def draw_strip(maps: np.ndarray, scale: float) -> np.ndarray:
    """Returns maps [h, w, c] side by side, uint8 [h, c·w]: 0 at -scale to 254 at scale.

    What lies beyond has the color of the scale's end, and NaN is 255.
    """
    side_by_side = np.concatenate(list(np.moveaxis(maps, -1, 0)), 1)
    unknown = np.isnan(side_by_side)
    known = np.clip(np.where(unknown, 0, side_by_side), -scale, scale)
    return np.where(unknown, 255, np.rint(127 + 127 * (known / scale))).astype(np.uint8)


def show(image: np.ndarray) -> str:
    """Returns the data: URL of what can be seen of a uint8 image [H, W, C]."""
    return data_url(plots.select_visible(image))


def data_url(pixels: np.ndarray, colors: np.ndarray | None = None) -> str:
    """Returns uint8 pixels as the data: URL of a PNG.

    They are [H, W], gray or numbers of `colors` [255, 3], of which 255 is beyond and gray; or
    [H, W, 3].
    """
    picture = Image.fromarray(pixels)
    if colors is not None:
        picture.putpalette([*colors.ravel().tolist(), *3 * [int(style.NEUTRAL[1:3], 16)]])
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
