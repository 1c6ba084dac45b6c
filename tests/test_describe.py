"""The command that prints layer tables: its three styles, its options, and what it refuses."""

import functools
import json
import pathlib
import re
import time

import pytest

from cnn_jax import models
from cnn_jax.errors import UserError
from experiments import describe
from tests import commands

ROOT = pathlib.Path(__file__).parent.parent


run = functools.partial(commands.run, "experiments.describe", JAX_PLATFORMS="cpu")


def test_n1_text_of_lenet():
    lines = describe.describe_network("lenet", "28,28,1", [], "text").split("\n")
    assert lines[0] == "lenet on 28×28×1"
    assert [line.split()[:3] for line in lines[4:12]] == [
        ["Conv_0", "28×28×6", "156"],
        ["AvgPool_0", "14×14×6", "0"],
        ["Conv_1", "10×10×16", "2,416"],
        ["AvgPool_1", "5×5×16", "0"],
        ["Flatten_0", "400", "0"],
        ["Dense_0", "120", "48,120"],
        ["Dense_1", "84", "10,164"],
        ["Dense_2", "10", "850"],
    ]
    assert lines[13].split() == ["total", "61,706", "100.0", "416,520", "100.0", "31.6"]
    assert lines[15] == "61,706 parameters, 95.8 % of them in dense layers."
    assert lines[16] == "416,520 multiply-adds for one image forward, 715,440 more backward."
    # Aligned: numbers of a column end together; the field of the first and the last layer.
    assert lines[4].index("5×5") + len("5×5") == lines[11].index("32×32") + len("32×32")
    assert max(map(len, lines)) <= 110


def test_markdown_is_a_table():
    lines = describe.describe_network("cifar_quick", None, [], "markdown").split("\n")
    table = [line for line in lines if line.startswith("|")]
    assert lines[0] == "## cifar_quick on 32×32×3"
    assert {line.count("|") for line in table} == {12}
    assert len(table) == 2 + 9 + 1
    assert table[-1].startswith("| total |  | 145,578 |")


def test_json_has_the_documented_keys():
    table = json.loads(describe.describe_network("lenet", "32,32,3", ["pool=max"], "json"))
    assert table["model"] == "lenet"
    assert table["input"] == [32, 32, 3]
    assert table["options"] == ["pool=max"]
    first, second, *_ = table["layers"]
    assert first["name"] == "Conv_0"
    assert first["output_shape"] == [32, 32, 6]
    assert first["parameters"] == 6 * 3 * 25 + 6
    assert first["multiply_adds"] == 32 * 32 * 6 * 3 * 25
    assert first["receptive_field"] == [5, 5]
    assert second["kind"] == "MaxPool"
    for total in ("parameters", "multiply_adds"):
        assert table[total] == sum(layer[total] for layer in table["layers"])


def test_channels_first_has_the_shapes_and_the_rows_of_a_course():
    """As PyTorch prints them: convolution, activation, pooling, …, flattened, dense."""
    text = describe.describe_network("lenet", "1,28,28", ["pool=max"], "text", "channels_first")
    lines = text.split("\n")
    assert lines[0] == "lenet pool=max on [1, 1, 28, 28]"
    assert [re.split(r"  +", line)[:3] for line in lines[4:16]] == [
        ["Conv_0", "[1, 6, 28, 28]", "156"],
        ["Conv_0/sigmoid", "[1, 6, 28, 28]", "0"],
        ["MaxPool_0", "[1, 6, 14, 14]", "0"],
        ["Conv_1", "[1, 16, 10, 10]", "2,416"],
        ["Conv_1/sigmoid", "[1, 16, 10, 10]", "0"],
        ["MaxPool_1", "[1, 16, 5, 5]", "0"],
        ["Flatten_0", "[1, 400]", "0"],
        ["Dense_0", "[1, 120]", "48,120"],
        ["Dense_0/sigmoid", "[1, 120]", "0"],
        ["Dense_1", "[1, 84]", "10,164"],
        ["Dense_1/sigmoid", "[1, 84]", "0"],
        ["Dense_2", "[1, 10]", "850"],
    ]
    assert lines[17].split() == ["total", "61,706", "416,520", "31.6"]
    assert max(map(len, lines)) <= 110
    again = describe.describe_network("lenet", "1,1,28,28", ["pool=max"], "text", "channels_first")
    assert again == text
    markdown = describe.describe_network("lenet", None, [], "markdown", "channels_first")
    assert "| Conv_1/sigmoid | [1, 16, 10, 10] | 0 | 0 | 14×14 pixels | in place |" in markdown


def test_json_with_channels_first_differs_in_shapes_and_activations_only():
    read = functools.partial(describe.describe_network, "lenet", None, [], "json")
    table, other = json.loads(read()), json.loads(read("channels_first"))
    assert other.pop("layout") == "channels_first"
    assert other["input"] == [1, 1, 28, 28]
    rows = [row for row in other["layers"] if row["kind"] != "sigmoid"]
    assert (len(rows), len(other["layers"])) == (8, 12)
    for row, same in zip(rows, table["layers"], strict=True):
        *sizes, channels = same["output_shape"]
        assert row == {**same, "output_shape": [1, channels, *sizes]}
    assert {**other, "layers": 0, "input": 0} == {**table, "layers": 0, "input": 0}


@pytest.mark.parametrize(
    ("shape", "layout", "message"),
    [
        ("1,28,28", "channels_last", "channels come last, .* write --input=28,28,1, or give --lay"),
        ("3,32,16", "channels_last", "write --input=32,16,3, or give --layout=channels_first"),
        ("28,24,1", "channels_first", "channels come first, .* write --input=1,28,24, or give"),
        ("1,1,28,28", "channels_last", "must be height,width,channels, as in --input=28,28,1"),
        ("2,1,28,28", "channels_first", "must be channels,height,width, as in --input=1,28,28"),
        ("1,3,3", "channels_first", r"lenet can't take \[1, 1, 3, 3\]: "),
    ],
)
def test_channels_in_the_wrong_place_are_answered_with_the_right_one(shape, layout, message):
    with pytest.raises(UserError, match=message):
        describe.describe_network("lenet", shape, [], "text", layout)


@pytest.mark.slow
def test_every_network_has_a_usual_picture_and_a_table_in_seconds():
    start = time.process_time()
    for name in models.MODELS:
        text = describe.describe_network(name, None, [], "text")
        assert "?" not in text  # every layer's field is known
    assert time.process_time() - start < 3 * len(models.MODELS)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("lenet", "pool=max", "max"),
        ("lenet", "channels=8,24", (8, 24)),
        ("lenet", "hidden=(64,)", (64,)),
        ("lenet", "classes=7", 7),
        ("nin", "dropout=0.25", (0.25,)),
        ("nin", "width=1", 1.0),
        ("vgg11", "width=0.25", 0.25),
        ("vgg11", "arch=((1, 8), (2, 16))", ((1, 8), (2, 16))),
        ("googlenet", "auxiliary=True", True),
    ],
)
def test_options_have_the_types_of_their_defaults(name, option, value):
    ((_, read),) = describe.read_options(name, [option]).items()
    assert read == value
    assert type(read) is type(value)


def test_width_of_vgg_in_the_table():
    table = json.loads(describe.describe_network("vgg11", None, ["width=0.25"], "json"))
    assert table["layers"][0]["output_shape"] == [224, 224, 16]


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("lenot", None, [], "model 'lenot' is unknown; choose one of softmax, "),
        ("lenet", None, ["pol=max"], "no option pol; it has channels, "),
        ("lenet", None, ["pool=mix"], "pool='mix' is unknown"),
        ("lenet", None, ["pool"], "must be name=value"),
        ("lenet", None, ["classes=ten"], "classes=ten must be of the kind of its default, 10"),
        ("googlenet", None, ["auxiliary=maybe"], "must be of the kind of its default, False"),
        ("lenet", "28,28", [], "must be height,width,channels"),
        ("lenet", "28,x,1", [], "must be height,width,channels"),
        ("lenet", "28,0,1", [], "must be height,width,channels"),
        ("lenet", "3,3,1", [], "lenet can't take 3×3×1: .*the kernel spans 5 pixels"),
        ("vgg11", "16,16,1", [], "vgg11 can't take 16×16×1: "),
        ("vgg11", None, ["arch=(1, 2)"], r"arch=\(1, 2\) must be pairs"),
    ],
)
def test_what_cannot_work_is_said_in_one_sentence(name, shape, options, message):
    with pytest.raises(ValueError, match=message) as error:
        describe.describe_network(name, shape, options, "text")
    assert "\n" not in str(error.value)


def test_command_line(tmp_path):
    file = tmp_path / "table.json"
    done = run("--model=lenet", "--option=pool=max", "--format=json", f"--output={file}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"wrote {file}\n"
    assert json.loads(file.read_text(encoding="utf-8"))["parameters"] == 61_706

    done = run("--model=lenet", "--input=2,2,1")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: lenet can't take 2×2×1: ")
    assert done.stderr.count("\n") == 1
