"""Mixup and CutMix: partners, pixels, shares, and the loss of mixed labels."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax import augment, models, ops, steps
from cnn_jax.augment import mixing

N = 64
LABELS = jnp.arange(N, dtype=jnp.int32)
WEIGHTS = jnp.asarray([1.0] * 60 + [0.0] * 4)
mixup = jax.jit(augment.mixup, static_argnums=4)
cutmix = jax.jit(augment.cutmix, static_argnums=4)


def even(n=N, height=6, width=8):
    """Images of one value each: their number."""
    return jnp.broadcast_to(
        jnp.arange(n, dtype=jnp.float32).reshape(n, 1, 1, 1), (n, height, width, 1)
    )


def test_partners_are_a_ring_of_all_but_padding():
    for weights in (WEIGHTS, WEIGHTS[::-1]):
        partner = np.asarray(mixing.choose_partners(jax.random.key(0), weights))
        real = np.flatnonzero(np.asarray(weights))
        seen, at = [], real[0]
        for _ in real:
            seen.append(at)
            at = partner[at]
        assert at == real[0]
        assert sorted(seen) == list(real)
        padding = np.flatnonzero(np.asarray(weights) == 0)
        np.testing.assert_array_equal(partner[padding], padding)
    assert mixing.choose_partners(jax.random.key(0), jnp.array([0.0, 1.0])).tolist() == [0, 1]
    assert mixing.choose_partners(jax.random.key(0), jnp.zeros(2)).tolist() == [0, 1]


def test_mixup_is_the_mean_of_two_images_by_their_shares():
    mixed = mixup(jax.random.key(1), even(), LABELS, WEIGHTS, 0.4)
    first, other = np.asarray(mixed.labels), np.asarray(mixed.others)
    share = np.asarray(mixed.share)
    assert share.min() >= 0.5
    expected = share * first + (1 - share) * other
    np.testing.assert_allclose(mixed.images[:, 0, 0, 0], expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(np.ptp(mixed.images, axis=(1, 2, 3)), 0)
    assert ((first == np.arange(N)) | (other == np.arange(N))).all()
    assert {*first[60:], *other[60:]} == {60, 61, 62, 63}
    targets = np.asarray(mixed.distributions(N))
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(targets[np.arange(60), first[:60]], share[:60])
    np.testing.assert_array_equal((targets > 0).sum(1), np.where(first == other, 1, 2))


def test_shares_have_the_beta_distribution():
    labels = jnp.zeros(4000, jnp.int32)
    images = jnp.zeros((4000, 1, 1, 1))
    for alpha in (0.2, 1.0):
        share = mixup(jax.random.key(2), images, labels, jnp.ones(4000), alpha).share
        variance = np.mean((np.asarray(share) - 0.5) ** 2)
        assert variance == pytest.approx(1 / 4 / (2 * alpha + 1), rel=0.05)


def test_cutmix_puts_a_rectangle_of_another_image_in():
    images = even()
    mixed = cutmix(jax.random.key(3), images, LABELS, WEIGHTS, 1.0)
    sizes = set()
    for i in range(60):
        image, pair = (
            np.asarray(mixed.images[i, :, :, 0]),
            {int(mixed.labels[i]), int(mixed.others[i])},
        )
        assert i in pair
        assert len(pair) == 2
        (partner,) = pair - {i}
        assert set(np.unique(image)) <= {i, partner}
        rows, columns = np.nonzero(image == partner)
        share = 1 - len(rows) / 48
        own = float(mixed.share[i]) if mixed.labels[i] == i else 1 - float(mixed.share[i])
        assert own == pytest.approx(share, abs=1e-6)
        if len(rows):
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert height * width == len(rows)
            sizes.add((height, width))
    assert len(sizes) > 10
    assert max(sizes) <= (6, 8)


def test_with_both_each_image_has_one():
    both = jax.jit(augment.make_mix(augment.AugmentConfig(mixup=1.0, cutmix=1.0)))
    mixed = both(jax.random.key(4), even(), LABELS, WEIGHTS)
    values = [len(np.unique(image)) for image in np.asarray(mixed.images[:60])]
    labels = np.asarray(mixed.labels[:60, None, None, None])
    kept = (np.asarray(mixed.images[:60]) == labels).any((1, 2, 3))
    assert 15 < np.sum(~kept) < 45  # no pixel of either image is left: mixup
    assert sum(v == 2 for v in values) > 10
    assert augment.make_mix(augment.AugmentConfig()) is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_distributions_is_theirs(smoothing):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(5, 4)), jnp.float32)
    targets = jnp.asarray(rng.dirichlet(np.ones(4), 5), jnp.float32)
    expected = optax.softmax_cross_entropy(logits, (1 - smoothing) * targets + smoothing / 4)
    np.testing.assert_allclose(
        ops.soft_cross_entropy(logits, targets, smoothing), expected, rtol=1e-5
    )
    labels = jnp.arange(5) % 4
    np.testing.assert_allclose(
        ops.soft_cross_entropy(logits, jax.nn.one_hot(labels, 4), smoothing),
        ops.cross_entropy(logits, labels, smoothing),
        rtol=1e-5,
    )
    never = jnp.array([[0.0, -jnp.inf]])
    assert ops.soft_cross_entropy(never, jnp.array([[1.0, 0.0]])).tolist() == [0.0]


def test_a_step_on_mixed_images_has_the_gradient_of_the_distributions():
    model = models.create("softmax")
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 1), np.uint8)
    weights = jnp.asarray([1.0] * 10 + [0.0] * 2)
    batch = steps.Batch(jnp.asarray(images), LABELS[:12] % 10, weights)

    def unit(images, key):
        del key
        return images.astype(jnp.float32) / 255

    mix = augment.make_mix(augment.AugmentConfig(mixup=0.5))
    optimizer = optax.sgd(1.0)
    state = steps.init_state(model, optimizer, unit, (4, 4, 1), 0)
    step = jax.jit(steps.make_train_step(model, optimizer, unit, mix=mix))
    new, totals = step(state, batch)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(state.key), 0), 2)
    mixed = mix(key, unit(batch.images, None), batch.labels, weights)
    x = np.asarray(mixed.images, np.float64).reshape(12, 16)
    w = np.asarray(state.params["Dense_0"]["kernel"], np.float64)
    p = np.exp(x @ w) / np.exp(x @ w).sum(1, keepdims=True)
    gradient = x[:10].T @ (p - np.asarray(mixed.distributions(10)))[:10] / 10
    np.testing.assert_allclose(new.params["Dense_0"]["kernel"], w - gradient, rtol=1e-4, atol=1e-6)
    labels = np.asarray(mixed.labels)[:10]
    assert totals.sums["accuracy"] == (p[:10].argmax(1) == labels).sum()
    loss = -np.log(p[np.arange(10), labels]).sum()
    np.testing.assert_allclose(totals.sums["loss"], loss, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: augment.mixup(None, even(), LABELS, WEIGHTS, 0.0), "mixup: alpha=0.0 must be pos"),
        (
            lambda: augment.cutmix(None, even().astype(jnp.uint8), LABELS, WEIGHTS, 1.0),
            "cutmix expects normalized images; these are uint8",
        ),
        (
            lambda: ops.soft_cross_entropy(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32)),
            r"targets must be distributions of the shape of logits, \(2, 3\), not int32 of shape",
        ),
        (
            lambda: ops.soft_cross_entropy(jnp.zeros((2, 3)), jnp.zeros((2, 3)), 1.5),
            "label_smoothing",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, said):
    with pytest.raises(ops.ArgumentError, match=said):
        call()
