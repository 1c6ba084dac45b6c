"""What is done with a finished run: predictions, pictures of it, files for other programs."""

import io
import json
import os
import pathlib
import struct
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.graph_pb2 import GraphDef

from cnn_jax import augment, config, data, records, torch_weights, train
from cnn_jax.display import Silent
from cnn_jax.errors import CheckpointError, ConfigError
from cnn_jax.experiment import compute_normalization, make_preprocess
from cnn_jax.figures import run_figures, style
from cnn_jax.figures.evaluated import Chosen, Evaluated, choose_images, read_images
from cnn_jax.inspection import trained_network
from experiments import launch
from tests import commands

export, predict = map(commands.load, ("export", "predict"))
ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small LeNet with max pooling after a few steps, on standardized pictures."""
    path = tmp_path_factory.mktemp("trained") / "run"
    settings = config.Config(
        dataset=config.DatasetConfig(
            name="fashion_mnist_mini", train_examples=500, normalization="standardize"
        ),
        model=config.ModelConfig(name="lenet_max", activation="relu", channels=(3, 4)),
        optimizer=config.OptimizerConfig(learning_rate=0.1, ema_decay=0.5),
        records=config.RecordsConfig(tensorboard=False, figures=False),
        epochs=2,
        batch_size=50,
    )
    row = train.train_and_evaluate(settings, path, Silent())
    assert row["test_accuracy"] > 0.2
    return path


@pytest.fixture(scope="module")
def network(run):
    return trained_network.load(run)


def test_any_checkpoint_that_is_kept_can_be_loaded(run, network):
    first, last = (row["step"] for row in records.read_metrics(run))
    for checkpoint in ("last", last):
        loaded = trained_network.load(run, checkpoint).variables
        jax.tree.map(np.testing.assert_array_equal, loaded, network.variables)
    best = max(records.read_metrics(run), key=lambda row: (row["test_accuracy"], row["step"]))
    chosen = [trained_network.load(run, c).variables for c in ("best", best["step"])]
    jax.tree.map(np.testing.assert_array_equal, *chosen)
    with pytest.raises(
        CheckpointError, match=f"no checkpoint of step 3; it has .* {first}, {last}"
    ):
        trained_network.load(run, 3)


def test_which_checkpoint_is_last_best_or_a_step():
    parser = launch._CheckpointParser()
    assert [parser.parse(word) for word in ("last", "best", "12")] == ["last", "best", 12]
    for word in ("", "first", "-1", "1.5", "step=3", "¹"):
        with pytest.raises(ValueError, match="it must be last, best or the number of a step"):
            parser.parse(word)


def test_probabilities_are_the_runs(run, network, mini):
    p = network.probabilities(mini.test_images)
    assert p.shape == (1000, 10)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    last = records.read_metrics(run)[-1]
    assert (p.argmax(1) == mini.test_labels).mean() == last["test_accuracy"]
    loss = -np.log(p[np.arange(1000), mini.test_labels]).mean()
    assert loss == pytest.approx(last["test_loss"], rel=1e-4)
    few = network.probabilities(mini.test_images[:3])
    np.testing.assert_allclose(few, p[:3], rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"uint8 \[N, 28, 28, 1\] .* got uint8 \[2, 28, 28\]"):
        network.probabilities(mini.test_images[:2, :, :, 0])


def test_a_network_of_whitened_pictures_is_used_as_it_was_trained(tmp_path, mini):
    settings = config.Config(
        dataset=config.DatasetConfig(
            "fashion_mnist_mini", image_size=14, normalization="whiten", whiten_epsilon=0.1
        ),
        augment=config.AugmentConfig(pad=1, pad_probability=0.5),
        model=config.ModelConfig(name="softmax"),
        records=config.RecordsConfig(tensorboard=False, figures=False),
        epochs=2,
    )
    row = train.train_and_evaluate(settings, tmp_path, Silent())
    assert row["test_accuracy"] > 0.6
    p = trained_network.load(tmp_path).probabilities(mini.test_images)
    loss = -np.log(p[np.arange(1000), mini.test_labels]).mean()
    assert loss == pytest.approx(row["test_loss"], rel=1e-4)
    # What a shift uncovers is black, not of the mean color, and whitened with the rest.
    mean, std = compute_normalization(settings, mini)
    dark = np.zeros((1, 28, 28, 1), np.uint8)
    preprocess = make_preprocess(settings, mean, std)
    whitened = augment.resize(augment.whiten(augment.normalize(dark), mean, std, 0.1), 14)
    np.testing.assert_array_equal(preprocess(dark, None), whitened)
    np.testing.assert_array_equal(preprocess(dark, jax.random.key(0)), whitened)


def test_feature_maps_are_the_layers_outputs_in_order(network, mini):
    maps = network.feature_maps(mini.test_images[:2])
    shapes = {name: value.shape[1:] for name, value in maps.items()}
    assert list(shapes.items()) == [
        ("Conv_0", (28, 28, 3)),
        ("Conv_0/relu", (28, 28, 3)),
        ("MaxPool_0", (14, 14, 3)),
        ("Conv_1", (10, 10, 4)),
        ("Conv_1/relu", (10, 10, 4)),
        ("MaxPool_1", (5, 5, 4)),
    ]
    assert maps["Conv_0"].min() < 0
    np.testing.assert_array_equal(maps["Conv_0/relu"], np.maximum(maps["Conv_0"], 0))
    pooled = maps["Conv_0/relu"].reshape(2, 14, 2, 14, 2, 3).max((2, 4))
    np.testing.assert_allclose(maps["MaxPool_0"], pooled, rtol=1e-6)
    name, kernels = network.first_kernels()
    assert name == "Conv_0"
    assert kernels.shape == (5, 5, 1, 3)
    assert (network.preprocess(np.zeros((1, 28, 28, 1), np.uint8)) < -0.5).all()  # standardized


def test_a_run_that_cannot_be_used_is_one_sentence(run, tmp_path):
    with pytest.raises(records.RunDirectoryError, match=r"it has no config\.json"):
        trained_network.load(tmp_path)
    environment = records.read_environment(run)
    del environment["data"]["mean"]
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    records.write_json(tmp_path / "environment.json", environment)
    with pytest.raises(records.RunDirectoryError, match="doesn't say class_names, image_shape, "):
        trained_network.load(tmp_path)


# Predictions for one's own pictures.


@pytest.fixture
def pictures(tmp_path, mini):
    """Class folders with two pictures each, one of another size and mode, and a loose one."""
    for label, name in ((1, "Trouser"), (8, "Bag")):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        two = mini.test_images[mini.test_labels == label][:2, :, :, 0]
        Image.fromarray(two[0]).save(folder / "a.png")
        Image.fromarray(two[1]).convert("RGB").resize((60, 50)).save(folder / "b.jpg")
    Image.fromarray(mini.test_images[0, :, :, 0]).save(tmp_path / "pictures" / "loose.png")
    return tmp_path / "pictures"


def test_pictures_are_found_with_the_class_of_their_folder(pictures, network):
    names = network.class_names
    found = predict.find_pictures(pictures, names)
    assert [(p.path.name, p.truth) for p in found] == [
        ("a.png", "Bag"),
        ("b.jpg", "Bag"),
        ("a.png", "Trouser"),
        ("b.jpg", "Trouser"),
        ("loose.png", None),
    ]
    p = np.zeros((5, 10), np.float32)
    p[[0, 1, 2, 4], [8, 1, 1, 3]] = 1.0
    p[3, 1] = 1.0
    assert predict.count_correct(found, p, names) == (3, 4)
    (pictures / "t_shirt_top").mkdir()
    (pictures / "t_shirt_top" / "c.png").touch()
    assert "T-shirt/top" in {p.truth for p in predict.find_pictures(pictures, names)}
    (pictures / "T-Shirt Top").mkdir()
    with pytest.raises(ValueError, match=r"T-Shirt Top and .*t_shirt_top both stand for the class"):
        predict.find_pictures(pictures, names)
    (pictures / "T-Shirt Top").rmdir()
    (pictures / "Hat").mkdir()
    (failed,) = [p for p in predict.find_pictures(pictures, names) if p.error]
    assert failed.path.name == "Hat"
    assert "Hat is not named after a class of the run: T-shirt" in failed.error


def test_the_command_prints_a_table_or_json(run, pictures, network, mini):
    def execute(*arguments):
        done = commands.run("experiments.predict", *arguments)
        return done.returncode, done.stdout, done.stderr

    code, out, error = execute(f"--run={run}", "--json", "--top=2", pictures)
    assert (code, error) == (0, "")
    told = json.loads(out)
    loose = told["pictures"][-1]
    p = network.probabilities(mini.test_images[:1])[0]
    best = int(p.argmax())
    assert loose["classes"][0] == [network.class_names[best], pytest.approx(p[best], abs=1e-5)]
    assert [len(row["classes"]) for row in told["pictures"]] == [2] * 5
    right = [row["classes"][0][0] == row["truth"] for row in told["pictures"][:4]]
    assert told["accuracy"] == sum(right) / 4

    (pictures / "none.png").write_text("no picture")
    code, out, error = execute(f"--run={run}", pictures / "none.png")
    assert (code, out) == (2, "")
    assert error.startswith(f"error: {pictures / 'none.png'} is not a picture (PNG")
    assert len(error.splitlines()) == 1


def test_classes_that_differ_in_case_are_told_apart(pictures):
    for name in ("A", "a"):
        (pictures / name).mkdir()
        Image.new("L", (28, 28)).save(pictures / name / "1.png")
    names = ("Trouser", "Bag", "a", "A")
    truths = {p.path.parent.name: p.truth for p in predict.find_pictures(pictures, names)}
    assert truths == {"A": "A", "a": "a", "Bag": "Bag", "Trouser": "Trouser", "pictures": None}
    with pytest.raises(ValueError, match="'a' could be each of the classes 'A!', 'A'"):
        predict.find_pictures(pictures, ("Trouser", "Bag", "A!", "A"))
    with pytest.raises(ValueError, match=r"/A and .*/a both stand for the class 'A'"):
        predict.find_pictures(pictures, ("Trouser", "Bag", "A"))


def use_flags(monkeypatch, run, **values):
    """Gives predict its flags."""
    for name, value in (
        {"RUN": str(run), "JSON": False, "INVERT": False, "FIT": "auto", "TOP": 3} | values
    ).items():
        monkeypatch.setattr(predict, name, types.SimpleNamespace(value=value))


def test_what_is_no_picture_is_named_and_the_others_are_answered(
    run, pictures, monkeypatch, capsys
):
    (pictures / "Bag" / "notes.txt").write_text("no picture")
    (pictures / "Bag" / "cut.png").write_bytes((pictures / "Bag" / "a.png").read_bytes()[:120])
    (pictures / "Bag" / "folder").mkdir()
    os.mkfifo(pictures / "x.png")
    wrong = [
        (pictures / "Bag" / "cut.png", "is truncated or damaged"),
        (pictures / "Bag" / "folder", "can't be read: Is a directory"),
        (pictures / "Bag" / "notes.txt", "is not a picture"),
        (pictures / "x.png", "it is a pipe"),
        (pictures / "none.png", "does not exist"),
    ]
    use_flags(monkeypatch, run, JSON=True)
    assert predict.main(str(pictures), str(pictures / "none.png")) == 0
    out, error = capsys.readouterr()
    rows = {row["file"]: row for row in json.loads(out)["pictures"]}
    assert len(rows) == 10
    lines = error.splitlines()
    assert len(lines) == len(wrong)
    for (path, why), line in zip(wrong, lines, strict=True):
        row = rows.pop(str(path))
        assert line == f"error: {row['error']}"
        assert str(path) in line
        assert why in line
        assert row["classes"] == []
    assert all(len(row["classes"]) == 3 and "error" not in row for row in rows.values())
    (pictures / "empty").mkdir()
    use_flags(monkeypatch, run)
    assert predict.main(str(pictures / "x.png"), str(pictures / "empty")) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert "empty is empty; put pictures in" in error.splitlines()[1]


def test_pictures_are_taken_a_part_at_a_time(pictures, monkeypatch):
    (pictures / "notes.txt").write_text("no picture")

    def probabilities(images):
        assert len(images) <= 2
        return images.reshape(len(images), -1)[:, :2].astype(np.float32)

    shape = {"image_shape": (28, 28, 1), "class_names": ("Trouser", "Bag")}
    network = types.SimpleNamespace(**shape, probabilities=probabilities, data={})
    found = predict.find_pictures(pictures, network.class_names)
    files = [p.path for p in found[:5]]
    expected = [data.decode_picture(file, 1, (28, 28)).ravel()[:2] for file in files]
    monkeypatch.setattr(predict, "AT_ONCE", 2)
    done, answers, warning = predict.classify(network, found, False)
    np.testing.assert_array_equal(answers, expected)
    assert warning is None
    assert [p.error is None for p in done] == [True] * 5 + [False]


def test_a_ground_unlike_the_training_images_is_warned_of(run, mini, network, tmp_path):
    mean, spread = network.data["border"]
    assert (mean, spread) == data.border_statistics(data.subset(mini, 500, 0).train_images)
    shapes = data.synthetic(size=28, classes=5, train=40, test=1).train_images

    def said(images, about=network.data):
        return trained_network.warn_of_ground(
            about, data.border_brightness(images), "give --invert"
        )

    assert said(mini.test_images) is None
    assert said(255 - mini.test_images) == (
        f"the ground of 1000 of 1000 images is much lighter than that of the training images "
        f"(brightness {1 - data.border_brightness(mini.test_images).mean():.2f}, there "
        f"{mean:.2f}), so that little can be said of them; give --invert"
    )
    assert "the ground of 40 of 41 images" in said(
        np.concatenate([255 - shapes, mini.test_images[:1]])
    )
    # Half-way between light and dark: turning it round doesn't help.
    assert "invert" not in said(np.full((1, 28, 28, 1), 128, np.uint8))
    old = {key: value for key, value in network.data.items() if key != "border"}
    assert said(255 - mini.test_images, old) is None
    own = dict(zip(("mean", "spread"), data.border_statistics(shapes), strict=True))
    about = {"border": [own["mean"], own["spread"]]}
    assert said(shapes, about) is None
    assert "the ground of 40 of 40 images is much lighter" in said(255 - shapes, about)
    mixed = np.concatenate([shapes, 255 - shapes])
    assert said(mixed, {"border": list(data.border_statistics(mixed))}) is None


def test_the_command_warns_of_the_ground(run, mini, tmp_path, monkeypatch, capsys):
    file = tmp_path / "dark.png"
    Image.fromarray(255 - mini.test_images[0, :, :, 0]).save(file)
    for inverted, line in ((False, "; give --invert"), (True, None)):
        use_flags(monkeypatch, run, INVERT=inverted)
        assert predict.main(str(file)) == 0
        error = capsys.readouterr().err
        assert error.count("\n") == bool(line)
        if line:
            assert error.startswith("warning: the ground of 1 of 1 images is much lighter")
            assert error.rstrip().endswith(line)


def test_a_table_marks_what_is_wrong(network):
    rows = [predict.Picture(pathlib.Path(name), "Bag") for name in ("a", "long")]
    p = np.eye(10, dtype=np.float32)[[8, 1]]
    lines = predict.format_table(rows, p, network.class_names).splitlines()
    assert lines[0].startswith("a     Bag 1.000")
    assert lines[1].endswith("wrong")
    assert "wrong" not in lines[0]
    assert lines[2] == "accuracy 0.5000: 1 of 2 pictures"


# Pictures of the run; see test_figures.py.


def test_every_kind_of_picture_is_drawn(run, mini, tmp_path):
    own = Evaluated(run)
    chosen = choose_images(own, ["Bag", "t-shirt/top"])
    assert [(name, truth) for name, _, truth in chosen] == [
        ("Bag", "Bag"),
        ("t-shirt/top", "T-shirt/top"),
    ]
    files = [f for kind in run_figures.KINDS for f in run_figures.draw(own, kind, chosen, tmp_path)]
    assert sorted(file.name for file in files) == [
        "activations_Bag.png",
        "activations_t-shirt_top.png",
        "calibration.png",
        "confusion.png",
        "curves.png",
        "explanations.png",
        "fields.png",
        "kernels.png",
        "mistakes.png",
        "predictions.png",
    ]
    for file in files:
        with Image.open(file) as picture:
            assert min(picture.size) > 250
            assert len(picture.convert("L").getcolors(maxcolors=1 << 20)) > 20
    with pytest.raises(ValueError, match="'hat' is not a class of the run: T-shirt/top, "):
        choose_images(own, ["hat"])
    twice = [Chosen("shirt", mini.test_images[0]), Chosen("shirt", mini.test_images[1])]
    files = run_figures.draw(own, "activations", twice, tmp_path, "svg")
    assert [f.name for f in files] == ["activations_shirt.svg", "activations_shirt_again.svg"]
    with pytest.raises(ValueError, match=r"no\.png does not exist; check the path"):
        read_images(own, ["no.png"])


# TensorBoard.


def test_tensorboard_is_written(run, network):
    """Read back record by record; an event is a length, its checksum, the bytes, theirs."""
    evaluated = Evaluated(run)
    run_figures.write_board(evaluated)
    (file,) = (run / "tensorboard").glob("events.*")
    events, content = [], file.read_bytes()
    while content:
        (size,) = struct.unpack("<Q", content[:8])
        events.append(Event.FromString(content[12 : 12 + size]))
        content = content[12 + size + 4 :]
    tags = {value.tag for event in events for value in event.summary.value}
    layers = ["0_input", "1_Conv_0", "2_Conv_0/relu", "3_MaxPool_0", "4_Conv_1", "6_MaxPool_1"]
    shown = [name.replace("/", "_") for name, *_ in choose_images(evaluated)]
    assert len(set(shown)) == 2
    assert {f"{name}/{layer}" for name in shown for layer in layers} <= tags
    pixels = {value.tag: value.image for event in events for value in event.summary.value}
    picture = Image.open(io.BytesIO(pixels[f"{shown[0]}/1_Conv_0"].encoded_image_string))
    image = choose_images(evaluated)[0].image
    maps = network.feature_maps(image[None])["Conv_0"][0]
    colors = style.color_signed(maps[:, :, 1], style.measure_scale(maps))
    np.testing.assert_array_equal(np.asarray(picture)[1:29, 31:59], colors)
    kernels = {f"{name}/kernel" for name in ("Conv_0", "Conv_1", "Dense_0", "Dense_1", "Dense_2")}
    assert kernels | {"Conv_0/kernels", "configuration/text_summary"} <= tags
    assert any(tag.startswith("_hparams_/") for tag in tags)
    (graph,) = (GraphDef.FromString(event.graph_def) for event in events if event.graph_def)
    nodes = {node.name: node for node in graph.node}
    assert list(nodes["Conv_0/conv_general_dilated"].input) == ["input", "Conv_0/kernel"]
    shape = nodes["Conv_1/kernel"].attr["_output_shapes"].list.shape[0]
    assert [dim.size for dim in shape.dim] == [5, 5, 3, 4]
    for node in graph.node:
        assert set(node.input) <= set(nodes)
    ends = [node.name for node in graph.node if not any(node.name in n.input for n in graph.node)]
    assert ends == ["logits"]  # everything leads there


def test_messages_name_a_few_of_many_classes(tmp_path):
    (tmp_path / "pictures" / "zebra").mkdir(parents=True)
    names = [f"class {i}" for i in range(1000)]
    (failed,) = predict.find_pictures(tmp_path / "pictures", names)
    assert failed.error.endswith("class 8, class 9, … (1,000 in all).")
    assert len(failed.error) < 300


# Files for other programs.


def test_an_exported_function_needs_nothing_of_this_package(network, mini, tmp_path):
    file = tmp_path / "net.stablehlo"
    file.write_bytes(export.serialize(network))
    np.save(tmp_path / "x.npy", mini.test_images[:7])
    code = (
        "import sys, jax, numpy as np\n"
        "f = jax.export.deserialize(open(sys.argv[1], 'rb').read())\n"
        "x = np.load(sys.argv[2])\n"
        "np.save(sys.argv[3], f.call(x)); assert f.call(x[:2]).shape == (2, 10)\n"
        "assert not any(name.startswith('cnn_jax') for name in sys.modules)\n"
    )
    arguments = [file, tmp_path / "x.npy", tmp_path / "p.npy"]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, cwd=tmp_path)
    expected = network.probabilities(mini.test_images[:7])
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layout", ["flax", "torch"])
def test_exported_parameters_come_with_the_network_and_its_normalization(
    run, network, mini, tmp_path, monkeypatch, layout
):
    file = tmp_path / "net.safetensors"
    given = {"RUN": str(run), "OUTPUT": str(file), "LAYOUT": layout}
    for name, value in {**given, "NAMES": "own", "CHECKPOINT": "last"}.items():
        monkeypatch.setattr(export, name, types.SimpleNamespace(value=value))
    assert export.main() == 0
    monkeypatch.setattr(export, "NAMES", types.SimpleNamespace(value="torchvision"))
    with pytest.raises(ConfigError, match="torchvision has no network like this lenet_max; leave"):
        export.main()
    monkeypatch.setattr(
        export, "OUTPUT", types.SimpleNamespace(value=str(tmp_path / "x.stablehlo"))
    )
    assert export.main() == 2
    with safe_open(file, "numpy") as opened:
        metadata = opened.metadata()
    assert json.loads(metadata["config"])["model"]["channels"] == [3, 4]
    about = json.loads(metadata["data"])
    assert about["class_names"] == list(network.class_names)
    scaled = (np.asarray(mini.train_images) / 255).astype(np.float32)
    assert about["mean"] == pytest.approx([scaled.mean()], abs=0.02)


def test_exported_parameters_come_back(network, tmp_path):
    assert network.input_shape == (28, 28, 1)
    torch_weights.save_torch(
        tmp_path / "net.safetensors", network.variables, network.model, (28, 28, 1)
    )
    assert load_file(tmp_path / "net.safetensors")["Conv_0.weight"].shape == (3, 1, 5, 5)
    back = torch_weights.load_torch(tmp_path / "net.safetensors", network.model, (28, 28, 1))
    jax.tree.map(np.testing.assert_array_equal, back["params"], network.variables["params"])
