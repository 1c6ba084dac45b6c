"""Which parts of an image speak for a class, where the answer is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import layers, models
from cnn_jax.errors import ConfigError
from cnn_jax.inspection import attribution, taps
from tests.networks import SMALL, init, quick_jit


class Known(nn.Module):
    """One convolution whose maps are averaged and weighted: all can be written down by hand."""

    activation: str = "relu"

    @nn.compact
    def __call__(self, x, train=False):
        x = layers.activation(self.activation)(layers.Conv(2, (1, 1))(x))
        return layers.Dense(3)(layers.GlobalAvgPool()(x))


KERNEL = np.float32([[[[1.0, -1.0]]]])  # the image, and its negative
DENSE = np.float32([[2.0, -1.0, 0.0], [1.0, 3.0, 0.0]])  # [maps, classes]
VARIABLES = {
    "params": {
        "Conv_0": {"kernel": KERNEL, "bias": np.zeros(2, np.float32)},
        "Dense_0": {"kernel": DENSE, "bias": np.zeros(3, np.float32)},
    }
}
IMAGE = np.float32([[1, -2, 0], [4, 0, -1]])[None, :, :, None]
PIXELS = 6


def one(number):
    return jnp.asarray([number])


def test_grad_cam_of_a_known_network():
    positive, negative = np.maximum(IMAGE[0, ..., 0], 0), np.maximum(-IMAGE[0, ..., 0], 0)
    for label in range(3):
        found, logits = attribution.grad_cam(Known(), VARIABLES, IMAGE, one(label), "Conv_0/relu")
        weighted = DENSE[0, label] * positive + DENSE[1, label] * negative
        # Averaging over the maps divides the gradient by their size: Zhou et al.'s CAM over that.
        np.testing.assert_allclose(found[0], np.maximum(weighted, 0) / PIXELS, rtol=1e-6)
        expected = (DENSE[0] * positive.sum() + DENSE[1] * negative.sum()) / PIXELS
        np.testing.assert_allclose(logits[0], expected, rtol=1e-6)


def test_the_input_gradient_of_a_known_network():
    found = attribution.input_gradient(Known(), VARIABLES, IMAGE, one(1))[0, ..., 0]
    pixels = IMAGE[0, ..., 0]
    expected = np.where(pixels > 0, DENSE[0, 1], np.where(pixels < 0, -DENSE[1, 1], 0)) / PIXELS
    np.testing.assert_allclose(np.where(pixels == 0, 0, found), expected, rtol=1e-6)


def test_the_input_gradient_is_the_slope():
    model = models.create("lenet", activation="tanh", kernel_init="he_normal")
    variables = init(model, (28, 28, 1))
    image = np.random.default_rng(0).normal(size=(1, 28, 28, 1)).astype(np.float32)
    direction = np.random.default_rng(1).normal(size=image.shape).astype(np.float32)
    ask = quick_jit(lambda x: attribution.input_gradient(model, variables, x, one(3)))
    gradient = ask(image)
    step = 1e-2
    apply = quick_jit(model.apply)
    ends = [apply(variables, image + s * direction)[0, 3] for s in (step, -step)]
    slope = (ends[0] - ends[1]) / (2 * step)
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-2)


def test_occlusion_of_a_known_network():
    found = attribution.occlusion(Known(), VARIABLES, IMAGE, one(0), size=1)[0]
    pixels = IMAGE[0, ..., 0]
    falls = 2 * np.maximum(pixels, 0) + np.maximum(-pixels, 0)  # each pixel's part of the logit
    np.testing.assert_allclose(found, falls / PIXELS, atol=1e-6)
    filled = attribution.occlusion(Known(), VARIABLES, IMAGE, one(0), size=1, fill=1.0)[0]
    np.testing.assert_allclose(filled, (falls - 2) / PIXELS, atol=1e-6)


def test_squares_lie_within_the_image_and_are_strides_apart():
    found = attribution.occlusion(Known(), VARIABLES, IMAGE, one(0), size=2, stride=1)
    assert found.shape == (1, 1, 2)
    falls = 2 * np.maximum(IMAGE[0, ..., 0], 0) + np.maximum(-IMAGE[0, ..., 0], 0)
    expected = [falls[:, :2].sum(), falls[:, 1:].sum()]
    np.testing.assert_allclose(found[0, 0], np.array(expected) / PIXELS, rtol=1e-6)
    wide = np.zeros((2, 7, 9, 1), np.float32)
    both = attribution.occlusion(Known(), VARIABLES, wide, jnp.asarray([0, 1]), size=3, stride=2)
    assert both.shape == (2, 3, 4)


def test_what_lies_outside_of_the_evidences_receptive_field_doesnt_count():
    class Corner(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return layers.Dense(2)(layers.Conv(3, (3, 3))(x)[:, 0, 0])

    model = Corner()
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 1)).astype(np.float32)
    variables = model.init(jax.random.key(0), image)
    ask = quick_jit(lambda x: attribution.occlusion(model, variables, x, one(1), size=2))
    found = np.asarray(ask(image))[0]
    assert (found[:3, :3] != 0).all()
    assert (found[3:] == 0).all()
    assert (found[:, 3:] == 0).all()


@pytest.mark.parametrize(
    "network",
    [n if n == "lenet" else pytest.param(n, marks=pytest.mark.slow) for n in SMALL],
)
def test_every_layer_of_every_network_can_be_asked(network):
    options, size, _ = SMALL[network]
    model = models.create(network, **options)
    channels = 1
    images = np.random.default_rng(0).random((2, size, size, channels), np.float32)
    variables = init(model, images.shape[1:])
    classes = jnp.asarray([0, 1])
    gradient = quick_jit(partial(attribution.input_gradient, model))
    assert np.isfinite(gradient(variables, images, classes)).all()
    shapes = attribution.list_layers(model, variables, images)
    for layer in [*shapes][:1] + [*shapes][-1:]:
        explain = quick_jit(partial(attribution.grad_cam, model, layer=layer))
        found, _ = explain(variables, images, classes)
        assert found.shape == shapes[layer][:3]
        assert np.isfinite(found).all()
        assert (found >= 0).all()


@pytest.mark.parametrize("network", ["lenet_bn", "cifar_quick", "resnet20", "densenet_book"])
def test_every_layer_with_maps_has_a_name_and_a_shape_of_its_own(network):
    options, size, _ = SMALL[network]
    model, seen = models.create(network, **options), []
    images = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
    with taps.tapping(lambda name, y: seen.append((name, y.shape))):
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert list(attribution.list_layers(model, variables, images).items()) == seen
    for layer, shape in [*seen[:3], seen[-1]]:
        explain = partial(attribution.grad_cam, model, layer=layer)
        found, _ = jax.eval_shape(explain, variables, images, one(0))
        assert found.shape == shape[:3]


def test_what_isnt_there_is_a_sentence():
    ask = Known(), VARIABLES, IMAGE
    with pytest.raises(ConfigError, match="layer='Conv_1' is no layer of the network that has ma"):
        attribution.grad_cam(*ask, one(0), "Conv_1")
    for function, more in (
        (attribution.grad_cam, ("Conv_0",)),
        (attribution.input_gradient, ()),
        (attribution.occlusion, (1,)),
    ):
        with pytest.raises(ConfigError, match=r"classes are numbered from 0 to 2, got \[3\]"):
            function(*ask, one(3), *more)
    with pytest.raises(ConfigError, match="choose a size from 1 to 2 and a stride"):
        attribution.occlusion(*ask, one(0), 3)
