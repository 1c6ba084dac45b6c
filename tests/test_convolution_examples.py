"""The commands that find edges (C3) and learn to find them (C4) print what their docstrings say."""

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from experiments import edge_detection, learn_kernel


def test_C3_edge_detection(capsys):
    edge_detection.main()
    printed = capsys.readouterr().out
    assert len(printed.split("\n")) == 37
    assert printed in edge_detection.__doc__
    np.testing.assert_array_equal(
        edge_detection.edges(edge_detection.bar(), edge_detection.KERNEL)[0],
        [0, 1, 0, 0, 0, -1, 0],
    )


def test_C4_learn_kernel_prints(capsys):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])
    learn_kernel.main()
    printed = capsys.readouterr().out
    assert len(printed.split("\n")) == 7
    assert printed in learn_kernel.__doc__


@pytest.mark.parametrize("seed", range(5))
def test_C4_learn_kernel(seed):
    after10, losses = learn_kernel.learn(10, 3e-2, seed)
    assert np.all(np.diff(losses[1::2]) < 0)
    assert losses[-1] < 1
    wanted = jnp.array([1.0, -1.0])
    np.testing.assert_allclose(after10.ravel(), wanted, atol=0.15)
    after100, _ = learn_kernel.learn(100, 3e-2, seed)
    np.testing.assert_allclose(after100.ravel(), wanted, atol=1e-3)
