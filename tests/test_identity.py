"""What makes a run itself, as this version and earlier ones recorded it."""

import dataclasses

import numpy as np
import pytest

from cnn_jax import config, data, identity
from cnn_jax.identity import DataIdentity

DIGEST = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
NAMES = ("shirt", "bag")


def dataset(fingerprint):
    images, labels = np.zeros((2, 3, 3, 1), np.uint8), np.array([0, 1], np.int32)
    return data.Dataset(images, labels, images[:1], labels[:1], NAMES, "two", fingerprint)


def test_data_are_identified_by_the_first_digits_of_their_fingerprint_and_by_their_classes():
    assert identity.identify_data(dataset(DIGEST)) == DataIdentity(DIGEST[:16], NAMES)
    computed = data.fingerprint(*dataset("")[:4])
    assert identity.identify_data(dataset("")) == DataIdentity(computed[:16], NAMES)


def described(digest=DIGEST, names=NAMES):
    return {"data": {"fingerprint": digest, "class_names": list(names)}}


OLD = {"provenance": f"mini; arrays sha256 {OTHER[:16]}, read there", "class_names": list(NAMES)}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (described(), DataIdentity(DIGEST[:16], NAMES)),
        ({"data": OLD}, DataIdentity(OTHER[:16], NAMES)),
        ({"data": {**OLD, "fingerprint": DIGEST}}, DataIdentity(DIGEST[:16], NAMES)),
        ({}, None),
        ({"data": {}}, None),
        ({"data": {"class_names": ["a"]}}, None),
        ({"data": {"class_names": ["a"], "provenance": "arrays sha256 0123"}}, None),
        ({"data": {"fingerprint": DIGEST}}, None),
        ({"data": {"fingerprint": "", "class_names": ["a"]}}, None),
    ],
)
def test_every_version_of_the_record_is_read(environment, expected):
    assert identity.read_data(environment) == expected


def test_a_run_that_went_on_with_other_data_has_the_identities_of_both():
    same = {**described(), "resumed": [{}, described(), {"time": "now"}]}
    assert identity.read_data(same) == DataIdentity(DIGEST[:16], NAMES)
    mixed = {**described(), "resumed": [described(OTHER, ("bag", "hat")), described()]}
    both = DataIdentity(f"{DIGEST[:16]}+{OTHER[:16]}", NAMES)
    assert identity.read_data(mixed) == both
    assert identity.read_data({"resumed": [described()]}) == DataIdentity(DIGEST[:16], NAMES)
    assert identity.compare_data(both, DataIdentity(DIGEST[:16], NAMES)) is not None


def test_how_data_differ():
    here = DataIdentity("aa", NAMES)
    assert identity.compare_data(here, here) is None
    assert identity.compare_data(None, here) is None
    assert identity.compare_data(here, None) is None
    assert identity.compare_data(None, None) is None
    assert identity.compare_data(DataIdentity("bb", NAMES), here) == (
        "there images and labels have the SHA-256 bb…, here aa…"
    )
    swapped = DataIdentity("bb", ("bag", "shi\nrt"))  # in another order: other labels
    assert identity.compare_data(swapped, here) == (
        "there the classes are bag, shi\\x0art, here shirt, bag"
    )
    eight, nine = (DataIdentity("aa", tuple("abcdefghi"[:n])) for n in (8, 9))
    assert identity.compare_data(eight, nine) == (
        "there the classes are a, b, c, d, e, f, g, h, here a, b, c, d, e, f, g, h, …"
    )


def test_configurations_are_compared_in_what_can_change_a_number():
    base = config.Config()
    assert identity.compare_configs(base, dataclasses.replace(base)) == {}
    free = config.with_values(base, {"records.figures": False, "dataset.data_dir": "/elsewhere"})
    assert identity.compare_configs(base, free) == {}
    other = config.with_values(free, {"seed": 7, "optimizer.momentum": 0.5})
    momentum = base.optimizer.momentum
    changed = {"optimizer.momentum": (momentum, 0.5), "seed": (base.seed, 7)}
    assert identity.compare_configs(base, other) == changed


def test_the_first_difference_of_processes_is_named():
    assert identity.find_difference({"a": 1, "b": None}, {"a": 1}) is None
    assert identity.find_difference({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 4, "c": 5}) == "b"
    assert identity.find_difference({"a": 1}, {"a": 1, "d": 2}) == "d"
    assert identity.find_difference({"a": 1, "d": 2}, {"a": 1}) == "d"
    assert identity.describe_difference("seed", [0, 7, "x"]) == (
        "seed is 0 in process 0, 7 in process 1, 'x' in process 2"
    )


def test_a_recorded_fingerprint_is_shown_without_its_escape_codes():
    strange = described("\x1b[31mab\n")
    problem = identity.compare_data(identity.read_data(strange), DataIdentity("0" * 16, NAMES))
    assert problem
    assert not set("\x1b\n") & set(problem)
