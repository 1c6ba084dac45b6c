"""Where steps get their examples from: data that lie on the devices, or chunks read ahead.

A feed's `chunks(epoch, start, stop)` are what `Program.train_steps` takes for the steps start …
stop − 1 of an epoch, a pure function of these three. Both feeds give the same examples in the same
order, so training goes on to the same bits with either, from the state and the position alone.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from cnn_jax import data, processes, processor, programs, steps
from cnn_jax.errors import ConfigError
from cnn_jax.experiment import Experiment
from cnn_jax.image_reader import ImageReader

AHEAD = 2  # chunks that are made while another one is used
# What one process has of a chunk is no more than this, unless a single batch is.
CHUNK_BYTES = 64 << 20
CHUNK_IMAGES = 4096

OrderOf = Callable[[int], programs.Order]  # epoch → its batches, on the host


class Chunk(NamedTuple):
    """Examples on the devices, and which of their steps are asked for."""

    data: programs.Data
    order: programs.Order
    start: int
    stop: int


class Feed(Protocol):
    """A part of a data set, in the order in which it is seen."""

    def chunks(self, epoch: int, start: int, stop: int) -> Iterator[Chunk]:
        """Yields the steps start … stop − 1 of an epoch: at least one chunk, even of no steps.

        A chunk may be gone when the next one is asked for.

        Raises:
          DataError: an image can't be read.
        """

    def evaluate(self, state: steps.TrainState) -> steps.Totals:
        """Returns the totals over all examples, on the devices; raises what `chunks` raises."""

    def close(self) -> None:
        """Ends the threads, if there are any."""


class ResidentFeed:
    """A part of a data set that lies on the devices as a whole."""

    def __init__(
        self,
        data: programs.Data,
        place_order: OrderOf,
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

    def close(self) -> None:
        """Does nothing."""


class _Block(NamedTuple):
    """The batches of the steps start … stop − 1 of an epoch, on the devices."""

    epoch: int
    start: int
    stop: int
    data: programs.Data
    order: programs.Order

    def delete(self) -> None:
        """Frees the memory, once no step uses it."""
        for leaf in jax.tree.leaves((self.data, self.order)):
            if isinstance(leaf, jax.Array):
                leaf.delete()


class _Ahead(NamedTuple):
    """A block that is being made."""

    epoch: int
    start: int
    made: "Future[_Block]"


class StreamedFeed:
    """A part of a data set that is read while other steps are computed.

    At most AHEAD + 1 chunks exist at a time. Of every batch, each process reads the examples that
    its own devices compute.
    """

    def __init__(
        self,
        part: data.Stream,
        order_of: OrderOf,
        program: programs.Program,
        zeros: steps.Totals,
        epochs: int | None,
        threads: int | None = None,
    ) -> None:
        """Reads `part` in `threads` threads, None: one for each core.

        `zeros` are totals of no examples, on the devices; `epochs` those of the training, None for
        a part that is evaluated.
        """
        self._part, self._order_of, self._program = part, order_of, program
        self._zeros, self._epochs = zeros, epochs
        order = order_of(0)
        self._steps, self._batch_size = order.weights.shape
        self._places = program.own_places(self._batch_size)
        self._length = steps_per_chunk(self._steps, self._batch_size, part.image_shape)
        self._maker = ThreadPoolExecutor(1, "feed")
        self._reader = ImageReader(part, threads or processor.count_cores())
        self._used: _Block | None = None
        self._ahead: deque[_Ahead] = deque()
        self._order_known: tuple[int, programs.Order] = (0, order)

    def chunks(self, epoch: int, start: int, stop: int) -> Iterator[Chunk]:
        """Yields the chunks that have the steps start … stop − 1 of an epoch."""
        position = start
        while True:
            block = self._find(epoch, position)
            end = min(stop, block.stop)
            yield Chunk(block.data, block.order, position - block.start, end - block.start)
            position = end
            if position == self._steps:
                self._release()  # what is evaluated next needs the room
            if position >= stop:
                return

    def evaluate(self, state: steps.TrainState) -> steps.Totals:
        """Returns the totals over all examples, on the devices."""
        totals = self._zeros
        for chunk in self.chunks(0, 0, self._steps):
            examples, order, *bounds = chunk
            totals = self._program.eval_steps(state, examples, order, totals, *bounds)
            jax.block_until_ready(totals)
        return totals

    def close(self) -> None:
        """Ends the threads, each after the piece that it is reading."""
        self._reader.cancel()
        self._maker.shutdown(wait=True, cancel_futures=True)
        self._reader.close()
        self._drop_ahead()
        self._release()

    def _find(self, epoch: int, position: int) -> _Block:
        """Returns the block of a step; those after it are begun."""
        used = self._used
        if used and used.epoch == epoch and used.start <= position < used.stop:
            return used
        self._release()
        if self._ahead and self._ahead[0][:2] != (epoch, position):
            self._drop_ahead()
        following: tuple[int, int] | None = (epoch, position)
        for begun in self._ahead:
            following = self._after(*begun[:2])
        while following and len(self._ahead) <= AHEAD:
            self._ahead.append(_Ahead(*following, self._maker.submit(self._make, *following)))
            following = self._after(*following)
        self._used = self._ahead.popleft().made.result()
        return self._used

    def _after(self, epoch: int, start: int) -> tuple[int, int] | None:
        """Where the block after another begins; None after the last."""
        if start + self._length < self._steps:
            return epoch, start + self._length
        return (epoch + 1, 0) if self._epochs and epoch + 1 < self._epochs else None

    def _release(self) -> None:
        if self._used:
            self._used.delete()
            self._used = None

    def _drop_ahead(self) -> None:
        made = [begun.made for begun in self._ahead if not begun.made.cancel()]
        wait(made)
        for future in made:
            if not future.exception():
                future.result().delete()
        self._ahead.clear()

    def _make(self, epoch: int, start: int) -> _Block:
        """Reads the examples of a block and brings them to the devices."""
        if self._order_known[0] != epoch:
            self._order_known = epoch, self._order_of(epoch)
        order = self._order_known[1]
        stop = min(start + self._length, self._steps)
        indices = order.indices[start:stop][:, self._places]
        shape = self._length, len(self._places)  # the last block of an epoch isn't full
        images = np.zeros((*shape, *self._part.image_shape), np.uint8)
        labels, weights = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        labels[: stop - start] = self._part.labels[indices]
        weights[: stop - start] = order.weights[start:stop][:, self._places]
        at = None if self._epochs is None else epoch
        self._reader.read(images.reshape(-1, *self._part.image_shape), indices, weights, at)
        examples, placed = self._program.put_chunk(
            programs.Data(images, labels), programs.Order(None, weights), self._batch_size
        )
        return _Block(epoch, start, stop, examples, placed)


def steps_per_chunk(count: int, batch_size: int, image_shape: tuple[int, ...]) -> int:
    """Returns how many of the `count` steps of an epoch are in a chunk, the same in all processes.

    `batch_size` is over all of them.
    """
    images = batch_size / jax.process_count()
    most = min(CHUNK_BYTES / (images * math.prod(image_shape)), CHUNK_IMAGES / images)
    return max(1, min(int(most), count))


def take_steps(
    train_steps: Callable[..., tuple[Any, Any]], state: Any, totals: Any, chunks: Iterator[Chunk]
) -> tuple[Any, Any]:
    """Returns the state and the totals after the steps of all chunks.

    Each is waited for, so that no more of them than the feed allows are on the devices.
    """
    for chunk in chunks:
        state, totals = train_steps(state, totals, *chunk)
        jax.block_until_ready(totals)
    return state, totals


def explain_streaming(asked: str, dataset: data.AnyDataset) -> str | None:
    """Returns how a data set is streamed and why, in words; None if it is resident.

    `asked` is config.dataset.feed.

    Raises:
      ConfigError: a set that isn't in the host's memory is to be resident.
    """
    in_files = isinstance(dataset, data.StreamedDataset)
    if asked == "memory":
        if in_files:
            raise ConfigError(
                "config.dataset.feed='memory' can't hold a data set that is read from its files as "
                "it is needed; choose stream or auto."
            )
        return None
    why = None
    if in_files:
        why = "read from files ahead of the steps"
    elif asked == "stream":
        why = "brought to the devices ahead of the steps"
    else:
        images = len(dataset.train_labels) + len(dataset.test_labels)
        need, free = images * math.prod(dataset.image_shape), programs.free_memory()
        if need > free:
            why = (
                f"brought to the devices ahead of the steps, as {need / 2**30:.1f} GiB of images "
                f"are more than the {free / 2**30:.1f} GiB that are free on each"
            )
    if processes.in_any(why is not None):
        return why or "brought to the devices ahead of the steps, as in another process"
    return None


def make_feeds(experiment: Experiment, streamed: bool) -> tuple[Feed, Feed]:
    """Returns the feeds of the training and the test part; they must be closed."""
    program, test_order = experiment.program, experiment.test_order()
    dataset, settings = experiment.dataset, experiment.config
    if streamed:
        zeros = program.put_state(experiment.start_totals())
        return (
            StreamedFeed(dataset.train, experiment.train_order, program, zeros, settings.epochs),
            StreamedFeed(dataset.test, lambda _: test_order, program, zeros, None),
        )

    def make(part: programs.Data, order_of: OrderOf) -> Feed:
        def place_order(epoch: int) -> programs.Order:
            return program.put_order(order_of(epoch))

        return ResidentFeed(program.put_data(part), place_order, program.eval_steps)

    train_feed = make(experiment.train_data, experiment.train_order)
    return train_feed, make(experiment.test_data, lambda _: test_order)
