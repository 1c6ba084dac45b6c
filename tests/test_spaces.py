"""What is swept: values, axes, distributions, and the trials they give."""

import dataclasses
import itertools
import json
import math
import random
import urllib.parse

import pytest

from cnn_jax import config
from cnn_jax.sweeps import spaces


def base():
    return config.Config(model=config.ModelConfig(name="softmax"), epochs=1)


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("optimizer.learning_rate", "1e-3", 0.001),
        ("optimizer.learning_rate", "1", 1.0),
        ("epochs", "3", 3),
        ("augment.flip", "true", True),
        ("model.activation", "relu", "relu"),
        ("model.activation", "None", None),
        ("dataset.name", "'synthetic:size=12,channels=3'", "synthetic:size=12,channels=3"),
        ("model.channels", "(6,16)", (6, 16)),
        ("model.channels", "[6, 16]", (6, 16)),
        ("model.hidden", "64", (64,)),
        ("model.hidden", "()", ()),
        ("model.dropout", "(0,0.5)", (0.0, 0.5)),
        ("model.arch", "((1,64),(2,128))", ((1, 64), (2, 128))),
        ("model.hidden", "None", None),
        ("dataset.name", "'", "'"),
        ("dataset.name", "'mnist", "'mnist"),
        ("dataset.name", "kodak", "kodak"),
    ],
)
def test_values_take_the_type_of_their_field(path, text, expected):
    value = spaces.parse_value(text, path)
    assert repr(value) == repr(expected)  # 0.0 is not 0
    if "'" not in text:
        assert spaces.parse_value(spaces.format_value(value), path) == value


def test_values_are_written_as_the_command_line_reads_them():
    values = {"(6,16)": (6, 16), "(6,)": (6,), "()": (), "((1,64),(2,128))": [(1, 64), [2, 128]]}
    assert [spaces.format_value(value) for value in values.values()] == list(values)
    assert [spaces.format_value(v) for v in (0.1, 3, "relu", None, True)] == [
        *("0.1", "3", "relu", "None", "True")
    ]
    values = {"model.channels": (6, 16), "model.pool": None, "dataset.name": "a b", "seed": 3}
    assert spaces.train_command("lenet.py", values, "runs/it's") == (
        "python -m experiments.train --config=lenet.py '--config.model.channels=(6,16)' "
        "--config.model.pool=None '--config.dataset.name=a b' --config.seed=3 "
        "'--workdir=runs/it'\"'\"'s'"
    )


def test_commas_in_brackets_and_quotes_separate_nothing():
    axes = spaces.parse_grid(
        [
            "model.channels=(6,16),(8,24)",
            "config.seed=0,1",
            "dataset.name='synthetic:a=1,b=2',mnist",
            "model.arch=((1,64),(2,128)),[(1,32)]",
        ]
    )
    assert axes == {
        "model.arch": (((1, 64), (2, 128)), ((1, 32),)),
        "model.channels": ((6, 16), (8, 24)),
        "seed": (0, 1),
        "dataset.name": ("synthetic:a=1,b=2", "mnist"),
    }


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("optimizer.lerning_rate=1", "did you mean optimizer.learning_rate?"),
        ("learning_rate=1", "did you mean optimizer.learning_rate?"),
        ("epochs=many", "must be int"),
        ("epochs=2.5", "must be int"),
        ("epochs=", "must be a path and its values"),
        ("epochs", "must be a path and its values"),
        ("seed=0,1,0", "has the value 0 twice"),
        ("optimizer.nesterov=1", "must be bool"),
        ("model.channels=(6,x)", "'(6,x)' is of the wrong type"),
        ("model.channels=(6,16", "is of the wrong type"),
        ("records.figures=True,False", "changes no result"),
    ],
)
def test_a_wrong_grid_is_refused_in_one_sentence(item, expected):
    with pytest.raises(config.ConfigError) as error:
        spaces.parse_grid([item])
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


WRONG_TYPE = "'x' is of the wrong type; config.seed must be int."


@pytest.mark.parametrize(
    ("parse", "argument", "expected"),
    [
        (spaces.parse_grid, ["seed=0,x"], f"--grid=seed: {WRONG_TYPE}"),
        (spaces.parse_sample, ["seed=choice:0,x"], f"--sample=seed: {WRONG_TYPE}"),
        (
            lambda text: spaces.parse_values("baseline", text),
            "seed=x",
            f"--baseline=seed: {WRONG_TYPE}",
        ),
        (lambda text: spaces.parse_value(text, "seed"), "x", f"seed: {WRONG_TYPE}"),
        (lambda text: spaces.parse_value(text, "seed", "--s"), "x", f"--s: {WRONG_TYPE}"),
        (
            spaces.parse_grid,
            ["seed"],
            "--grid=seed must be a path and its values, "
            "as in --grid=optimizer.learning_rate=0.1,0.3.",
        ),
        (
            spaces.parse_sample,
            ["seed"],
            "--sample=seed must be a path and its values, "
            "as in --sample=optimizer.learning_rate=log:1e-3,1.",
        ),
        (
            lambda text: spaces.parse_values("baseline", text),
            "epochs=3,seed",
            "--baseline=seed must be a path and its values, "
            "as in --baseline=optimizer.learning_rate=0.1.",
        ),
        (
            spaces.parse_grid,
            ["config.x.optimizer.seed=1"],
            "--grid=x.optimizer.seed: config.x.optimizer.seed is not in the configuration; "
            "did you mean seed?",
        ),
        (
            spaces.parse_grid,
            ["optimizer.step_epoch=1"],
            "--grid=optimizer.step_epoch: config.optimizer.step_epoch is not in the configuration; "
            "did you mean optimizer.step_epochs?",
        ),
    ],
)
def test_what_is_refused_is_named_with_its_flag(parse, argument, expected):
    with pytest.raises(config.ConfigError) as error:
        parse(argument)
    assert str(error.value) == expected


def test_parse_values_reads_one_value_for_each_path():
    text = " optimizer.learning_rate=1, config.model.channels=(6,16),dataset.name='a=b,c' ,seed=2"
    values = spaces.parse_values("baseline", text)
    assert values == {
        "optimizer.learning_rate": 1.0,
        "model.channels": (6, 16),
        "dataset.name": "a=b,c",
        "seed": 2,
    }


def test_one_path_in_two_flags_is_refused():
    with pytest.raises(config.ConfigError, match="seed is swept twice"):
        spaces.parse_grid(["seed=0", "seed=1"])
    with pytest.raises(config.ConfigError, match="seed is swept twice"):
        spaces.parse_sample(["seed=choice:0,1", "seed=choice:2,3"])
    samples = spaces.parse_sample(["seed=choice:1,2"])
    with pytest.raises(config.ConfigError, match="seed is swept twice"):
        spaces.expand(base(), {"seed": (0,)}, samples, 1)


def test_trials_are_the_cartesian_product_and_share_nothing():
    axes = {
        "optimizer.learning_rate": (0.1, 0.3),
        "model.kernel_init": (None, "torch"),
        "seed": (7,),
    }
    start = base()
    trials = spaces.expand(start, axes)
    assert [trial.name for trial in trials] == [
        "optimizer.learning_rate=0.1,model.kernel_init=None,seed=7",
        "optimizer.learning_rate=0.1,model.kernel_init=torch,seed=7",
        "optimizer.learning_rate=0.3,model.kernel_init=None,seed=7",
        "optimizer.learning_rate=0.3,model.kernel_init=torch,seed=7",
    ]
    assert [t.config.optimizer.learning_rate for t in trials] == [0.1, 0.1, 0.3, 0.3]
    assert {t.config.seed for t in trials} == {7}
    assert trials[0].config.dataset == start.dataset
    assert trials[0].config.dataset is not start.dataset
    assert start == base()


def test_every_trial_is_checked_before_the_first_starts():
    with pytest.raises(config.ConfigError, match=r"trial .*seed=0: config.optimizer.learning_rate"):
        spaces.expand(base(), {"optimizer.learning_rate": (0.1, -1.0), "seed": (0,)})
    with pytest.raises(config.ConfigError, match="nothing is swept"):
        spaces.expand(base(), {})
    with pytest.raises(config.ConfigError, match="go together"):
        spaces.expand(base(), {"seed": (0,)}, {}, trials=3)


def test_names_are_fit_for_directories():
    assert spaces.name_trial({"dataset.name": "a/b%"}) == "dataset.name=a%2Fb%25"
    with pytest.raises(config.ConfigError, match="too long"):
        spaces.name_trial({"dataset.name": "x" * 300})
    assert len(spaces.name_trial({"dataset.name": "x" * 187})) == 200
    for text in ("x" * 188, "é" * 94):  # bytes count
        with pytest.raises(config.ConfigError, match="too long"):
            spaces.name_trial({"dataset.name": text})


def test_names_hold_nothing_that_a_file_system_or_a_terminal_cannot_take():
    for value in ("a\nb", "\x1b[31m", "\0", "..", "é/ü", "50%", "\udcff", "\ud800", "a\u202eb"):
        name = spaces.name_trial({"dataset.name": value})
        assert name.isprintable()
        assert not set(name) & {"/", "\n", "\0"}
        errors = "surrogatepass" if value == "\ud800" else "surrogateescape"
        assert urllib.parse.unquote(name, errors=errors) == f"dataset.name={value}"
    assert spaces.name_trial({"dataset.name": "Füße 猫 'x'"}) == "dataset.name=Füße 猫 'x'"


def test_two_trials_never_share_a_directory():
    axes = {
        "dataset.name": ("mnist", "mnist,model.kernel_init=torch"),
        "model.kernel_init": ("torch", "torch,model.kernel_init=torch"),
    }
    names = {
        spaces.name_trial(dict(zip(axes, v, strict=True)))
        for v in itertools.product(*axes.values())
    }
    assert len(names) < 4  # these would
    with pytest.raises(config.ConfigError):
        spaces.expand(base(), axes)


def test_too_many_trials_are_refused_at_once():
    with pytest.raises(config.ConfigError, match="makes 1,000,000 trials"):
        spaces.expand(base(), {"seed": tuple(range(1000)), "epochs": tuple(range(1, 1001))})
    samples = spaces.parse_sample(["optimizer.learning_rate=log:1e-3,1"])
    with pytest.raises(config.ConfigError, match=r"makes 10\^?,?000,000,000 trials"):
        spaces.expand(base(), {}, samples, 10**10)


def test_a_name_with_quotes_or_brackets_in_it_separates_at_commas():
    axes = spaces.parse_grid(["dataset.name=bob's,al's,a(1,'x,y',\"it's, z\""])
    assert axes == {"dataset.name": ("bob's", "al's", "a(1", "x,y", "it's, z")}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("dataset.name", "None"),
        ("model.activation", "'None'"),
        ("dataset.name", "''"),
        ("dataset.name", "a\0b"),
        ("optimizer.learning_rate", "1" + "0" * 400),
        ("model.hidden", "(" * 5000),
        ("epochs", "None"),
        ("optimizer.step_epochs", "None"),
    ],
)
def test_what_no_command_line_can_give_is_refused(path, text):
    with pytest.raises(config.ConfigError, match="is of the wrong type"):
        spaces.parse_value(text, path)


def test_draws_depend_on_the_seed_alone_and_keep_to_their_ranges():
    samples = spaces.parse_sample(
        [
            "optimizer.learning_rate=log:1e-3,1",
            "batch_size=uniform:20,23",
            "seed=log:1,8",
            "model.kernel_init=choice:torch,normal_0.01",
        ]
    )

    def draw(count, seed):
        return [trial.values for trial in spaces.expand(base(), {}, samples, count, seed)]

    draws = draw(200, 0)
    assert len({json.dumps(d) for d in draws}) == 200
    assert draw(20, 0) == draws[:20]
    assert draw(20, 1) != draws[:20]
    rates = [d["optimizer.learning_rate"] for d in draws]
    assert 0.001 <= min(rates) < max(rates) <= 1
    # A third of the logarithmic range each: 200/3 ± 4 standard deviations of 6.7.
    for low, high in ((0.001, 0.01), (0.01, 0.1), (0.1, 1)):
        assert 40 < sum(low <= rate < high for rate in rates) < 94
    assert {d["batch_size"] for d in draws} == {20, 21, 22, 23}
    assert {d["seed"] for d in draws} == set(range(1, 9))
    assert {d["model.kernel_init"] for d in draws} == {"torch", "normal_0.01"}
    assert float(f"{rates[0]:.4g}") == rates[0]


def test_draws_are_the_quantiles_of_the_generators_numbers():
    """Made once; a change would make every recorded search irreproducible."""
    samples = spaces.parse_sample(
        [
            "optimizer.learning_rate=log:1e-3,10",
            "optimizer.momentum=uniform:0.2,0.7",
            "batch_size=uniform:20,23",
            "seed=log:2,8",
            "dataset.name=choice:mnist,fashion_mnist,synthetic:size=12",
        ]
    )
    assert samples["dataset.name"].values[2] == "synthetic:size=12"
    generator = random.Random(0)  # the seed when nothing is said
    for trial in spaces.expand(base(), {}, samples, 40):
        u = [generator.random() for _ in range(5)]
        assert trial.values == {
            "optimizer.learning_rate": float(f"{10 ** (4 * u[0] - 3):.4g}"),
            "optimizer.momentum": float(f"{0.2 + 0.5 * u[1]:.4g}"),
            "batch_size": 20 + math.floor(4 * u[2]),
            "seed": math.floor(2 * 4.5 ** u[3]),
            "dataset.name": ("mnist", "fashion_mnist", "synthetic:size=12")[math.floor(3 * u[4])],
        }


def test_rounding_keeps_draws_within_their_ends():
    """Four digits don't tell these ends apart from numbers outside of them."""
    samples = spaces.parse_sample(["label_smoothing=uniform:0.12344,0.12346"])
    draws = [t.config.label_smoothing for t in spaces.expand(base(), {}, samples, 2)]
    assert sorted(draws) == [0.12344, 0.12346]


def test_a_single_draw_and_the_last_possible_one_are_found():
    (trial,) = spaces.expand(base(), {}, spaces.parse_sample(["seed=choice:3"]), 1)
    assert trial.values == {"seed": 3}
    assert trial.config == dataclasses.replace(base(), seed=3)
    several = spaces.parse_sample(["seed=uniform:0,9"])
    trials = spaces.expand(base(), {"epochs": (1, 2)}, several, 10)
    assert {t.values["seed"] for t in trials} == set(range(10))
    assert trials[0].name == f"seed={trials[0].values['seed']},epochs=1"


def test_draws_combine_with_a_grid():
    samples = spaces.parse_sample(["optimizer.learning_rate=uniform:0.1,0.2"])
    trials = spaces.expand(base(), {"seed": (0, 1)}, samples, 3)
    assert len(trials) == 6
    assert len({t.values["optimizer.learning_rate"] for t in trials}) == 3


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("optimizer.learning_rate=0.1,0.3", "must name a distribution"),
        ("optimizer.learning_rate=normal:0,1", "must name a distribution"),
        ("optimizer.learning_rate=log:0,1", "above 0"),
        ("optimizer.learning_rate=log:1,0.1", "the lower first"),
        ("optimizer.learning_rate=uniform:1", "the lower first"),
        ("optimizer.learning_rate=log:1,1e999", "no finite number"),
        ("seed=log:1,1" + "0" * 400, "no finite number"),
        ("model.activation=uniform:relu,tanh", "range of numbers"),
    ],
)
def test_a_wrong_distribution_is_refused(item, expected):
    with pytest.raises(config.ConfigError, match=expected):
        spaces.parse_sample([item])


def test_more_draws_than_there_are_is_refused():
    samples = spaces.parse_sample(["seed=choice:0,1"])
    with pytest.raises(config.ConfigError, match="hardly more than 2"):
        spaces.expand(base(), {}, samples, 3)
