"""A network as a finished run left it: predictions, and what its layers see.

Nothing but the run's directory is needed, neither the data nor the command that made it.
"""

import dataclasses
import functools
import math
import os
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from cnn_jax import checkpoints, config, data, identity, layers, models, records, steps
from cnn_jax.data import Fit
from cnn_jax.experiment import Statistic, load_dataset, make_preprocess, naming_the_network
from cnn_jax.inspection import layer_table, taps

BATCH = 256
Images = np.ndarray | data.Stream  # uint8 [N, H, W, C], or a part of a data set
MAX_NUMBERS = 1 << 26  # of an image; a record that says more is damaged
GROUND_LEAST, GROUND_SPREADS = 0.3, 4.0  # from which a ground is unlike: brightness, spreads


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """The network of a run, ready for uint8 images [N, H, W, C] of `image_shape`."""

    config: config.Config
    model: nn.Module
    variables: Any
    preprocess: Callable[[Array], Array]
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    data: records.DataRecord  # of environment.json: mean and standard deviation too

    @property
    def fit(self) -> Fit:
        """How pictures are brought to `image_shape`: as those of the training data were."""
        return data.read_fit(self.config.dataset.name)

    def probabilities(self, images: Images) -> np.ndarray:
        """Returns the probabilities of the classes of uint8 images, float32 [N, classes].

        Raises:
          ValueError: images of another shape or type.
        """
        return self._in_batches(self._predict, images)

    def logits(self, images: Images) -> np.ndarray:
        """Returns what `probabilities` are the softmax of, in the dtype of the network.

        Raises:
          ValueError: images of another shape or type.
        """
        return self._in_batches(self._logits, images)

    def _in_batches(self, call: Callable[[Any, Any], Array], images: Images) -> np.ndarray:
        parts = []
        for start in range(0, max(1, len(images)), BATCH):
            if isinstance(images, np.ndarray):
                part = images[start : start + BATCH]
            else:
                part = images.read(np.arange(start, min(start + BATCH, len(images))), None)
            self._check(part)
            missing = min(BATCH, len(images)) - len(part)  # one shape, one compilation
            padded = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0)))
            parts.append(np.asarray(call(self.variables, padded))[: len(part)])
        return np.concatenate(parts)

    def feature_maps(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the output [N, h, w, c] of every convolution and pooling, by its name, in order.

        Those of convolutions are before normalization and activation; what the activation makes of
        them follows as 'Conv_0/sigmoid'.
        """
        self._check(images)
        see, order = self._see
        maps = see(self.variables, jnp.asarray(images))
        return {name: np.asarray(maps[name], np.float32) for name in order}

    @functools.cached_property
    def _predict(self) -> Callable[[Any, Any], Array]:
        """(variables, uint8 images) → probabilities; compiled once for each number of them."""

        @jax.jit
        def predict(variables: Any, batch: Array) -> Array:
            return jax.nn.softmax(self.compute_logits(variables, batch))

        return predict

    @functools.cached_property
    def _logits(self) -> Callable[[Any, Any], Array]:
        """(variables, uint8 images) → logits."""

        return jax.jit(self.compute_logits)

    def compute_logits(self, variables: Any, images: Array) -> Array:
        """Returns the logits [N, classes] of uint8 images [N, H, W, C], to be compiled."""
        flip = self.config.test_flip
        return jnp.asarray(steps.predict(self.model, variables, self.preprocess(images), flip))

    @functools.cached_property
    def _see(self) -> tuple[Callable[[Any, Array], dict[str, Array]], dict[str, None]]:
        """(variables, uint8 images) → maps, and their names in order, once it has been called."""
        order: dict[str, None] = {}  # what comes back from a compiled function is sorted

        @jax.jit
        def see(variables: Any, batch: Array) -> dict[str, Array]:
            found: dict[str, Array] = {}
            with taps.tapping(found.__setitem__):
                self.model.apply(variables, self.preprocess(batch), train=False)
            order.update(dict.fromkeys(found))
            return found

        return see, order

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape [H, W, C] of preprocessed images."""
        images = jax.ShapeDtypeStruct((1, *self.image_shape), np.uint8)
        return jax.eval_shape(self.preprocess, images).shape[1:]

    def first_kernels(self) -> tuple[str, np.ndarray] | None:
        """Returns the first convolution's name and kernels [h, w, C_in, C_out], if there is one."""
        for layer in layer_table.analyze(self.model, self.input_shape).layers:
            if layer.kind == layers.Conv.__name__:
                parameters = self.variables["params"]
                for part in layer.name.split("/"):
                    parameters = parameters[part]
                return layer.name, np.asarray(parameters["kernel"], np.float32)
        return None

    def _check(self, images: np.ndarray) -> None:
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape or not len(images):
            expected = ", ".join(map(str, self.image_shape))
            raise ValueError(
                f"images must be uint8 [N, {expected}] with N at least 1, got {images.dtype} "
                f"{list(images.shape)}."
            )


def warn_of_ground(
    about: records.DataRecord, brightness: np.ndarray, invert: str = "invert them"
) -> str | None:
    """Returns a warning if images are on a much lighter or darker ground than those trained on.

    Args:
      about: of the training images. Runs of earlier versions don't record how bright their ground
        is; then there is no warning.
      brightness: of the images' borders [N], as `data.border_brightness` gives it.
      invert: what to do where turning light and dark round makes the grounds alike.

    Returns:
      A sentence without its full stop, or None.
    """
    if "border" not in about:
        return None
    mean, spread = about["border"]
    far = max(GROUND_LEAST, GROUND_SPREADS * spread)
    unlike = brightness[np.abs(brightness - mean) > far]
    if not len(unlike):
        return None
    sentence = (
        f"the ground of {len(unlike)} of {len(brightness)} images is much "
        f"{'lighter' if unlike.mean() > mean else 'darker'} than that of the training images "
        f"(brightness {unlike.mean():.2f}, there {mean:.2f}), so that little can be said of them"
    )
    helps = (np.abs(1 - unlike - mean) <= far).any()
    return f"{sentence}; {invert}" if helps else sentence


def load(run: str | os.PathLike[str], checkpoint: checkpoints.Which = "last") -> Trained:
    """Returns the network of a checkpoint, by default the newest, in a run's directory.

    Raises:
      RunDirectoryError, CheckpointError, ConfigError: one sentence each.
    """
    path = pathlib.Path(run)
    settings = records.read_config(path)
    config.check(settings)
    about = _read_data(path, settings)
    height, width, channels = about["image_shape"]
    class_names = tuple(about["class_names"])
    options = config.model_options(settings.model)
    model = models.create(settings.model.name, classes=len(class_names), **options)
    mean: Statistic = about["mean"]
    std: Statistic = about["std"]
    if settings.dataset.normalization == "whiten":
        mean, std = (np.reshape(x, (height, width, channels)) for x in (mean, std))
    preprocess: steps.Preprocess = make_preprocess(settings, mean, std)

    def prepare(images: Array) -> Array:
        return preprocess(images, None)

    variables = checkpoints.restore_variables(path, checkpoint=checkpoint)
    if checkpoint == "last":
        _warn_if_not_last(path)
    images = jax.ShapeDtypeStruct((1, height, width, channels), np.uint8)
    with naming_the_network(settings, about["image_shape"]):
        expected = jax.eval_shape(
            lambda key, batch: model.init(key, prepare(batch)), jax.random.key(0), images
        )
    checkpoints.check_fit(variables, expected, path)
    shape = (height, width, channels)
    return Trained(settings, model, variables, prepare, shape, class_names, about)


def load_data(run: pathlib.Path, settings: config.DatasetConfig) -> data.AnyDataset:
    """Returns the data set that a run was trained on, with the errors of `load_data_of`."""
    return load_data_of(run, records.find_environment(run), settings)


def load_data_of(
    source: pathlib.Path, environment: records.Environment, settings: config.DatasetConfig
) -> data.AnyDataset:
    """Returns the data set of what was recorded in `source`.

    Raises:
      DataError, RunDirectoryError: it can't be loaded, or isn't what it was.
    """
    dataset = load_dataset(settings, keep=settings.data_dir in (None, data.DEFAULT_DATA_DIR))
    recorded = identity.read_data(environment)
    if changed := identity.compare_data(recorded, identity.identify_data(dataset)):
        raise records.RunDirectoryError(
            f"{source} was trained on other data than {settings.name} is now: {changed}. Put back "
            "the data that it was trained on."
        )
    return dataset


def _warn_if_not_last(run: pathlib.Path) -> None:
    """Warns if the newest checkpoint isn't that of the last row of the metrics."""
    step = checkpoints.find_newest(run)
    try:
        rows = records.read_metrics(run) if (run / "metrics.jsonl").exists() else []
    except records.RunDirectoryError as error:
        warnings.warn(str(error), stacklevel=3)
        return
    last = rows[-1]["step"] if rows else None
    if step != last:
        measured = f"the last row of metrics.jsonl of step {last}"
        used = f"{run}: the network used is that of the newest checkpoint, step {step}"
        warnings.warn(f"{used}, and {measured if rows else 'no epoch is finished'}", stacklevel=3)


def _read_data(run: pathlib.Path, settings: config.Config) -> records.DataRecord:
    """Returns what environment.json says of the data that a run was trained on.

    Raises:
      RunDirectoryError: it doesn't say enough, or it can't be.
    """
    file = run / "environment.json"
    environment = records.read_environment(run)
    needed = {"class_names", "image_shape", "mean", "std"}
    starts: list[records.Start] = [environment, *environment.get("resumed", [])]
    recorded = [start["data"] for start in starts if needed <= set(start.get("data", {}))]
    if not recorded:
        raise records.RunDirectoryError(
            f"{file} doesn't say {', '.join(sorted(needed))} of the data, as a run of this version "
            "does; give the run's command again, which adds it."
        )
    about = recorded[0]  # a run goes on with the same data only
    if any(other["class_names"] != about["class_names"] for other in recorded):
        raise records.RunDirectoryError(
            f"{file} has other class names for a later start of the run than for the first, so "
            "nothing can say which are right; train it anew."
        )
    size = math.prod(about["image_shape"])
    whitened = settings.dataset.normalization == "whiten"
    counts = (size,) if whitened else (1, about["image_shape"][-1])
    problem = None
    if min(about["image_shape"]) < 1 or size > MAX_NUMBERS:
        problem = f"image_shape is {about['image_shape']}, which no image has"
    elif not about["class_names"]:
        problem = "class_names is empty"
    elif len(about["mean"]) not in counts or len(about["std"]) != len(about["mean"]):
        problem = f"mean and std have {len(about['mean'])} and {len(about['std'])} numbers, where "
        problem += f"{' or '.join(map(str, counts))} are expected"
    if problem:
        raise records.RunDirectoryError(f"{file} can't be used: {problem}.")
    return about
