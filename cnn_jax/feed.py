"""Where the steps of an epoch get their examples from.

A feed's `chunks(epoch, start, stop)` are what `Program.train_steps` takes for the steps start …
stop − 1 of an epoch, a pure function of these three.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax

from cnn_jax import programs, steps
from cnn_jax.experiment import Experiment


class Chunk(NamedTuple):
    """Examples on the devices, and which of their steps are asked for."""

    data: programs.Data
    order: programs.Order
    start: int
    stop: int


class Feed(Protocol):
    """A part of a data set, in the order in which it is seen."""

    def chunks(self, epoch: int, start: int, stop: int) -> Iterator[Chunk]:
        """Yields the steps start … stop − 1 of an epoch, one chunk at least."""

    def evaluate(self, state: steps.TrainState) -> steps.Totals:
        """Returns the totals over all examples, on the devices."""


class ResidentFeed:
    """A part of a data set that lies on the devices as a whole."""

    def __init__(
        self,
        data: programs.Data,
        place_order: Callable[[int], programs.Order],
        eval_steps: Callable[..., steps.Totals],
    ) -> None:
        """`place_order(epoch)` returns the batches of an epoch on the devices, as are `data`."""
        self._data, self._place_order, self._eval_steps = data, place_order, eval_steps
        self._epoch: int | None = None

    def chunks(self, epoch: int, start: int, stop: int) -> Iterator[Chunk]:
        """Yields one chunk."""
        if epoch != self._epoch:
            self._order, self._epoch = self._place_order(epoch), epoch
        yield Chunk(self._data, self._order, start, stop)

    def evaluate(self, state: steps.TrainState) -> steps.Totals:
        """Returns the totals over all examples, on the devices."""
        (chunk,) = self.chunks(0, 0, 0)
        return self._eval_steps(state, chunk.data, chunk.order)


def train(
    train_steps: Callable[..., tuple[Any, Any]], state: Any, totals: Any, chunks: Iterator[Chunk]
) -> tuple[Any, Any]:
    """Returns the state and the totals after the steps of all chunks.

    Each is waited for, so that no more of them than the feed allows are on the devices.
    """
    for chunk in chunks:
        state, totals = train_steps(state, totals, *chunk)
        jax.block_until_ready(totals)
    return state, totals


def make_feeds(experiment: Experiment) -> tuple[Feed, Feed]:
    """Returns the feeds of the training and the test part."""
    program, test_order = experiment.program, experiment.test_order()

    def make(part: programs.Data, order_of: Callable[[int], programs.Order]) -> Feed:
        def place_order(epoch: int) -> programs.Order:
            return program.put_order(order_of(epoch))

        return ResidentFeed(program.put_data(part), place_order, program.eval_steps)

    train_feed = make(experiment.train_data, experiment.train_order)
    return train_feed, make(experiment.test_data, lambda _: test_order)
