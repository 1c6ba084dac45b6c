"""What an experiment needs on machines that needn't be here: memory, time, traffic.

The training program itself is compiled for the target, whose compiler says what memory it takes,
and whose text what it moves and how often chips wait for each other. Without the compiler the same
numbers come from the layer table, on paper.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import psutil

from cnn_jax import config, data, experiment, layers
from cnn_jax.inspection import cpu_rates, footprint, layer_table, roofline, targets
from cnn_jax.inspection.footprint import Footprint, bytes_of
from cnn_jax.inspection.roofline import Product, Range, Times
from cnn_jax.inspection.targets import Target

# Of a GPU's memory JAX reserves this share at start, unless the environment says otherwise.
RESERVED = 0.75
FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"
STREAMED_STEPS = 8  # whose examples are on the devices, where the set is too large for them
LARGEST = 1 << 20  # no larger batch is looked for


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each chip."""

    available: int
    parameters: int
    optimizer: int  # its state, and averages
    data: int  # the examples, and their order
    activations: int  # all outputs of layers and the largest gradient, by the layer table
    temporary: int  # activations, gradients and scratch, by the compiler
    total: int

    @property
    def fits(self) -> bool:
        """Whether it does."""
        return self.total <= self.available


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a target makes of an experiment."""

    network: str
    data: str
    train_examples: int
    test_examples: int
    image_shape: tuple[int, ...]  # as the network sees it
    epochs: int
    target: str
    chip: str
    chips: int
    dtype: str
    batch_size: int
    images_per_chip: int
    not_compiled: str | None  # why
    resident: bool  # all examples lie on the devices; else they are streamed
    memory: Memory
    largest_batch: int | None  # of all chips; None: not looked for, or not one image a chip fits
    parameter_count: int
    multiply_adds: int  # forward and backward, of a step
    moved_bytes: tuple[float, float]  # of a chip in a step: a constant, and more for each image
    kernels: int
    collectives: dict[str, tuple[int, int]]  # their number and bytes in a step
    products: tuple[Product, ...]
    times: Times
    decoding_cores: Range | None  # at the worst and best speed; None: nothing is decoded
    steps: int
    run_seconds: Range  # with the evaluations
    price: float | None  # of a chip for an hour
    notes: tuple[str, ...]

    @property
    def images_per_second(self) -> Range:
        """At the worst and at the best speed."""
        low, high = self.times.step
        return self.batch_size / high, self.batch_size / low

    @property
    def cost(self) -> Range | None:
        """Of the whole run, in the money of `price`."""
        if self.price is None:
            return None
        low, high = (seconds / 3600 * self.price * self.chips for seconds in self.run_seconds)
        return low, high

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON object, with what follows from it."""
        return {
            **dataclasses.asdict(self),
            "products": [product._asdict() for product in self.products],
            "fits": self.memory.fits,
            "step_seconds": self.times.step,
            "limited_by": self.times.limit,
            "images_per_second": self.images_per_second,
            "cost": self.cost,
        }


@dataclasses.dataclass(frozen=True)
class _Setting:
    """An experiment on a target."""

    settings: config.Config
    target: Target
    dataset: data.Dataset
    devices: Sequence[Any] | None  # to compile for; None: on paper
    not_compiled: str | None  # why
    resident: bool
    notes: tuple[str, ...]

    def build(self, batch_size: int) -> experiment.Experiment:
        """Returns the experiment with a batch size, for the devices."""
        settings = dataclasses.replace(self.settings, batch_size=batch_size)
        dataset = self.dataset if self.resident else _chunk(self.dataset, batch_size)
        if not self.devices:  # one device of this process stands for all
            settings = dataclasses.replace(settings, parallel="none")
        statistics = _statistics(settings, dataset)
        return experiment.build(settings, dataset, statistics, self.devices)

    def describe(self, batch_size: int, table: layer_table.Analysis) -> Footprint:
        """Returns what it takes on each chip with a batch size."""
        ready = self.build(batch_size)
        if self.devices:
            return footprint.compile_for(ready, self.target.platform)
        return footprint.on_paper(ready, table, self.target.count)


def make(
    settings: config.Config,
    target: Target,
    dataset: data.Dataset,
    *,
    price: float | None = None,
    cores: float | None = None,
    search: bool = True,
    rates: cpu_rates.Rates | None = None,
) -> Plan:
    """Returns the plan of an experiment on a target.

    Args:
      settings: the experiment; `parallel` is 'jit' where there are several chips.
      target: the machines.
      dataset: only its shapes count, see `planned_data.stand_in`.
      price: of a chip for an hour.
      cores: that decode streamed pictures, of all hosts together; None: as many as are needed.
      search: look for the largest batch, which compiles the program three times.
      rates: of this CPU, where it is the target; None: measured now.

    Raises:
      ConfigError: the experiment can't run there.
    """
    _check_shared(settings, target)
    case = _settle(settings, target, dataset)
    ready = case.build(settings.batch_size)
    state = jax.eval_shape(ready.init_state)
    dtype = getattr(ready.model, "dtype", "float32")
    table = layer_table.analyze(ready.model, ready.input_shape, dtype)
    describe = functools.cache(lambda batch_size: case.describe(batch_size, table))
    found: Footprint = describe(settings.batch_size)
    memory = _add_up(case, state, table, found)
    products = _products(table, state.params)
    images = settings.batch_size // target.count
    if target.chip is None:
        times = cpu_rates.times(rates or cpu_rates.measure(), images, products, found.moved)
    else:
        times = roofline.accelerator_times(
            target.chip, target.count, images, products, dtype, found.moved
        )
    kept = ready.dataset.image_shape[:2]
    if not case.resident and cores:
        seconds = roofline.decoding_cores(settings.batch_size, *kept) / cores
        times = dataclasses.replace(times, input=(seconds, seconds))
    steps, seconds_of_run = _run(settings, dataset, table, times)
    made = Plan(
        network=settings.model.name,
        data=settings.dataset.name,
        train_examples=len(dataset.train_labels),
        test_examples=len(dataset.test_labels),
        image_shape=ready.input_shape,
        epochs=settings.epochs,
        target=target.name,
        chip=target.chip.title if target.chip else "this CPU",
        chips=target.count,
        dtype=dtype,
        batch_size=settings.batch_size,
        images_per_chip=images,
        not_compiled=case.not_compiled,
        resident=case.resident,
        memory=memory,
        largest_batch=None,
        parameter_count=layers.count_parameters(state.params),
        multiply_adds=(table.multiply_adds + table.backward_multiply_adds) * settings.batch_size,
        moved_bytes=(float(found.moved.bytes), 0.0),
        kernels=found.moved.kernels,
        collectives=found.moved.collectives,
        products=tuple(products),
        times=times,
        decoding_cores=None,
        steps=steps,
        run_seconds=seconds_of_run,
        price=price,
        notes=case.notes,
    )
    if not case.resident:
        slow, fast = (roofline.decoding_cores(rate, *kept) for rate in made.images_per_second)
        made = dataclasses.replace(made, decoding_cores=(slow, fast))
    return _search(made, case, describe) if search else made


def _search(made: Plan, case: _Setting, describe: Callable[[int], Footprint]) -> Plan:
    """Adds what larger batches tell: what moves with each image, and the largest that fits."""
    first, second = describe(made.batch_size), describe(2 * made.batch_size)
    slope = (second.moved.bytes - first.moved.bytes) / made.images_per_chip
    fixed = first.moved.bytes - slope * made.images_per_chip
    largest = _largest_batch(
        lambda batch_size: describe(batch_size).total,
        made.batch_size,
        made.chips,
        made.memory.available - (made.memory.total - first.total),
        made.train_examples if made.resident else LARGEST,
    )
    return dataclasses.replace(made, moved_bytes=(fixed, slope), largest_batch=largest)


def _settle(settings: config.Config, target: Target, dataset: data.Dataset) -> _Setting:
    """Decides how an experiment runs on a target."""
    notes, devices, why = [], None, None
    if target.count > 1 and settings.parallel != "jit":
        settings = dataclasses.replace(settings, parallel="jit")
        notes.append("planned with config.parallel=jit, which uses all chips")
    try:
        devices = targets.devices(target)
    except targets.MissingCompilerError as error:
        why = str(error)
    whole = bytes_of(dataset[:4])
    resident = whole < available_memory(target) / 2
    if not resident:
        notes.append(f"{whole / 2**30:,.1f} GiB of examples are streamed")
    return _Setting(settings, target, dataset, devices, why, resident, tuple(notes))


def _add_up(case: _Setting, state: Any, table: layer_table.Analysis, found: Footprint) -> Memory:
    """The memory of each chip; a resident test set lies there too."""
    test = bytes_of(case.dataset[2:4]) if case.resident else 0
    whole, parameters = bytes_of(state), bytes_of(state.params)
    return Memory(
        available=available_memory(case.target),
        parameters=parameters,
        optimizer=whole - parameters,
        data=max(0, found.arguments - whole) + test,
        activations=case.settings.batch_size // case.target.count * table.training_peak_bytes,
        temporary=found.temporary,
        total=found.total + test,
    )


def _check_shared(settings: config.Config, target: Target) -> None:
    """Raises ConfigError if the chips can't share the batches equally."""
    for name in ("batch_size", "eval_batch_size"):
        if (size := getattr(settings, name)) % target.count:
            near = max(1, round(size / target.count)) * target.count
            raise config.ConfigError(
                f"config.{name}={size} can't be shared equally by the {target.count} chips of "
                f"{target.name}; choose a multiple of {target.count}, such as {near}."
            )


def available_memory(target: Target) -> int:
    """Returns the bytes that a program may use on each chip."""
    if target.chip is None:
        return psutil.virtual_memory().available
    if target.platform == "tpu":
        return target.chip.memory
    return int(target.chip.memory * float(os.environ.get(FRACTION, RESERVED)))


def _chunk(dataset: data.Dataset, batch_size: int) -> data.Dataset:
    """The examples that are on the devices at a time, of a set that is streamed."""
    count = STREAMED_STEPS * batch_size
    images = np.broadcast_to(dataset.train_images[:1], (count, *dataset.train_images.shape[1:]))
    labels = np.broadcast_to(dataset.train_labels[:1], (count,))
    return dataset._replace(train_images=images, train_labels=labels)


def _statistics(
    settings: config.Config, dataset: data.Dataset
) -> tuple[experiment.Statistic, experiment.Statistic]:
    """Constants in place of the data's mean and standard deviation."""
    shape = dataset.train_images.shape[1:]
    if settings.dataset.normalization == "standardize":
        return (0.5,) * shape[-1], (0.25,) * shape[-1]
    if settings.dataset.normalization == "whiten":
        return np.zeros(shape, np.float32), np.ones(shape, np.float32)
    return (0.0,), (1.0,)


def _products(table: layer_table.Analysis, params: Any) -> list[Product]:
    """The products of one image, of all layers that have any."""
    products = []
    for row in table.layers:
        if not row.multiply_adds + row.backward_multiply_adds:
            continue
        own = functools.reduce(lambda tree, name: tree.get(name, {}), row.name.split("/"), params)
        kernel = own.get("kernel") if hasattr(own, "get") else None
        *window, channels, outputs = kernel.shape if kernel is not None else (1, 1)
        products.append(
            Product(
                forward_flops=2.0 * row.multiply_adds,
                backward_flops=2.0 * row.backward_multiply_adds,
                inputs=math.prod(window) * channels,
                channels=channels,
                outputs=outputs,
                is_dense=not window,
            )
        )
    return products


def _largest_batch(
    total: Callable[[int], int], batch_size: int, chips: int, available: int, examples: int
) -> int | None:
    """The largest batch whose program fits: a line through two of them, then tried."""
    first, second = total(batch_size), total(2 * batch_size)
    slope = max((second - first) / batch_size, 1e-9)
    most = min(LARGEST, examples) // chips * chips
    guess = batch_size + (available - first) / slope
    guess = int(min(max(guess, 0), most)) // chips * chips
    for _ in range(4):
        if guess < chips:
            return None
        if total(guess) <= available:
            return guess
        guess = int(0.95 * guess) // chips * chips
    return None


def _run(
    settings: config.Config, dataset: data.Dataset, table: layer_table.Analysis, times: Times
) -> tuple[int, Range]:
    """The steps of a run and its seconds, evaluations included, without starting and saving."""
    examples = len(dataset.train_labels)
    whole = examples / settings.batch_size
    steps = settings.epochs * (math.floor(whole) if settings.drop_last else math.ceil(whole))
    both = table.multiply_adds + table.backward_multiply_adds
    share = table.multiply_adds / both if both else 1 / 3
    evaluated = settings.epochs * len(dataset.test_labels) / settings.batch_size * share
    low, high = times.step
    return steps, ((steps + evaluated) * low, (steps + evaluated) * high)
