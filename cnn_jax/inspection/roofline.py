"""How long a training step takes, from arithmetic, bytes, kernels and collectives.

Nobody knows beforehand what share of a chip's peak a network reaches, so every time is a range,
from the good to the bad end of `SHARES`. At best everything overlaps, and a step takes as long as
its longest part; at worst nothing does, and it takes the sum.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cnn_jax.inspection.chips import Chip
from cnn_jax.inspection.program_text import Moved

Range = tuple[float, float]  # at best, at worst

PARTS = ("arithmetic", "memory", "launches", "communication", "input")


class Product(NamedTuple):
    """The matrix product that a layer is, for one image."""

    forward_flops: float
    backward_flops: float
    inputs: int  # of a sum: window × channels in, or those of a dense layer
    channels: int  # in, of a group
    outputs: int  # channels out, of a group
    is_dense: bool


class Shares(NamedTuple):
    """What is assumed of a kind of chip, at best and at worst."""

    arithmetic: Range  # share of the peak that products reach whose sizes fill the units
    memory: Range  # share of the memory's bandwidth
    link: Range  # share of the bandwidth between chips
    launch: Range  # seconds that a kernel takes at least
    latency: Range  # seconds that a collective takes at least


SHARES = {
    "gpu": Shares((0.7, 0.3), (0.9, 0.6), (0.8, 0.4), (1.5e-6, 5e-6), (10e-6, 40e-6)),
    "tpu": Shares((0.8, 0.35), (0.95, 0.6), (0.9, 0.5), (2e-7, 1e-6), (2e-6, 10e-6)),
}
# Pixels that a core decodes, crops and resizes in a second: 500 photographs of 500 × 375.
DECODED_PIXELS = 500 * 500 * 375


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of a step at best and at worst, by what takes them."""

    arithmetic: Range
    memory: Range
    launches: Range
    communication: Range
    input: Range = (0.0, 0.0)

    @property
    def step(self) -> Range:
        """Seconds of a step."""
        parts = [getattr(self, name) for name in PARTS]
        # Decoding always goes on beside training: it is waited for, never added.
        low, high = max(part[0] for part in parts), sum(part[1] for part in parts[:-1])
        return low, max(high, self.input[1])

    @property
    def middle(self) -> float:
        """The geometric mean of the range, the one number to expect."""
        return math.sqrt(math.prod(self.step))

    @property
    def limit(self) -> str:
        """The part that takes the longest."""
        return max(PARTS, key=lambda name: math.prod(getattr(self, name)))


def accelerator_times(
    chip: Chip,
    chips: int,
    images: float,
    products: Sequence[Product],
    dtype: str,
    moved: Moved,
) -> Times:
    """Returns the times of a step on accelerators.

    Args:
      chip: their kind.
      chips: how many there are.
      images: of a step, on each.
      products: of one image.
      dtype: 'float32' or 'bfloat16'.
      moved: what a step does on each.
    """
    assumed, peak = SHARES[chip.platform], getattr(chip, dtype)
    arithmetic = [
        images
        * sum(
            (product.forward_flops + product.backward_flops)
            / (peak * share * utilization(product, chip.tile, windowed))
            for product in products
        )
        for share, windowed in zip(assumed.arithmetic, (True, False), strict=True)
    ]
    communication = [
        sum(
            (count * latency + seconds_on_links(kind, size, chip, chips) / share)
            for kind, (count, size) in moved.collectives.items()
        )
        if chips > 1
        else 0.0
        for share, latency in zip(assumed.link, assumed.latency, strict=True)
    ]
    return Times(
        _range(arithmetic),
        _range(moved.bytes / chip.bandwidth / share for share in assumed.memory),
        _range(moved.kernels * seconds for seconds in assumed.launch),
        _range(communication),
    )


def _range(values: Iterable[float]) -> Range:
    low, high = values
    return low, high


def utilization(product: Product, tile: tuple[int, int], windowed: bool = True) -> float:
    """Returns the share of the units that a product's sizes fill: 3 of 128 inputs fill 3/128.

    Args:
      product: a layer's.
      tile: inputs and outputs that fill the units.
      windowed: the pixels of a window are summed together, as cuDNN does and XLA for TPUs can; else
        the channels of one pixel after the other's.
    """
    inputs = product.inputs if windowed else product.channels
    return _filled(inputs, tile[0]) * _filled(product.outputs, tile[1])


def _filled(size: int, tile: int) -> float:
    return size / (math.ceil(size / tile) * tile)


def seconds_on_links(kind: str, size: int, chip: Chip, chips: int) -> float:
    """Returns the seconds of a collective over rings, at the full bandwidth of all links.

    An all-reduce of n bytes sends 2(N − 1)/N · n within the group, the others half of it; between
    groups each chip sends its share of the sum over the network.
    """
    rounds = 2 if kind == "all-reduce" else 1
    near = min(chips, chip.group)
    far = max(1, chips // chip.group)
    within = rounds * (near - 1) / near * size / chip.link
    return within + rounds * (far - 1) / far * size / near / chip.network


def decoding_cores(images_per_second: float, height: int, width: int) -> float:
    """Returns how many cores must decode so many JPEGs a second, of this size."""
    return images_per_second * height * width / DECODED_PIXELS
