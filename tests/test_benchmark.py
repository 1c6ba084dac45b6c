"""The benchmarks measure what they say, at a size where it takes no time."""

import pytest
from absl import flags

from cnn_jax import models
from tests import commands, networks

benchmark = commands.load("benchmark")
primitives = commands.load("benchmark_primitives")


@pytest.fixture(autouse=True)
def quick():
    with (
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(flags.FLAGS["rounds"], "value", 2)
        patch.setattr(flags.FLAGS["seconds"], "value", 1e-3)
        patch.setattr(benchmark, "matrix_rate", lambda: 1e9)
        yield


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_network_is_measured_by_step_epoch_and_evaluation(dtype, monkeypatch):
    monkeypatch.setattr(flags.FLAGS["rounds"], "value", 1)  # so that its share is of its own rate
    monkeypatch.setattr(flags.FLAGS["dtype"], "value", dtype)
    case = benchmark.Case((8, 8, 1), 4)
    assert benchmark.build_case("softmax", case).config.model.dtype == dtype
    (row,) = benchmark.measure("softmax", case)
    for measured in ("step", "epoch", "evaluation"):
        assert row[f"{measured}_examples_per_second"] > 0
    # 64 pixels × 10 classes forward, and as many for the gradient of the weights.
    assert row["training_multiply_adds"] == 1280
    share = 1280 * row["step_examples_per_second"] / 1e9
    assert row["share_of_matrix_rate"] == pytest.approx(share)
    assert "of the rate of matrix products" in benchmark.format_row(row)
    assert "ratio" not in "".join(row)


def test_another_size_is_asked_for(monkeypatch):
    assert benchmark.choose_case("cifar_quick") == benchmark.Case((32, 32, 3), 64)
    monkeypatch.setattr(flags.FLAGS["batch_size"], "value", 256)
    assert benchmark.choose_case("cifar_quick") == benchmark.Case((32, 32, 3), 256)
    monkeypatch.setattr(flags.FLAGS["full_size"], "value", True)
    assert benchmark.choose_case("cifar_quick") == benchmark.Case((32, 32, 3), 256)
    assert benchmark.choose_case("vgg11") == benchmark.Case((224, 224, 1), 256)


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, True])
def test_every_case_is_a_network_that_takes_its_images(full, monkeypatch):
    monkeypatch.setattr(flags.FLAGS["full_size"], "value", full)
    for name in benchmark.CASES:
        case = benchmark.choose_case(name)
        network = models.create(name, classes=10, **case.options)
        variables = networks.abstract_init(network, case.shape)
        assert variables["params"], name
    assert set(benchmark.FULL) <= set(benchmark.CASES)


def test_the_command_measures_the_size_that_was_asked_for(monkeypatch, capsys):
    measured = []
    monkeypatch.setattr(benchmark, "measure", lambda *case: measured.append(case) or [])
    monkeypatch.setattr(flags.FLAGS["models"], "value", ["softmax", "vgg11"])
    monkeypatch.setattr(flags.FLAGS["batch_size"], "value", 8)
    assert benchmark.main() == 0
    assert [(name, case.batch_size) for name, case in measured] == [("softmax", 8), ("vgg11", 8)]
    assert "step, ex/s" in capsys.readouterr().out


def test_single_operations_are_not_measured_in_bfloat16(monkeypatch, capsys):
    monkeypatch.setattr(flags.FLAGS["dtype"], "value", "bfloat16")
    assert primitives.main() == 2
    assert "leave --dtype out" in capsys.readouterr().err


def test_the_operations_of_a_network_are_found_and_their_work_is_counted():
    found = primitives.operations("lenet_max", benchmark.Case((28, 28, 1), 2))
    assert [str(operation) for operation in found] == [
        "Conv 5×5 → 6, padding 2 on 2×28×28×1",
        "MaxPool 2×2 on 2×28×28×6",
        "Conv 5×5 → 16 on 2×14×14×6",
        "MaxPool 2×2 on 2×10×10×16",
    ]
    for operation, part, work in (
        (found[0], "kernel", 2 * 28 * 28 * 25 * 6),
        (found[2], "input", 2 * 10 * 10 * 25 * 6 * 16),
        (found[3], "input", 0),
    ):
        row = primitives.measure(operation, part, ["cnn_jax", "plain"], rounds=1)
        assert row["multiply_adds"] == work
        assert set(row["milliseconds"]) == {"cnn_jax", "plain"}
        assert min(row["milliseconds"].values()) > 0
