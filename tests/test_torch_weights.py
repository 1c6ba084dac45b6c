"""Weights from and to PyTorch, and equality with PyTorch's networks (golden/make_golden.py)."""

import json
from functools import partial

import jax
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

from cnn_jax import models, ops, torch_weights, weights
from tests import networks
from tests.golden import make_golden

try:
    import torch
except ImportError:
    torch = None  # the golden file is always compared

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def golden():
    with np.load(make_golden.FILE) as file:
        return dict(file)


def _network(name):
    model, options, input_shape = make_golden.CASES[name]
    return models.create(model, classes=make_golden.CLASSES, **options), input_shape


def _run(name, shapes):
    """The same computation as make_golden.run_torch(name)."""
    module, input_shape = _network(name)
    state = make_golden.initial_state(shapes)
    variables = torch_weights.from_torch(state, module, input_shape)
    images, labels = make_golden.examples(input_shape)
    # PyTorch's optimizer decays every parameter.
    optimizer = optax.chain(
        optax.add_decayed_weights(make_golden.WEIGHT_DECAY),
        optax.sgd(make_golden.LEARNING_RATE, make_golden.MOMENTUM),
    )

    def loss_fn(params, model_state):
        logits, model_state = module.apply(
            {"params": params, **model_state}, images, train=True, mutable=["batch_stats"]
        )
        return ops.cross_entropy(logits, labels).mean(), (logits, model_state)

    @networks.quick_jit
    def step(variables, opt_state):
        params = variables["params"]
        model_state = {k: v for k, v in variables.items() if k != "params"}
        (loss, (logits, new_state)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            params, model_state
        )
        if model_state:  # evaluation and training differ
            logits = module.apply(variables, images)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return logits, loss, {"params": params, **new_state}, opt_state

    opt_state = optimizer.init(variables["params"])
    logits, loss1, variables1, opt_state = step(variables, opt_state)
    _, loss2, variables2, _ = step(variables1, opt_state)
    states = [
        torch_weights.to_torch(v, module, input_shape, names=shapes)
        for v in (variables1, variables2)
    ]
    return {"logits": logits, "losses": [loss1, loss2], "states": states, "before": state}


def _is_counter(key):
    return key.endswith("num_batches_tracked")


# They take long to compile, GoogLeNet half a minute.
SLOW = dict.fromkeys(
    (
        *("googlenet", "vgg11", "vgg11_bn", "alexnet_notes", "alexnet_torchvision"),
        *("resnet18_book", "plain20", "resnet18_preactivated", "resnext50_32x4d", "wrn16_4"),
        *("densenet_book", "regnetx32_book", "resnet20_preactivated"),
    ),
    pytest.mark.slow,
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=SLOW.get(name, ())) for name in make_golden.CASES]
)
def test_logits_and_sgd_steps_equal_pytorch(name, golden):
    close = partial(np.testing.assert_allclose, rtol=0, atol=TOLERANCE)
    result = _run(name, json.loads(str(golden[f"{name}/shapes"])))

    assert result["logits"].shape == (make_golden.EXAMPLES, make_golden.CLASSES)
    close(result["logits"], golden[f"{name}/logits"])
    close(result["losses"], golden[f"{name}/losses"])
    for step, state in enumerate(result["states"], 1):
        samples = [
            np.full(1, step) if _is_counter(key) else make_golden.sample(value)
            for key, value in state.items()
        ]
        close(np.concatenate(samples), golden[f"{name}/step{step}"])
        # The steps are far larger than the tolerance, or nothing would have been shown.
        moved = [np.abs(state[key] - before).max() for key, before in result["before"].items()]
        assert max(moved) > 20 * TOLERANCE

    if torch:  # every entry of every parameter, computed anew
        expected = make_golden.run_torch(name)
        close(result["logits"], expected["logits"])
        close(result["losses"], expected["losses"])
        for state, expected_state in zip(result["states"], expected["states"], strict=True):
            for key, value in expected_state.items():
                if not _is_counter(key):
                    close(state[key], value, err_msg=key)


def test_golden_file_is_complete_and_small(golden):
    assert {key.split("/")[0] for key in golden} == set(make_golden.CASES)
    assert make_golden.FILE.stat().st_size < 300_000


def _assert_trees_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(
    "name", ["mlp", "lenet_bn", "cifar_quick", pytest.param("googlenet", marks=pytest.mark.slow)]
)
def test_from_torch_inverts_to_torch(name):
    module, input_shape = _network(name)
    variables = networks.random_variables(module, input_shape)
    state = torch_weights.to_torch(variables, module, input_shape)
    _assert_trees_equal(torch_weights.from_torch(state, module, input_shape), variables)
    # Found by name in any order ...
    reverse = dict(reversed(state.items()))
    _assert_trees_equal(torch_weights.from_torch(reverse, module, input_shape), variables)
    # ... and by order under any names.
    numbered = {f"{i}.tensor": value for i, value in enumerate(state.values())}
    _assert_trees_equal(torch_weights.from_torch(numbered, module, input_shape), variables)


def test_layouts_by_hand():
    module = models.create("cifar_quick", channels=(2,), hidden=())
    variables = networks.random_variables(module, (4, 6, 3))
    state = torch_weights.to_torch(variables, module, (4, 6, 3))
    assert list(state) == ["Conv_0.weight", "Conv_0.bias", "Dense_0.weight", "Dense_0.bias"]

    kernel = np.asarray(variables["params"]["Conv_0"]["kernel"])  # [5, 5, 3, 2]
    assert state["Conv_0.weight"].shape == (2, 3, 5, 5)
    assert state["Conv_0.weight"][1, 2, 3, 4] == kernel[3, 4, 2, 1]

    dense = np.asarray(variables["params"]["Dense_0"]["kernel"])  # from maps [2, 3, 2]
    assert state["Dense_0.weight"].shape == (10, 12)
    for row, column, channel in np.ndindex(2, 3, 2):
        here = (row * 3 + column) * 2 + channel
        there = (channel * 2 + row) * 3 + column
        assert state["Dense_0.weight"][7, there] == dense[here, 7]


def test_batch_norm_entries_in_pytorch_order():
    module, input_shape = _network("lenet_bn")
    state = torch_weights.to_torch(
        networks.random_variables(module, input_shape), module, input_shape
    )
    assert list(state)[2:7] == [
        "BatchNorm_0.weight",
        "BatchNorm_0.bias",
        "BatchNorm_0.running_mean",
        "BatchNorm_0.running_var",
        "BatchNorm_0.num_batches_tracked",
    ]
    assert state["BatchNorm_0.num_batches_tracked"].dtype == np.int64


def test_files_round_trip(tmp_path):
    module, input_shape = _network("lenet_bn")
    variables = networks.random_variables(module, input_shape)
    weights.save(tmp_path / "native.safetensors", variables)
    _assert_trees_equal(weights.load(tmp_path / "native.safetensors"), variables)
    assert "params/Conv_0/kernel" in load_file(tmp_path / "native.safetensors")

    file = tmp_path / "torch.safetensors"
    torch_weights.save_torch(file, variables, module, input_shape)
    _assert_trees_equal(torch_weights.load_torch(file, module, input_shape), variables)
    assert load_file(file)["Conv_0.weight"].shape == (6, 1, 5, 5)


@pytest.mark.parametrize(
    "name", ["lenet_bn", "vgg11", "alexnet", pytest.param("googlenet", marks=pytest.mark.slow)]
)
def test_file_with_a_pytorch_networks_names_is_read_in_order(name, golden, tmp_path):
    """Safetensors sorts names as text, 10 before 2 and bias before weight."""
    module, input_shape = _network(name)
    variables = networks.random_variables(module, input_shape)
    names = json.loads(str(golden[f"{name}/shapes"]))
    torch_weights.save_torch(tmp_path / "net.safetensors", variables, module, input_shape, names)
    assert set(load_file(tmp_path / "net.safetensors")) == set(names)
    loaded = torch_weights.load_torch(tmp_path / "net.safetensors", module, input_shape)
    _assert_trees_equal(loaded, variables)


def test_auxiliary_heads_are_included():
    module = models.create("googlenet", width=1 / 8, auxiliary=True)
    variables = networks.random_variables(module, (64, 64, 1))
    state = torch_weights.to_torch(variables, module, (64, 64, 1))
    assert state["auxiliary_4a.Dense_1.weight"].shape == (10, 128)
    _assert_trees_equal(torch_weights.from_torch(state, module, (64, 64, 1)), variables)


def test_wrong_state_dicts_are_refused_in_one_sentence(tmp_path):
    module, input_shape = _network("lenet")
    variables = networks.random_variables(module, input_shape)
    state = torch_weights.to_torch(variables, module, input_shape)

    few = dict(list(state.items())[:-1])
    with pytest.raises(ValueError, match=r"has 9 tensors, the network 10: Conv_0\.weight, "):
        torch_weights.from_torch(few, module, input_shape)
    swapped = {str(i): value for i, value in enumerate(reversed(state.values()))}
    with pytest.raises(ValueError, match=r"0 has shape \[10\], but Conv_0.weight of the network"):
        torch_weights.from_torch(swapped, module, input_shape)
    with pytest.raises(ValueError, match="has 10 tensors, not 3 as `names`"):
        torch_weights.to_torch(variables, module, input_shape, names="abc")
    with pytest.raises(ValueError, match=r"lack params/Dense_0/kernel of shape \[576, 120\]"):
        torch_weights.to_torch(variables, module, (32, 32, 1))
    save_file(few, tmp_path / "few.safetensors")
    with pytest.raises(ValueError, match="has 9 tensors"):
        torch_weights.load_torch(tmp_path / "few.safetensors", module, input_shape)


def test_describe_permutes_only_the_dense_layer_after_a_flattening():
    module, input_shape = _network("lenet")
    flattened = {t.name: t.flattened for t in torch_weights.list_tensors(module, input_shape)}
    assert flattened["Dense_0.weight"] == (5, 5, 16)
    assert flattened["Dense_1.weight"] == () == flattened["Conv_0.weight"]
    module, input_shape = _network("googlenet")  # global pooling: no flattening
    assert not any(t.flattened for t in torch_weights.list_tensors(module, input_shape))
