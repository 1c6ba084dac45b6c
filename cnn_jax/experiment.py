"""From a configuration to data, network, optimizer and compiled steps."""

import contextlib
import importlib.metadata
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import psutil
from flax import linen as nn

from cnn_jax import (
    augment,
    config,
    data,
    layers,
    models,
    ops,
    optimizers,
    parts,
    processes,
    programs,
    records,
    steps,
    text,
    weights,
)
from cnn_jax.data import streams
from cnn_jax.errors import CheckpointError
from cnn_jax.reduction import Reduction, in_parts

# Of each channel; for 'whiten', of each pixel or each spatial frequency, [H, W, C].
Statistic = Sequence[float] | np.ndarray
# How many training images statistics are of, where not all are in memory: of channels and spatial
# frequencies, and of the brightness of borders.
SAMPLE, BORDERS = 1024, 256
SAMPLE_SEED = 0  # of the choice of these


class Experiment(NamedTuple):
    """All that a configuration describes, ready to run."""

    config: config.Config
    dataset: data.AnyDataset
    model: nn.Module
    optimizer: optax.GradientTransformation
    schedule: optimizers.Schedule
    preprocess: steps.Preprocess
    program: programs.Program
    steps_per_epoch: int
    statistics: tuple[Statistic, Statistic]  # mean and standard deviation, for `preprocess`

    def init_state(self, seed: int | jax.Array | None = None) -> steps.TrainState:
        """Returns the state before the first step; `seed` may be traced, None is the config's."""
        shape = self.dataset.image_shape
        seed = self.config.seed if seed is None else seed
        averaging = self.config.optimizer.ema_decay > 0
        with naming_the_network(self.config, shape):
            state = steps.init_state(
                self.model, self.optimizer, self.preprocess, shape, seed, averaging
            )
        on_plateau = self.config.optimizer.schedule == "plateau"
        return state.replace(rate_factor=jax.numpy.float32(1)) if on_plateau else state

    def rate_factor(self, history: Sequence[Mapping[str, Any]]) -> float:
        """Returns what the learning rate is multiplied by after the epochs of `history`."""
        optimizer = self.config.optimizer
        if optimizer.schedule != "plateau":
            return 1.0
        return optimizers.plateau_factor(optimizer, [row["test_loss"] for row in history])

    def start_from(
        self, state: steps.TrainState, variables: Mapping[str, Any] | None
    ) -> steps.TrainState:
        """Returns a state on the host before the first step, with the weights in `variables`.

        `variables` are what `load_initial` returned; None leaves the state as it is.

        Raises:
          ConfigError: they are not of this network.
        """
        if variables is None:
            return state
        fresh = {"params": state.params, **state.model_state}
        settings, shape = self.config, self.input_shape
        source, skip = str(settings.init_from), settings.init_from_skip
        variables = weights.fit_initial(variables, fresh, self.model, shape, source, skip)
        params, model_state = variables["params"], {n: variables[n] for n in state.model_state}
        averages = None if state.averages is None else dict(variables)
        opt_state = self.optimizer.init(params)
        state = state.replace(params=params, model_state=model_state, opt_state=opt_state)
        started: steps.TrainState = jax.device_get(state.replace(averages=averages))
        return started

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape [H, W, C] of preprocessed images."""
        images = jax.ShapeDtypeStruct((1, *self.dataset.image_shape), np.uint8)
        shape: tuple[int, ...] = jax.eval_shape(lambda x: self.preprocess(x, None), images).shape
        return shape[1:]

    @property
    def train_data(self) -> programs.Data:
        """The training set on the host."""
        return _in_memory(self.dataset.train)

    @property
    def test_data(self) -> programs.Data:
        """The test set on the host."""
        return _in_memory(self.dataset.test)

    def start_totals(self, sums: Mapping[str, Any] | None = None) -> steps.Totals:
        """Returns totals on the host: of no examples, or with the result of `epochs.sums_of`.

        Raises:
          CheckpointError: the sums are of other metrics.
        """
        zeros = steps.Totals.zeros(len(self.dataset.class_names))
        if not sums:
            return zeros
        if sums.keys() != {*zeros.sums, "examples"}:
            names = text.one_line(", ".join(name for name in sums if name != "examples"))
            raise CheckpointError(
                f"the run was saved within an epoch with the metrics {names}, and here are "
                f"{', '.join(zeros.sums)}; finish the epoch with those, or start anew."
            )
        saved = {name: np.asarray(sums[name], zero.dtype) for name, zero in zeros.sums.items()}
        return zeros._replace(sums=saved, examples=np.float32(sums["examples"]))

    def train_order(self, epoch: int) -> programs.Order:
        """Returns the batches of an epoch, which depend on the seed and the epoch alone."""
        order = data.epoch_order(self.config.seed, epoch, len(self.dataset.train_labels))
        return programs.Order(*data.batches(order, self.config.batch_size, self.config.drop_last))

    def test_order(self) -> programs.Order:
        """Returns the batches of an evaluation: each test example exactly once."""
        order = np.arange(len(self.dataset.test_labels), dtype=np.int32)
        return programs.Order(*data.batches(order, self.config.eval_batch_size, drop_last=False))


def _in_memory(part: data.Stream) -> programs.Data:
    """A part of a data set that was loaded as a whole; raises DataError if it wasn't."""
    if not isinstance(part, data.ArrayStream):
        raise data.DataError(
            "the data set is read from its files as it is needed, and this needs one in memory; "
            "give a smaller one."
        )
    return programs.Data(part.images, part.labels)


def load_dataset(
    settings: config.DatasetConfig, keep: bool = True, seed: int = 0
) -> data.AnyDataset:
    """Returns the data set's classes, held-out split and subset; `keep` is as in `data.load`.

    `seed` decides what is cut out of pictures that are read as they are needed.
    """
    dataset: data.AnyDataset
    if streams.is_streamed(settings):
        dataset = streams.load(settings, seed)
    else:
        dataset = data.load(settings.name, settings.data_dir, keep)
    if settings.classes:
        dataset = data.choose_classes(dataset, settings.classes)
    if settings.holdout:
        dataset = data.split(dataset, settings.holdout, settings.split_seed)
    if settings.train_examples:
        dataset = data.subset(dataset, settings.train_examples, settings.split_seed)
    return dataset


def build(
    settings: config.Config,
    dataset: data.AnyDataset,
    statistics: tuple[Statistic, Statistic] | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Experiment:
    """Builds network, optimizer and compiled steps.

    `statistics` are those of `compute_normalization`, if they are known already; `devices` what the
    programs are for, if they are not the devices of this process.

    Raises:
      ConfigError: the configuration doesn't fit the data set or the devices.
    """
    count = len(dataset.train_labels)
    if settings.batch_size > count:
        raise config.batch_too_large(settings.batch_size, count)
    if jax.process_count() > 1 and settings.parallel != "jit":
        raise config.ConfigError(
            f"config.parallel={settings.parallel!r} runs in one process, and there are "
            f"{jax.process_count()}; choose --config.parallel=jit."
        )
    available = len(devices) if devices else jax.device_count()
    used = 1 if settings.parallel == "none" else available
    groups = settings.reduction_groups if settings.reduction == "ordered" else None
    if groups:
        _check_groups(settings, groups, used)
    for name in ("batch_size", "eval_batch_size"):
        if (size := getattr(settings, name)) % used:
            raise config.ConfigError(
                f"config.{name}={size} can't be shared equally by {used} devices; choose "
                f"a multiple of {used}."
            )
        _check_memory(name, size, dataset)
    _check_colors(settings, dataset)
    _check_ghosts(settings, groups or used)
    if settings.batch_size % (used * settings.accumulate):
        raise config.ConfigError(
            f"config.batch_size={settings.batch_size} can't be shared by {used} devices in "
            f"config.accumulate={settings.accumulate} equal parts each; choose a multiple of "
            f"{used * settings.accumulate}."
        )
    steps_per_epoch = len(
        data.batches(np.arange(count), settings.batch_size, settings.drop_last)[0]
    )
    options = config.model_options(settings.model)
    model = models.create(settings.model.name, classes=len(dataset.class_names), **options)
    optimizer = optimizers.make(settings.optimizer, steps_per_epoch, settings.epochs)
    mean, std = statistics or compute_normalization(settings, dataset)
    preprocess = make_preprocess(settings, mean, std)

    def make_train(reduce: Reduction) -> steps.TrainStep:
        smoothing, decay = settings.label_smoothing, settings.optimizer.ema_decay
        freeze = settings.optimizer.freeze
        reduce = in_parts(reduce, settings.accumulate)
        mix = augment.make_mix(settings.augment)
        return steps.make_train_step(
            model, optimizer, preprocess, smoothing, decay, reduce, mix, freeze
        )

    def make_eval(reduce: Reduction) -> steps.EvalStep:
        return steps.make_eval_step(model, preprocess, reduce, settings.test_flip)

    experiment = Experiment(
        settings,
        dataset,
        model,
        optimizer,
        optimizers.schedule(settings.optimizer, steps_per_epoch, settings.epochs),
        preprocess,
        programs.make_program(make_train, make_eval, settings.parallel, groups, devices),
        steps_per_epoch,
        (mean, std),
    )
    optimized = settings.optimizer
    if optimized.freeze or optimized.learning_rate_scale:
        params = jax.eval_shape(experiment.init_state, np.uint32(0)).params
        parts.check_trained(optimized.freeze, optimized.learning_rate_scale, params)
    return experiment


def load_initial(experiment: Experiment, run: pathlib.Path) -> dict[str, Any] | None:
    """Returns the weights that a new run in a directory starts from; None: random ones.

    Raises:
      ConfigError, CheckpointError: they can't be read.
    """
    source = experiment.config.init_from
    if source is None:
        return None
    # Only the first process's directory decides: the others may not see it.
    if not processes.json_from_first(records.has_checkpoints(run)):
        return weights.load_initial(source)
    if jax.process_index() == 0:
        weights.check_source(source, run)
    return None


@contextlib.contextmanager
def naming_the_network(settings: config.Config, shape: Sequence[int]) -> Iterator[None]:
    """Makes a network's ArgumentError about images of this shape [H, W, C] a ConfigError."""
    try:
        yield
    except ops.ArgumentError as error:
        size = settings.dataset.image_size
        resized = f", resized to {size}×{size}" if size else ""
        raise config.ConfigError(
            f"config.model: {settings.model.name} can't take images {'×'.join(map(str, shape))}"
            f"{resized}: {error}"
        ) from error


def _check_groups(settings: config.Config, groups: int, devices: int) -> None:
    """Raises ConfigError if the groups of an ordered reduction can't be shared by the devices."""
    if groups % devices:
        raise config.ConfigError(
            f"config.reduction_groups={groups} can't be shared equally by {devices} devices; "
            f"choose a multiple of {devices}."
        )


def _check_ghosts(settings: config.Config, shares: int) -> None:
    """Raises ConfigError if the parts of a batch aren't groups of a batch normalization."""
    size = layers.group_size(settings.model.norm)
    if size and settings.batch_size % (size * shares * settings.accumulate):
        raise config.ConfigError(
            f"config.model.norm={settings.model.norm!r} normalizes groups of {size} images, into "
            f"which config.batch_size={settings.batch_size} can't be divided in "
            f"{shares * settings.accumulate} equal parts; choose a multiple of "
            f"{size * shares * settings.accumulate}."
        )


def _check_colors(settings: config.Config, dataset: data.AnyDataset) -> None:
    """Raises ConfigError if colors are to be changed of images that have none that are known."""
    channels = dataset.image_shape[-1]
    if channels not in (1, 3) and (
        augment.uses_colors(settings.augment) or settings.augment.rand_augment
    ):
        raise config.ConfigError(
            f"config.augment changes colors, and {settings.dataset.name} has images of {channels} "
            "channels; leave out brightness, contrast, saturation, hue and rand_augment."
        )


def _check_memory(name: str, batch_size: int, dataset: data.AnyDataset) -> None:
    """Raises ConfigError if the images of a batch don't fit the host's memory."""
    need = 4 * batch_size * math.prod(dataset.image_shape)
    have = psutil.virtual_memory().total
    if need > have:
        raise config.ConfigError(
            f"config.{name}={batch_size} means batches of {need / 2**30:,.1f} GiB, and this "
            f"machine has {have / 2**30:,.1f} GiB of memory; choose a smaller one."
        )


def compute_normalization(
    settings: config.Config, dataset: data.AnyDataset
) -> tuple[Statistic, Statistic]:
    """Returns the mean and the standard deviation to normalize images by.

    Of a data set that isn't in memory they are those of SAMPLE training images.
    """
    if settings.dataset.normalization == "standardize":
        return data.channel_statistics(_sample(dataset.train, SAMPLE))
    if settings.dataset.normalization == "whiten":
        return data.spectrum_statistics(_sample(dataset.train, SAMPLE))
    return (0.0,), (1.0,)


def _sample(part: data.Stream, most: int) -> np.ndarray:
    """All images [N, H, W, C] of a part in memory, of another one at most `most` random ones."""
    if isinstance(part, data.ArrayStream):
        return part.images
    chosen = np.sort(data.epoch_order(SAMPLE_SEED, 0, len(part))[:most])
    return part.read(chosen, None)


def make_preprocess(settings: config.Config, mean: Statistic, std: Statistic) -> steps.Preprocess:
    """Returns (uint8 images, key) → the network's input.

    Images are scaled to [0, 1], augmented in their pixels, normalized, augmented and resized; or
    whitened after all that is random.
    """
    whitened = settings.dataset.normalization == "whiten"
    size = settings.dataset.image_size

    def preprocess(images: jax.Array, key: jax.Array | None) -> jax.Array:
        images = augment.scale(images)
        if key is not None:
            _, height, width, _ = images.shape
            own = (height, width) if whitened or not size else (size, size)
            images = augment.augment_pixels(key, images, settings.augment, own)
        statistics = () if whitened else (tuple(mean), tuple(std))
        images = augment.standardize(images, *statistics)
        if key is not None:
            images = augment.augment(key, images, settings.augment)
        if whitened:
            epsilon = settings.dataset.whiten_epsilon
            images = augment.whiten(images, np.asarray(mean), np.asarray(std), epsilon)
        return augment.resize(images, size) if size else images

    return preprocess


def describe_start(
    experiment: Experiment, initial: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """Returns what environment.json says of the data, enough to use the network, and of weights.

    `initial` are those of `load_initial`.
    """
    dataset = experiment.dataset
    border = data.border_statistics(_sample(dataset.train, BORDERS))
    mean, std = experiment.statistics
    described = {
        "provenance": dataset.provenance,
        "fingerprint": dataset.fingerprint,
        "class_names": list(dataset.class_names),
        "image_shape": list(dataset.image_shape),
        "mean": np.ravel(mean).tolist(),
        "std": np.ravel(std).tolist(),
        "border": list(border),
    }
    if initial is None:
        return {"data": described}
    return {"data": described, "initial_weights": {"fingerprint": weights.fingerprint(initial)}}


def describe(experiment: Experiment, state: steps.TrainState) -> dict[str, str]:
    """Returns the lines of a run's header."""
    dataset, devices = experiment.dataset, jax.devices()
    parameters = layers.count_parameters(state.params)
    shape = "×".join(map(str, dataset.image_shape))
    used = 1 if experiment.config.parallel == "none" else len(devices)
    tested = "held-out (in the test set's place)" if experiment.config.dataset.holdout else "test"
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "optax"))
    return {
        "network": f"{experiment.config.model.name}, {parameters:,} parameters",
        "data": f"{experiment.config.dataset.name}, {shape}, {len(dataset.train_labels):,} "
        f"training and {len(dataset.test_labels):,} {tested} examples",
        "source": dataset.provenance,
        "devices": f"{used} × {devices[0].device_kind} ({experiment.config.parallel})",
        "versions": ", ".join(versions),
    }
