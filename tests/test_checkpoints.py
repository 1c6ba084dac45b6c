"""Checkpoints: round trip, retention, damage, another network."""

import itertools
import pathlib
import warnings

import flax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.checkpoints import CheckpointError, Checkpoints, Progress, restore_variables


class State(flax.struct.PyTreeNode):
    step: int
    params: dict
    opt_state: tuple


def state(step, value=1.0):
    kernel = np.full((2, 3), value, np.float32)
    return State(np.int32(step), {"Conv_0": {"kernel": kernel}}, (np.zeros(2), (np.int32(7),)))


def progress(epoch, accuracy=0.5):
    rows = [{"epoch": i + 1, "test_accuracy": accuracy} for i in range(epoch)]
    return Progress(epoch, 0, (0.0, 0.0, 0.0), 0.0, rows)


def fill(path, accuracies):
    with Checkpoints(path) as checkpoints:
        for i, accuracy in enumerate(accuracies, 1):
            checkpoints.save(state(i, float(i)), progress(i, accuracy))


def test_round_trip_keeps_every_bit_and_the_loops_progress(tmp_path):
    saved = state(3, np.float32(1) / 3)
    partial = Progress(1, 17, (0.1, 2.0, 3.0), 0.25, [{"epoch": 1, "test_accuracy": 0.1}])
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(saved, partial)
        checkpoints.wait()
        restored, back = checkpoints.restore(state(0))
        assert checkpoints.newest() == 3
    assert back == partial._replace(totals=list(partial.totals))
    assert isinstance(restored, State)
    assert restored.step == 3
    np.testing.assert_array_equal(restored.params["Conv_0"]["kernel"], np.float32(1) / 3)
    assert restored.opt_state[1][0] == 7


def test_nothing_saved_restores_nothing(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(state(0)) is None
        assert checkpoints.newest() is None


def test_the_two_newest_and_the_best_are_kept_and_the_newest_is_restored(tmp_path):
    fill(tmp_path, [0.5, 0.9, 0.7, 0.8, 0.2])
    kept = sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit())
    assert kept == [2, 4, 5]
    with Checkpoints(tmp_path) as checkpoints:
        restored, _ = checkpoints.restore(state(0))
    assert restored.step == 5


def damage(path: pathlib.Path, how: str) -> None:
    files = [f for f in path.rglob("*") if f.is_file()]
    if how == "missing":
        for file in files:
            file.unlink()
        return
    for file in files:
        content = bytearray(file.read_bytes())
        if how == "truncated":
            file.write_bytes(content[: len(content) // 2])
        else:
            for i in range(0, len(content), 16):
                content[i] ^= 0xFF
            file.write_bytes(content)


@pytest.mark.parametrize(
    ("how", "part"),
    [
        *itertools.product(["missing", "truncated", "flipped"], [".", "state", "progress"]),
        ("truncated", "metrics"),
        ("flipped", "metrics"),
    ],
)
def test_a_damaged_newest_checkpoint_is_moved_aside_and_the_one_before_taken(tmp_path, how, part):
    path = tmp_path / "checkpoints"
    fill(path, [0.1, 0.2, 0.3])
    damage(path / "3" / part, how)
    with warnings.catch_warnings(record=True) as caught, Checkpoints(path) as checkpoints:
        restored, back = checkpoints.restore(state(0))
        assert (restored.step, back.epoch) == (2, 2)
        checkpoints.save(state(3), progress(3))  # the same step can be saved again
    assert any("step 3 can't be read" in str(warning.message) for warning in caught)
    assert (tmp_path / "unreadable_checkpoints" / "3").is_dir()
    with Checkpoints(path) as checkpoints:
        assert checkpoints.restore(state(0))[0].step == 3


def test_if_no_checkpoint_can_be_read_it_is_said(tmp_path):
    path = tmp_path / "checkpoints"
    fill(path, [0.1])
    damage(path / "1" / "state", "flipped")
    with (
        Checkpoints(path) as checkpoints,
        pytest.warns(UserWarning, match="can't be read"),
        pytest.raises(CheckpointError, match="none of the 1 checkpoints"),
    ):
        checkpoints.restore(state(0))


@pytest.mark.parametrize(
    ("like", "expected"),
    [
        (state(0).replace(params={"Dense_0": {"kernel": np.zeros((2, 3))}}), "another network"),
        (state(0).replace(params={"Conv_0": {"kernel": np.zeros((2, 4), np.float32)}}), "[2, 4]"),
        (
            state(0).replace(params={"Conv_0": {"kernel": np.zeros((2, 3), jnp.bfloat16)}}),
            "bfloat16",
        ),
    ],
)
def test_a_checkpoint_of_another_network_or_type_is_refused(tmp_path, like, expected):
    fill(tmp_path, [0.1])
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError) as error:
        checkpoints.restore(like)
    assert expected in str(error.value)


def test_saving_an_older_step_is_an_error_not_a_silent_skip(tmp_path):
    fill(tmp_path, [0.1, 0.2])
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="not written"):
        checkpoints.save(state(1), progress(1))


def test_the_variables_of_a_run_can_be_had_without_its_code(tmp_path):
    fill(tmp_path / "checkpoints", [0.1, 0.2])
    variables = restore_variables(tmp_path)
    np.testing.assert_array_equal(variables["params"]["Conv_0"]["kernel"], 2.0)
    with pytest.raises(CheckpointError, match="holds no checkpoints"):
        restore_variables(tmp_path / "elsewhere")
