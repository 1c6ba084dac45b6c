"""torchvision's networks: the same functions of the same weights, under torchvision's names."""

import json
import types
from functools import partial

import jax
import numpy as np
import pytest
import safetensors.numpy

from cnn_jax import layers, models, torch_weights, weights
from cnn_jax.models import googlenet_torchvision
from tests import commands, networks
from tests.golden import make_torchvision
from tests.golden.make_golden import CLASSES

export = commands.load("export")
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def golden():
    with np.load(make_torchvision.FILE) as file:
        return dict(file)


def _load(name, golden, **options):
    """The network, the shape of its pictures, and the state dict that torchvision was given."""
    case = make_torchvision.CASES[name]
    shapes = json.loads(str(golden[f"{name}/shapes"]))
    state = make_torchvision.make_state(shapes, case.variance)
    return models.create(name, classes=CLASSES, **options), (case.size, case.size, 3), state


def cases(*quick):
    """All networks; those that aren't quick are slow tests."""
    return [
        pytest.param(name, marks=() if name in quick else pytest.mark.slow)
        for name in make_torchvision.CASES
    ]


@pytest.mark.parametrize("name", cases("resnet18"))
def test_logits_equal_torchvisions(name, golden):
    module, shape, state = _load(name, golden)
    # In no order, as a file of weights has them.
    state = {key: state[key] for key in sorted(state)}
    variables = torch_weights.from_torch(state, module, shape)
    x = make_torchvision.pictures(shape[0])
    logits = networks.quick_jit(module.apply)(variables, x)
    expected = golden[f"{name}/logits"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE)
    assert np.ptp(expected, axis=0).max() > 1000 * TOLERANCE  # it depends on the picture


@pytest.mark.parametrize("name", cases("resnet18"))
def test_a_run_starts_from_a_file_of_them(name, golden, tmp_path):
    module, shape, state = _load(name, golden)
    file = tmp_path / "net.safetensors"
    file.write_bytes(safetensors.numpy.save(state))
    loaded = weights.load_initial(str(file))
    assert loaded.keys() == state.keys()
    expected = torch_weights.from_torch(state, module, shape)
    fitted = weights.fit_initial(loaded, expected, module, shape, str(file))
    jax.tree.map(np.testing.assert_array_equal, fitted, expected)


@pytest.mark.parametrize("name", cases("resnet18", "resnext50_32x4d", "alexnet_torchvision"))
def test_names_and_shapes_are_torchvisions(name, golden):
    shapes = json.loads(str(golden[f"{name}/shapes"]))
    options = {"auxiliary": True} if name.startswith("googlenet") else {}
    case = make_torchvision.CASES[name]
    module = models.create(name, classes=CLASSES, **options)
    shape = (224 if options else case.size,) * 2 + (3,)
    names = torch_weights.list_torchvision_names(module, shape)
    assert len(set(names)) == len(names)
    tensors = torch_weights.list_tensors(module, shape)
    found = {n: torch_weights.torch_shape(t) for n, t in zip(names, tensors, strict=True)}
    assert found == {key: tuple(value) for key, value in shapes.items()}


@pytest.mark.parametrize("name", cases("resnet18"))
def test_an_exported_network_is_torchvisions_state_dict(name, golden, tmp_path, monkeypatch):
    module, shape, state = _load(name, golden)
    variables = torch_weights.from_torch(state, module, shape)
    monkeypatch.setattr(export, "NAMES", types.SimpleNamespace(value="torchvision"))
    network = types.SimpleNamespace(model=module, variables=variables, input_shape=shape)
    export.save_torch(tmp_path / "net.safetensors", network, {})
    written = safetensors.numpy.load_file(tmp_path / "net.safetensors")
    assert {key for key in state if not key.startswith(("aux1.", "aux2."))} == written.keys()
    for key, value in written.items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(value, state[key])


@pytest.mark.slow
def test_auxiliary_classifiers_equal_torchvisions_and_may_be_left_out(golden):
    name = "googlenet_torchvision"
    module, shape, state = _load(name, golden, auxiliary=True)
    variables = torch_weights.from_torch(state, module, shape)
    without = torch_weights.from_torch(state, models.create(name, classes=CLASSES), shape)
    assert set(variables["params"]) - set(without["params"]) == {"auxiliary_4a", "auxiliary_4d"}

    def unit(x, features, size):
        x = layers.Conv(features, size, use_bias=False)(x)
        return jax.nn.relu(layers.BatchNorm(epsilon=1e-3)(x))

    head = googlenet_torchvision.Auxiliary(unit, layers.Dense, jax.nn.relu, 1024, CLASSES)
    own = {kind: variables[kind]["auxiliary_4a"] for kind in variables}
    logits = networks.quick_jit(head.apply)(own, make_torchvision.features())
    np.testing.assert_allclose(logits, golden[f"{name}/auxiliary"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lenet", {}),
        ("resnet20", {}),
        ("resnet18_book", {}),
        ("resnet18", {"preactivation": True}),
        ("densenet_book", {}),
        ("regnetx32_book", {}),
        ("wrn16_4", {}),
        ("vgg11", {"hidden": (8,), "dropout": (0.0,)}),
    ],
)
def test_networks_that_torchvision_does_not_have_have_no_names_of_it(name, options):
    module = models.create(name, **options)
    assert torch_weights.list_torchvision_names(module, (32, 32, 3)) is None


def test_a_file_of_torchvisions_weights_is_read_by_its_names(tmp_path):
    """RegNet's shortcuts come first there, last here."""
    module = models.create("regnetx_3_2gf", stages=((1, 4), (2, 8)), group_width=2, classes=3)
    shape = (16, 16, 3)
    variables = networks.random_variables(module, shape)
    names = torch_weights.list_torchvision_names(module, shape)
    save = partial(torch_weights.save_torch, tmp_path / "net.safetensors", variables, module, shape)
    save(names)
    loaded = torch_weights.load_torch(tmp_path / "net.safetensors", module, shape)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    assert "trunk_output.block2.block2-0.proj.0.weight" in names


def test_timms_names_of_a_regnet_are_read():
    module = models.create("regnetx_3_2gf", stages=((1, 4), (2, 8)), group_width=2, classes=3)
    shape = (16, 16, 3)
    variables = networks.random_variables(module, shape)
    state = torch_weights.to_torch(variables, module, shape)
    renamed = {
        "Conv_0": "stem.conv",
        "BatchNorm_0": "stem.bn",
        "Dense_0": "head.fc",
        "stage1_block1": "s1.b1",
        "stage2_block1": "s2.b1",
        "stage2_block2": "s2.b2",
        "projection": "downsample.conv",
        "projection_norm": "downsample.bn",
        **{f"block.Conv_{i}": f"conv{i + 1}.conv" for i in range(3)},
        **{f"block.BatchNorm_{i}": f"conv{i + 1}.bn" for i in range(3)},
    }

    def rename(name):
        *layer, leaf = name.split(".")
        if len(layer) == 1:
            return f"{renamed[layer[0]]}.{leaf}"
        inside = renamed.get(f"block.{layer[1]}") or renamed[layer[1]]
        return f"{renamed[layer[0]]}.{inside}.{leaf}"

    loaded = torch_weights.from_torch({rename(n): v for n, v in state.items()}, module, shape)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    found, others = torch_weights.read_state(
        {rename(n): v for n, v in state.items()}, module, shape
    )
    assert len(found) == len(jax.tree.leaves(variables))
    assert not others


def test_golden_file_is_small():
    assert make_torchvision.FILE.stat().st_size < 30_000
