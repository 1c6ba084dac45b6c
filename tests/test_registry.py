"""Networks that others add to the table: their options are flags, records and errors like ours."""

import collections.abc
import dataclasses
import functools
import json
import os
import pathlib
import pickle
import subprocess
import sys
import typing

import flax.linen as nn
import pytest

from cnn_jax import config, models, records, train
from cnn_jax.display import Silent
from cnn_jax.errors import ConfigError
from cnn_jax.inspection import trained_network
from cnn_jax.options import BELOW_ONE, option
from cnn_jax.sweeps import spaces
from experiments import describe, launch

ROOT = pathlib.Path(__file__).parent.parent
NETWORK = """
import flax.linen as nn

from cnn_jax import layers

class MyNet(nn.Module):
    growth: int = 12
    labels: tuple[str, ...] = ("a",)
    scale: float | None = None
    classes: int = 10
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, train=False):
        x = layers.Dense(self.growth)(layers.Flatten()(x))
        return layers.Dense(self.classes)(nn.relu(x))
"""
CONFIG = """
from my_net import MyNet

from cnn_jax import models
from cnn_jax.config import Config, DatasetConfig, ModelConfig, RecordsConfig

models.MODELS["my_net"] = MyNet

def get_config(options=""):
    return Config(
        dataset=DatasetConfig(name="synthetic:size=8,train=60,test=32"),
        model=ModelConfig(name="my_net", growth=12),
        records=RecordsConfig(tensorboard=False, figures=False),
        epochs=1,
        batch_size=20,
    )
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my_net.py").write_text(NETWORK)
    (tmp_path / "my_config.py").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def my_net(monkeypatch):
    """A network whose options are those of the file, in the table until the test ends."""
    namespace: dict = {"__name__": "my_net"}
    exec(NETWORK, namespace)
    monkeypatch.setitem(models.MODELS, "my_net", namespace["MyNet"])


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


def test_a_network_of_a_configuration_file_brings_its_options_and_touches_no_other_file(
    folder, monkeypatch
):
    run = folder / "run"
    given = ("experiments.train", f"--config={folder}/my_config.py", f"--workdir={run}")
    done = command(*given, "--config.model.growth=24", "--config.model.scale=0.5")
    assert done.returncode == 0, done.stderr
    model = json.loads((run / "config.json").read_text())["model"]
    assert (model["name"], model["growth"], model["labels"]) == ("my_net", 24, ["a"])
    assert list(model)[-4:] == ["growth", "labels", "scale", "dtype"]

    again = command(*given, "--config.model.growth=24", "--config.model.scale=0.5")
    assert "finished at epoch 1" in again.stdout + again.stderr, again.stderr
    other = command(*given)
    assert "there config.model.growth=24, here 12" in other.stderr

    export = ("experiments.export", f"--run={run}", f"--output={folder}/net.safetensors")
    done = command(*export, f"--import={folder}/my_config.py")
    assert done.returncode == 0, done.stderr
    assert (folder / "net.safetensors").is_file()
    done = command(*export, f"--import={folder}/nothing.py")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "nothing.py is no Python file; give the path of one" in done.stderr

    with pytest.raises(records.RunDirectoryError) as error:
        trained_network.load(run)
    assert "config.model.growth is unknown, as the network 'my_net' is" in str(error.value)
    assert "\n" not in str(error.value)
    namespace: dict = {"__name__": "my_net"}
    exec(NETWORK, namespace)
    monkeypatch.setitem(models.MODELS, "my_net", namespace["MyNet"])
    trained = trained_network.load(run)
    assert trained.model.growth == 24
    settings = records.read_config(run)
    history = records.read_metrics(run)
    assert train.train_and_evaluate(settings, run, Silent()) == history[-1]


def test_wrong_flags_of_an_added_network_are_sentences(folder):
    given = ("experiments.train", f"--config={folder}/my_config.py", "--print_config")
    for flag, said in {
        "--config.model.grwth=24": "did you mean --config.model.growth?",
        "--config.model.growth=many": "config.model.growth=many",
    }.items():
        done = command(*given, flag)
        assert done.returncode == 2
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


def test_what_is_wrong_in_the_file_of_an_added_network_is_said_first(
    folder,
):
    given = ("experiments.train", f"--config={folder}/my_config.py", "--config.model.growth=24")
    clash = NETWORK.replace("scale: float | None = None", "hidden: int = 3")
    for text, said in {
        clash: "the networks mlp and my_net both have an option hidden",
        "import not_there": "No module named 'not_there'",
        "int('x')": "invalid literal for int()",
    }.items():
        (folder / "my_net.py").write_text(text)
        done = command(*given)
        assert done.returncode == 2
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_network_has_its_options_everywhere_while_it_is_in_the_table(monkeypatch):
    before = config.Config()
    fields = [f.name for f in dataclasses.fields(config.ModelConfig)]

    class Mine(nn.Module):
        growth: typing.Literal["a", "b"] = "a"
        rates: collections.abc.Sequence[float] = option((0.5,), BELOW_ONE)
        act: collections.abc.Callable = nn.relu
        classes: int = 10
        dtype: str = "float32"

    with monkeypatch.context() as context:
        context.setitem(models.MODELS, "mine", Mine)
        hints = typing.get_type_hints(config.ModelConfig)
        assert (hints["growth"], hints["rates"]) == (str | None, tuple[float, ...] | None)
        assert "act" not in hints
        assert config.leaf_types()["model.growth"] == str | None
        assert before.model.growth is None
        assert config.flatten(before)["model.growth"] is None
        model = config.ModelConfig("mine", growth="b")
        assert pickle.loads(pickle.dumps(model)) == model
        assert dataclasses.replace(model, growth="a").growth == "a"
        assert dataclasses.asdict(model)["growth"] == "b"
        assert config.resolve(config.Config(model=config.ModelConfig("mine"))).model.growth == "a"
        assert spaces.parse_grid(["model.rates=0.1,0.2"]) == {"model.rates": ((0.1,), (0.2,))}
        wrong = config.with_values(before, {"model.name": "mine", "model.rates": (1.0,)})
        with pytest.raises(ConfigError, match=r"model\.rates=\(1\.0,\) is out of range; .* than 1"):
            config.check(wrong)
        launch._check_paths(["--config.model.growth=b"])
        kept = config.to_dict(before)
    assert [f.name for f in dataclasses.fields(config.ModelConfig)] == fields
    assert not hasattr(config.ModelConfig(), "growth")
    assert config.from_dict(kept) == config.Config()
    with pytest.raises(ConfigError, match=r"--config\.model\.growth is not in the configuration"):
        launch._check_paths(["--config.model.growth=b"])


def test_an_added_network_is_described_as_ours_are(my_net):
    table = json.loads(describe.describe_network("my_net", "4,4,1", ["growth=3"], "json"))
    assert table["parameters"] == 16 * 3 + 3 + 3 * 10 + 10


def test_options_of_one_name_have_one_type(monkeypatch):
    class Mine(nn.Module):
        hidden: int = 3

    fields = dataclasses.fields(config.ModelConfig)
    for network in (Mine, functools.partial(Mine, hidden=4)):
        with pytest.raises(ConfigError) as error:
            monkeypatch.setitem(models.MODELS, "mine", network)
        assert str(error.value) == (
            "the networks mlp and mine both have an option hidden, the one of type "
            "tuple[int, ...], the other of type int; rename one of them."
        )
    assert "mine" not in models.MODELS
    assert dataclasses.fields(config.ModelConfig) == fields


def test_the_options_of_our_networks_keep_the_order_that_is_recorded():
    names = "name activation pool norm dropout width channels kernel_sizes paddings hidden arch "
    names += "auxiliary kernel_init bias_init class_bias_init stages bottleneck groups group_width "
    names += "shortcut preactivation zero_init stem bias class_kernel_init blocks growth_rate dtype"
    assert [f.name for f in dataclasses.fields(config.ModelConfig)] == names.split()
    assert list(config.to_dict(config.Config())["model"].values()) == [
        "lenet",
        *[None] * 26,
        "float32",
    ]


def test_a_record_without_an_option_has_the_networks_own():
    tree = config.to_dict(config.Config())
    del tree["model"]["width"]
    tree["model"]["growth"] = None
    assert config.from_dict(tree) == config.Config()
    tree["model"]["growth"] = 12
    with pytest.raises(ConfigError, match=r"config\.model\.growth is unknown; "):
        config.from_dict(tree)
