"""The kinds of maps that the demo page offers: pictures of what each layer makes of an image.

Another kind is one more line of KINDS; the page finds it in the answers, with how to read it.
"""

import base64
import dataclasses
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from cnn_jax.figures import style
from cnn_jax.inspection import trained_network

MAPS = 16  # shown of each layer
MAP_SIDE = 512  # pixels of a map's side; a larger one is shown coarser


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of maps.

    Attributes:
      title: what the page calls it.
      reading: a sentence or two that say how to read the colors.
      compute: (network, uint8 image [H, W, C]) → maps [h, w, c] by the names of layers, in order.
      low: the least value shown, as a multiple of the layer's largest magnitude: -1, or 0 for maps
        without negative values.
    """

    title: str
    reading: str
    compute: Callable[[trained_network.Trained, np.ndarray], Mapping[str, np.ndarray]]
    low: float = -1.0


def compute_feature_maps(
    network: trained_network.Trained, image: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns the outputs [h, w, c] of the layers for an image [H, W, C]."""
    return {name: maps[0] for name, maps in network.feature_maps(image[None]).items()}


KINDS = {
    "features": Kind(
        "feature maps",
        f"Each map is a channel of the layer's output: {style.SIGN}, on one scale for the layer.",
        compute_feature_maps,
    ),
}


def describe(network: trained_network.Trained, image: np.ndarray, name: str) -> dict[str, Any]:
    """Returns what an answer says of the kind `name` of maps of an image [H, W, C].

    {'kinds': [[name, title], …], 'kind': name, 'reading': how to read them, 'legend': the colors
    from low to high, 'layers': [{'name', 'shape': [h, w, c], 'shown': how many of the c maps,
    'low', 'high': the ends of the scale, 'picture': the shown maps side by side}, …]}; pictures are
    data: URLs.
    """
    kind = KINDS[name]
    colors = style.color_signed(np.linspace(kind.low, 1, 255), 1.0)
    layers = []
    for layer, maps in kind.compute(network, image).items():
        step = -(-max(maps.shape[:2]) // MAP_SIDE)
        shown = np.asarray(maps[::step, ::step, :MAPS], np.float64)
        high = style.measure_scale(shown)
        layers.append(
            {
                "name": layer,
                "shape": list(maps.shape),
                "shown": shown.shape[-1],
                "low": kind.low * high,
                "high": high,
                "picture": data_url(draw_strip(shown, kind.low * high, high), colors),
            }
        )
    return {
        "kinds": [[key, each.title] for key, each in KINDS.items()],
        "kind": name,
        "reading": kind.reading,
        "legend": data_url(np.arange(255, dtype=np.uint8)[None], colors),
        "layers": layers,
    }


def draw_strip(maps: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns maps [h, w, c] side by side, uint8 [h, c·w]: 0 at `low` to 254 at `high`.

    What lies beyond has the color of the scale's end, and NaN is 255.
    """
    side_by_side = np.concatenate(list(np.moveaxis(maps, -1, 0)), 1)
    unknown = np.isnan(side_by_side)
    known = np.clip(np.where(unknown, low, side_by_side), low, high)
    places = np.rint(254 * (known / (high - low) - low / (high - low)))
    return np.where(unknown, 255, places).astype(np.uint8)


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
