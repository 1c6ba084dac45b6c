"""How commands start and end: what is said to a user, and what keeps its traceback."""

import errno
import io
import subprocess
import sys
import types
import warnings

import pytest

from cnn_jax import errors, text
from experiments import launch
from tests.test_commands import ENVIRONMENT, ROOT, run_all

NO_SPACE = OSError(errno.ENOSPC, "No space left on device", "runs/a")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (errors.ConfigError("seed is wrong."), "seed is wrong."),
        (NO_SPACE, "the system refused something: runs/a: No space left on device."),
        (MemoryError("Unable to allocate 7 TiB"), "there is not enough memory (Unable to allocate"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "there is not enough memory (RESOURCE"),
    ],
)
def test_what_a_user_can_put_right_is_a_sentence(error, sentence):
    assert launch.explain_error(error).startswith(sentence)


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), TypeError("a bug"), KeyError("a bug"), OSError("no number")]
)
def test_a_bug_is_no_sentence(error):
    assert launch.explain_error(error) is None


def test_every_error_of_ours_is_a_user_error_with_a_docstring():
    own = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    assert len(own) > 8
    assert all(issubclass(kind, errors.UserError) and kind.__doc__ for kind in own)


def test_a_stream_shows_any_text_and_steers_no_terminal():
    raw = io.BytesIO()
    stream = launch.HarmlessStream(io.TextIOWrapper(raw, encoding="ascii"))
    print("a ± \x1b[2J\u202e \ud800 b\tc\r", file=stream, end="\n", flush=True)
    assert raw.getvalue() == b"a ? \\x1b[2J\\u202e \\ud800 b\tc\r\n"
    assert stream.isatty() is False
    assert stream.encoding == "ascii"
    assert stream.write("ab") == 2


def test_a_warning_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", launch._show_warning)
    warnings.warn("take\ncare of mysql://me:secret@host/x", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: take\\x0acare of mysql://me:***@host/x\n"


def test_an_error_is_one_line_without_secrets(capsys):
    assert launch.fail("no --token=abc\x1b here\nnor there") == 2
    assert capsys.readouterr().err == "error: no --token=***\\x1b here\\x0anor there\n".replace(
        "abc", ""
    ).replace("***\\x1b", "***")


@pytest.mark.parametrize(
    ("shown", "kept"),
    [
        ("mysql://user:p@ss:w/rd@host/db", "mysql://user:***@host/db"),
        ("redis://:pw@h", "redis://:***@h"),
        ("https://ghp_secret@github.com/x", "https://***@github.com/x"),
        ("postgresql://u@h/d?password=x&a=1", "postgresql://u@h/d?password=***&a=1"),
        ("--api_key=AA --top=5", "--api_key=*** --top=5"),
        ("HF_TOKEN=x", "HF_TOKEN=***"),
        ("sqlite:///search.db", "sqlite:///search.db"),
        ("--config=lenet.py:smoke", "--config=lenet.py:smoke"),
    ],
)
def test_passwords_and_tokens_are_not_shown(shown, kept):
    assert text.without_secrets(shown) == kept


def test_a_value_that_follows_its_option_is_hidden_too():
    given = ["python", "--password", "abc", "--top", "5", "--token=a", "--secret", "--run=x"]
    hidden = ["python", "--password", "***", "--top", "5", "--token=***", "--secret", "--run=x"]
    assert text.command_without_secrets(given) == hidden


@pytest.mark.parametrize(
    ("name", "known", "nearest"),
    [
        ("Fashion-MNIST", ("mnist", "fashion_mnist"), "fashion_mnist"),
        ("LeNet-5", ("lenet", "alexnet"), "lenet"),
        ("zzz", ("lenet",), None),
    ],
)
def test_the_nearest_name_counts_letters_alone(name, known, nearest):
    assert text.find_nearest(name, known) == nearest


def test_threads_that_write_events_leave_the_error_to_the_flush(capsys):
    launch._thread_ended(types.SimpleNamespace(exc_value=NO_SPACE))
    launch._unraisable(types.SimpleNamespace(exc_value=NO_SPACE))
    assert capsys.readouterr().err == ""


LENET = "--config=experiments/configs/lenet.py"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--config.optimizer.lr=1", "did you mean --config.optimizer.learning_rate?"),
        ("--config.optimizer.learning-rate=1", "did you mean --config.optimizer.learning_rate?"),
        ("--config.learningRate=1", "did you mean --config.optimizer.learning_rate?"),
        ("--config.batchsize=1", "did you mean --config.batch_size?"),
        ("--config.wd=1", "did you mean --config.optimizer.weight_decay?"),
        ("--config.train.num_epochs=1", "did you mean --config.epochs?"),
        ("--config.model.towers=1", "a new one is a field of the network's class"),
        ("--config.optimizer=sgd", "it is a group of values"),
        ("--config.nonsense=1", "--print_config shows all options"),
    ],
)
def test_a_misspelled_path_is_answered_by_what_people_call_it(given, said):
    with pytest.raises(errors.ConfigError, match="is not in the configuration") as error:
        launch._check_paths([LENET, given])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_right_paths_pass():
    launch._check_paths([LENET, "--config.seed=1", "--noconfig.records.figures", "--workdir=a.b"])


def test_wrong_input_of_the_command_is_one_sentence_and_exit_code_2(tmp_path):
    config = f"--config={ROOT}/experiments/configs/softmax.py:smoke"
    wrong = {
        (config, "--workdir="): "workdir",
        (config, "--workdir=a", "--config.model.hidden=(-1,)", "--config.model.name=mlp"): "hidden",
        (config, "--workdir=a", "--config.dataset.name=MNIST"): "did you mean 'mnist'?",
        (config, "--workdir=a", "--config.eval_batch_size=1000000000000"): "eval_batch_size",
        (config, "--workdir=a", "--config.epochs=0"): "epochs",
        ("--config=nowhere.py", "--workdir=a"): "nowhere.py doesn't exist",
        (config, "--workdir=a", "left"): "'left' is not a flag",
    }
    ends = run_all([("experiments.train", arguments) for arguments in wrong], tmp_path)
    for (arguments, said), (code, out, err) in zip(wrong.items(), ends, strict=True):
        assert code == 2, (arguments, out, err)
        assert len(err.splitlines()) == 1, (arguments, err)
        assert said in err, (arguments, err)
    assert not (tmp_path / "a").exists()


def test_a_backend_that_cannot_start_is_one_sentence(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.train", LENET, f"--workdir={tmp_path}/run"],
        env={**ENVIRONMENT, "JAX_PLATFORMS": "cuda"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: JAX can't use the device")
    assert "Traceback" not in done.stderr


def test_a_value_that_is_missing_is_named_and_takes_no_other_flag():
    with pytest.raises(errors.ConfigError, match="learning_rate needs a value"):
        launch._check_paths([LENET, "--config.optimizer.learning_rate", "--workdir=a"])
    launch._check_paths([LENET, "--config.records.figures", "--workdir=a"])
    launch._check_paths([LENET, "--config.optimizer.learning_rate", "0.1", "--workdir=a"])


def test_no_command_uses_a_device_when_it_is_imported():
    """So that a device that can't be used is told in a sentence, by the launcher."""
    names = ", ".join(f"experiments.{name}" for name in ("edge_detection", "learn_kernel", "train"))
    done = subprocess.run(
        [sys.executable, "-c", f"import {names}"],
        env={**ENVIRONMENT, "JAX_PLATFORMS": "cuda"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("form", [("--config={}",), ("--config", "{}")])
def test_configurations_of_the_project_are_found_from_any_folder(form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    ours = "experiments/configs/lenet.py:pool=max"

    def expanded(value):
        *_, last = launch._expand(["command", *(part.format(value) for part in form)])
        return last.removeprefix("--config=")

    assert expanded(ours) == str(launch.ROOT / ours)
    assert expanded("experiments/configs/nope.py") == "experiments/configs/nope.py"
    assert expanded("README.md") == "README.md"
    assert expanded("~/own.py") == str(tmp_path / "own.py")
    (tmp_path / "experiments" / "configs").mkdir(parents=True)
    (tmp_path / "experiments" / "configs" / "lenet.py").write_text("")
    assert expanded(ours) == ours  # what stands here comes first
