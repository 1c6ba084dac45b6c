"""Every test runs under JAX's strictest settings; data that many tests share."""

import gc
import os
import pathlib
import shutil
import signal
import tempfile

import hypothesis
import jax
import pytest

from cnn_jax import data

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_debug_nans", True)
# Most of a test's time is XLA's: its costly passes are left out, unless the environment says 0, as
# `make test-all` does.
QUICK_TO_COMPILE = "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ
if QUICK_TO_COMPILE:
    jax.config.update("jax_disable_most_optimizations", True)
# What one test compiled, others and the commands that they start take from a folder of this run of
# the tests alone: what the machine has kept from other runs plays no part.
_RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"alone_{os.getpid()}")
COMPILED = pathlib.Path(tempfile.gettempdir(), f"cnn_jax_tests_{_RUN}")
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(COMPILED)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
jax.config.update("jax_compilation_cache_dir", str(COMPILED))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
# JAX keeps what it has traced, millions of objects: a look through them frees next to nothing.
gc.set_threshold(100_000, 50, 100)
# What a shell runs in the background ignores Ctrl-C, which tests send to what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    """Without the slow tests, as in `make test`, programs are compiled in half the time.

    XLA:CPU's older fusions do that, and run slower; later JAXes don't have them. They round in
    another way, which the slow comparison of a VGG with batch normalization can't bear.
    """
    wanted = QUICK_TO_COMPILE and "not slow" in config.option.markexpr
    if wanted and jax.__version_info__ < (0, 11):
        older = "--xla_cpu_use_fusion_emitters=false"  # for the commands that tests start too
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {older}".strip()


def pytest_sessionfinish(session):
    """Removes the folder when the last process ends."""
    if not hasattr(session.config, "workerinput"):
        shutil.rmtree(COMPILED, ignore_errors=True)


# The same examples in every run, and no time limit on a busy machine.
hypothesis.settings.register_profile("cnn_jax", deadline=None, derandomize=True)
hypothesis.settings.load_profile("cnn_jax")


def _read_only(dataset: data.Dataset) -> data.Dataset:
    for array in dataset[:4]:
        array.setflags(write=False)
    return dataset


@pytest.fixture(scope="session")
def mini() -> data.Dataset:
    """The slice of Fashion-MNIST that comes with the package; read-only, as tests share it."""
    return _read_only(data.load("fashion_mnist_mini"))


@pytest.fixture(scope="session")
def shapes() -> data.Dataset:
    """A little color data set, 12x12x3, in 4 classes; read-only, as tests share it."""
    return _read_only(data.synthetic(size=12, channels=3, classes=4, train=64, test=24))


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """What is decoded is kept in ./data, which is not to be that of the repository."""
    monkeypatch.chdir(tmp_path)
