"""What a plan says of other numbers of chips: the same work, shared by more, and their talk.

A plan for several chips knows the collectives of a step; their number and bytes don't depend on how
many chips there are. So does what a chip moves for each image. The rest is arithmetic.
"""

import pathlib
from typing import Any, NamedTuple, TypedDict

from cnn_jax import schema
from cnn_jax.errors import UserError
from cnn_jax.inspection import roofline, targets
from cnn_jax.inspection.chips import CHIPS
from cnn_jax.inspection.program_text import Moved
from cnn_jax.inspection.roofline import Product, Range, Times

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ENOUGH = 0.5  # a network stops scaling where chips do less than this share of what one does alone
ADVICE = {
    "arithmetic": "more chips: arithmetic is shared",
    "memory": "bfloat16, which halves what is moved",
    "launches": "more images a chip: kernels take as long for few",
    "communication": "more images a chip, or gradients in bfloat16",
    "input": "raw uint8 records in place of JPEGs",
}
MANY_COLLECTIVES = 20  # more come from batch norm, two or three a layer
NORM_ADVICE = "batch norm over fixed groups of images, which needs no collectives"


class _Product(TypedDict):
    forward_flops: float
    backward_flops: float
    inputs: int
    channels: int
    outputs: int
    is_dense: bool


class Recorded(TypedDict):
    """What is read of a plan's JSON."""

    network: str
    data: str
    image_shape: list[int]
    target: str
    dtype: str
    batch_size: int
    images_per_chip: int
    not_compiled: str | None
    resident: bool
    moved_bytes: tuple[float, float]
    kernels: int
    collectives: dict[str, tuple[int, int]]
    products: list[_Product]
    decoding_cores: tuple[float, float] | None
    images_per_second: tuple[float, float]


class Scaled(NamedTuple):
    """A network on so many chips."""

    chips: int
    images_per_chip: float
    times: Times
    images_per_second: Range  # at the worst and at the best
    efficiency: float  # of a chip, beside one alone with as many images
    share: float  # of communication in the parts of a step
    decoding_cores: Range | None


def read(file: pathlib.Path) -> list[Recorded]:
    """Returns the plans in a file that `experiments.plan --format=json` wrote.

    Raises:
      RunDirectoryError: it isn't that.
      UserError: they can't be scaled.
    """
    plans: list[Recorded] = schema.read_json(file, list[Recorded])
    for made in plans:
        if targets.parse(made["target"]).count == 1:
            raise UserError(
                f"{file}: {made['network']} is planned for {made['target']} alone, and how chips "
                "wait for each other shows with several; plan it for at least two."
            )
        if not made["moved_bytes"][1]:
            raise UserError(
                f"{file}: {made['network']} is planned with --nosearch, which doesn't tell how "
                "traffic grows with the batch; plan it again without."
            )
    return plans


def scale(made: Recorded, chips: int, images_per_chip: float) -> Scaled:
    """Returns what so many chips of the plan's kind make of it, each with so many images."""
    times = _times(made, chips, images_per_chip)
    alone = _times(made, 1, images_per_chip)
    low, high = times.step
    speed = chips * images_per_chip / high, chips * images_per_chip / low
    parts = {name: _middle(getattr(times, name)) for name in roofline.PARTS}
    cores = None
    if made["decoding_cores"]:
        per_image = made["decoding_cores"][1] / made["images_per_second"][1]
        cores = speed[0] * per_image, speed[1] * per_image
    return Scaled(
        chips,
        images_per_chip,
        times,
        speed,
        alone.middle / times.middle,
        parts["communication"] / sum(parts.values()),
        cores,
    )


def advise(scaled: Scaled, collectives: dict[str, tuple[int, int]], dtype: str = "float32") -> str:
    """Says what would help most."""
    limit = scaled.times.limit
    if dtype == "bfloat16" and limit == "memory":
        return "chips of more bandwidth"
    if limit == "communication" and sum(n for n, _ in collectives.values()) > MANY_COLLECTIVES:
        return f"{NORM_ADVICE}; {ADVICE[limit]}"
    return ADVICE[limit]


def _times(made: Recorded, chips: int, images: float) -> Times:
    chip = CHIPS[targets.parse(made["target"]).name.partition(":")[0]]
    fixed, slope = made["moved_bytes"]
    moved = Moved(made["kernels"], int(fixed + slope * images), made["collectives"])
    products: list[Any] = [Product(**product) for product in made["products"]]
    return roofline.accelerator_times(chip, chips, images, products, made["dtype"], moved)


def _middle(span: Range) -> float:
    return (span[0] * span[1]) ** 0.5
