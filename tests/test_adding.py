"""Whatever a user adds is one entry of a table: a run then has all of it."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from cnn_jax import augment, config, data, layers, losses, models, optimizers, records, train
from cnn_jax.augment import AugmentConfig
from cnn_jax.display import Silent
from cnn_jax.errors import ConfigError, DataError
from cnn_jax.models.network import Network


class Tower(Network):
    """Dense layers, each `growth` wider than the one before."""

    hidden: Sequence[int] = (4,)
    growth: int = 2
    classes: int = 10
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, train=False):
        x = layers.Flatten()(x)
        for features in self.hidden:
            x = nn.relu(layers.Dense(features + self.growth)(x))
        return layers.Dense(self.classes)(x)


def brighten(key, images, config):
    """Adds a random brightness to each image."""
    return images + jax.random.uniform(key, (len(images), 1, 1, 1)) / 2


def halves(*, size: int = 4, bright: float = 0.9) -> data.Dataset:
    """Images of which the left or the right half is bright."""
    images = np.zeros((8, size, size, 1), np.uint8)
    images[::2, :, : size // 2] = images[1::2, :, size // 2 :] = int(255 * bright)
    labels = np.arange(8, dtype=np.int32) % 2
    return data.Dataset(images, labels, images, labels, ("left", "right"), "halves")


@pytest.fixture
def added(monkeypatch):
    monkeypatch.setitem(models.MODELS, "tower", Tower)
    monkeypatch.setitem(losses.METRICS, "margin", lambda x, y: jnp.abs(x[:, 0] - x[:, 1]))
    monkeypatch.setattr(augment, "AUGMENTATIONS", [*augment.AUGMENTATIONS, brighten])
    monkeypatch.setitem(optimizers.OPTIMIZERS, "rmsprop", lambda config, rate: optax.rmsprop(rate))
    monkeypatch.setitem(data.SOURCES, "halves", halves)


def test_a_run_of_added_parts_trains_and_records_them(added, tmp_path):
    settings = config.Config(
        dataset=config.DatasetConfig("halves:size=6"),
        model=config.ModelConfig("tower", growth=5),
        optimizer=config.OptimizerConfig("rmsprop", learning_rate=0.05),
        records=config.RecordsConfig(tensorboard=False, figures=False),
        epochs=5,
        batch_size=4,
    )
    row = train.train_and_evaluate(settings, tmp_path, Silent())
    assert row["test_accuracy"] == 1.0
    assert row["test_margin"] > 0
    recorded = records.read_config(tmp_path)
    assert (recorded.model.growth, recorded.optimizer.name) == (5, "rmsprop")


def test_choices_and_dtype_of_an_added_network(monkeypatch):
    class Plain(nn.Module):
        kind: Literal["wide", "narrow"] = "wide"
        classes: int = 10

        @nn.compact
        def __call__(self, x, train=False):
            return nn.Dense(self.classes)(x.reshape(len(x), -1))

    monkeypatch.setitem(models.MODELS, "plain", Plain)
    config.check(config.Config(model=config.ModelConfig("plain", kind="narrow")))
    for options, said in (({"kind": "x"}, "kind='x' is unknown"), ({"dtype": "bfloat16"}, "dtype")):
        with pytest.raises(ConfigError, match=said):
            config.check(config.Config(model=config.ModelConfig("plain", **options)))


def test_a_data_set_that_does_not_fit_together_is_refused(added, monkeypatch):
    whole = halves()
    monkeypatch.setitem(data.SOURCES, "halves", lambda: whole._replace(test_labels=whole[3][:5]))
    with pytest.raises(DataError, match="test has 8 images but 5 labels"):
        data.load("halves")
    monkeypatch.setitem(data.SOURCES, "halves", lambda: None)
    with pytest.raises(DataError, match=r"must return a data\.Dataset"):
        data.load("halves")


def test_an_added_augmentation_changes_no_draw_of_the_others(added):
    images = jax.random.uniform(jax.random.key(1), (5, 8, 8, 3))
    config = AugmentConfig(pad=2, flip=True, cutout=3, erase=0.5)
    changed = augment.augment(jax.random.key(0), images, config)
    augment.AUGMENTATIONS.pop()
    others = augment.augment(jax.random.key(0), images, config)
    brightness = changed - others
    np.testing.assert_allclose(brightness, brightness[:, :1, :1, :1] + 0 * brightness, atol=1e-6)
    assert len(set(np.asarray(brightness[:, 0, 0, 0]).round(4))) == 5


def test_an_added_data_set_has_its_arguments_as_options(added):
    assert data.load("halves:size=6,bright=0.5").train_images.max() == 127
    with pytest.raises(DataError, match="'halves' has no option 'dark'; it has size, bright"):
        data.load("halves:dark=1")
    with pytest.raises(DataError, match="'size' of data set 'halves' must be a whole number"):
        data.load("halves:size=1.5")
    with pytest.raises(DataError, match=r"no data set 'halve' \(did you mean 'halves'\?\)"):
        data.load("halve")
