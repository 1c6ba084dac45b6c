"""Groups of runs against a baseline: paired t-tests and Holm's method, by hand."""

import itertools
import math
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax import config
from cnn_jax.errors import ReportError
from cnn_jax.reports import significance
from cnn_jax.reports.run_groups import Group, Run


def group(accuracies, rate=0.1, activation="relu"):
    """Runs of three epochs with these final accuracies by seed."""
    runs = []
    for seed, accuracy in accuracies.items():
        settings = config.Config(
            seed=seed,
            optimizer=config.OptimizerConfig(learning_rate=rate),
            model=config.ModelConfig(name="lenet", activation=activation),
        )
        rows = [{"test_accuracy": a} for a in (0.1 * seed, 0.5 - 0.1 * seed, accuracy)]
        runs.append(Run(pathlib.Path(), settings, rows, {}, None))
    return Group(runs[0].config, tuple(runs), ())


def with_p(p):
    """A group of two seeds that differs from accuracies of 0 with this p before adjusting.

    For n = 2, Student's distribution is Cauchy's, p = 1 - 2/π arctan |t|, and t is the sum of the
    differences over the difference of them.
    """
    t = math.tan((1 - p) * math.pi / 2)
    return group({0: (t + 1) / 2, 1: (t - 1) / 2})


def adjusted(ps):
    baseline = group({0: 0.0, 1: 0.0})
    compared = significance.compare([baseline, *map(with_p, ps)], baseline)
    assert compared[0] is None
    return [comparison.p for comparison in compared[1:]]


@pytest.mark.parametrize(
    ("ps", "expected"),
    [
        ([0.2], [0.2]),
        ([0.1, 0.3, 0.4], [0.3, 0.6, 0.6]),  # 3 × 0.1; 2 × 0.3; 1 × 0.4, but never below the last
        ([0.4, 0.1, 0.3], [0.6, 0.3, 0.6]),  # each to its own group
        ([0.01, 0.02, 0.9], [0.03, 0.04, 0.9]),
        ([0.5, 0.6, 0.9], [1.0, 1.0, 1.0]),  # a probability
        ([0.05, 0.05], [0.1, 0.1]),
    ],
)
def test_p_values_are_adjusted_by_holms_method(ps, expected):
    assert adjusted(ps) == pytest.approx(expected)


@given(st.lists(st.integers(1, 99), min_size=1, max_size=6))
def test_adjusting_keeps_the_order_and_lies_between_no_correction_and_bonferronis(percents):
    ps = [percent / 100 for percent in percents]
    found = adjusted(ps)
    for p, after in zip(ps, found, strict=True):
        assert p - 1e-9 <= after <= min(1.0, p * len(ps)) + 1e-9
    in_order = [after for _, after in sorted(zip(ps, found, strict=True))]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(in_order))
    assert min(found) == pytest.approx(min(1.0, min(ps) * len(ps)))


def test_three_seeds_by_hand():
    """Differences 0.01, 0.02, 0.03: mean 0.02, deviation 0.01, error 0.01 / √3, t = 2 √3."""
    baseline = group({0: 0.5, 1: 0.6, 2: 0.7, 7: 0.1})
    other = group({3: 0.9, 2: 0.73, 1: 0.62, 0: 0.51})  # seeds 3 and 7 have no partner
    (compared,) = filter(None, significance.compare([other, baseline], baseline))
    assert compared.n == 3
    assert compared.difference == pytest.approx(0.02)
    half = 4.302653 * 0.01 / math.sqrt(3)  # the 97.5 % point of Student's distribution for 2
    assert compared.low == pytest.approx(0.02 - half, rel=1e-5)
    assert compared.high == pytest.approx(0.02 + half, rel=1e-5)
    assert compared.p == pytest.approx(1 - math.sqrt(12 / (12 + 2)))  # for 2: 1 - t/√(t² + 2)
    (back,) = filter(None, significance.compare([other, baseline], other))
    assert back[1:4] == pytest.approx((-0.02, -compared.high, -compared.low))
    assert back.p == pytest.approx(compared.p)


def test_the_same_difference_for_every_seed_is_certain_and_none_is_nothing():
    baseline = group({0: 0.5, 1: 0.25})
    better, same = group({0: 0.75, 1: 0.5}), group({0: 0.5, 1: 0.25})
    compared = significance.compare([better, same], baseline)
    assert compared == [(2, 0.25, 0.25, 0.25, 0.0), (2, 0.0, 0.0, 0.0, 1.0)]


def test_groups_with_fewer_than_two_common_seeds_are_not_compared_nor_counted():
    baseline, one, none = group({0: 0.0, 1: 0.0}), group({1: 0.9, 2: 0.8}), group({3: 0.7, 4: 0.6})
    compared = significance.compare([with_p(0.2), one, baseline, none, with_p(0.3)], baseline)
    assert [c and c.p for c in compared] == pytest.approx([0.4, None, None, None, 0.4])


def test_the_baseline_has_all_the_values_chosen():
    groups = [
        group({0: 0.5}, rate=0.1, activation="relu"),
        group({0: 0.5}, rate=0.1, activation="tanh"),
        group({0: 0.5}, rate=0.3, activation="tanh"),
    ]
    find = significance.find_baseline
    assert find(groups, "optimizer.learning_rate=0.1,model.activation=tanh") is groups[1]
    assert find(groups, "model.activation=relu") is groups[0]
    assert find(groups, "optimizer.learning_rate=0.3") is groups[2]
    for chosen, fitting in (("model.activation=tanh", 2), ("optimizer.learning_rate=0.2", 0)):
        message = f"--baseline={chosen} fits {fitting} configurations of the 3; it must fit one"
        with pytest.raises(ReportError, match=message):
            find(groups, chosen)
    with pytest.raises(config.ConfigError, match=r"--baseline=model\.activatoin: "):
        find(groups, "model.activatoin=relu")


def test_cells_of_a_table():
    compared = significance.Comparison(3, 0.02, -0.00484, 0.04484, 0.0742)
    assert significance.format_comparison(compared) == ["+0.0200", "-0.0048 to +0.0448", "0.074"]
    assert significance.format_comparison(compared._replace(p=0.001))[2] == "0.001"
    assert significance.format_comparison(compared._replace(p=0.0009999))[2] == "< 0.001"
    assert significance.format_comparison(None) == ["–", "–", "–"]
    assert "adjusted by Holm's method" in significance.LEGEND
