"""Orders, batches, held-out parts and subsets."""

import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax import data
from cnn_jax.data import sampling


def test_epoch_order_is_fixed_for_all_time():
    # Made once; a change would make every recorded run irreproducible.
    np.testing.assert_array_equal(data.epoch_order(0, 0, 10), [0, 2, 9, 1, 8, 5, 4, 3, 6, 7])
    np.testing.assert_array_equal(data.epoch_order(7, 3, 10), [2, 5, 9, 7, 3, 0, 6, 8, 4, 1])
    np.testing.assert_array_equal(
        data.epoch_order(2**64 - 1, 5, 10), [0, 9, 2, 1, 5, 7, 6, 4, 8, 3]
    )
    assert data.epoch_order(0, 0, 10).dtype == np.int32


def test_choices_and_numbers_are_fixed_for_all_time():
    labels = np.array([0, 1, 2, 1, 0, 2, 2, 2, 1, 0] * 4)
    chosen = sampling.stratified(labels, 9, seed=5)
    np.testing.assert_array_equal(chosen, [6, 11, 14, 19, 21, 24, 26, 31, 32])
    chosen = sampling.stratified(np.arange(1000) % 7, 100, seed=3)
    np.testing.assert_array_equal(chosen[:8], [3, 13, 14, 36, 38, 46, 62, 88])
    assert chosen.sum() == 48430
    numbers = sampling.uniform(sampling.stream(3, 1, sampling.SHAPES), (2, 3))
    expected = [0.8788432647286158, 0.6729536067365772, 0.37746657449659926]
    np.testing.assert_array_equal(numbers[0], expected)
    assert numbers.shape == (2, 3)


def test_chosen_classes_have_labels_in_the_order_given(mini):
    chosen = data.choose_classes(mini, (7, 2))
    assert chosen.class_names == (mini.class_names[7], mini.class_names[2])
    for part in ("train", "test"):
        labels, old = getattr(chosen, f"{part}_labels"), getattr(mini, f"{part}_labels")
        kept = np.isin(old, (7, 2))
        np.testing.assert_array_equal(labels, (old[kept] == 2).astype(np.int32))
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(
            getattr(chosen, f"{part}_images"), getattr(mini, f"{part}_images")[kept]
        )
    assert chosen.fingerprint == mini.fingerprint
    assert chosen.provenance.endswith("; 2 of 10 classes")


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ((3,), r"dataset.classes=3 must be at least two classes, each once"),
        ((3, 3), "each once"),
        ((0, 10), r"has no class 10; its 10 classes are numbered 0 to 9"),
        ((0, -1), "has no class -1"),
    ],
)
def test_classes_that_are_not_there_are_refused(mini, classes, said):
    with pytest.raises(data.DataError, match=said):
        data.choose_classes(mini, classes)


def test_classes_without_examples_are_refused(mini):
    without = mini._replace(
        test_labels=mini.test_labels[mini.test_labels > 1],
        test_images=mini.test_images[mini.test_labels > 1],
    )
    with pytest.raises(data.DataError, match="no test example is of these classes"):
        data.choose_classes(without, (0, 1))


def test_streams_of_different_purposes_differ():
    purposes = (sampling.EPOCH, sampling.SUBSET, sampling.SHAPES)
    orders = {tuple(sampling.permutation(50, 1, 0, purpose)) for purpose in purposes}
    assert len(orders) == 3


def test_uniform_numbers_are_the_upper_53_bits_below_one():
    draws = np.array([0, 2**11 - 1, 2**11, 2**63, 2**64 - 1], np.uint64)
    generator = types.SimpleNamespace(random_raw=lambda n: draws[:n])
    numbers = sampling.uniform(generator, (5,))
    np.testing.assert_array_equal(numbers, [0.0, 0.0, 2.0**-53, 0.5, 1 - 2.0**-53])


def test_the_ends_of_what_is_allowed(shapes):
    n = len(shapes.train_labels)
    assert len(data.epoch_order(2**64 - 1, 2**64 - 1, 3)) == 3
    assert len(data.subset(shapes, 1, seed=0).train_labels) == 1
    assert data.batches(np.arange(3), 1, drop_last=True)[0].shape == (3, 1)
    assert data.batches(np.arange(3), 3, drop_last=True)[0].shape == (1, 3)
    for held_out in (1, n - 1):
        parts = data.split(shapes, held_out / n, seed=0)
        assert (len(parts.test_labels), len(parts.train_labels)) == (held_out, n - held_out)
    with pytest.raises(data.DataError, match="leaves one part empty"):
        data.split(shapes, 1 - 0.1 / n, seed=0)


@given(st.integers(0, 2**64 - 1), st.integers(0, 10_000), st.integers(0, 300))
def test_epoch_order_is_a_permutation(seed, epoch, n):
    order = data.epoch_order(seed, epoch, n)
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    np.testing.assert_array_equal(order, data.epoch_order(seed, epoch, n))


def test_epoch_order_differs_between_seeds_and_epochs():
    orders = [data.epoch_order(seed, epoch, 1000) for seed in range(5) for epoch in range(5)]
    assert len({order.tobytes() for order in orders}) == 25
    # No trace of one order in another: fixed points of a random permutation are 1 on average.
    for other in orders[1:]:
        assert np.sum(orders[0] == other) < 10


def test_every_position_is_equally_likely():
    first = np.bincount([data.epoch_order(1, epoch, 8)[0] for epoch in range(4000)], minlength=8)
    expected = 4000 / 8
    assert np.sum((first - expected) ** 2 / expected) < 24.3  # chi-square, 7 degrees, p = 0.001


@pytest.mark.parametrize(("seed", "epoch", "name"), [(-1, 0, "seed"), (0, 1 << 64, "index")])
def test_seed_out_of_range(seed, epoch, name):
    with pytest.raises(ValueError, match=f"{name} must lie in 0"):
        data.epoch_order(seed, epoch, 4)


@given(st.integers(1, 200), st.integers(1, 70))
def test_padded_batches_count_each_example_once(n, batch_size):
    order = data.epoch_order(0, 0, n)
    indices, weights = data.batches(order, batch_size, drop_last=False)
    assert indices.shape == weights.shape == (-(-n // batch_size), batch_size)
    assert (indices.dtype, weights.dtype) == (np.int32, np.float32)
    np.testing.assert_array_equal(indices[weights == 1.0], order)
    np.testing.assert_array_equal(indices[weights == 0.0], 0)
    assert weights.sum() == n


@given(st.integers(1, 200), st.integers(1, 70))
def test_dropped_batches_are_full(n, batch_size):
    order = data.epoch_order(0, 0, n)
    if batch_size > n:
        with pytest.raises(ValueError, match=f"batch_size {batch_size} is larger than the {n}"):
            data.batches(order, batch_size, drop_last=True)
        return
    indices, weights = data.batches(order, batch_size, drop_last=True)
    assert indices.shape == (n // batch_size, batch_size)
    np.testing.assert_array_equal(indices.ravel(), order[: indices.size])
    np.testing.assert_array_equal(weights, 1.0)


def test_weighted_sum_equals_the_whole_for_any_batch_size():
    values = np.random.default_rng(0).normal(size=97)
    for batch_size in (1, 7, 32, 97, 200):
        indices, weights = data.batches(np.arange(97), batch_size, drop_last=False)
        total = np.sum(weights * values[indices])
        np.testing.assert_allclose(total / weights.sum(), values.mean(), rtol=1e-12)


@pytest.mark.parametrize(("order", "size"), [(np.arange(0), 4), (np.arange(3), 0)])
def test_batches_of_nothing(order, size):
    with pytest.raises(ValueError, match=r"no examples|at least 1"):
        data.batches(order, size, drop_last=False)


def test_split_is_stratified_and_disjoint(mini):
    parts = data.split(mini, 0.25, seed=3)
    np.testing.assert_array_equal(np.bincount(parts.test_labels), [50] * 10)
    np.testing.assert_array_equal(np.bincount(parts.train_labels), [150] * 10)
    together = np.concatenate([parts.train_images, parts.test_images])
    assert sorted(map(bytes, together)) == sorted(map(bytes, mini.train_images))
    labels = dict(zip(map(bytes, mini.train_images), mini.train_labels, strict=True))
    assert [labels[bytes(image)] for image in parts.train_images] == list(parts.train_labels)
    assert [labels[bytes(image)] for image in parts.test_images] == list(parts.test_labels)
    assert "500 of 2000 training examples held out as the test part, seed 3" in parts.provenance
    again, other = data.split(mini, 0.25, seed=3), data.split(mini, 0.25, seed=4)
    np.testing.assert_array_equal(parts.test_images, again.test_images)
    assert not np.array_equal(parts.test_images, other.test_images)


def test_split_keeps_the_canonical_order():
    labels = np.array([0, 1] * 50)
    mask = sampling.holdout_mask(labels, 0.1, seed=0)
    assert mask.sum() == 10
    assert labels[mask].sum() == 5


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 1e-9, float("nan")])
def test_split_refuses_empty_parts(shapes, fraction):
    with pytest.raises(data.DataError, match="leaves one part empty"):
        data.split(shapes, fraction, seed=0)


def test_subset_is_stratified_and_nested(mini):
    larger, smaller = data.subset(mini, 500, seed=1), data.subset(mini, 105, seed=1)
    assert np.bincount(smaller.train_labels).tolist().count(10) == 5
    assert np.bincount(smaller.train_labels).max() == 11
    assert set(map(bytes, smaller.train_images)) <= set(map(bytes, larger.train_images))
    labels = dict(zip(map(bytes, mini.train_images), mini.train_labels, strict=True))
    assert len(smaller.train_images) == 105
    assert [labels[bytes(image)] for image in smaller.train_images] == list(smaller.train_labels)
    np.testing.assert_array_equal(smaller.test_images, mini.test_images)
    assert "105 of 2000 training examples, seed 1" in smaller.provenance
    whole = data.subset(mini, 2000, seed=1)
    np.testing.assert_array_equal(whole.train_images, mini.train_images)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.data())
def test_strata_keep_their_proportion(labels, draw):
    labels = np.array(labels)
    n = draw.draw(st.integers(1, len(labels)))
    chosen = sampling.stratified(labels, n, seed=0)
    assert len(set(chosen)) == n
    np.testing.assert_array_equal(chosen, np.sort(chosen))
    for label in np.unique(labels):
        share = n * np.mean(labels == label)
        # Sainte-Laguë may miss the exact quota by a little more than 1 with many unequal classes.
        assert abs(np.sum(labels[chosen] == label) - share) < 2


def test_seats_go_to_the_classes_as_sainte_lague_gives_them():
    """6, 3 and 1 examples stand at 1/12, 3/12, …; at 1/6, 3/6, 5/6; and at 1/2."""
    labels = np.array([0, 1, 0, 2, 0, 1, 0, 0, 1, 0])
    for n, seats in ((1, [1]), (2, [1, 1]), (3, [2, 1]), (4, [3, 1]), (6, [3, 2, 1])):
        chosen = sampling.stratified(labels, n, seed=1)
        assert np.bincount(labels[chosen]).tolist() == seats
    assert np.bincount(labels[sampling.stratified(labels, 7, seed=1)]).tolist() == [4, 2, 1]


def test_among_equals_the_first_in_random_order_is_taken():
    labels = np.arange(60) % 10
    first = {}
    for i in sampling.permutation(60, 1, 0, sampling.SUBSET):
        first.setdefault(labels[i], i)
    chosen = sampling.stratified(labels, 5, seed=1)
    np.testing.assert_array_equal(chosen, sorted(list(first.values())[:5]))


@pytest.mark.parametrize("n", [0, 65])
def test_subset_size_out_of_range(shapes, n):
    with pytest.raises(data.DataError, match=f"between 1 and 64 training examples, got {n}"):
        data.subset(shapes, n, seed=0)


def test_choices_of_a_set_that_is_read_as_needed_are_those_of_one_in_memory(mini):
    streamed = data.StreamedDataset(
        mini.train, mini.test, mini.class_names, mini.provenance, mini.fingerprint
    )

    def choose(dataset):
        chosen = data.choose_classes(dataset, (7, 2, 4))
        return data.subset(data.split(chosen, 0.25, 3), 100, 3)

    wanted, found = choose(mini), choose(streamed)
    assert isinstance(found, data.StreamedDataset)
    assert found[2:] == wanted[4:]
    for part in ("train", "test"):
        one, other = getattr(wanted, part), getattr(found, part)
        assert len(one) == len(other)
        np.testing.assert_array_equal(one.labels, other.labels)
        some = np.array([5, 0, len(one) - 1])
        np.testing.assert_array_equal(one.read(some, None), other.read(some, 1))
