"""Images mixed with others of their batch, and what that makes of their labels.

Each image has another of the batch, at random, as its partner; padding is nobody's. Labels become
distributions over two classes: `Mixed` has both and their shares.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from cnn_jax.augment.checks import check_images
from cnn_jax.augment.erasing import mark_rectangles
from cnn_jax.ops import ArgumentError
from cnn_jax.ops.arguments import is_concrete, is_number


class Mixed(NamedTuple):
    """A batch after mixing."""

    images: Array  # [N, H, W, C]
    labels: Array  # int32 [N]: the label with the larger share, which metrics compare with
    others: Array  # int32 [N]: the other one
    share: Array  # float32 [N]: that of `labels`, from ½ to 1

    def distributions(self, classes: int) -> Array:
        """Returns the labels as distributions over the classes, float32 [N, classes]."""
        own, other = (jax.nn.one_hot(x, classes) for x in (self.labels, self.others))
        return self.share[:, None] * own + (1 - self.share[:, None]) * other


def mixup(key: Array, images: Array, labels: Array, weights: Array, alpha: float) -> Mixed:
    """Returns λ x + (1 − λ) x' for every image x and its partner x' (Zhang et al., 2018).

    λ ~ Beta(α, α) is drawn for each image. `weights` [N] are 0 for padding, which isn't mixed in.

    Raises:
      ArgumentError: images aren't floating-point, or α isn't positive.
    """
    _check("mixup", images, alpha)
    key_partner, key_share = jax.random.split(key)
    partner = choose_partners(key_partner, weights)
    share = jax.random.beta(key_share, alpha, alpha, labels.shape, jnp.float32)
    own = share.astype(images.dtype).reshape(-1, 1, 1, 1)
    return _mixed(own * images + (1 - own) * images[partner], labels, labels[partner], share)


def cutmix(key: Array, images: Array, labels: Array, weights: Array, alpha: float) -> Mixed:
    """Puts a rectangle of its partner into each image (Yun et al., 2019).

    With λ ~ Beta(α, α) its sides are √(1 − λ) of the image's, rounded down to whole pixels on each
    side of a center that may be any pixel; what would lie outside is cut off. The partner's label
    has the share of the rectangle that is left.

    Raises:
      ArgumentError: images aren't floating-point, or α isn't positive.
    """
    _check("cutmix", images, alpha)
    n, height, width, _ = images.shape
    key_partner, key_share, key_center = jax.random.split(key, 3)
    partner = choose_partners(key_partner, weights)
    ratio = jnp.sqrt(1 - jax.random.beta(key_share, alpha, alpha, (n,), jnp.float32))
    centers = jax.random.randint(key_center, (2, n), 0, jnp.asarray([[height], [width]]))
    halves = [jnp.floor(ratio * size / 2).astype(jnp.int32) for size in (height, width)]
    top, left = (center - half for center, half in zip(centers, halves, strict=True))
    hole = mark_rectangles(top, left, 2 * halves[0], 2 * halves[1], height, width)
    share = 1 - hole.mean((1, 2, 3), dtype=jnp.float32)
    return _mixed(jnp.where(hole, images[partner], images), labels, labels[partner], share)


def mixup_or_cutmix(
    key: Array, images: Array, labels: Array, weights: Array, alphas: tuple[float, float]
) -> Mixed:
    """Returns each image as `mixup` or `cutmix` has it, with probability ½ each; α of both."""
    key_mixup, key_cutmix, key_choice = jax.random.split(key, 3)
    first = mixup(key_mixup, images, labels, weights, alphas[0])
    second = cutmix(key_cutmix, images, labels, weights, alphas[1])
    heads = jax.random.bernoulli(key_choice, shape=labels.shape)

    def choose(a: Array, b: Array) -> Array:
        return jnp.where(heads.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return Mixed(*map(choose, first, second))


def choose_partners(key: Array, weights: Array) -> Array:
    """Returns another example for each with a weight above 0, as indices int32 [N].

    These examples, in a random order, have the next one as their partner, the last one the first;
    others have themselves.
    """
    places = jnp.arange(len(weights), dtype=jnp.int32)
    draws = jax.random.uniform(key, weights.shape)
    order = jnp.argsort(jnp.where(weights > 0, draws, jnp.inf)).astype(jnp.int32)
    count = (weights > 0).sum(dtype=jnp.int32)
    following = order[jnp.where(places + 1 < count, places + 1, 0)]
    return places.at[order].set(jnp.where(places < count, following, order))


def _mixed(images: Array, labels: Array, others: Array, share: Array) -> Mixed:
    swapped = share < 0.5
    return Mixed(
        images,
        jnp.where(swapped, others, labels),
        jnp.where(swapped, labels, others),
        jnp.maximum(share, 1 - share),
    )


def _check(operation: str, images: Array, alpha: float) -> None:
    check_images(images, floating=operation)
    if not is_number(alpha) or not is_concrete(alpha) or not float(alpha) > 0:
        raise ArgumentError(f"{operation}: alpha={alpha!r} must be positive.")
