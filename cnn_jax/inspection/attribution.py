"""Which parts of an image speak for a class: Grad-CAM, input gradients and occlusion.

Pure functions of a network, its variables and images as the network takes them, float
[N, H, W, C]; `classes` is int [N], the class asked about for each image. What they explain is the
class's logit.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from cnn_jax.errors import ConfigError
from cnn_jax.inspection import taps
from cnn_jax.options import suggest_name


def list_layers(model: nn.Module, variables: Any, images: Any) -> dict[str, tuple[int, ...]]:
    """Returns the layers that have maps, in order, with the maps' shapes [N, h, w, C]."""
    shapes: dict[str, tuple[int, ...]] = {}

    def tap(name: str, y: Array) -> None:
        if y.ndim == 4:
            shapes[name] = y.shape

    with taps.tapping(tap):
        jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images)
    return shapes


def grad_cam(
    model: nn.Module, variables: Any, images: Array, classes: Array, layer: str
) -> tuple[Array, Array]:
    """Returns Grad-CAM maps [N, h, w] of a layer, at least 0, and the logits [N, classes].

    Maps of the layer, each weighted by the mean of the logit's gradient over it, are summed, and
    what is negative is cut off (Selvaraju et al., "Grad-CAM: Visual Explanations from Deep
    Networks via Gradient-Based Localization", 2017).

    Raises:
      ConfigError: there is no such layer with maps, or no such class.
    """
    shapes = list_layers(model, variables, images)
    if layer not in shapes:
        raise ConfigError(
            f"layer={layer!r} is no layer of the network that has maps"
            f"{suggest_name(layer, list(shapes))}"
        )
    _check_classes(model, variables, images, classes)

    def logit_of(shift: Array) -> tuple[Array, tuple[Array, Array]]:
        seen: list[Array] = []

        def tap(name: str, y: Array) -> Array | None:
            if name != layer:
                return None
            seen.append(y)
            return y + shift.astype(y.dtype)

        with taps.tapping(tap):
            logits: Any = model.apply(variables, images, train=False)
        chosen = jnp.take_along_axis(logits, classes[:, None], 1)
        return chosen.sum(), (seen[0], logits)

    shift = jnp.zeros(shapes[layer], jnp.float32)
    gradient, (maps, logits) = jax.grad(logit_of, has_aux=True)(shift)
    weights = gradient.mean((1, 2), keepdims=True)
    return jnp.maximum((weights * maps).sum(-1), 0), logits


def input_gradient(model: nn.Module, variables: Any, images: Array, classes: Array) -> Array:
    """Returns the gradient of the class's logit with respect to the images, [N, H, W, C].

    Its magnitude is the saliency map of Simonyan et al., "Deep Inside Convolutional Networks:
    Visualising Image Classification Models and Saliency Maps", 2014.

    Raises:
      ConfigError: there is no such class.
    """
    _check_classes(model, variables, images, classes)

    def logit_of(x: Array) -> Array:
        logits: Any = model.apply(variables, x, train=False)
        return jnp.take_along_axis(logits, classes[:, None], 1).sum()

    return jax.grad(logit_of)(images)


def occlusion(
    model: nn.Module,
    variables: Any,
    images: Array,
    classes: Array,
    size: int,
    stride: int = 1,
    fill: Array | float = 0.0,
) -> Array:
    """Returns how much the class's logit falls where a square of the image is covered, [N, h, w].

    Row i and column j are of the square of `size` pixels whose first row is i `stride` and first
    column j `stride`; all squares lie within the image. `fill`, a number or [C], covers them
    (Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2014).

    Raises:
      ConfigError: there is no such class, or the square is larger than the images.
    """
    height, width = images.shape[1:3]
    if not 1 <= size <= min(height, width) or stride < 1:
        raise ConfigError(
            f"size={size}, stride={stride} don't fit images of {height}×{width} pixels; choose a "
            f"size from 1 to {min(height, width)} and a stride of at least 1."
        )
    _check_classes(model, variables, images, classes)
    rows = np.arange(0, height - size + 1, stride)
    columns = np.arange(0, width - size + 1, stride)
    corners = jnp.asarray(np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2))
    y, x = jnp.arange(height)[:, None], jnp.arange(width)[None]
    filled = jnp.broadcast_to(jnp.asarray(fill, images.dtype), images.shape[-1:])

    def logit_of(batch: Array) -> Array:
        logits: Any = model.apply(variables, batch, train=False)
        return jnp.take_along_axis(logits, classes[:, None], 1)[:, 0]

    def covered(corner: Array) -> Array:
        inside = (y >= corner[0]) & (y < corner[0] + size)
        inside &= (x >= corner[1]) & (x < corner[1] + size)
        return logit_of(jnp.where(inside[None, :, :, None], filled[None, None, None], images))

    fall = logit_of(images)[None] - jax.lax.map(covered, corners)
    return fall.T.reshape(-1, len(rows), len(columns))


def _check_classes(
    model: nn.Module, variables: Any, images: Array, classes: Array | Sequence[int]
) -> None:
    """Raises ConfigError if a class isn't one of the network's; traced ones aren't checked."""
    if isinstance(classes, jax.core.Tracer):
        return
    logits = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, images)
    given = np.asarray(classes)
    if given.min(initial=0) < 0 or given.max(initial=0) >= logits.shape[-1]:
        raise ConfigError(
            f"classes are numbered from 0 to {logits.shape[-1] - 1}, got {given.tolist()}."
        )
