"""Layer tables against gradients, the compiler's own counts, and numbers worked by hand."""

import dataclasses
import functools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import strategies as st

from cnn_jax import layers, models, ops
from cnn_jax.inspection import layer_table
from cnn_jax.inspection.layer_table import analyze, conv_cost, dense_cost, receptive_field
from cnn_jax.models.googlenet import Inception
from cnn_jax.ops.platform import forced


def rows(module, shape):
    return {layer.name: layer for layer in analyze(module, shape).layers}


@functools.cache
def googlenet():
    return analyze(models.create("googlenet"), (96, 96, 1))


# Receptive fields of a stack, by formula


def test_c15_two_3x3_see_what_one_5x5_sees():
    assert receptive_field([(3,), (3,)]) == receptive_field([(5,)]) == (5, 1, 0)
    assert receptive_field([(3, 1, 1, 1), (3, 1, 1, 1)]) == receptive_field([(5, 1, 1, 2)])


@pytest.mark.parametrize(
    ("stack", "expected"),
    [
        ([], (1, 1, 0)),
        ([(3, 2)], (3, 2, 0)),
        ([(3, 1, 4)], (9, 1, 0)),  # dilated: taps 0, 4, 8
        ([(3, 1, 4, 4)], (9, 1, -4)),
        ([(2, 2), (2, 2), (2, 2)], (8, 8, 0)),
        ([(5,)] * 10, (41, 1, 0)),
        ([(5, 1, 1, 2), (2, 2), (5,), (2, 2)], (16, 4, -2)),  # LeNet
        ([(11, 4), (3, 2), (5, 1, 1, 2), (3, 2)], (67, 16, -16)),  # AlexNet to its second pooling
    ],
)
def test_c15_stacks(stack, expected):
    assert receptive_field(stack) == expected


@pytest.mark.parametrize("layer", [(), (0,), (3, 0), (3, 1, 0), (3, 1, 1, -1), (3, 1, 1, 1, 1)])
def test_receptive_field_of_nonsense(layer):
    with pytest.raises(ValueError, match="a layer is"):
        receptive_field([layer])


STACKS = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3)),
    min_size=1,
    max_size=4,
)


def check_stack_by_gradient(stack):
    """The gradient of an inner unit is nonzero from its field's first to its last pixel."""
    field = receptive_field(stack)
    unit = math.ceil(-field.start / field.stride)  # the first whose field isn't cut off
    first = field.start + unit * field.stride
    size = first + field.size + 7

    def output(x):
        for k, s, d, p in stack:
            kernel = jnp.ones((k, 1, 1))
            x = jax.lax.conv_general_dilated(
                x,
                kernel,
                (s,),
                [(p, p)],
                rhs_dilation=(d,),
                dimension_numbers=("NWC", "WIO", "NWC"),
            )
        return x[0, unit, 0]

    seen = np.flatnonzero(jax.jit(jax.grad(output))(jnp.ones((1, size, 1)))[0, :, 0])
    assert (seen.min(), seen.max()) == (first, first + field.size - 1)


@hypothesis.settings(max_examples=12)
@hypothesis.given(STACKS)
def test_c15_receptive_field_is_the_support_of_the_gradient(stack):
    check_stack_by_gradient(stack)


@pytest.mark.slow
@hypothesis.settings(max_examples=300)
@hypothesis.given(STACKS)
def test_c15_receptive_field_is_the_support_of_the_gradient_at_length(stack):
    check_stack_by_gradient(stack)


# Receptive fields of networks, against gradients


class Dilated(nn.Module):
    """Dilation, stride, padding on one side, unequal axes; then plain functions."""

    @nn.compact
    def __call__(self, x, train=False):
        x = layers.Conv(2, (3, 2), dilation=(2, 3), padding=((3, 0), (1, 2)))(x)
        x = layers.Conv(2, 3, strides=(2, 1), padding=1, groups=2)(x)
        x = layers.BatchNorm()(x)
        x = ops.avg_pool(ops.relu(x), 2, padding=1)
        x = jnp.pad(x, ((0, 0), (1, 0), (2, 1), (0, 0)))[:, ::2, 1:]
        return layers.Conv(1, 2)(x)


class Branches(nn.Module):
    """Paths joined by concatenation and by a sum, without a module of their own."""

    @nn.compact
    def __call__(self, x, train=False):
        x = layers.Conv(4, 3, padding=1)(x)
        a = ops.relu(layers.Conv(2, 1)(x))
        b = ops.relu(layers.Conv(3, 1)(x))
        b = layers.Conv(2, 5, padding=2)(b)
        x = x + jnp.concatenate([b, a], axis=-1)
        x = layers.AvgPool(3, strides=2, padding=1)(x)
        x = Inception((1, (1, 1), (1, 1), 1), unit)(x)
        return layers.Conv(1, 2, strides=2)(x)


def unit(x, features, size, padding=0):
    return ops.relu(layers.Conv(features, size, padding=padding)(x))


class Excited(nn.Module):
    """A gate for each channel from the whole picture: everything after it sees all."""

    @nn.compact
    def __call__(self, x, train=False):
        x = layers.Conv(2, 3)(x)
        gate = layers.Dense(2)(layers.GlobalAvgPool()(x))
        return layers.Conv(1, 2)(x * gate[:, None, None])


class Wrapped(nn.Module):
    """Padding by other means than zeros."""

    padding_mode: str

    @nn.compact
    def __call__(self, x, train=False):
        x = layers.Conv(1, 3, padding=1, padding_mode=self.padding_mode)(x)
        return layers.Conv(1, 3, strides=2, padding=1, padding_mode=self.padding_mode)(x)


class FlaxLayers(nn.Module):
    """Flax's own layers."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(2, (3, 3), strides=2, padding="SAME")(x)
        x = nn.BatchNorm(use_running_average=True)(x)
        x = ops.avg_pool(nn.relu(x), 3, strides=2)
        return nn.Dense(1)(x)  # equal weights: a LayerNorm has no gradient


class Rank(nn.Module):
    """Convolutions of any rank."""

    @nn.compact
    def __call__(self, x, train=False):
        x = layers.Conv(2, 3, strides=2, padding=1)(x)
        x = layers.AvgPool(2, ceil_mode=True)(x)
        return layers.Dense(1)(layers.Flatten()(layers.Conv(1, 2)(x)))


def support_by_layer(module, shape, names):
    """For each layer: the unit in the middle, and the pixels with nonzero gradient (per axis).

    All weights are 1, so that nothing cancels; maxima become means, which see the whole window.
    """

    def as_means(call_next, args, kwargs, context):
        layer = context.module
        if isinstance(layer, layers.MaxPool) and context.method_name == "__call__":
            return ops.avg_pool(args[0], layer.window, strides=layer.strides, padding=layer.padding)
        return call_next(*args, **kwargs)

    picture = jnp.ones((1, *shape))
    shapes = jax.eval_shape(module.init, jax.random.key(0), picture)
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.5), shapes)

    def outputs(x):
        with nn.intercept_methods(as_means):
            _, state = module.apply(variables, x, capture_intermediates=True, mutable=True)
        return {name: find(state["intermediates"], name)["__call__"][0] for name in names}

    with forced("gpu"):  # the plain forms compile quickly
        values = jax.eval_shape(outputs, picture)
        pull_back = jax.jit(lambda cotangents: jax.vjp(outputs, picture)[1](cotangents)[0][0])
        pull_back = pull_back.lower(values).compile()
    supports = {}
    for name, value in values.items():
        middle = tuple(n // 2 for n in value.shape[1:-1])
        cotangents = {other: np.zeros(v.shape, np.float32) for other, v in values.items()}
        cotangents[name][(0, *middle)] = 1
        pixels = np.argwhere(np.asarray(pull_back(cotangents)).any(-1))
        supports[name] = middle, pixels.min(0), pixels.max(0)
    return supports


def find(tree, path):
    for name in path.split("/"):
        tree = tree[name]
    return tree


def check_fields_by_gradient(module, shape):
    """Every layer's field, cut to the picture, is the hull of its gradient's support.

    The sizes must leave no rest in any stride: a later layer's padding would stand for the rest.
    """
    table = {
        name: row for name, row in rows(module, shape).items() if row.kind not in ("Flatten", "")
    }
    assert all(row.receptive_field for row in table.values())
    sizes = np.array(shape[:-1])
    for name, (middle, first, last) in support_by_layer(module, shape, table).items():
        row = table[name]
        position = np.array(middle) if middle else np.zeros(len(sizes), int)
        start = np.array(row.receptive_field_start) + position * row.receptive_field_stride
        stop = start + row.receptive_field
        np.testing.assert_array_equal(first, np.maximum(start, 0), name)
        np.testing.assert_array_equal(last, np.minimum(stop, sizes) - 1, name)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (models.create("lenet", activation="identity"), (28, 28, 1)),
        (Dilated(), (37, 41, 2)),
        (Branches(), (30, 27, 1)),
        (Excited(), (9, 8, 1)),
        (Wrapped("replicate"), (13, 12, 1)),
        (FlaxLayers(), (29, 30, 1)),
        (Rank(), (23, 2)),
        (Rank(), (9, 10, 11, 1)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_c15_fields_are_the_supports_of_the_gradients(module, shape):
    check_fields_by_gradient(module, shape)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("googlenet", (97, 96, 1), {"width": 1 / 32}),
        ("nin", (131, 163, 1), {"width": 1 / 96, "classes": 1}),
        ("alexnet", (129, 161, 1), {"width": 1 / 96, "hidden": (2,), "dropout": (0.0,)}),
        ("lenet_improved", (28, 28, 1), {"norm": "batch"}),
        ("cifar_quick", (32, 32, 3), {}),
        ("vgg11", (64, 64, 1), {"width": 1 / 64, "hidden": (2,), "dropout": (0.0,)}),
    ],
)
def test_c15_fields_of_the_large_networks(name, shape, options):
    check_fields_by_gradient(models.create(name, **options), shape)


def test_circular_and_reflected_padding_are_read_as_padding():
    for mode in ("circular", "reflect"):
        assert rows(Wrapped(mode), (13, 12, 1)) == rows(Wrapped("zeros"), (13, 12, 1))


def test_a_branch_sees_what_enters_it_not_what_came_before_it():
    table = rows(Branches(), (30, 27, 1))
    assert table["Conv_1"].receptive_field == (3, 3)
    assert table["Conv_2"].receptive_field == (3, 3)  # after Conv_1 in time, not in the data
    assert table["Conv_3"].receptive_field == (7, 7)
    assert table["AvgPool_0"].receptive_field == (9, 9)
    assert table["Inception_0/Conv_0"].receptive_field == (9, 9)
    assert table["Inception_0/Conv_4"].receptive_field == (17, 17)  # 5×5 of stride 2
    assert table["Conv_4"].receptive_field == (19, 19)


def test_c15_a_field_may_exceed_the_picture():
    last = rows(models.create("vgg11"), (32, 32, 1))["MaxPool_4"]
    assert (last.output_shape, last.receptive_field) == ((1, 1, 512), (150, 150))


class Unreadable(nn.Module):
    """An operation that mixes positions in a way that isn't followed."""

    @nn.compact
    def __call__(self, x, train=False):
        x = layers.Conv(2, 3)(x)
        x = jnp.cumsum(x, axis=1)
        return layers.Conv(1, 3)(x)


def test_what_cannot_be_followed_is_unknown():
    table = rows(Unreadable(), (8, 8, 1))
    assert table["Conv_0"].receptive_field == (3, 3)
    assert table["Conv_1"].receptive_field is None
    assert table["Conv_1"].receptive_field_stride is None
    assert table["Conv_1"].multiply_adds == 16 * 9 * 2


# Costs by formula


def test_c16_numbers():
    assert dense_cost(3 * 256 * 256, 1000).parameters == 196_609_000
    assert conv_cost((8, 8, 3), 10, 3).parameters == 280
    assert dense_cost(10**6, 1000, use_bias=False).parameters == 10**9


def test_c16_doubling_both_numbers_of_channels_makes_four_times_the_multiply_adds():
    small, large = (
        conv_cost((16, 16, 8), 12, 3, padding=1),
        conv_cost((16, 16, 16), 24, 3, padding=1),
    )
    assert large.multiply_adds == 4 * small.multiply_adds
    assert large.output_bytes == 2 * small.output_bytes
    rows_small, rows_large = (
        rows(models.create("lenet", channels=channels), (28, 28, 1))
        for channels in ((6, 16), (12, 32))
    )
    assert rows_large["Conv_1"].multiply_adds == 4 * rows_small["Conv_1"].multiply_adds


def test_c16_by_hand():
    # 4×5 positions, 3×3 window, 2 → 6 channels in 2 groups: 1 input channel for each output.
    cost = conv_cost((6, 7, 2), 6, 3, groups=2)
    assert cost == (3 * 3 * 6 + 6, *(20 * 9 * 6,) * 3, 6 * 7 * 2 * 4, 20 * 6 * 4)
    assert dense_cost(9, 4, dtype="bfloat16") == (40, 36, 36, 36, 18, 8)


def test_conv_cost_of_nonsense():
    with pytest.raises(ValueError, match="groups=2 must divide 3"):
        conv_cost((8, 8, 3), 4, 3, groups=2)
    with pytest.raises(ValueError, match="the kernel spans 9 pixels"):
        conv_cost((8, 8, 3), 4, 9)


OPTIONS = st.fixed_dictionaries(
    {
        "kernel_size": st.integers(1, 4) | st.tuples(st.integers(1, 4), st.integers(1, 4)),
        "strides": st.integers(1, 3),
        "padding": st.integers(0, 3) | st.sampled_from(["SAME", ((0, 1), (2, 3))]),
        "dilation": st.integers(1, 2),
        "groups": st.sampled_from([1, 2]),
        "use_bias": st.booleans(),
        "dtype": st.sampled_from(["float32", "bfloat16"]),
    }
)


@hypothesis.settings(max_examples=40)
@hypothesis.given(options=OPTIONS, size=st.tuples(st.integers(8, 12), st.integers(8, 12)))
def test_c16_table_and_formula_agree(options, size):
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = layers.Conv(2, 1, dtype=options["dtype"])(x)
            return layers.Conv(4, **options)(x)

    row = rows(Two(), (*size, 3))["Conv_1"]
    cost = conv_cost((*size, 2), 4, **options)
    assert row.parameters == cost.parameters
    assert row.multiply_adds == cost.multiply_adds
    gradients = cost.kernel_gradient_multiply_adds + cost.input_gradient_multiply_adds
    assert row.backward_multiply_adds == gradients
    assert row.forward_bytes == cost.output_bytes
    assert row.backward_bytes == cost.output_bytes + cost.input_bytes


# Costs against the compiler's


def flops(function, *arguments):
    """The compiler's count for the plain forms of all operations; nothing is run."""
    with forced("gpu"):
        return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def products_inside(n, k, s, d, p):
    """Products along one axis that aren't with padding, by a loop."""
    positions = range(-p, n + p - d * (k - 1), s)
    return sum(0 <= start + d * tap < n for start in positions for tap in range(k))


@pytest.mark.parametrize(
    ("n", "channels", "features", "k", "s", "d", "p", "groups"),
    [
        (12, 3, 5, 3, 1, 1, 0, 1),
        (12, 4, 6, 3, 2, 1, 0, 2),
        (15, 2, 3, 5, 3, 2, 0, 1),
        (10, 6, 6, 3, 1, 1, 0, 6),
        (12, 3, 5, 5, 1, 1, 2, 1),
        (13, 3, 4, 3, 2, 2, 3, 1),
        (10, 6, 6, 3, 1, 1, 1, 6),
    ],
)
def test_c16_compiler_counts_two_operations_for_each_multiply_add(
    n, channels, features, k, s, d, p, groups
):
    """Equal without padding; with padding, the compiler leaves out products with its zeros."""
    cost = conv_cost((n, n, channels), features, k, s, p, d, groups)
    x = jnp.zeros((1, n, n, channels))
    kernel = jnp.zeros((k, k, channels // groups, features))

    def convolve(x, kernel):
        return ops.conv(x, kernel, strides=s, padding=p, dilation=d, groups=groups)

    inside = products_inside(n, k, s, d, p) ** 2 * channels * features // groups
    assert flops(convolve, x, kernel) == 2 * inside
    if p == 0:
        assert inside == cost.multiply_adds
    else:
        assert inside < cost.multiply_adds

    def gradients(x, kernel, g):
        return jax.vjp(convolve, x, kernel)[1](g)

    if groups == 1:  # of grouped gradients XLA counts the products that it masks, too
        g = jax.eval_shape(convolve, x, kernel)
        expected = cost.kernel_gradient_multiply_adds + cost.input_gradient_multiply_adds
        count = flops(gradients, x, kernel, g)
        assert count == 4 * inside if p else count == 2 * expected


def test_c16_compiler_counts_of_a_dense_layer():
    cost = dense_cost(100, 30, use_bias=False)
    assert flops(jnp.dot, jnp.zeros((1, 100)), jnp.zeros((100, 30))) == 2 * cost.multiply_adds


def cross_entropy(module, params, state, x, labels):
    return ops.cross_entropy(module.apply({**state, "params": params}, x), labels).mean()


@pytest.mark.parametrize(
    ("name", "shape", "options", "tolerance"),
    [
        ("mlp", (28, 28, 1), {}, 0.01),
        ("lenet", (28, 28, 1), {"paddings": (0, 0)}, 0.06),  # tanh, sigmoid and the means weigh
        ("alexnet_notes", (224, 224, 1), {}, 0.15),  # paddings of 2 and 1 on 26 and 12 pixels
        ("nin", (224, 224, 1), {}, 0.15),
        ("vgg11", (224, 224, 1), {}, 0.05),
    ],
)
def test_c16_compiler_counts_of_networks(name, shape, options, tolerance):
    """Forward, and gradients alone, within what paddings and other operations make up."""
    module = models.create(name, **options)
    table = analyze(module, shape)
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    forward = flops(module.apply, variables, x)
    assert forward == pytest.approx(2 * table.multiply_adds, rel=tolerance)
    if name in ("mlp", "lenet"):
        labels = jax.ShapeDtypeStruct((1,), jnp.int32)
        gradient = jax.grad(lambda p, x, y: cross_entropy(module, p, {}, x, y))
        both = flops(gradient, variables["params"], x, labels)
        expected = 2 * (table.multiply_adds + table.backward_multiply_adds)
        assert both == pytest.approx(expected, rel=tolerance)


def test_c16_compiled_cost_of_lenet_and_its_activation_memory():
    """The plain form. Inference takes the peak exactly; compiled cost is as before compilation."""
    module = models.create("lenet")
    table = analyze(module, (28, 28, 1))
    x = jax.ShapeDtypeStruct((8, 28, 28, 1), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    with forced("gpu"):
        compiled = jax.jit(module.apply).lower(variables, x).compile()
    assert compiled.cost_analysis()["flops"] == pytest.approx(16 * table.multiply_adds, rel=0.03)
    temporary = compiled.memory_analysis().temp_size_in_bytes
    assert temporary == pytest.approx(8 * table.inference_peak_bytes, rel=0.01)


@pytest.mark.parametrize(("name", "shape"), [("lenet", (28, 28, 1)), ("cifar_quick", (32, 32, 3))])
def test_c16_training_memory_is_within_half_of_what_the_compiler_takes(name, shape):
    """The form that runs here: it keeps copies for speed, and XLA reuses what it can."""
    module = models.create(name)
    table = analyze(module, shape)
    x = jax.ShapeDtypeStruct((64, *shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((64,), jnp.int32)
    params = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    gradient = jax.grad(lambda p, x, y: cross_entropy(module, p, {}, x, y))
    memory = jax.jit(gradient).lower(params, x, labels).compile().memory_analysis()
    estimate = 64 * table.training_peak_bytes
    assert 1 / 1.5 <= memory.temp_size_in_bytes / estimate <= 1.5


# Whole tables


def test_n1_table_of_lenet():
    table = analyze(models.create("lenet"), (28, 28, 1))
    assert [(r.kind, r.output_shape, r.parameters, r.multiply_adds) for r in table.layers] == [
        ("Conv", (28, 28, 6), 156, 117_600),
        ("AvgPool", (14, 14, 6), 0, 0),
        ("Conv", (10, 10, 16), 2_416, 240_000),
        ("AvgPool", (5, 5, 16), 0, 0),
        ("Flatten", (400,), 0, 0),
        ("Dense", (120,), 48_120, 48_000),
        ("Dense", (84,), 10_164, 10_080),
        ("Dense", (10,), 850, 840),
    ]
    assert [r.receptive_field[0] for r in table.layers] == [5, 6, 14, 16, 16, 32, 32, 32]
    assert (table.parameters, table.multiply_adds) == (61_706, 416_520)
    # The picture needs no gradient: the first layer's products are needed once, not twice.
    assert table.backward_multiply_adds == 2 * 416_520 - 117_600
    assert table.dense_parameters / table.parameters > 0.9
    # 18,816 bytes leave the first convolution and 4,704 the first pooling.
    assert table.layers[0].backward_bytes == 18_816
    assert table.layers[1].backward_bytes == 18_816 + 4_704
    assert table.inference_peak_bytes == 18_816 + 4_704
    kept = 4 * (28 * 28 * 6 + 14 * 14 * 6 + 1600 + 400 + 120 + 84 + 10)  # flattening is free
    assert table.forward_bytes == kept
    assert table.training_peak_bytes == 4 * 28 * 28 + kept + 18_816 + 4_704


def test_n9_table_of_cifar_quick():
    table = analyze(models.create("cifar_quick"), (32, 32, 3))
    assert [r.output_shape for r in table.layers] == [
        (32, 32, 32), (16, 16, 32), (16, 16, 32), (8, 8, 32), (8, 8, 64), (4, 4, 64),
        (1024,), (64,), (10,),
    ]  # fmt: skip
    assert [r.parameters for r in table.layers] == [2432, 0, 25632, 0, 51264, 0, 0, 65600, 650]
    assert table.parameters == 145_578
    assert table.multiply_adds == 2_457_600 + 6_553_600 + 3_276_800 + 65_536 + 640


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("softmax", (28, 28, 1), 7_850),
        ("mlp", (28, 28, 1), 203_530),
        ("mlp_dropout", (28, 28, 1), 269_322),
        ("lenet_improved", (28, 28, 1), 21_940),
        ("alexnet", (224, 224, 1), 46_764_746),
        ("alexnet_notes", (224, 224, 1), 29_983_434),
        ("vgg16", (224, 224, 1), 134_300_362),
        ("vgg19", (224, 224, 1), 139_610_058),
        ("nin", (224, 224, 1), 1_992_166),
    ],
)
def test_parameters_of_the_layers_are_all_parameters(name, shape, parameters):
    table = analyze(models.create(name), shape)
    assert table.parameters == parameters
    assert sum(row.parameters for row in table.layers) == parameters
    assert layer_table.OTHER not in [row.name for row in table.layers]


def test_n8_googlenet():
    assert googlenet().parameters == sum(row.parameters for row in googlenet().layers) == 5_977_530
    table = {row.name: row for row in googlenet().layers}
    assert table["MaxPool_0"].output_shape == (24, 24, 64)
    assert table["MaxPool_1"].output_shape == (12, 12, 192)
    assert table["MaxPool_2"].output_shape == (6, 6, 480)
    assert table["MaxPool_3"].output_shape == (3, 3, 832)
    assert table["GlobalAvgPool_0"].output_shape == (1024,)


class Shared(nn.Module):
    """One layer twice, parameters of the network's own, a product of its own."""

    @nn.compact
    def __call__(self, x, train=False):
        dense = layers.Dense(6)
        x = dense(ops.relu(dense(x.reshape(x.shape[0], -1))))
        return x @ self.param("matrix", nn.initializers.ones, (6, 5))


def test_a_layer_called_twice_has_its_parameters_once_and_the_rest_has_a_row():
    first, second, other = analyze(Shared(), (2, 3, 1)).layers
    assert (first.name, first.parameters, first.multiply_adds) == ("Dense_0", 42, 36)
    assert (second.name, second.parameters, second.multiply_adds) == ("Dense_0", 0, 36)
    assert (first.backward_multiply_adds, second.backward_multiply_adds) == (36, 72)
    assert (other.name, other.parameters, other.multiply_adds) == (layer_table.OTHER, 30, 30)
    assert other.output_shape == (5,)
    assert first.receptive_field == second.receptive_field == (2, 3)


def test_heads_that_only_training_runs_are_counted_as_other():
    table = analyze(models.create("googlenet", auxiliary=True), (96, 96, 1))
    *_, other = table.layers
    assert other.name == layer_table.OTHER
    assert other.parameters == table.parameters - 5_977_530 > 0


def test_bfloat16_takes_half_the_memory():
    single = analyze(models.create("vgg11"), (64, 64, 1))
    half = analyze(models.create("vgg11", dtype="bfloat16"), (64, 64, 1), "bfloat16")
    assert 2 * half.forward_bytes == single.forward_bytes
    assert half.multiply_adds == single.multiply_adds


def test_rows_say_nothing_but_numbers_python_can_write():
    for row in analyze(models.create("lenet"), (28, 28, 1)).layers:
        assert type(row.multiply_adds) is int
        assert math.prod(row.output_shape) > 0


@pytest.mark.parametrize("shape", [(), (28,), (28, 0, 1)])
def test_input_shape_is_checked(shape):
    with pytest.raises(ValueError, match="must be height,width,channels"):
        analyze(models.create("lenet"), shape)


def test_an_input_too_small_is_said_in_one_sentence():
    with pytest.raises(ValueError, match="the kernel spans 5 pixels") as error:
        analyze(models.create("lenet"), (3, 3, 1))
    assert "\n" not in str(error.value)


class Two(nn.Module):
    """A module that activates what a layer, or nothing, gives it."""

    alone: bool

    @nn.compact
    def __call__(self, x):
        x = x if self.alone else layers.Conv(4, 3, strides=2)(x)
        return layers.activation("relu")(x) + 1


def test_activations_have_rows_that_cost_nothing():
    plain = analyze(Two(False), (9, 9, 2))
    table = analyze(Two(False), (9, 9, 2), activations=True)
    conv, relu = table.layers
    assert (conv,) == plain.layers
    assert (relu.name, relu.kind, relu.output_shape) == ("Conv_0/relu", "relu", (4, 4, 4))
    assert relu.receptive_field == conv.receptive_field == (3, 3)
    assert relu.receptive_field_stride == (2, 2)
    assert relu.parameters == relu.multiply_adds == relu.forward_bytes == relu.backward_bytes == 0
    assert dataclasses.replace(table, layers=plain.layers) == plain
    # Within a module that is one row itself there is nothing between layers.
    assert analyze(Two(True), (9, 9, 2), activations=True) == analyze(Two(True), (9, 9, 2))
