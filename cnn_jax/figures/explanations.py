"""Pictures of what in an image speaks for a class: `attribution`'s maps laid over the image."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from cnn_jax.errors import ConfigError
from cnn_jax.figures import plots, style
from cnn_jax.inspection import attribution, dataflow, layer_table, trained_network
from cnn_jax.options import suggest_name

SQUARES = 7  # so many fit beside each other where parts of an image are covered
SIDE = 224  # pixels of a picture's longer side, or the image's


class Kind(NamedTuple):
    """A kind of map."""

    name: str
    reading: str  # how to read it
    nothing: str  # what it means if no part of it has a color


KINDS = {
    "grad_cam": Kind(
        "Grad-CAM",
        "Red: where the maps of {layer} speak for {name}.",
        "Nothing is red: nowhere do the maps of {layer} speak for {name}.",
    ),
    "saliency": Kind(
        "input gradient",
        "Red: where {name} gains if a pixel gets brighter; blue: if it gets darker.",
        "Nothing has a color: {name} neither gains nor loses if a pixel changes a little.",
    ),
    "occlusion": Kind(
        "occlusion",
        "Red: where {name} loses if a square of {size}×{size} pixels is covered; blue: gains.",
        "Nothing has a color: {name} neither gains nor loses if a square of {size}×{size} pixels "
        "is covered.",
    ),
}


class Explanation(NamedTuple):
    """What in an image speaks for a class: uint8 [h, w, 3], and a sentence on how to read it."""

    picture: np.ndarray
    reading: str
    is_empty: bool  # no part of it has a color


def list_layers(network: trained_network.Trained) -> list[str]:
    """Returns the names of the layers that Grad-CAM can look at, in order."""
    images = jax.ShapeDtypeStruct((1, *network.input_shape), jnp.float32)
    return list(attribution.list_layers(network.model, network.variables, images))


def explain(
    network: trained_network.Trained, image: np.ndarray, kind: str, layer: str, label: int
) -> Explanation:
    """Returns what in an image speaks for a class.

    Args:
      network: of a run.
      image: uint8 [H, W, C].
      kind: one of KINDS.
      layer: one of `list_layers`, for 'grad_cam'.
      label: the class.

    Raises:
      ConfigError: there is no such kind, layer or class.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind={kind!r} is unknown{suggest_name(kind, list(KINDS))}")
    if not 0 <= label < len(network.class_names):
        raise ConfigError(f"there is no class {label}; there are {len(network.class_names)}.")
    if kind == "grad_cam" and layer not in (known := list_layers(network)):
        raise ConfigError(f"layer={layer!r} is unknown{suggest_name(layer, known)}")
    size = max(1, min(network.input_shape[:2]) // SQUARES)
    compute = make_maps(network, kind, layer, size)
    values = np.asarray(compute(image[None], label)[0], np.float32)
    if kind == "grad_cam":
        values = place(values, find_fields(network, layer), network.input_shape[:2])
    elif kind == "occlusion":
        squares = [dataflow.ReceptiveField(size, find_stride(size))] * 2
        values = place(values, squares, network.input_shape[:2])
    is_empty = not values.any()
    reading = KINDS[kind].nothing if is_empty else KINDS[kind].reading
    names = {"layer": layer, "name": network.class_names[label], "size": size}
    return Explanation(lay_over(image, values), reading.format(**names), is_empty)


@functools.lru_cache(maxsize=32)
def make_maps(network: trained_network.Trained, kind: str, layer: str, size: int) -> Any:
    """Returns (uint8 images [1, H, W, C], class) → [1, h, w], compiled; `size` as `occlusion`."""

    @jax.jit
    def compute(variables: Any, images: jax.Array, label: jax.Array) -> jax.Array:
        asked = network.model, variables, network.preprocess(images), label[None]
        if kind == "grad_cam":
            return attribution.grad_cam(*asked, layer)[0]
        if kind == "saliency":
            return attribution.input_gradient(*asked).sum(-1)
        return attribution.occlusion(*asked, size, find_stride(size))

    return lambda images, label: compute(network.variables, images, jnp.int32(label))


def find_stride(size: int) -> int:
    """Returns how far apart the squares of `size` pixels are that cover parts of an image."""
    return max(1, size // 2)


@functools.lru_cache(maxsize=32)
def find_fields(network: trained_network.Trained, layer: str) -> list[dataflow.ReceptiveField]:
    """Returns what a layer's units see of the network's input, along each axis; [] if unknown."""
    for row in layer_table.analyze(network.model, network.input_shape, activations=True).layers:
        size, start = row.receptive_field, row.receptive_field_start
        stride = row.receptive_field_stride
        if row.name == layer and size and stride and start:
            return list(map(dataflow.ReceptiveField, size, stride, start))
    return []


def place(
    values: np.ndarray, fields: Sequence[dataflow.ReceptiveField], shape: Sequence[int]
) -> np.ndarray:
    """Returns a map [h, w] at the size of what it was computed from, `shape`: [H, W].

    Each value lies in the middle of what its unit sees, and between them it is interpolated.
    Without padding the outer units' middles are well within the image: to stretch the map over all
    of it, as is usual, would move what it shows. Pixels beyond the outer units' steps are 0. If the
    fields are unknown, [], or the same for all units, it is stretched.
    """
    placed = values
    for axis, side in enumerate(shape):
        units = values.shape[axis]
        step, first = side / units, (side / units - 1) / 2
        if fields and fields[axis].stride:
            step, first = fields[axis].stride, fields[axis].start + (fields[axis].size - 1) / 2
        places = (np.arange(side) - first) / step  # of the pixels, in units
        weights = np.array([np.interp(places, np.arange(units), unit) for unit in np.eye(units)])
        weights *= np.abs(places - (units - 1) / 2) <= units / 2
        placed = np.moveaxis(np.tensordot(placed, weights, (axis, 0)), -1, axis)
    return placed.astype(np.float32)


def lay_over(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns an image [H, W, C], darkened, under the colors of a map [h, w], uint8 [_, _, 3].

    The colors are `style.SIGNED`'s up to the largest magnitude; what is 0 is clear.
    """
    side = max(SIDE, *image.shape[:2])
    height, width = (max(1, round(side * n / max(image.shape[:2]))) for n in image.shape[:2])
    relative = np.nan_to_num(values / style.measure_scale(values), nan=0, posinf=1, neginf=-1)

    def enlarge(array: np.ndarray) -> np.ndarray:
        shown = Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(shown, np.float32)

    visible = plots.select_visible(image)
    ground = visible if visible.ndim == 3 else np.repeat(visible[..., None], 3, -1)
    heat = enlarge(relative.astype(np.float32))
    share = 0.85 * np.abs(heat)[..., None]
    mixed = (1 - share) * (40 + 0.6 * enlarge(ground)) + share * style.color_signed(heat, 1.0)
    return np.rint(mixed).astype(np.uint8)


def draw_explanations(
    network: trained_network.Trained,
    images: np.ndarray,
    labels: Sequence[int],
    guesses: Sequence[int],
    title: str,
    file: pathlib.Path,
) -> None:
    """Draws images [N, H, W, C], each beside what speaks for the guess: a row for each.

    Grad-CAM looks at the last layer that has maps.
    """
    layer = list_layers(network)[-1]
    figure = plots.make_figure(8.6, 2.15 * len(images) + 0.9)
    panels = figure.subplots(len(images), 1 + len(KINDS), squeeze=False)
    for row, image, label, guess in zip(panels, images, labels, guesses, strict=True):
        truth, name = (plots.shorten(network.class_names[i], 18) for i in (label, guess))
        shown = plots.select_visible(image)
        row[0].imshow(shown, cmap="gray", vmin=0, vmax=255)
        color = "black" if label == guess else style.WRONG
        row[0].set_title(f"truth: {truth}\nguess: {name}", fontsize=8, color=color)
        for axes, (kind, about) in zip(row[1:], KINDS.items(), strict=True):
            explanation = explain(network, image, kind, layer, guess)
            axes.imshow(explanation.picture)
            heading = f"{about.name}, {layer}" if kind == "grad_cam" else about.name
            none = ": nothing" if explanation.is_empty else ""
            axes.set_title(f"{heading}{none}\nfor {name}", fontsize=8)
        for axes in row:
            axes.set_axis_off()
    plots.set_title(figure, title)
    plots.save(figure, file)
