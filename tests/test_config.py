"""The configuration tree: types, ranges, names, files."""

import dataclasses
import functools
import json
import pathlib
import typing

import pytest

from cnn_jax import config, schema
from tests import commands

CONFIGS = pathlib.Path(__file__).parent.parent / "experiments" / "configs"


def changed(path: str, value: object) -> config.Config:
    tree = config.Config()
    *nodes, leaf = path.split(".")
    node = tree
    for name in nodes:
        node = getattr(node, name)
    setattr(node, leaf, value)
    return tree


def _types_within(hint) -> list:
    args = typing.get_args(hint)
    return [t for arg in args for t in _types_within(arg)] if args else [hint]


def test_the_defaults_are_sound():
    config.check(config.Config())


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("optimizer.learning_rate", -0.1, "must be positive and finite"),
        ("optimizer.learning_rate", 0.0, "must be positive and finite"),
        ("optimizer.learning_rate", float("nan"), "must be positive and finite"),
        ("optimizer.learning_rate", float("inf"), "must be positive and finite"),
        ("optimizer.learning_rate", "0.1", "wrong type; it must be float"),
        ("optimizer.momentum", 1.0, "less than 1"),
        ("optimizer.weight_decay", -1e-4, "0 or more"),
        ("optimizer.schedule", "cosinus", "did you mean cosine?"),
        ("optimizer.schedule", "step", "needs config.optimizer.step_epochs"),
        ("optimizer.schedule", "restarts", "needs config.optimizer.restart_epochs"),
        ("optimizer.schedule", "plateau", "set config.dataset.holdout"),
        ("optimizer.step_epochs", (5.0, 2.0), "rising order"),
        ("optimizer.step_epochs", (1.0, 1.0), "each once"),
        ("optimizer.step_epochs", (0.0, 1.0), "must be positive"),
        ("optimizer.nesterov", True, "needs momentum"),
        ("optimizer.warmup_epochs", 11.0, "longer than"),
        ("model.name", "lenett", "did you mean lenet?"),
        ("model.dropout", (0.5,), "has no option dropout"),
        ("model.width", 0.5, "has no option width"),
        ("model.dtype", "float16", "did you mean bfloat16?"),
        ("dataset.name", "fashion_mnits", "did you mean 'fashion_mnist'?"),
        ("dataset.holdout", 1.0, "less than 1"),
        ("dataset.normalization", "minmax", "must be one of unit, standardize, whiten"),
        ("dataset.whiten_epsilon", 0.0, "positive and finite"),
        ("augment.pad_probability", 1.5, "from 0 to 1"),
        ("dataset.train_examples", 100, "batch_size=256 is larger than the training set of 100"),
        ("augment.erase", 1.5, "from 0 to 1"),
        ("augment.flip", 1, "wrong type; it must be bool"),
        ("epochs", 0, "at least 1"),
        ("early_stopping", -1, "0 or more"),
        ("early_stopping", 3, "set config.dataset.holdout"),
        ("epochs", 2.5, "wrong type; it must be int"),
        ("epochs", True, "wrong type; it must be int"),
        ("batch_size", -1, "at least 1"),
        ("accumulate", 3, "batch_size=256 can't be divided into config.accumulate=3 equal"),
        ("label_smoothing", 1.0, "less than 1"),
        ("seed", -1, "0 or more"),
        ("seed", 2**32, "less than 2**32"),
        ("parallel", "gpu", "must be one of none, jit, pmap"),
    ],
)
def test_nonsense_is_refused_in_one_sentence_that_names_the_path(path, value, expected):
    with pytest.raises(config.ConfigError) as error:
        config.check(changed(path, value))
    message = str(error.value)
    assert expected in message
    assert f"config.{path.split('.')[0]}" in message or "batch_size" in message
    assert "\n" not in message


NUMBERS = {
    path: hint
    for path, hint in config.leaf_types().items()
    if {int, float} & set(_types_within(hint))
}


@pytest.mark.parametrize("path", NUMBERS)
def test_every_number_is_finite_and_no_larger_than_a_machine_can_hold(path):
    hint = NUMBERS[path]
    wrong = [10**30, 10**5000, -(10**30)]
    if float in _types_within(hint):
        wrong = [10**5000, float("nan"), float("inf"), -float("inf")]
    for number in wrong:
        for value in (number, (number,), (1, number), ((1, number),)):
            tree = changed(path, value)
            if schema.is_a(value, hint):
                with pytest.raises(config.ConfigError, match=f"config.{path}=.* is out of range"):
                    config.check(tree)


def test_every_number_that_is_not_a_networks_has_a_range():
    ranged = {path for path, field in config.leaf_fields().items() if "range" in field.metadata}
    assert {path for path in NUMBERS if not path.startswith("model.")} == ranged - {"model.dropout"}
    assert ranged <= set(NUMBERS)


@pytest.mark.parametrize("rate", [1.0, -0.1])
def test_dropout_rates_are_probabilities_below_one(rate):
    tree = changed("model.name", "mlp_dropout")
    tree.model.dropout = (0.2, rate)
    with pytest.raises(config.ConfigError, match=r"model.*dropout=\(0.2, "):
        config.check(tree)


def test_json_round_trip_gives_the_same_tree():
    tree = config.resolve(changed("model.name", "mlp_dropout"))
    tree.optimizer.step_epochs = (1.0, 2.5)
    assert config.from_dict(json.loads(json.dumps(config.to_dict(tree)))) == tree


def test_unknown_names_in_json_are_refused_with_the_nearest():
    tree = config.to_dict(config.Config())
    tree["optimizer"]["learning_rat"] = 1.0
    with pytest.raises(config.ConfigError, match=r"optimizer\.learning_rat .*mean learning_rate\?"):
        config.from_dict(tree)


def test_resolve_writes_the_networks_own_values():
    model = config.resolve(changed("model.name", "mlp_dropout")).model
    assert (model.hidden, model.dropout, model.activation) == ((256, 256), (0.2, 0.5), "relu")
    assert model.pool is None
    kept = config.resolve(changed("model.pool", "max")).model
    assert (kept.pool, kept.channels) == ("max", (6, 16))


def test_options_of_a_config_file():
    chosen = config.parse_options("pool=max,smoke,depth=16", pool="avg", smoke=False, depth=11)
    assert (chosen.pool, chosen.smoke, chosen.depth) == ("max", True, 16)
    assert config.parse_options("", smoke=False).smoke is False
    assert config.parse_options("smoke=false", smoke=True).smoke is False
    with pytest.raises(config.ConfigError, match="did you mean pool"):
        config.parse_options("pol=max", pool="avg")
    with pytest.raises(config.ConfigError, match="not of type int"):
        config.parse_options("depth=deep", depth=11)
    with pytest.raises(config.ConfigError, match="needs a value"):
        config.parse_options("pool", pool="avg")


def test_every_config_file_is_a_record_and_can_run():
    files = [f for f in sorted(CONFIGS.rglob("*.py")) if f.stem != "__init__"]
    assert {"softmax", "mlp", "mlp_dropout", "lenet", "lenet_max"} <= {f.stem for f in files}
    for file in files:
        module = _load(file)
        assert f"experiments/configs/{file.relative_to(CONFIGS)}" in module.__doc__, file
        config.check(module.get_config(""))
        smoke = module.get_config("smoke")
        config.check(smoke)
        assert smoke.dataset.name.partition(":")[0] in ("fashion_mnist_mini", "synthetic"), file


def _load(file: pathlib.Path):
    import importlib.util

    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


command = functools.partial(commands.run, "experiments.train")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config.optimizer.lerning_rate=1"], "did you mean --config.optimizer.learning_rate?"),
        pytest.param(
            ["--config.learning_rate=1"],
            "did you mean --config.optimizer.learning_rate?",
            marks=pytest.mark.slow,
        ),
        (["--config.epochs=many"], "config.epochs=many"),
        pytest.param(
            ["--config.epochs=-1", "--print_config"],
            "config.epochs=-1 is out of range",
            marks=pytest.mark.slow,
        ),
        (["--wrokdir=x"], "did you mean --workdir?"),
        pytest.param(["extra"], "'extra' is not a flag", marks=pytest.mark.slow),
        ([], "give a directory"),
    ],
)
def test_wrong_flags_end_in_one_sentence(arguments, expected):
    done = command("--config=experiments/configs/lenet.py", *arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_overrides_reach_the_printed_configuration():
    done = command(
        "--config=experiments/configs/lenet.py:pool=max",
        "--config.optimizer.learning_rate=0.5",
        "--config.model.channels=8,20",
        "--print_config",
    )
    assert done.returncode == 0, done.stderr
    tree = json.loads(done.stdout)
    assert tree["optimizer"]["learning_rate"] == 0.5
    assert tree["model"]["channels"] == [8, 20]
    assert tree["model"]["pool"] == "max"
    assert tree["model"]["hidden"] == [120, 84]


RANGES = {
    "0 or more, and at most 1,000,000,000": ["dataset.train_examples"],
    "0 or more, and at most 4,096": [
        "threads",
        "dataset.image_size",
        "augment.pad",
        "augment.cutout",
    ],
    "0 or more, and less than 2**32": ["seed"],
    "0 or more, and less than 2**63": ["dataset.split_seed"],
    "at least 1, and at most 1,000,000": [
        *("records.checkpoint_epochs", "epochs", "batch_size", "eval_batch_size"),
        *("reduction_groups", "accumulate", "optimizer.plateau_patience"),
    ],
    "at least 1, and at most 4,096": ["dataset.stream.size", "dataset.stream.short_side"],
    "more than 0 and at most 1": ["dataset.stream.crop_area"],
    "at least 1, and at most 100": ["optimizer.restart_factor"],
    "from 0 to 0.5": ["augment.hue"],
    "0 or more, and at most 100": ["augment.rand_augment"],
    "0 or more, and at most 30": ["augment.rand_augment_magnitude"],
    "0 or more, and at most 1,000,000": ["early_stopping", "dataset.classes"],
    "at least 0 and less than 1": [
        *("dataset.holdout", "model.dropout", "optimizer.momentum"),
        *("optimizer.ema_decay", "label_smoothing", "optimizer.beta1", "optimizer.beta2"),
    ],
    "from 0 to 1": [
        *("augment.pad_probability", "augment.erase", "augment.crop_area"),
        *("optimizer.step_factor", "optimizer.minimum_factor"),
    ],
    "positive and finite": [
        *("dataset.whiten_epsilon", "optimizer.learning_rate", "optimizer.step_epochs"),
    ],
    "0 or more, and finite": [
        *("optimizer.weight_decay", "optimizer.warmup_epochs", "optimizer.clip_norm"),
        *("optimizer.restart_epochs", "augment.mixup", "augment.cutmix"),
        *("augment.brightness", "augment.contrast", "augment.saturation"),
        "records.checkpoint_seconds",
    ],
}


def test_every_number_has_its_range():
    found: dict[str, set[str]] = {}

    def read(tree, prefix=""):
        for field in dataclasses.fields(tree):
            if dataclasses.is_dataclass(value := getattr(tree, field.name)):
                read(value, f"{prefix}{field.name}.")
            elif within := field.metadata.get("range"):
                found.setdefault(within.text, set()).add(prefix + field.name)

    read(config.Config())
    assert found == {text: set(paths) for text, paths in RANGES.items()}
    for path, value, text in (
        ("augment.pad", 4097, "0 or more, and at most 4,096"),
        ("seed", 2**32, "0 or more, and less than 2**32"),
        ("optimizer.step_epochs", (1.0, 0.0), "positive and finite"),
    ):
        with pytest.raises(config.ConfigError) as error:
            config.check(config.with_values(config.Config(), {path: value}))
        assert str(error.value).endswith(f" is out of range; it must be {text}.")


def test_a_wrong_type_is_shown_with_the_right_one():
    with pytest.raises(config.ConfigError) as error:
        config.check(config.with_values(config.Config(), {"epochs": "ten"}))
    assert str(error.value) == "config.epochs='ten' is of the wrong type; it must be int."
