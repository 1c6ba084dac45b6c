"""Checkpoints: round trip, retention, damage, another network."""

import itertools
import json
import pathlib
import time
import warnings

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.checkpoints import (
    CheckpointError,
    Checkpoints,
    Progress,
    _first_line,
    check_fit,
    find_newest,
    restore_variables,
)


class State(flax.struct.PyTreeNode):
    step: int
    params: dict
    opt_state: tuple


def state(step, value=1.0):
    kernel = np.full((2, 3), value, np.float32)
    return State(np.int32(step), {"Conv_0": {"kernel": kernel}}, (np.zeros(2), (np.int32(7),)))


def progress(epoch, accuracy=0.5):
    rows = [{"epoch": i + 1, "test_accuracy": accuracy} for i in range(epoch)]
    return Progress(epoch, 0, {}, 0.0, rows)


def fill(path, accuracies):
    with Checkpoints(path) as checkpoints:
        for i, accuracy in enumerate(accuracies, 1):
            checkpoints.save(state(i, float(i)), progress(i, accuracy))


def kept(path):
    return sorted(int(p.name) for p in path.iterdir() if p.name.isdigit())


def test_round_trip_keeps_every_bit_and_the_loops_progress(tmp_path):
    saved = state(3, np.float32(1) / 3)
    partial = Progress(
        1,
        17,
        {"loss": 0.1, "accuracy": 2, "examples": 3.0},
        0.25,
        [{"epoch": 1, "test_accuracy": 0.1}],
    )
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(saved, partial)
        checkpoints.wait()
        restored, back = checkpoints.restore(state(0))
        assert checkpoints.newest() == 3
    assert back == partial
    assert isinstance(restored, State)
    assert restored.step == 3
    np.testing.assert_array_equal(restored.params["Conv_0"]["kernel"], np.float32(1) / 3)
    assert restored.opt_state[1][0] == 7


def test_the_totals_of_earlier_versions_are_read_by_name(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(state(3), Progress(0, 17, (0.1, 2.0, 3.0), 0.25, []))
        checkpoints.wait()
        _, back = checkpoints.restore(state(0))
    assert back.totals == {"loss": 0.1, "accuracy": 2, "examples": 3.0}


def test_nothing_saved_restores_nothing(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(state(0)) is None
        assert checkpoints.newest() is None


def test_the_two_newest_and_the_best_are_kept_and_the_newest_is_restored(tmp_path):
    fill(tmp_path, [0.8, 0.9, 0.7, 0.6, 0.2])
    assert kept(tmp_path) == [2, 4, 5]
    with Checkpoints(tmp_path) as checkpoints:
        restored, _ = checkpoints.restore(state(0))
    assert restored.step == 5


def test_a_checkpoint_within_an_epoch_is_never_the_best(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(1), progress(1, 0.5))
        for step in (2, 3, 4):
            checkpoints.save(state(step), progress(1, 0.5)._replace(position=step))
        checkpoints.save(state(5), progress(0))
    assert kept(tmp_path) == [1, 4, 5]


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    fill(tmp_path, [0.1])
    half = tmp_path / "2.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "part").write_text("half")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.newest() == 1
        end = time.monotonic() + 20  # Orbax removes it in a thread of its own
        while half.exists() and time.monotonic() < end:
            time.sleep(0.01)
    assert not half.exists()


def test_a_process_that_does_not_write_has_no_checkpoints(tmp_path):
    fill(tmp_path / "c", [0.1])
    before = sorted(tmp_path.rglob("*"))
    for name in ("c", "none"):
        with Checkpoints(tmp_path / name, writer=False) as checkpoints:
            checkpoints.save(state(2), progress(2))
            checkpoints.wait()
            assert checkpoints.newest() is None
            assert checkpoints.restore(state(0)) is None
    assert sorted(tmp_path.rglob("*")) == before


class Broken:
    """Orbax's manager, on a disk that is full."""

    def fail(self, *arguments, **options):
        raise RuntimeError("No space\nin line 7")

    save = wait_until_finished = close = fail


def test_failures_of_the_library_are_sentences(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints._manager.close()
    checkpoints._manager = Broken()
    for call in (
        lambda: checkpoints.save(state(1), progress(1)),
        checkpoints.wait,
        lambda: checkpoints.__exit__(None, None, None),
    ):
        with pytest.raises(CheckpointError, match=r"^can't write a checkpoint: No space\.$"):
            call()
    first = KeyError("first")  # goes on to be told, rather than what fails because of it
    assert not checkpoints.__exit__(KeyError, first, first.__traceback__)
    monkeypatch.setattr("cnn_jax.checkpoints._open_manager", Broken().fail)
    with pytest.raises(CheckpointError, match=rf"^can't use {tmp_path}: No space\.$"):
        Checkpoints(tmp_path)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError(" one \n two "), "one "),
        (ValueError(""), "ValueError"),
        (ValueError("x" * 200), "x" * 200),
        (ValueError("a" * 100 + "b" + "c" * 100), f"{'a' * 100} … {'c' * 100}"),
    ],
)
def test_the_line_that_says_why(error, line):
    assert _first_line(error) == line


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
    aside = tmp_path / "unreadable_checkpoints" / "3"
    said = [str(w.message) for w in caught if "step 3" in str(w.message)]
    assert len(said) == 1
    assert said[0].startswith("The checkpoint of step 3 can't be read (")
    assert said[0].endswith(f"); it was moved to {aside}, and the one before it is used.")
    assert "(None)" not in said[0]
    assert aside.is_dir()
    with Checkpoints(path) as checkpoints:
        assert checkpoints.restore(state(0))[0].step == 3


def test_the_warning_points_to_who_restored_and_nothing_moved_aside_is_written_over(tmp_path):
    path = tmp_path / "checkpoints"
    fill(path, [0.1, 0.2])
    for name in ("2", "2_again", "2_again_again"):
        damage(path / "2" / "progress", "truncated")
        with Checkpoints(path) as checkpoints:
            with pytest.warns(UserWarning, match="step 2 can't be read") as caught:
                assert checkpoints.restore(state(0))[0].step == 1
            checkpoints.save(state(2), progress(2))
        assert caught[0].filename == __file__
        assert (tmp_path / "unreadable_checkpoints" / name).is_dir()


def test_what_was_saved_is_protected_by_a_checksum_which_older_versions_did_not_write(tmp_path):
    path = tmp_path / "checkpoints"
    fill(path, [0.1, 0.2])
    file = path / "2" / "progress" / "metadata"
    tree = json.loads(file.read_text())
    checksum = tree.pop("checksum")
    assert isinstance(checksum, int)
    file.write_text(json.dumps(tree))
    with Checkpoints(path) as checkpoints:
        restored, back = checkpoints.restore(state(0))
    assert (restored.step, back) == (2, progress(2, 0.2))
    file.write_text(json.dumps({**tree, "seconds": 1.0, "checksum": checksum}))
    with (
        Checkpoints(path) as checkpoints,
        pytest.warns(UserWarning, match=r"step 2 can't be read \(its checksum is another\)"),
    ):
        assert checkpoints.restore(state(0))[0].step == 1


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


def like(name="Conv_0", shape=(2, 3), dtype=np.float32):
    return state(0).replace(params={name: {"kernel": np.zeros(shape, dtype)}})


MISFITS = [
    (
        like("Dense_0"),
        "is of another network or optimizer: it differs in {}.Conv_0.kernel and 1 more",
    ),
    (like(shape=(2, 4)), "has {}.Conv_0.kernel as float32[2, 3], and the network float32[2, 4]"),
    (like(dtype=jnp.bfloat16), "has {}.Conv_0.kernel as float32[2, 3], and the network bfloat16"),
    (like(dtype=np.float64), "has {}.Conv_0.kernel as float32[2, 3], and the network float64[2, 3"),
]
USUAL = ". Use another --workdir, or the configuration that it was trained with."


@pytest.mark.parametrize(("like", "expected"), MISFITS)
def test_a_checkpoint_of_another_network_or_type_is_refused(tmp_path, like, expected):
    fill(tmp_path, [0.1])
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError) as error:
        checkpoints.restore(like)
    said = f"the checkpoint {tmp_path / '1'} {expected.format('params')}"
    assert str(error.value).startswith(said)
    assert str(error.value).endswith(USUAL)
    assert kept(tmp_path) == [1]  # it is whole, and stays


@pytest.mark.parametrize(("like", "expected"), MISFITS)
def test_variables_that_do_not_fit_are_refused(tmp_path, like, expected):
    have = {"params": state(0).params}
    check_fit(have, have, tmp_path)
    with pytest.raises(CheckpointError) as error:
        check_fit(have, {"params": like.params}, tmp_path)
    said = f"the checkpoint of {tmp_path} {expected.format('params')}"
    assert str(error.value).startswith(said)
    assert str(error.value).endswith(USUAL)


def test_64_bits_are_named_as_the_reason_only_where_jax_computes_in_them(tmp_path):
    have = {"params": state(0).params}
    with jax.enable_x64(True):
        with pytest.raises(
            CheckpointError, match=r"float64\[2, 3\]\. JAX computes in 64 bits here"
        ):
            check_fit(have, {"params": like(dtype=np.float64).params}, tmp_path)
        with pytest.raises(CheckpointError, match="Use another --workdir"):
            check_fit(have, {"params": like(dtype=np.float16).params}, tmp_path)


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
    (tmp_path / "new" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError) as error:
        restore_variables(tmp_path / "new")
    empty = tmp_path / "new" / "checkpoints"
    assert str(error.value) == f"{empty} is empty; the run saved nothing yet."
    damage(tmp_path / "checkpoints" / "2" / "progress", "truncated")
    with pytest.raises(
        CheckpointError, match=f"^{tmp_path / 'checkpoints'} can't be read: ."
    ) as error:
        restore_variables(tmp_path)
    assert "\n" not in str(error.value)


class Averaged(flax.struct.PyTreeNode):
    step: int
    params: dict
    model_state: dict
    opt_state: tuple
    averages: dict | None


@pytest.mark.parametrize("averaging", [False, True])
def test_the_variables_are_the_averages_if_there_are_some(tmp_path, averaging):
    def tree(value):
        return np.full(2, value, np.float32)

    trained = {"params": {"Dense_0": {"bias": tree(1)}}, "batch_stats": {"mean": tree(2)}}
    averages = {"params": {"Dense_0": {"bias": tree(3)}}, "batch_stats": {"mean": tree(4)}}
    statistics = {"batch_stats": trained["batch_stats"]}
    saved = Averaged(np.int32(1), trained["params"], statistics, (tree(5),), None)
    if averaging:
        saved = saved.replace(averages=averages)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(saved, progress(1))
    all_of_them = {**trained, "averages": averages} if averaging else trained
    for evaluated, expected in ((True, averages if averaging else trained), (False, all_of_them)):
        found = restore_variables(tmp_path, evaluated)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_the_newest_step_is_the_largest_number_whatever_else_is_there(tmp_path):
    assert find_newest(tmp_path) is None
    for name in ("9", "10", "30.orbax-checkpoint-tmp", "7x", "4²", "x99"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert find_newest(tmp_path) == 10
