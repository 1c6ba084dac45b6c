"""The ranges of all numbers of a configuration, stated once.

They keep out what is certainly a slip of the hand, or more than any machine can hold; whether a
number fits the network and the data is for these to say.
"""

import math
from typing import Any, NamedTuple

from cnn_jax import schema

FLOAT32_MAX = 3.4028234663852886e38
_INT32_MAX = 2**31 - 1


class Range(NamedTuple):
    """The numbers from `low` to `high`, as `text` says it."""

    low: float
    high: float
    text: str
    without_low: bool = False
    without_high: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number is within the range; NaN never is."""
        above = value > self.low if self.without_low else value >= self.low
        below = value < self.high if self.without_high else value <= self.high
        return above and below


def _whole(low: int, high: int) -> Range:
    first = f"{low} or more" if low == 0 else f"at least {low}"
    return Range(low, high, f"{first}, and at most {high:,}")


_POSITIVE = Range(0, FLOAT32_MAX, "positive and finite", without_low=True)
_NOT_NEGATIVE = Range(0, FLOAT32_MAX, "0 or more, and finite")
_PROBABILITY = Range(0, 1, "from 0 to 1")
_BELOW_ONE = Range(0, 1, "at least 0 and less than 1", without_high=True)
_PIXELS = _whole(0, 4096)

RANGES = {
    "dataset.train_examples": _whole(0, 10**9),
    "dataset.holdout": _BELOW_ONE,
    "dataset.split_seed": Range(0, 2**63 - 1, "0 or more, and less than 2**63"),
    "dataset.image_size": _PIXELS,
    "dataset.whiten_epsilon": _POSITIVE,
    "augment.pad": _PIXELS,
    "augment.pad_probability": _PROBABILITY,
    "augment.cutout": _PIXELS,
    "augment.erase": _PROBABILITY,
    "model.dropout": _BELOW_ONE,
    "optimizer.learning_rate": _POSITIVE,
    "optimizer.momentum": _BELOW_ONE,
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.warmup_epochs": _NOT_NEGATIVE,
    "optimizer.step_epochs": _POSITIVE,
    "optimizer.step_factor": _PROBABILITY,
    "optimizer.clip_norm": _NOT_NEGATIVE,
    "optimizer.ema_decay": _BELOW_ONE,
    "records.checkpoint_epochs": _whole(1, 10**6),
    "records.checkpoint_seconds": _NOT_NEGATIVE,
    "epochs": _whole(1, 10**6),
    "batch_size": _whole(1, 10**6),
    "eval_batch_size": _whole(1, 10**6),
    "label_smoothing": _BELOW_ONE,
    "seed": Range(0, 2**32 - 1, "0 or more, and less than 2**32"),
}


def find_problem(path: str, value: Any) -> str | None:
    """Says, after the value, what the value at a path must be; None if it is that.

    Beside the ranges: every number is finite, and those within tuples, which are sizes of the
    network, are no larger than an array could be.
    """
    expected = _expected(path, value)
    return expected and f"{schema.show(value)} is out of range; it must be {expected}."


def _expected(path: str, value: Any) -> str | None:
    if isinstance(value, tuple | list):
        return next((expected for v in value if (expected := _expected(path, v))), None)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if path in RANGES:
        return None if RANGES[path].holds(value) else RANGES[path].text
    if isinstance(value, float):
        return None if math.isfinite(value) else "finite"
    return None if abs(value) <= _INT32_MAX else f"at most {_INT32_MAX:,}"
