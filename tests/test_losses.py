"""Weighted sums and penalties on parameters."""

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import losses

PARAMS = {
    "Conv_0": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([10.0])},
    "BatchNorm_0": {"scale": jnp.array([3.0]), "bias": jnp.array([4.0])},
}


def test_weight_zero_leaves_an_example_out_even_if_it_is_not_finite():
    values = jnp.array([1.0, jnp.inf, 3.0])
    with jax.debug_nans(False):  # the infinity is meant
        assert losses.weighted_sum(values, jnp.array([1.0, 0.0, 1.0])) == 4.0


def test_gradient_of_an_example_left_out_is_zero():
    gradient = jax.grad(losses.weighted_sum)(jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0]))
    np.testing.assert_array_equal(gradient, [1.0, 0.0])


def test_L4_only_kernels_are_decayed():
    assert losses.mask_decayed(PARAMS) == {
        "Conv_0": {"kernel": True, "bias": False},
        "BatchNorm_0": {"scale": False, "bias": False},
    }


def test_L4_penalty_is_half_the_squared_norm_and_its_gradient_the_weight():
    assert losses.l2_penalty(PARAMS) == 2.5
    gradient = jax.grad(losses.l2_penalty)(PARAMS)
    np.testing.assert_array_equal(gradient["Conv_0"]["kernel"], [[1.0, -2.0]])
    np.testing.assert_array_equal(gradient["Conv_0"]["bias"], [0.0])


def test_L4_kernels_are_decayed_at_any_depth_and_their_squares_add_up():
    params = {
        "kernel": jnp.array([3.0]),
        "Inception_0": {"Conv_0": {"kernel": jnp.array([[1.0], [2.0]]), "bias": jnp.array([7.0])}},
    }
    assert losses.mask_decayed(params) == {
        "kernel": True,
        "Inception_0": {"Conv_0": {"kernel": True, "bias": False}},
    }
    assert losses.l2_penalty(params) == 7.0
    assert losses.l2_penalty({}) == 0.0


def test_sums_and_penalties_are_of_32_bits_where_jax_computes_in_64():
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float16), PARAMS)
        assert losses.l2_penalty(params).dtype == jnp.float32
        assert losses.l2_penalty({}).dtype == jnp.float32
        zeros = losses.zero_sums(3)
    assert {name: zero.dtype for name, zero in zeros.items()} == {
        "loss": np.float32,
        "accuracy": np.int32,
    }


def test_means_are_python_numbers_and_lists():
    sums = {"loss": np.float32(3), "accuracy": np.int32(1), "matrix": np.array([[2.0, 4.0]])}
    means = losses.means(sums, np.float32(2))
    assert means == {"loss": 1.5, "accuracy": 0.5, "matrix": [[1.0, 2.0]]}
    assert type(means["accuracy"]) is float
