"""What the demo page shows of a picture: guesses, the layers' maps, and what speaks for a class."""

import base64
import functools
import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from cnn_jax.errors import ConfigError
from cnn_jax.figures import plots, style
from cnn_jax.inspection import attribution, trained_network
from cnn_jax.options import suggest_name

CLASSES = 20  # named, the likeliest ones
MAPS = 16  # shown of each layer
MAP_SIDE = 512  # pixels of a feature map's side; a larger one is shown coarser
COLORS = style.color_signed(np.linspace(-1, 1, 255), 1.0)  # of maps
READING = f"Each map is a channel of the layer's output: {style.SIGN}, on one scale for the layer."
SQUARES = 7  # so many fit beside each other where parts of a picture are covered
KINDS = {  # what speaks for a class: how it is called and how its picture is to be read
    "grad_cam": ("Grad-CAM", "Red: where the maps of {layer} speak for {name}."),
    "saliency": (
        "input gradient",
        "The more red a pixel, the more {name} gains where it gets brighter; blue: darker.",
    ),
    "occlusion": (
        "occlusion",
        "Red: where {name} loses if a square of {size}×{size} pixels is covered; blue: gains.",
    ),
}


def look(network: trained_network.Trained, image: np.ndarray) -> dict[str, Any]:
    """Returns the likeliest classes, what the network was given and the layers' feature maps.

    {'classes': [[name, probability, number], …], 'input': {'shape', 'picture'}, 'kinds': [[kind,
    name], …] of KINDS, 'reading': how to read the maps, 'legend': their colors, 'layers': [{'name',
    'shape': [h, w, c], 'shown': how many of the c maps, 'scale': their largest magnitude,
    'picture': those shown, side by side}, …]}; pictures are data: URLs.
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
        "kinds": [[kind, name] for kind, (name, _) in KINDS.items()],
        "reading": READING,
        "legend": data_url(np.arange(255, dtype=np.uint8)[None], COLORS),
        "layers": layers,
    }


def explain(
    network: trained_network.Trained, image: np.ndarray, kind: str, layer: str, label: int
) -> dict[str, str]:
    """Returns what in an image speaks for a class: a picture, and how it is to be read.

    Raises:
      ConfigError: there is no such kind, layer or class.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind={kind!r} is unknown{suggest_name(kind, list(KINDS))}")
    if not 0 <= label < len(network.class_names):
        raise ConfigError(f"there is no class {label}; there are {len(network.class_names)}.")
    size = max(1, min(network.input_shape[:2]) // SQUARES)
    if kind == "grad_cam":
        shapes = attribution.list_layers(network.model, network.variables, _prepared(network))
        if layer not in shapes:
            raise ConfigError(f"layer={layer!r} is unknown{suggest_name(layer, list(shapes))}")
    values = np.asarray(_explainer(network, kind, layer, size)(image[None], label)[0], np.float32)
    ground = image if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, -1)
    side = max(224, *image.shape[:2])
    height, width = (max(1, round(side * n / max(image.shape[:2]))) for n in image.shape[:2])
    relative = np.nan_to_num(values / style.measure_scale(values), nan=0, posinf=1, neginf=-1)

    def enlarge(array: np.ndarray) -> np.ndarray:
        shown = Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(shown, np.float32)

    heat = enlarge(relative.astype(np.float32))
    share = 0.85 * np.abs(heat)[..., None]
    mixed = (1 - share) * (40 + 0.6 * enlarge(ground)) + share * style.color_signed(heat, 1.0)
    caption = KINDS[kind][1].format(layer=layer, name=network.class_names[label], size=size)
    return {"picture": data_url(np.rint(mixed).astype(np.uint8)), "caption": caption}


@functools.lru_cache(maxsize=32)
def _explainer(network: trained_network.Trained, kind: str, layer: str, size: int) -> Any:
    """Returns (uint8 images [1, H, W, C], class) → [1, h, w], compiled."""

    @jax.jit
    def compute(variables: Any, images: jax.Array, label: jax.Array) -> jax.Array:
        x = network.preprocess(images)
        asked = network.model, variables, x, label[None]
        if kind == "grad_cam":
            return attribution.grad_cam(*asked, layer)[0]
        if kind == "saliency":
            return attribution.input_gradient(*asked).sum(-1)
        return attribution.occlusion(*asked, size, max(1, size // 2))

    return lambda images, label: compute(network.variables, images, jnp.int32(label))


def _prepared(network: trained_network.Trained) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *network.input_shape), jnp.float32)


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
