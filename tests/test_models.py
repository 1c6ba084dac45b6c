"""The networks: shapes, parameters, options, and that they learn."""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from cnn_jax import augment, layers, models, ops
from cnn_jax.models import (
    MLP,
    AlexNet,
    CifarQuick,
    DenseNet,
    GoogLeNet,
    LeNet,
    NiN,
    RegNet,
    ResNet,
    Softmax,
    googlenet_torchvision,
)
from cnn_jax.models.googlenet import Inception
from cnn_jax.models.registry import read_options
from cnn_jax.models.resnet import Block, Convolution, add
from cnn_jax.options import read_choices
from tests import networks

# For each model: the picture [H, W, C], the number of parameters, and the output of every layer,
# or of every block where a layer's name is left out: C×size, or features.
LENET = [
    ("Conv_0", "6x28"), ("AvgPool_0", "6x14"), ("Conv_1", "16x10"), ("AvgPool_1", "16x5"),
    ("Flatten_0", "400"), ("Dense_0", "120"), ("Dense_1", "84"), ("Dense_2", "10"),
]  # fmt: skip
LENET_MAX = [(name.replace("Avg", "Max"), shape) for name, shape in LENET]
LENET_IMPROVED = [
    ("Conv_0", "6x30"), ("AvgPool_0", "6x15"), ("Conv_1", "10x13"), ("AvgPool_1", "10x6"),
    ("Conv_2", "16x4"), ("AvgPool_2", "16x2"), ("Flatten_0", "64"), ("Dense_0", "120"),
    ("Dense_1", "84"), ("Dense_2", "20"), ("Dense_3", "10"),
]  # fmt: skip
ALEXNET_MAPS = [
    ("Conv_0", "96x54"), ("MaxPool_0", "96x26"), ("Conv_1", "256x26"), ("MaxPool_1", "256x12"),
    ("Conv_2", "384x12"), ("Conv_3", "384x12"), ("Conv_4", "256x12"), ("MaxPool_2", "256x5"),
    ("Flatten_0", "6400"), ("Dense_0", "4096"), ("Dropout_0", "4096"),
]  # fmt: skip
ALEXNET = [*ALEXNET_MAPS, ("Dense_1", "4096"), ("Dropout_1", "4096"), ("Dense_2", "10")]
ALEXNET_NOTES = [*ALEXNET_MAPS, ("Dense_1", "10")]
VGG = [
    ("MaxPool_0", "64x112"), ("MaxPool_1", "128x56"), ("MaxPool_2", "256x28"),
    ("MaxPool_3", "512x14"), ("MaxPool_4", "512x7"), ("Flatten_0", "25088"), ("Dense_0", "4096"),
    ("Dropout_0", "4096"), ("Dense_1", "4096"), ("Dropout_1", "4096"), ("Dense_2", "10"),
]  # fmt: skip
NIN = [
    ("Conv_2", "96x54"), ("MaxPool_0", "96x26"), ("Conv_5", "256x26"), ("MaxPool_1", "256x12"),
    ("Conv_8", "384x12"), ("MaxPool_2", "384x5"), ("Dropout_0", "384x5"), ("Conv_11", "10x5"),
    ("GlobalAvgPool_0", "10"),
]  # fmt: skip
GOOGLENET = [
    ("Conv_0", "64x48"), ("MaxPool_0", "64x24"), ("Conv_1", "64x24"), ("Conv_2", "192x24"),
    ("MaxPool_1", "192x12"), ("inception_3a", "256x12"), ("inception_3b", "480x12"),
    ("MaxPool_2", "480x6"), ("inception_4a", "512x6"), ("inception_4b", "512x6"),
    ("inception_4c", "512x6"), ("inception_4d", "528x6"), ("inception_4e", "832x6"),
    ("MaxPool_3", "832x3"), ("inception_5a", "832x3"), ("inception_5b", "1024x3"),
    ("GlobalAvgPool_0", "1024"), ("Dense_0", "10"),
]  # fmt: skip
CIFAR_QUICK = [
    ("Conv_0", "32x32"), ("MaxPool_0", "32x16"), ("Conv_1", "32x16"), ("MaxPool_1", "32x8"),
    ("Conv_2", "64x8"), ("MaxPool_2", "64x4"), ("Flatten_0", "1024"), ("Dense_0", "64"),
    ("Dense_1", "10"),
]  # fmt: skip


def _residual(first, *stages, head):
    """The layers before the first stage, each stage's last block, and the head's outputs."""
    pooled, classes = head
    last = [(f"stage{i}_block{blocks}", shape) for i, (blocks, shape) in enumerate(stages, 1)]
    return [*first, *last, ("GlobalAvgPool_0", pooled), ("Dense_0", classes)]


STEM = [("Conv_0", "64x112"), ("MaxPool_0", "64x56")]
STEM_GRAY = [("Conv_0", "64x48"), ("MaxPool_0", "64x24")]


def _basic(*blocks):
    shapes = ("64x56", "128x28", "256x14", "512x7")
    return _residual(STEM, *zip(blocks, shapes, strict=True), head=("512", "1000"))


def _bottlenecks(*blocks):
    shapes = ("256x56", "512x28", "1024x14", "2048x7")
    return _residual(STEM, *zip(blocks, shapes, strict=True), head=("2048", "1000"))


def _small(depth):
    n = (depth - 2) // 6
    return _residual([("Conv_0", "16x32")], (n, "16x32"), (n, "32x16"), (n, "64x8"),
                     head=("64", "10"))  # fmt: skip


RESNET_BOOK = _residual(STEM_GRAY, (2, "64x24"), (2, "128x12"), (2, "256x6"), (2, "512x3"),
                        head=("512", "10"))  # fmt: skip
WRN16_4 = _residual([("Conv_0", "16x32")], (2, "64x32"), (2, "128x16"), (2, "256x8"),
                    head=("256", "10"))  # fmt: skip
WRN28_10 = _residual([("Conv_0", "16x32")], (4, "160x32"), (4, "320x16"), (4, "640x8"),
                     head=("640", "10"))  # fmt: skip
REGNETX = _residual([("Conv_0", "32x112")], (2, "96x56"), (6, "192x28"), (15, "432x14"),
                    (2, "1008x7"), head=("1008", "1000"))  # fmt: skip
REGNETX_BOOK = _residual([("Conv_0", "32x48")], (4, "32x24"), (6, "80x12"),
                         head=("80", "10"))  # fmt: skip
DENSENET = [
    *STEM, ("block1_layer6", "256x56"), ("transition1", "128x28"), ("block2_layer12", "512x28"),
    ("transition2", "256x14"), ("block3_layer24", "1024x14"), ("transition3", "512x7"),
    ("block4_layer1", "544x7"), ("block4_layer16", "1024x7"), ("GlobalAvgPool_0", "1024"),
    ("Dense_0", "1000"),
]  # fmt: skip
DENSENET_BOOK = [
    *STEM_GRAY, ("block1_layer4", "192x24"), ("transition1", "96x12"), ("block2_layer4", "224x12"),
    ("transition2", "112x6"), ("block3_layer4", "240x6"), ("transition3", "120x3"),
    ("block4_layer4", "248x3"), ("GlobalAvgPool_0", "248"), ("Dense_0", "10"),
]  # fmt: skip
ALEXNET_TORCHVISION = [
    ("Conv_0", "64x55"), ("MaxPool_0", "64x27"), ("Conv_1", "192x27"), ("MaxPool_1", "192x13"),
    ("Conv_2", "384x13"), ("Conv_3", "256x13"), ("Conv_4", "256x13"), ("MaxPool_2", "256x6"),
    ("Flatten_0", "9216"), ("Dropout_0", "9216"), ("Dense_0", "4096"), ("Dropout_1", "4096"),
    ("Dense_1", "4096"), ("Dense_2", "1000"),
]  # fmt: skip
GOOGLENET_TORCHVISION = [
    ("Conv_0", "64x112"), ("MaxPool_0", "64x56"), ("Conv_1", "64x56"), ("Conv_2", "192x56"),
    ("MaxPool_1", "192x28"), ("inception_3a", "256x28"), ("inception_3b", "480x28"),
    ("MaxPool_2", "480x14"), ("inception_4a", "512x14"), ("inception_4b", "512x14"),
    ("inception_4c", "512x14"), ("inception_4d", "528x14"), ("inception_4e", "832x14"),
    ("MaxPool_3", "832x7"), ("inception_5a", "832x7"), ("inception_5b", "1024x7"),
    ("GlobalAvgPool_0", "1024"), ("Dense_0", "1000"),
]  # fmt: skip
PIXELS, GRAY96, GRAY224, COLOR = (28, 28, 1), (96, 96, 1), (224, 224, 1), (32, 32, 3)
COLOR224 = (224, 224, 3)
SMALL = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}
TABLE = {
    "softmax": (PIXELS, 7_850, [("Flatten_0", "784"), ("Dense_0", "10")]),
    "mlp": (PIXELS, 203_530, [("Flatten_0", "784"), ("Dense_0", "256"), ("Dense_1", "10")]),
    "mlp_dropout": (PIXELS, 269_322, [("Dense_0", "256"), ("Dense_1", "256"), ("Dense_2", "10")]),
    "lenet": (PIXELS, 61_706, LENET),
    "lenet_max": (PIXELS, 61_706, LENET_MAX),
    "lenet_improved": (PIXELS, 21_940, LENET_IMPROVED),
    "lenet_bn": (PIXELS, 61_706 + 2 * (6 + 16 + 120 + 84), LENET),
    "alexnet": (GRAY224, 46_764_746, ALEXNET),
    "alexnet_notes": (GRAY224, 29_983_434, ALEXNET_NOTES),
    "alexnet_bn": (GRAY224, 46_764_746 + 2 * (96 + 256 + 384 + 384 + 256), ALEXNET),
    "vgg11": (GRAY224, 128_806_154, VGG),
    "vgg13": (GRAY224, 128_990_666, VGG),
    "vgg16": (GRAY224, 134_300_362, VGG),
    "vgg19": (GRAY224, 139_610_058, VGG),
    "vgg11_bn": (GRAY224, 128_806_154 + 2 * (64 + 128 + 2 * (256 + 512 + 512)), VGG),
    "vgg13_bn": (GRAY224, 128_990_666 + 4 * (64 + 128 + 256 + 512 + 512), VGG),
    "vgg16_bn": (GRAY224, 134_300_362 + 4 * (64 + 128) + 6 * (256 + 512 + 512), VGG),
    "vgg19_bn": (GRAY224, 139_610_058 + 4 * (64 + 128) + 8 * (256 + 512 + 512), VGG),
    "nin": (GRAY224, 1_992_166, NIN),
    "nin_bn": (GRAY224, 1_992_166 + 6 * (96 + 256 + 384 + 10), NIN),
    "googlenet": (GRAY96, 5_977_530, GOOGLENET),
    # 64 + 64 + 192 channels in the stem, 6,960 in the nine blocks, those that reduce counted.
    "googlenet_bn": (GRAY96, 5_977_530 + 2 * (64 + 64 + 192 + 6_960), GOOGLENET),
    "resnet18": (COLOR224, 11_689_512, _basic(2, 2, 2, 2)),
    "resnet34": (COLOR224, 21_797_672, _basic(3, 4, 6, 3)),
    "resnet50": (COLOR224, 25_557_032, _bottlenecks(3, 4, 6, 3)),
    "resnet101": (COLOR224, 44_549_160, _bottlenecks(3, 4, 23, 3)),
    "resnet152": (COLOR224, 60_192_808, _bottlenecks(3, 8, 36, 3)),
    "resnext50_32x4d": (COLOR224, 25_028_904, _bottlenecks(3, 4, 6, 3)),
    "resnet18_book": (GRAY96, 11_178_378, RESNET_BOOK),
    **{f"resnet{depth}": (COLOR, count, _small(depth)) for depth, count in SMALL.items()},
    **{f"plain{depth}": (COLOR, count, _small(depth)) for depth, count in SMALL.items()},
    "wrn16_4": (COLOR, 2_748_890, WRN16_4),
    "wrn28_10": (COLOR, 36_479_194, WRN28_10),
    "densenet121": (COLOR224, 7_978_856, DENSENET),
    "densenet_book": (GRAY96, 758_226, DENSENET_BOOK),
    "regnetx_3_2gf": (COLOR224, 15_296_552, REGNETX),
    "regnetx32_book": (GRAY96, 179_290, REGNETX_BOOK),
    "alexnet_torchvision": (COLOR224, 61_100_840, ALEXNET_TORCHVISION),
    "googlenet_torchvision": (COLOR224, 6_624_904, GOOGLENET_TORCHVISION),
    "cifar_quick": (COLOR, 145_578, CIFAR_QUICK),
    "cifar_quick_bn": (COLOR, 145_578 + 2 * (32 + 32 + 64), CIFAR_QUICK),
}


def _count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _outputs(module, input_shape):
    """[(name, 'C×size' or 'features')] of the layers, one by one, in order."""
    return _trace(module, input_shape)[1]


def _trace(module, input_shape):
    """The shapes of the variables, and `_outputs`."""
    outputs = []

    def record(call, args, kwargs, context):
        y = call(*args, **kwargs)
        if context.method_name == "__call__" and len(context.module.path) == 1:
            _, *pixels, features = y.shape
            assert len(set(pixels)) <= 1
            shape = f"{features}x{pixels[0]}" if pixels else f"{features}"
            outputs.append((context.module.name, shape))
        return y

    with nn.intercept_methods(record):
        return networks.abstract_init(module, input_shape), outputs


def test_the_table_has_every_model_and_no_other():
    assert set(TABLE) == set(models.MODELS)


# As others but deeper, so that they take long to trace.
DEEPER = ("resnet101", "resnet152", "resnet44", "resnet110", "wrn28_10", "densenet121",
          *(f"plain{depth}" for depth in (32, 44, 56, 110)))  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in DEEPER else []) for n in TABLE]
)
def test_parameters_and_the_output_of_every_layer(name):
    input_shape, parameters, expected = TABLE[name]
    module = models.create(name)
    variables, outputs = _trace(module, input_shape)
    assert _count(variables["params"]) == parameters
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    names = dict(expected)
    assert [pair for pair in outputs if pair[0] in names] == expected
    blocks = ("vgg", "nin", "mlp_dropout", "resne", "plain", "wrn", "densenet", "regnet")
    if not name.startswith(blocks):  # those are given by block or by stage
        own = [pair for pair in outputs if not pair[0].startswith(("BatchNorm", "Dropout"))]
        assert [pair for pair in expected if not pair[0].startswith("Dropout")] == own
    logits = jax.eval_shape(module.apply, variables, jnp.zeros((3, *input_shape)))
    assert (logits.shape, logits.dtype) == ((3, int(expected[-1][1])), jnp.float32)


@pytest.mark.parametrize(
    ("name", "convolutions"), [("vgg11", 8), ("vgg13", 10), ("vgg16", 13), ("vgg19", 16)]
)
def test_vgg_is_named_after_its_layers_with_weights(name, convolutions):
    names = [layer for layer, _ in _outputs(models.create(name), GRAY224)]
    assert sum(layer.startswith("Conv") for layer in names) == convolutions
    assert f"vgg{convolutions + 3}" == name


def test_vgg_of_a_quarter_of_the_channels():
    module = models.create("vgg11", width=0.25)
    assert _count(networks.abstract_init(module, GRAY224)["params"]) == 43_093_322
    assert dict(_outputs(module, GRAY224))["MaxPool_4"] == "128x7"


def test_vgg_takes_any_arch():
    module = models.create("vgg11", arch=((1, 8), (3, 12)), hidden=(7,), dropout=(0.1,))
    assert _outputs(module, (16, 16, 3)) == [
        ("Conv_0", "8x16"), ("MaxPool_0", "8x8"),
        ("Conv_1", "12x8"), ("Conv_2", "12x8"), ("Conv_3", "12x8"), ("MaxPool_1", "12x4"),
        ("Flatten_0", "192"), ("Dense_0", "7"), ("Dropout_0", "7"), ("Dense_1", "10"),
    ]  # fmt: skip


def test_lenets_parameters_are_mostly_dense():
    params = networks.abstract_init(models.create("lenet"), PIXELS)["params"]
    dense = sum(_count(tree) for name, tree in params.items() if name.startswith("Dense"))
    assert dense / _count(params) > 0.9


def test_inception_blocks_join_four_paths():
    block = Inception(
        (64, (96, 128), (16, 32), 32),
        lambda x, features, size, padding=0: layers.Conv(features, size, padding=padding)(x),
    )
    assert _outputs(block, (12, 12, 192)) == [
        ("Conv_0", "64x12"), ("Conv_1", "96x12"), ("Conv_2", "128x12"), ("Conv_3", "16x12"),
        ("Conv_4", "32x12"), ("MaxPool_0", "192x12"), ("Conv_5", "32x12"),
    ]  # fmt: skip
    shape = jax.eval_shape(
        lambda x: block.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, 12, 12, 192))
    )
    assert shape.shape == (1, 12, 12, 256)


@pytest.mark.slow
def test_googlenets_auxiliary_heads_are_sown_while_training_and_change_nothing_else():
    module = models.create("googlenet", width=1 / 16, auxiliary=True, classes=7)
    variables = networks.init(module, (32, 32, 1))
    heads = {name for name in variables["params"] if name.startswith("auxiliary")}
    assert heads == {"auxiliary_4a", "auxiliary_4d"}
    x = np.random.default_rng(0).normal(size=(3, 32, 32, 1)).astype(np.float32)

    @networks.quick_jit
    def run(variables):
        key = {"dropout": jax.random.key(1)}
        return [
            module.apply(variables, x, train=train, rngs=key, mutable=["auxiliary"])
            for train in (False, True)
        ]

    (evaluated, nothing), (trained, sown) = run(variables)
    np.testing.assert_array_equal(trained, evaluated)
    assert nothing == {}
    heads = jax.tree.leaves(sown["auxiliary"])
    assert [head.shape for head in heads] == [(3, 7), (3, 7)]
    assert all(head.dtype == jnp.float32 and jnp.ptp(head) > 0 for head in heads)


def _has_a_sibling(name):
    """Whether a network is tried at once with another of its class, or takes long to trace."""
    deep = name.startswith(("resne", "plain", "wrn28", "densenet121", "regnetx_3", "googlenet_t"))
    return (deep and name != "resnet18") or (name.endswith("_bn") and name != "lenet_bn")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if _has_a_sibling(n) else []) for n in TABLE],
)
def test_classes_and_channels_are_free(name):
    (height, width, _), _, _ = TABLE[name]
    module = models.create(name, classes=7)
    x = jax.ShapeDtypeStruct((1, height, width, 2), jnp.float32)
    logits, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    assert logits.shape == (1, 7)


# The family around LeNet: kernel sizes, channels, activation, numbers of layers, initializers.


@pytest.mark.parametrize(
    ("options", "features"),
    [
        ({"kernel_sizes": (7, 5), "paddings": (0, 0)}, 16 * 3 * 3),
        ({"channels": (10, 16)}, 16 * 5 * 5),
        ({"activation": "relu"}, 16 * 5 * 5),
        ({"channels": (8,), "kernel_sizes": (5,), "paddings": (2,)}, 8 * 14 * 14),
        ({"channels": (6, 16, 120), "kernel_sizes": (5, 5, 3), "paddings": (2, 0, 1)}, 120 * 2 * 2),
        ({"channels": (6, 16, 20), "kernel_sizes": (5,), "paddings": (2,)}, 20 * 3 * 3),
        ({"hidden": (120, 84, 20)}, 16 * 5 * 5),
        ({"hidden": ()}, 16 * 5 * 5),
        ({"kernel_init": "he_normal", "bias_init": "torch"}, 16 * 5 * 5),
    ],
)
def test_lenets_family(options, features):
    module = models.create("lenet", **options)
    outputs = dict(_outputs(module, PIXELS))
    assert outputs["Flatten_0"] == str(features)
    hidden = options.get("hidden", (120, 84))
    assert [outputs[f"Dense_{i}"] for i in range(len(hidden) + 1)] == [*map(str, hidden), "10"]
    convolutions = len(options.get("channels", (6, 16)))
    assert f"Conv_{convolutions - 1}" in outputs
    assert f"Conv_{convolutions}" not in outputs


@pytest.mark.parametrize(
    ("network", "options"),
    [
        (MLP, {"hidden": (-1,)}),
        (LeNet, {"hidden": (0,)}),
        (LeNet, {"hidden": 120}),
        (LeNet, {"hidden": "12"}),
        (LeNet, {"hidden": (True,)}),
        (LeNet, {"channels": (0, 16)}),
        (LeNet, {"kernel_sizes": (0,)}),
        (LeNet, {"kernel_sizes": (2.0,)}),
        (LeNet, {"paddings": (-1,)}),
        (AlexNet, {"paddings": (-1,)}),
        (CifarQuick, {"channels": (4, 0)}),
        (models.VGG, {"arch": ((0, 64),)}),
        (models.VGG, {"arch": ((1, -3),)}),
        (models.VGG, {"arch": (1, 64)}),
        (models.VGG, {"arch": ()}),
        *[(NiN, {"width": width}) for width in (0, -1, math.nan, math.inf, True, "1")],
        *[(GoogLeNet, {"dropout": (rate,)}) for rate in (-0.1, 1, math.nan, "0.5", True)],
        (GoogLeNet, {"auxiliary": "yes"}),
        *[(ResNet, {"stages": stages}) for stages in ((), (2, 64), ((2, 0),), "18")],
        *[(ResNet, {option: "yes"}) for option in ("bottleneck", "preactivation", "zero_init")],
        *[(ResNet, {"groups": groups}) for groups in (0, 1.5)],
        *[(ResNet, {option: 4}) for option in ("groups", "group_width")],
        (ResNet, {"zero_init": True, "preactivation": True}),
        (ResNet, {"zero_init": True, "shortcut": "none"}),
        (models.WideResNet, {"dropout": (1.0,)}),
        (DenseNet, {"blocks": (6, 0)}),
        (DenseNet, {"growth_rate": 0}),
        (RegNet, {"group_width": 7}),
        *[(Softmax, {"classes": classes}) for classes in (-1, 2.0, True)],
        (Softmax, {"dtype": ["float32"]}),
    ],
)
def test_networks_refuse_what_cannot_work(network, options):
    (name, value), *_ = options.items()
    with pytest.raises(ops.ArgumentError, match=f"^{name}.*{re.escape(repr(value))}") as caught:
        network(**options)
    assert str(caught.value).endswith(".")
    assert str(caught.value).count(". ") == 0


def test_options_are_kept_as_plain_numbers():
    given = LeNet(
        channels=np.array([4, 5]),
        kernel_sizes=[np.int64(3)],
        paddings=jnp.array([1]),
        hidden=(np.uint8(7),),
        classes=jnp.int32(3),
    )
    plain = LeNet(channels=(4, 5), kernel_sizes=(3,), paddings=(1,), hidden=(7,), classes=3)
    assert given == plain
    assert repr(given) == repr(plain)
    shape = jax.eval_shape(given.init_with_output, jax.random.key(0), jnp.zeros((2, 16, 16, 1)))[0]
    assert shape.shape == (2, 3)
    rates = MLP(hidden=(8,), dropout=np.array([0.25])).dropout
    assert rates == (0.25,)
    assert type(rates[0]) is type(NiN(width=np.float32(0.5)).width) is float
    with jax.checking_leaks():  # rates may be traced
        jax.eval_shape(lambda rate: jnp.zeros(len(MLP(dropout=(rate,)).dropout)), 0.5)


def test_wrong_options_are_refused_in_one_sentence():
    for name, options, message in (
        ("lenett", {}, r"model 'lenett' is unknown; choose one of softmax, mlp, "),
        ("softmax", {"pool": "max"}, r"model 'softmax' has no option pool; it has classes, kernel"),
        ("lenet", {"pool": "mean"}, r"pool='mean' is unknown; choose one of max, avg\."),
        ("lenet", {"activation": "rely"}, r"activation='rely' is unknown; choose one of identity,"),
        (
            "vgg11",
            {"norm": "layer"},
            r"norm='layer' is unknown; choose one of none, batch, ghost:8, ",
        ),
        ("nin", {"kernel_init": "he"}, r"kernel_init='he' is unknown; choose one of xavier_unifo"),
        (
            "nin",
            {"bias_init": "one"},
            r"bias_init='one' is unknown; choose one of zeros, ones, torch",
        ),
        (
            "nin",
            {"class_bias_init": ""},
            r"class_bias_init='' is unknown; choose one of zeros",
        ),
        ("nin", {"dtype": "float16"}, r"dtype='float16' is unknown; choose one of float32, bfloa"),
        ("lenet", {"channels": (6,)}, r"as many entries in channels as in kernel_sizes as in padd"),
        (
            "lenet",
            {"channels": (6, 9, 9), "kernel_sizes": (5,)},
            r"channels 3, kernel_sizes 1, padd",
        ),
        ("mlp", {"hidden": (9, 9)}, r"as many entries in hidden as in dropout; they have hidden 2"),
        ("alexnet", {"dropout": (0.5,)}, r"they have hidden 2, dropout 1\."),
        ("nin", {"dropout": ()}, r"NiN has one dropout layer; dropout=\(\) must have one "),
        ("nin", {"dropout": (1.5,)}, r"dropout=\(1.5,\) must be probabilities of zeroing"),
        ("vgg11", {"width": 0}, r"width=0 must be more than 0, a fin"),
        ("vgg11", {"classes": 0}, r"classes=0 must be at least 1, an i"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            models.create(name, **options)
        assert str(caught.value).count(". ") == 0


@pytest.mark.parametrize("name", ["lenet", "alexnet", "vgg11", "nin"])
def test_too_small_pictures_are_refused(name):
    with pytest.raises(ValueError, match=r"window|kernel"):
        networks.abstract_init(models.create(name), (8, 8, 1))


@pytest.mark.slow
def test_no_class_map_of_nin_is_dead_at_the_start(mini):
    """One that is 0 for all pictures would stay so; with the book's initialization most are."""
    x = augment.resize(augment.normalize(mini.train_images[:30]), 72)

    def alive(**options):
        module = models.create("nin", width=0.25, **options)
        maps = networks.quick_jit(lambda key: module.init_with_output(key, x)[0])
        return [int((maps(jax.random.key(seed)).max(0) > 0).sum()) for seed in range(2)]

    assert min(alive()) >= 9
    book = {"kernel_init": "xavier_uniform", "bias_init": "torch", "class_bias_init": "torch"}
    assert max(alive(**book)) <= 7


# Residual networks.


def test_a_residual_block_that_starts_at_zero_is_its_shortcut():
    branch = (Convolution(6, 3), Convolution(6, 3))
    block = Block(branch, partial(layers.Conv, use_bias=False), nn.relu, zero_init=True)
    variables = networks.init(block, (5, 5, 6))
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 6)).astype(np.float32)

    @networks.quick_jit
    def run(params):
        def loss(params):
            y = block.apply({**variables, "params": params}, x)
            return (y**2).sum(), y

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, y), grads = run(variables["params"])
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    assert np.abs(grads["BatchNorm_1"]["scale"]).min() > 0  # it will learn


def test_zero_init_changes_the_last_scales_alone():
    def scales(**options):
        module = models.create("resnet50", stages=((2, 8), (1, 16)), width=0.5, **options)

        @networks.quick_jit
        def init(key):
            params = flatten_dict(module.init(key, jnp.zeros((1, 16, 16, 3)))["params"])
            return {"/".join(path): leaf for path, leaf in params.items() if path[-1] == "scale"}

        return init(jax.random.key(0))

    usual, zero = scales(), scales(zero_init=True)
    assert all((leaf == 1).all() for leaf in usual.values())
    changed = {path for path in zero if (zero[path] == 0).all()}
    blocks = ("stage1_block1", "stage1_block2", "stage2_block1")
    assert changed == {f"{block}/BatchNorm_2/scale" for block in blocks}
    assert all((zero[path] == 1).all() for path in set(zero) - changed)


def test_padded_shortcuts_take_every_second_pixel_and_add_channels_of_zeros():
    x = np.arange(2 * 5 * 5 * 3, dtype=np.float32).reshape(2, 5, 5, 3)
    y = add("pad", x, np.ones((2, 3, 3, 5), np.float32), 2, layers.Conv, False)
    expected = np.ones((2, 3, 3, 5), np.float32)
    expected[..., :3] += x[:, ::2, ::2]
    np.testing.assert_array_equal(y, expected)


def test_a_plain_network_has_the_parameters_of_the_residual_one():
    residual, plain = (
        networks.abstract_init(models.create(f"{kind}20"), COLOR) for kind in ("resnet", "plain")
    )
    assert residual == plain


def test_preactivation_moves_layers_and_projections_lose_their_normalization():
    usual, moved = (
        networks.abstract_init(models.create("resnet18", preactivation=value), COLOR)["params"]
        for value in (False, True)
    )
    assert {"projection", "projection_norm"} < set(usual["stage2_block1"])
    assert "projection_norm" not in moved["stage2_block1"]
    assert [moved["stage2_block1"][f"BatchNorm_{i}"]["scale"].shape for i in (0, 1)] == [
        (64,),
        (128,),
    ]
    assert usual["BatchNorm_0"]["scale"].shape == (64,)  # after the stem
    assert moved["BatchNorm_0"]["scale"].shape == (512,)  # after the last block


def test_a_wide_networks_dropout_is_within_its_blocks():
    module = models.create("wrn16_4", stages=((1, 4),), dropout=(0.5,))
    dropouts = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, layers.Dropout):
            dropouts.append((context.module.path, context.module.rate))
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        networks.abstract_init(module, (8, 8, 3))
    assert dropouts == [(("stage1_block1", "Dropout_0"), 0.5)]


@pytest.mark.parametrize("n", [1, 3, 4, 7, 14])
def test_pooling_to_a_size_averages_pytorchs_windows(n):
    x = np.random.default_rng(0).normal(size=(2, n, 3)).astype(np.float32)
    y = googlenet_torchvision.pool_to(x, 4, axis=1)
    windows = [(math.floor(i * n / 4), math.ceil((i + 1) * n / 4)) for i in range(4)]
    expected = np.stack([x[:, a:b].mean(1) for a, b in windows], 1)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)


# The same network twice.


class CifarQuickSequential(nn.Module):
    activation: str

    @nn.compact
    def __call__(self, x, train=False):
        conv, dense = (
            partial(layer, kernel_init="torch", bias_init="torch")
            for layer in (layers.Conv, layers.Dense)
        )
        activate = layers.activation(self.activation)
        blocks = [(conv(f, 5, padding=2), activate, layers.MaxPool(2)) for f in (32, 32, 64)]
        head = layers.Flatten(), dense(64), activate, dense(10)
        return nn.Sequential([*blocks[0], *blocks[1], *blocks[2], *head])(x)


@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_cifar_quick_as_a_sequence_is_the_same_network(activation):
    by_layer = models.create("cifar_quick", activation=activation)
    sequence = CifarQuickSequential(activation=activation)
    variables, variables2 = (networks.init(m, COLOR, seed=3) for m in (by_layer, sequence))
    assert jax.tree.structure(variables) == jax.tree.structure(variables2)
    jax.tree.map(np.testing.assert_array_equal, variables, variables2)
    x = np.random.default_rng(0).normal(size=(4, *COLOR)).astype(np.float32)
    logits, logits2 = networks.quick_jit(lambda v: (by_layer.apply(v, x), sequence.apply(v, x)))(
        variables
    )
    np.testing.assert_array_equal(logits, logits2)


def test_cifar_quick_without_activation_is_linear_but_for_its_poolings():
    """With average pooling in place of max, f(x) − f(0) would be linear; with max it is
    homogeneous: f(2x) − f(0) = 2 (f(x) − f(0)) once the biases are 0."""
    module = models.create("cifar_quick", bias_init="zeros", channels=(4, 4, 4))
    variables = networks.init(module, COLOR)
    x = np.random.default_rng(0).normal(size=(2, *COLOR)).astype(np.float32)
    once, twice, negative = networks.quick_jit(
        lambda v: [module.apply(v, scale * x) for scale in np.float32([1, 2, -1])]
    )(variables)
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-4, atol=1e-5)
    assert np.abs(negative + once).max() > 0.01


def test_options_that_are_names_choose_from_the_tables():
    tables = {
        "activation": ops.ACTIVATIONS,
        "pool": layers.POOLS,
        "norm": layers.NORMS,
        "kernel_init": layers.KERNEL_INITIALIZERS,
        "bias_init": layers.BIAS_INITIALIZERS,
        "class_bias_init": layers.BIAS_INITIALIZERS,
        "class_kernel_init": layers.KERNEL_INITIALIZERS,
        "shortcut": ("project", "project_bare", "pad", "none"),
        "stem": ("7x7", "3x3"),
        "dtype": ("float32", "bfloat16"),
    }
    found = set()
    for name, network in models.MODELS.items():
        for option, field in read_options(network).items():
            choices = read_choices(field.type)
            assert choices == tuple(tables.get(option, ())), (name, option)
            found |= {option} if choices else set()
    assert found == set(tables)
    with pytest.raises(ops.ArgumentError, match=r"pool='mix' is unknown; choose one of max, avg"):
        models.create("lenet", pool="mix")
