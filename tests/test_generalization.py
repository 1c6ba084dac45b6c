"""The experiments on weight decay (L4) and on under- and overfitting (L6), and their pictures."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import data
from experiments import generalization, polynomial, weight_decay

NUMBER = re.compile(r"-?\d+\.?\d*(?:e[-+]?\d+)?")


def assert_is_documented(printed, module, rtol=0.02, atol=0.0):
    """The end of the module's docstring is what was printed, but for rounding."""
    documented = module.__doc__[-len(printed) :]
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", documented)
    numbers = (list(map(float, NUMBER.findall(text))) for text in (printed, documented))
    np.testing.assert_allclose(*numbers, rtol=rtol, atol=atol)


@pytest.fixture(scope="module")
def png(tmp_path_factory):
    """Draws with a function into a new file, and says how many pixels the picture has."""

    def size(plot, *arguments):
        file = tmp_path_factory.mktemp("plots") / "new" / "plot.png"
        plot(*arguments, file)
        content = file.read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        return tuple(int.from_bytes(content[at : at + 4]) for at in (16, 20))

    return size


@pytest.mark.slow
def test_l4_weight_decay_prints_what_it_says(capsys, png):
    runs = weight_decay.run([0.0, 3.0], 8)
    assert_is_documented(capsys.readouterr().out, weight_decay)
    assert 12 < runs[0.0].norm.mean() < 15  # published, of one draw: 12.963
    assert 0.32 < runs[3.0].norm.mean() < 0.42  # published, of one draw: 0.3557
    # Without decay the gap is large in every run; with it, the test loss falls a hundredfold.
    assert (runs[0.0].test[:, -1] > 1e5 * runs[0.0].train[:, -1]).all()
    assert (runs[3.0].test[:, -1] < 0.01 * runs[0.0].test[:, -1]).all()
    assert runs[3.0].test.shape == (8, weight_decay.EPOCHS + 1)
    width, height = png(weight_decay.plot, runs)
    assert (width > 1000, height > 400) == (True, True)


@pytest.mark.parametrize("decay", [0.0, 3.0])
def test_l4_weight_decay_is_the_update_by_hand(decay):
    draws = weight_decay.draw_seeds(jnp.arange(8))
    draw = jax.tree.map(lambda leaf: np.asarray(leaf[0]), draws)
    w, b = draw.start[:, 0].astype(np.float64), 0.0
    rate = weight_decay.LEARNING_RATE
    for batch in draw.orders.reshape(-1, weight_decay.BATCH):
        x = draw.inputs[batch].astype(np.float64)
        residual = x @ w + b - draw.targets[batch, 0]
        w = (1 - rate * decay) * w - rate * (x.T @ residual) / len(batch)
        b = b - rate * residual.mean()
    for as_penalty in (False, True):
        params, curves = weight_decay.train_seeds(draws, decay, as_penalty)
        np.testing.assert_allclose(params["kernel"][0, :, 0], w, atol=1e-5)
        np.testing.assert_allclose(params["bias"][0, 0], b, atol=1e-5)
        np.testing.assert_allclose(curves.norm[0], np.linalg.norm(w), rtol=1e-5)


def test_l6_polynomials_underfit_and_overfit(capsys, png):
    degrees, sizes = polynomial.run(50)
    assert_is_documented(capsys.readouterr().out, polynomial)
    train, test = (
        np.array([np.median(getattr(point, part)) for point in degrees.values()])
        for part in ("train", "test")
    )
    assert (np.diff(train) < 0).all()
    assert test.argmin() == len(polynomial.TRUE) - 1
    assert (np.diff(test[:4]) < 0).all()
    assert (np.diff(test[3:]) > 0).all()
    gaps = [np.median(point.test - point.train) for point in sizes.values()]
    assert (np.diff(gaps) < 0).all()
    last = list(sizes.values())[-1]
    assert np.median(last.test) == pytest.approx(polynomial.NOISE**2, rel=0.05)
    assert min(png(polynomial.plot, degrees, sizes)) > 500


@pytest.mark.slow
def test_l6_networks_underfit_and_overfit(mini, png, capsys):
    """A short version: fewer runs and steps."""
    capacity, size = generalization.run(mini, (1,), (50, 1000), 2, 300)
    small, few, many = capacity[1], size[50], size[1000]
    assert small.train.min() > 0.5  # one unit underfits
    assert abs(small.test - small.train).max() < 0.1
    assert few.train.max() == 0.0  # 64 units know 50 pictures by heart
    assert few.test.min() > 0.28
    assert many.test.max() < 0.26
    assert (many.test - many.train < few.test - few.train).all()
    assert len(capsys.readouterr().out.split("\n")) == 6
    assert min(png(generalization.plot, capacity, size)) > 500


def test_l6_smaller_sets_are_parts_of_larger_ones(mini):
    seen = []
    for size in (50, 1000):
        batches, everything = generalization.training_order(mini, size, 3, 40)
        assert batches.indices.shape == batches.weights.shape == (40, generalization.BATCH)
        assert batches.weights.all()
        chosen = set(everything.indices[everything.weights > 0].tolist())
        assert set(batches.indices.ravel().tolist()) == chosen
        assert len(chosen) == size
        assert everything.indices.shape == (40, generalization.BATCH)
        seen.append(chosen)
    assert seen[0] < seen[1]


@pytest.mark.slow
def test_l6_networks_as_documented(capsys):
    dataset = data.load("fashion_mnist_mini")
    generalization.run(dataset, generalization.WIDTHS, generalization.SIZES, 5, 1000)
    assert_is_documented(capsys.readouterr().out, generalization, rtol=0, atol=0.03)
