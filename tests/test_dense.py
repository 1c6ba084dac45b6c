"""The product of a fully connected layer, in the form for large kernels on a CPU and the plain."""

import importlib

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from cnn_jax import ops
from cnn_jax.ops.platform import forced

dense_module = importlib.import_module("cnn_jax.ops.dense")  # ops.dense is the function

LARGE, SMALL = (512, 640), (5, 7)


def integers(seed, *shape):
    """Small integers as float32: every sum of products is exact, in any order."""
    return jnp.array(np.random.default_rng(seed).integers(-3, 4, size=shape), jnp.float32)


def with_gradients(platform, x, kernel, g):
    with forced(platform):
        y, vjp = jax.vjp(ops.dense, x, kernel)
        return y, *vjp(g)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("shape", [LARGE, SMALL])
def test_value_and_gradients_are_products_of_matrices(platform, lead, shape):
    inputs, features = shape
    x, kernel = integers(0, *lead, inputs), integers(1, inputs, features)
    g = integers(2, *lead, features)
    y, dx, dkernel = with_gradients(platform, x, kernel, g)
    np.testing.assert_array_equal(y, np.asarray(x) @ np.asarray(kernel))
    np.testing.assert_array_equal(dx, np.asarray(g) @ np.asarray(kernel).T)
    rows, cotangents = np.reshape(x, (-1, inputs)), np.reshape(g, (-1, features))
    np.testing.assert_array_equal(dkernel, rows.T @ cotangents)


def test_the_gradient_of_one_argument_alone():
    x, kernel, g = integers(0, 2, 512), integers(1, *LARGE), integers(2, 2, 640)
    with forced("cpu"):
        (dx,) = jax.vjp(lambda x: ops.dense(x, kernel), x)[1](g)
        (dkernel,) = jax.vjp(lambda kernel: ops.dense(x, kernel), kernel)[1](g)
    np.testing.assert_array_equal(dx, np.asarray(g) @ np.asarray(kernel).T)
    np.testing.assert_array_equal(dkernel, np.asarray(x).T @ np.asarray(g))


def test_a_large_kernel_is_the_first_factor_of_the_gradient_of_the_input():
    """Which decides the order in which XLA:CPU reads it; the product then is [inputs, examples]."""
    shapes = (2, 512), LARGE, (2, 640)
    arrays = jax.device_put([jnp.ones(shape) for shape in shapes], jax.devices("cpu")[0])

    def gradient(product):
        with forced("cpu"):
            lowered = jax.jit(lambda x, k, g: jax.vjp(product, x, k)[1](g)[0]).lower(*arrays)
        return lowered.compile().as_text()

    assert "f32[512,2]{1,0} dot(" in gradient(ops.dense)
    assert "f32[2,512]{1,0} dot(" in gradient(jnp.dot)  # or ops.dense needs no form of its own


@pytest.mark.parametrize("shape", [LARGE, SMALL])
def test_every_derivative_is_that_of_finite_differences(shape):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True), forced("cpu"):
        x, kernel = rng.normal(size=(2, shape[0])), rng.normal(size=shape)
        check_grads(ops.dense, (x, kernel), order=2, modes=["fwd", "rev"])


def test_many_examples_take_the_plain_form(monkeypatch):
    monkeypatch.setattr(dense_module, "_cpu_dense", lambda x, kernel: x[:, :1] * 0)
    few, many = jnp.ones((511, 512)), jnp.ones((512, 512))
    with forced("cpu"):
        assert ops.dense(few, jnp.ones(LARGE)).shape == (511, 1)
        assert ops.dense(many, jnp.ones(LARGE)).shape == (512, 640)
    with forced("gpu"):
        assert ops.dense(few, jnp.ones(LARGE)).shape == (511, 640)


def test_a_program_for_any_number_of_examples():
    (n,) = jax.export.symbolic_shape("n,")
    shape = jax.ShapeDtypeStruct((n, 512), jnp.float32)
    kernel = integers(1, *LARGE)
    with forced("cpu"):
        exported = jax.export.export(jax.jit(lambda x: ops.dense(x, kernel)))(shape)
    x = integers(0, 3, 512)
    np.testing.assert_array_equal(exported.call(x), np.asarray(x) @ np.asarray(kernel))


def test_no_examples():
    y, dx, dkernel = with_gradients("cpu", jnp.ones((0, 512)), jnp.ones(LARGE), jnp.ones((0, 640)))
    assert (y.shape, dx.shape) == ((0, 640), (0, 512))
    np.testing.assert_array_equal(dkernel, jnp.zeros(LARGE))


@pytest.mark.parametrize("over", [(0, None), (None, 0)])
def test_vmap_over_one_of_both(over):
    shapes = [(3, 2, 512) if over[0] == 0 else (2, 512), (3, *LARGE) if over[1] == 0 else LARGE]
    x, kernel = (integers(i, *shape) for i, shape in enumerate(shapes))
    with forced("cpu"):
        y = jax.vmap(ops.dense, over)(x, kernel)
    np.testing.assert_array_equal(y, np.asarray(x) @ np.asarray(kernel))


def test_vmap_over_examples_and_over_kernels():
    x, kernels, g = integers(0, 3, 2, 512), integers(1, 3, 512, 512), integers(2, 3, 2, 512)
    with forced("cpu"):
        together = jax.vmap(lambda x, k, g: with_gradients("cpu", x, k, g))(x, kernels, g)
    for i in range(3):
        for one, of_all in zip(
            with_gradients("gpu", x[i], kernels[i], g[i]), together, strict=True
        ):
            np.testing.assert_array_equal(one, of_all[i])


def test_bfloat16_stays_bfloat16():
    x, kernel = integers(0, 2, 512).astype(jnp.bfloat16), integers(1, *LARGE).astype(jnp.bfloat16)
    results = with_gradients("cpu", x, kernel, integers(2, 2, 640).astype(jnp.bfloat16))
    for result, plain in zip(
        results,
        with_gradients("gpu", x, kernel, integers(2, 2, 640).astype(jnp.bfloat16)),
        strict=True,
    ):
        assert result.dtype == jnp.bfloat16
        np.testing.assert_array_equal(result.astype(np.float32), plain.astype(np.float32))


@pytest.mark.parametrize("shape", [(4, 3), (5,), (5, 3, 2)])
def test_a_kernel_that_does_not_fit(shape):
    with pytest.raises(ValueError, match=r"kernel must be a matrix .*\(2, 5\), got"):
        ops.dense(jnp.ones((2, 5)), jnp.ones(shape))


def test_two_dtypes():
    with pytest.raises(ValueError, match="must have one dtype, got bfloat16 and float32; cast"):
        ops.dense(jnp.ones((2, 5), jnp.bfloat16), jnp.ones((5, 3)))


def test_arrays_of_numpy_and_lists():
    np.testing.assert_array_equal(ops.dense([[1.0, 2.0]], np.ones((2, 3), np.float32)), [[3.0] * 3])
