"""Commands that are printed or recorded make exactly the configuration that they are of."""

import json
import math
import os
import pathlib
import shlex
import subprocess

import hypothesis
import pytest
from absl import flags
from hypothesis import strategies as st

from cnn_jax import config, errors, identity, schema, text
from cnn_jax.reports import run_groups, significance, tables
from cnn_jax.sweeps import spaces
from experiments import config_options
from tests import commands

ROOT = pathlib.Path(__file__).parent.parent
# The file sets each option that may be None, so that leaving it out is another thing than None.
FILE = """
from cnn_jax import config

def get_config(options=None):
    tree = config.Config()
    model = config.ModelConfig(
        name="nin", activation="relu", pool="avg", norm="batch", dropout=(0.25,), width=2.0,
        channels=(1,), kernel_sizes=(1,), paddings=(1,), hidden=(1,), arch=((1, 2),),
        auxiliary=True, kernel_init="torch", bias_init="zeros", class_bias_init="zeros",
    )
    tree.dataset.data_dir, tree.dataset.holdout, tree.model = "/data", 0.5, model
    return tree
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "it's a config.py"
    path.write_text(FILE)
    return path


def parse(arguments):
    """The configuration that the flags of a command give it, read as every command reads them."""
    values = flags.FlagValues()
    holder = config_options.define("config", "", flag_values=values, sys_argv=arguments)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    values(arguments)
    return holder.value


def split(command):
    """The arguments that bash gives a command, that of `python -m` left out."""
    code = f"printf '%s\\0' {command}"
    environment = {"LC_ALL": "C.UTF-8"}
    done = subprocess.run(["bash", "-c", code], capture_output=True, check=True, env=environment)
    arguments = [os.fsdecode(argument) for argument in done.stdout.split(b"\0")]
    assert arguments[:3] == ["python", "-m", "experiments.train"]
    return arguments[2:-1]


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1)
WHOLE = st.integers(-(2**63), 2**63)
BY_TYPE = {
    bool: st.booleans(),
    int: WHOLE,
    float: NUMBERS,
    str: WORDS.filter(lambda word: word != "None"),
    tuple[int, ...]: st.lists(WHOLE, max_size=3).map(tuple),
    tuple[float, ...]: st.lists(NUMBERS, max_size=3).map(tuple),
    tuple[str, ...]: st.lists(WORDS, max_size=3).map(tuple),
    tuple[tuple[int, int], ...]: st.lists(st.tuples(WHOLE, WHOLE), max_size=3).map(tuple),
}
HINTS = config.leaf_types()


def values_of(hint):
    optional = type(None) in getattr(hint, "__args__", ())
    if not optional:
        return BY_TYPE[hint]
    (kind,) = (arg for arg in hint.__args__ if arg is not type(None))
    return st.none() | BY_TYPE[kind]


def check_printed(file, values):
    command = spaces.train_command(str(file), values, "runs/x y")
    assert command == text.one_line(command)
    got = config.flatten(parse(split(command)))
    for path, value in values.items():
        assert got[path] == value, path
        assert repr(got[path]).replace(".0", "") == repr(value).replace(".0", ""), path
    untouched = config.flatten(parse(["", f"--config={file}"]))
    assert {p: v for p, v in got.items() if p not in values} == {
        p: v for p, v in untouched.items() if p not in values
    }


@hypothesis.settings(max_examples=20)
@hypothesis.given(st.fixed_dictionaries({path: values_of(hint) for path, hint in HINTS.items()}))
def test_a_printed_command_makes_the_configuration_whatever_its_values(file, values):
    check_printed(file, values)


@pytest.mark.parametrize(
    "word",
    [
        "synthetic:size=12,channels=3",
        "a, b",
        ' it\'s "x" ',
        "'quoted'",
        "$HOME `x` \\ !",
        "--workdir=x",
        "Füße 猫",
        "a\nb\x1b[31m\\'",
        "\udcff",
        "none",
        "./None",
        "(1,",
    ],
)
def test_a_printed_command_gives_odd_texts_as_they_are(file, word):
    check_printed(file, {"dataset.name": word, "dataset.data_dir": word, "model.bias_init": word})
    check_printed(file, {"optimizer.freeze": (word,), "init_from_skip": (word, "a", word)})


def test_a_printed_command_gives_odd_numbers_and_no_numbers_as_they_are(file):
    check_printed(file, {path: None for path, hint in HINTS.items() if schema.is_a(None, hint)})
    for number in (1e-05, 0.1, 1e22, -0.0, 5e-324, 1.7976931348623157e308, 3, 0.30000000000000004):
        values = {"optimizer.learning_rate": number, "optimizer.step_epochs": (number,)}
        check_printed(file, values)
        rate = parse(split(spaces.train_command(str(file), values, "x"))).optimizer.learning_rate
        assert math.copysign(1, rate) == math.copysign(1, number)
    for arch in ((), ((1, 2),), ((1, 2), (3, 4))):
        check_printed(file, {"model.arch": arch, "model.hidden": (), "optimizer.nesterov": True})


def test_none_is_none_and_refused_where_an_option_cannot_be_none(file):
    for path, hint in HINTS.items():
        tree = parse(["", f"--config={file}", f"--config.{path}=None"])
        assert config.flatten(tree)[path] is None
        if not schema.is_a(None, hint):
            with pytest.raises(config.ConfigError, match=f"{path}=None is of the wrong type"):
                config.check_types(tree)


def test_a_tuple_may_still_be_given_number_by_number(file):
    tree = parse(["", f"--config={file}", "--config.model.hidden=8", "--config.model.hidden=20"])
    assert tree.model.hidden == (8, 20)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Conv_0", ("Conv_0",)),
        ("Conv_*,*/bias", ("Conv_*", "*/bias")),
        ("(stage[12]_*,)", ("stage[12]_*",)),
        ("Dense_0=0.1, Conv_0=2", ("Dense_0=0.1", "Conv_0=2")),
        ("'a, b','c'", ("a, b", "c")),
        ("()", ()),
        ("", ()),
    ],
)
def test_a_tuple_of_texts_needs_no_quotes(file, given, expected):
    tree = parse(["", f"--config={file}", f"--config.optimizer.freeze={given}"])
    assert tree.optimizer.freeze == expected
    assert spaces.parse_value(given, "optimizer.freeze") == expected


# What is recorded


def run_of(command, tmp_path, base=None):
    return run_groups.Run(tmp_path / "run", base or config.Config(), [], {"command": command}, None)


def test_a_recorded_command_is_read_as_it_was_given(tmp_path):
    command = [
        *("python", "-m", "experiments.train", "--config", "experiments/configs/lenet.py"),
        *("--config.model.bias_init=None", "--config.model.pool="),
        *("--noconfig.drop_last", "--config.optimizer.nesterov", "--workdir", "x"),
        *("--config.optimizer.weight_decay", "-1", "--config.model.hidden=8"),
        *("--config.model.hidden=20", "--config.seed=3", "--config.records.figures=False"),
    ]
    assert tables.recorded_command(run_of(command, tmp_path)) == (
        "experiments/configs/lenet.py",
        [
            "--config.model.bias_init=None",
            "--config.model.pool=",
            "--config.drop_last=False",
            "--config.optimizer.nesterov=True",
            "--config.optimizer.weight_decay=-1",
            "--config.model.hidden=8,20",
        ],
    )


def test_a_baseline_of_none_is_the_networks_own_value():
    def group(**model):
        tree = config.resolve(config.Config(model=config.ModelConfig(name="lenet", **model)))
        return run_groups.Group(tree, (), ())

    own, other = group(), group(activation="relu", pool="max")
    assert own.config.model.activation == "sigmoid"
    for chosen in ("model.activation=None", "model.activation=None,model.pool=None"):
        assert significance.find_baseline([own, other], chosen) is own
    assert significance.find_baseline([own, other], "model.pool=max,model.hidden=None") is other
    for chosen, count in (("model.hidden=None", 2), ("model.pool=None,model.activation=relu", 0)):
        expected = rf"fits {count} .* They differ in model\.activation, model\.pool\."
        with pytest.raises(errors.ReportError, match=expected):
            significance.find_baseline([own, other], chosen)
    with pytest.raises(config.ConfigError, match=r"has model\.pool twice"):
        significance.find_baseline([own, other], "model.pool=avg,model.pool=max")


def test_the_real_command_makes_the_trial(tmp_path):
    values = {
        "dataset.name": "synthetic:size=12,channels=1,classes=3",
        "model.channels": (8, 24),
        "model.activation": "tanh",
        "optimizer.learning_rate": 1e-05,
        "optimizer.step_epochs": (0.5,),
        "optimizer.nesterov": False,
        "epochs": 2,
    }
    (trial,) = spaces.expand(config.Config(), {path: (value,) for path, value in values.items()})
    file = tmp_path / "my config.py"
    file.write_text(
        "from cnn_jax.config import Config\n\ndef get_config(o=None): return Config()\n"
    )
    command = shlex.split(spaces.train_command(str(file), values, tmp_path / "x y"))
    done = commands.run(*command[2:], "--print_config")
    printed = config.from_dict(json.loads(done.stdout))
    assert identity.compare_configs(printed, config.resolve(trial.config)) == {}
