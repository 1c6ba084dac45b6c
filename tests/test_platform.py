"""Which form of an operation is traced, and that a choice ends with its block."""

import jax
import pytest

from cnn_jax.ops import platform


def test_the_platform_can_be_forced_and_is_restored():
    assert platform.on_cpu() == (jax.default_backend() == "cpu")
    with platform.forced("gpu"):
        assert not platform.on_cpu()
        with platform.forced("cpu"):
            assert platform.on_cpu()
        assert not platform.on_cpu()
    with pytest.raises(KeyError), platform.forced("tpu"):
        raise KeyError
    assert platform.on_cpu() == (jax.default_backend() == "cpu")
