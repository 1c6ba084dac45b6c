"""The demo page in a real browser, as a person uses it with a mouse, a keyboard and a phone."""

import json
import os
import pathlib
import shutil
import subprocess
import threading

import numpy as np
import pytest
from PIL import Image

from cnn_jax import config, train
from cnn_jax.display import Silent
from cnn_jax.inspection import trained_network
from tests import commands
from tests.demo_pages import free_port

demo = commands.load("demo")
SCRIPT = pathlib.Path(__file__).with_name("demo_browser.js")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

pytestmark = pytest.mark.slow


def find_tools():
    """Returns Node, Chromium and Node's environment, or skips the test and says what is missing."""
    node = shutil.which("node")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not node or not browser:
        pytest.skip("Node or Chromium isn't installed: apt-get install nodejs npm chromium")
    environment = {**os.environ}
    if "NODE_PATH" not in environment and shutil.which("npm"):
        found = subprocess.run(["npm", "root", "-g"], capture_output=True, text=True)
        environment["NODE_PATH"] = found.stdout.strip()
    known = [node, "-e", "require('playwright-core')"]
    if subprocess.run(known, env=environment, capture_output=True).returncode:
        pytest.skip("playwright-core isn't installed: npm install -g playwright-core")
    return node, browser, environment


@pytest.fixture(scope="module")
def found(tmp_path_factory, mini):
    """What the script finds on the page of a network that has learned a little."""
    node, browser, environment = find_tools()
    from experiments import demo_server

    folder = pathlib.Path(os.environ.get("SCREENSHOTS", tmp_path_factory.mktemp("browser")))
    folder.mkdir(exist_ok=True)
    settings = config.Config(
        dataset=config.DatasetConfig(name="fashion_mnist_mini"),
        model=config.ModelConfig(name="lenet_max", activation="relu", kernel_init="he_normal"),
        optimizer=config.OptimizerConfig(learning_rate=0.05, momentum=0.9),
        records=config.RecordsConfig(tensorboard=False, figures=False),
        batch_size=50,
        epochs=6,
    )
    run = tmp_path_factory.mktemp("run")
    train.train_and_evaluate(settings, run, Silent())
    light = 255 - np.repeat(np.repeat(mini.test_images[1][..., 0], 8, 0), 8, 1)
    Image.fromarray(light).save(folder / "light.png")
    port = free_port()
    sockets = demo_server.listen(demo.make_app(trained_network.load(run)), "127.0.0.1", port)
    threading.Thread(target=demo_server.serve, args=(sockets,), daemon=True).start()
    command = [node, SCRIPT, f"http://127.0.0.1:{port}", browser, folder, folder / "light.png"]
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, cwd=commands.ROOT
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout) | {"class": mini.class_names[mini.test_labels[1]]}


def test_the_page_says_what_to_do(found):
    assert found["explained"].startswith("Draw on the dark square, or choose, drop or paste")


@pytest.mark.parametrize("way", ["drawn", "uploaded", "typed", "touched"])
def test_a_picture_gets_probabilities_however_it_comes(found, way):
    names, probabilities = zip(*found[way], strict=True)
    assert len(set(names)) == 10
    assert sum(probabilities) == pytest.approx(1, abs=0.01)
    assert list(probabilities) == sorted(probabilities, reverse=True)


def test_a_picture_that_is_dark_on_light_is_recognized_as_that_and_what_it_is(found):
    assert "light and dark the other way round, so they were exchanged" in found["note"]
    assert found["uploaded"][0][0] == found["class"]


def test_layers_can_be_seen_together_or_alone(found):
    name, captions = found["chosen"]
    assert found["layers"] > 4
    assert len(captions) == 1
    assert captions[0].startswith(f"{name}, 28×28, 6 maps, from −")


def test_what_speaks_for_a_class_is_shown(found):
    assert found["reason"].startswith("Red: where the maps of MaxPool_1 speak for ")


def test_the_pen_is_seen_on_a_light_ground(found):
    before, after = found["pen"]
    assert before > 200
    assert after < 50


def test_all_can_be_reached_by_keyboard(found):
    assert found["focused"] == "paper"
    assert {"clear", "file", "invert", "kind", "label", "layer"} <= set(found["reached"])


def test_a_phone_needs_no_scrolling_sideways_and_dark_is_dark(found):
    assert found["wider"] <= 0
    assert found["dark"] == "rgb(22, 24, 27)"


def test_faults_are_sentences_and_nothing_else_goes_wrong(found):
    assert found["error"].startswith("the picture is not a picture (")
    assert found["faults"] == []
