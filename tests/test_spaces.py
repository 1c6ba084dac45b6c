"""What is swept: values, axes, distributions, and the trials they give."""

import itertools
import json
import urllib.parse

import pytest

from cnn_jax import config, spaces


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
    ],
)
def test_values_take_the_type_of_their_field(path, text, expected):
    value = spaces.parse_value(text, path)
    assert value == expected
    assert type(value) is type(expected)
    if "synthetic" not in text:
        assert spaces.parse_value(spaces.format_value(value), path) == value


def test_commas_in_brackets_and_quotes_separate_nothing():
    axes = spaces.parse_grid(
        [
            "model.channels=(6,16),(8,24)",
            "config.seed=0,1",
            "dataset.name='synthetic:a=1,b=2',mnist",
        ]
    )
    assert axes == {
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


def test_one_path_in_two_flags_is_refused():
    with pytest.raises(config.ConfigError, match="seed is swept twice"):
        spaces.parse_grid(["seed=0", "seed=1"])
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
    assert spaces.trial_name({"dataset.name": "a/b%"}) == "dataset.name=a%2Fb%25"
    with pytest.raises(config.ConfigError, match="too long"):
        spaces.trial_name({"dataset.name": "x" * 300})


def test_names_hold_nothing_that_a_file_system_or_a_terminal_cannot_take():
    for value in ("a\nb", "\x1b[31m", "\0", "..", "é/ü", "50%", "\udcff", "\ud800", "a\u202eb"):
        name = spaces.trial_name({"dataset.name": value})
        assert name.isprintable()
        assert not set(name) & {"/", "\n", "\0"}
        errors = "surrogatepass" if value == "\ud800" else "surrogateescape"
        assert urllib.parse.unquote(name, errors=errors) == f"dataset.name={value}"
    assert spaces.trial_name({"dataset.name": "Füße 猫 'x'"}) == "dataset.name=Füße 猫 'x'"


def test_two_trials_never_share_a_directory():
    axes = {
        "dataset.name": ("mnist", "mnist,model.kernel_init=torch"),
        "model.kernel_init": ("torch", "torch,model.kernel_init=torch"),
    }
    names = {
        spaces.trial_name(dict(zip(axes, v, strict=True)))
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
