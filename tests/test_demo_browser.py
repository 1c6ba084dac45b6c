"""The demo page in a real browser, Chromium, which plays the scenes of demo_browser.cjs."""

import functools
import json
import os
import shutil
import subprocess

import pytest

from cnn_jax import config, train
from cnn_jax.display import Silent
from cnn_jax.figures import explanations, style
from cnn_jax.inspection import trained_network
from tests import commands
from tests.demo_pages import ROOT, served

demo = commands.load("demo")
pytestmark = pytest.mark.slow
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
INSTALL = {
    "node": "apt-get install -y nodejs npm",
    "Chromium": "apt-get install -y chromium",
    "playwright-core": "npm install -g playwright-core",
}


@functools.cache
def find_tools():
    """Returns the paths of Chromium and of npm's global packages, and what isn't installed."""
    node, npm = shutil.which("node"), shutil.which("npm")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    packages = os.environ.get("NODE_PATH", "")
    if npm:
        asked = subprocess.run([npm, "root", "-g"], text=True, capture_output=True, check=False)
        packages = os.pathsep.join(filter(None, [packages, asked.stdout.strip()]))
    missing = [name for name, path in (("node", node), ("Chromium", browser)) if not path]
    if node:
        code = "require.resolve('playwright-core')"
        command = [node, "-e", code]
        environment = {**os.environ, "NODE_PATH": packages}
        if subprocess.run(command, cwd=ROOT, env=environment, capture_output=True).returncode:
            missing.append("playwright-core")
    else:
        missing.append("playwright-core")
    return browser, packages, missing


@pytest.fixture(scope="module")
def play(tmp_path_factory):
    """Returns a function that plays a scene with the page of a LeNet, trained for a few seconds."""
    browser, packages, missing = find_tools()
    if missing:
        how = "; ".join(INSTALL[name] for name in missing)
        pytest.skip(f"the page's tests in a browser need {', '.join(missing)}: {how}")
    settings = config.Config(
        dataset=config.DatasetConfig(name="fashion_mnist_mini"),
        model=config.ModelConfig(
            name="lenet", activation="relu", kernel_init="he_normal", channels=(3, 20)
        ),
        optimizer=config.OptimizerConfig(learning_rate=0.05, momentum=0.9),
        records=config.RecordsConfig(tensorboard=False, figures=False),
        epochs=5,
        batch_size=32,
    )
    folder = tmp_path_factory.mktemp("run")
    train.train_and_evaluate(settings, folder, Silent())
    network = trained_network.load(folder)

    def run(scene):
        script = ROOT / "tests" / "demo_browser.cjs"
        with served(demo.make_app(network), **demo.SERVER) as port:
            command = ["node", str(script), f"http://127.0.0.1:{port}", scene, browser]
            environment = {**os.environ, "NODE_PATH": packages}
            ran = subprocess.run(
                command, env=environment, cwd=ROOT, text=True, capture_output=True, timeout=240
            )
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    return run


def test_a_stroke_is_guessed_and_its_maps_are_shown_by_layer(play):
    seen = play("draw")
    assert seen["complaints"] == []
    first, second, third, cleared = (seen[k] for k in ("first", "second", "third", "cleared"))
    assert first["contrast"] == 255
    name, _, share = first["rows"][0]
    assert first["guess"] == f"{name}, {share}"
    assert len(first["rows"]) == 10
    shares = [float(row[2].removeprefix("< ").removesuffix(" %")) for row in first["rows"]]
    assert sum(shares) == pytest.approx(100, abs=1)
    assert shares == sorted(shares, reverse=True)
    assert (first["layer"], first["maps"], first["tile"]) == ("Conv_0", 3, [28, 28])
    assert first["count"] == "3 maps, 28×28."
    assert style.SIGN in first["reading"]
    assert first["colors"] > 10
    assert first["scale"][0] == first["scale"][1].replace("", "−", 1)
    assert first["legend"] == 255
    assert (second["layer"], second["maps"], second["tile"]) == ("Conv_1", 16, [10, 10])
    assert second["count"] == "16 of 20 maps, 10×10."
    assert second["guess"] == first["guess"]
    assert third["layer"] == "Conv_1"  # stays chosen
    assert third["rows"] != first["rows"]
    assert (cleared["guess"], cleared["maps"]) == ("Nothing to guess yet.", 16)


def test_a_dark_picture_on_light_is_inverted_and_the_page_says_so(play):
    seen = play("upload")
    assert seen["complaints"] == []
    first, kept, stretched, drawn = (seen[k] for k in ("first", "kept", "stretched", "drawn"))
    inverted = (
        "The picture is dark on light, and the network was trained on light on dark: it was "
        "inverted."
    )
    size = "The picture has 100×300 pixels: it was "
    padded = f"{size}scaled to 28×28 with a border, which keeps its proportions."
    assert first["guess"].startswith("Trouser, ")
    assert first["done"] == f"{inverted} {padded}"
    assert first["warning"] == ""
    assert kept["done"] == padded
    assert "border is much lighter" in kept["warning"]
    assert kept["rows"] != first["rows"]
    said = f"{inverted} {size}stretched to 28×28, which changes its proportions."
    assert stretched["done"] == said
    assert drawn["contrast"] == 255  # black on what is light
    assert drawn["done"] == inverted
    assert drawn["rows"] != stretched["rows"]


def test_whatever_goes_wrong_is_one_sentence(play):
    seen = play("refused")
    assert seen["text"]["error"].startswith("The file is not a picture")
    assert seen["large"]["error"] == "A picture may have at most 8,000,000 bytes."
    assert seen["broken"]["error"].startswith("The server's answer can't be read")
    assert seen["gone"]["error"].startswith("The server doesn't answer")
    for one in ("text", "large", "broken", "gone"):
        assert seen[one]["rows"] == []
        assert seen[one]["guess"] == ""


def test_the_keyboard_suffices(play):
    seen = play("keyboard")
    assert seen["complaints"] == []
    assert all(one["ring"] and one["name"] for one in seen["visited"]), seen["visited"]
    drawn = seen["drawn"]
    assert drawn["keys"].startswith("By keyboard: the arrow keys move the pen")
    assert drawn["contrast"] == 255
    assert drawn["guess"] == f"{drawn['rows'][0][0]}, {drawn['rows'][0][2]}"
    assert seen["cleared"]["guess"] == "Nothing to guess yet."
    controls = [one["what"] for one in seen["visited"] if one["what"] != "example"]
    assert controls == ["file", "clear", "width", "SUMMARY", "invert", "fit", "kind", "layer"]
    guess = seen["first"]["guess"]  # of the second example, a trouser
    assert guess.startswith("Trouser, ")
    assert guess.endswith(" %: right")
    assert (seen["first"]["layer"], seen["second"]["layer"]) == ("Conv_0", "Conv_0/relu")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_is_wide_enough_and_a_finger_draws(play, theme):
    seen = play(f"phone:{theme}")
    assert seen["complaints"] == []
    drawn = seen["drawn"]
    assert (drawn["before"], drawn["overflow"]) == (0, 0)
    assert drawn["contrast"] == 255
    assert not drawn["moved"]  # the finger draws, and doesn't scroll
    assert len(drawn["rows"]) == 10
    assert seen["inSight"]
    assert seen["small"] == []  # a finger hits every control
    assert drawn["ground"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 27)"}[theme]


def test_what_speaks_for_a_class_is_shown(play):
    seen = play("explain")
    assert seen["complaints"] == []
    maps = seen["maps"]
    assert maps["keys"] == ""  # while nobody uses them
    assert maps["kinds"] == ["feature maps", *(about.name for about in explanations.KINDS.values())]
    assert not maps["reason"]
    guess = maps["rows"][0][0]
    for kind in explanations.KINDS:
        assert seen[kind]["reason"] == 224
        assert guess in seen[kind]["reading"]
        assert seen[kind]["count"] == ""
    assert seen["grad_cam"]["layer"] == maps["layers"][-1]
    assert "Dress" in seen["other"]["reading"]
    assert not seen["again"]["reason"]
    assert seen["again"]["reading"] == maps["reading"]
    assert seen["again"]["count"] == "16 of 20 maps, 5×5."  # of the layer that was chosen
