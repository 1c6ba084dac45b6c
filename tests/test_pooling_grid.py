"""Pooling with random combinations of options against three oracles that are not this code.

Values and gradients against float64 loops (`tests.reference`) and what PyTorch computed
(golden/grid.npz); values against onnxruntime; for the options that these have.
Every case runs on both forms of the operation (see `cnn_jax.ops.platform`).
"""

import random
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from cnn_jax import ops
from cnn_jax.ops.platform import forced
from tests import reference
from tests.golden import make_grid

FAST_CASES = 24
SLOW_BLOCKS, SLOW_BLOCK = 24, 25

KINDS = ("max", "max", "avg", "avg", "min", "lp", "softmax")


def random_case(seed):
    """(kind, sizes, options as given to ops, pads per side, extra options of the kind)."""
    r = random.Random(seed)
    while True:
        kind = r.choice(KINDS)
        rank = r.choice((1, 2, 2, 2, 3))
        long = r.random() < 0.2  # more taps than are written out at once
        most_size, most_window = {1: (40, 20), 2: (12, 7), 3: (7, 4)}[rank] if long else (8, 4)
        sizes = [r.randint(1, most_size) for _ in range(rank)]
        window = [r.randint(1, most_window) for _ in range(rank)]
        strides = r.choice((None, [r.randint(1, 4) for _ in range(rank)]))
        dilation = r.choice(([1] * rank, [r.randint(1, 3) for _ in range(rank)]))
        pads = [(r.randint(0, k // 2 + 1), r.randint(0, k // 2 + 1)) for k in window]
        padding = r.choice(("SAME", "VALID", pads, "numbers", "numbers"))
        if padding == "numbers":
            padding = [r.randint(0, k // 2) for k in window]
            pads = [(p, p) for p in padding]
        elif padding == "VALID":
            pads = [(0, 0)] * rank
        elif padding == "SAME":
            pads = []
            for n, k, s, d in zip(sizes, window, strides or window, dilation, strict=True):
                total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
                pads.append((total // 2, total - total // 2))
        ceil_mode = r.random() < 0.5
        geometry = zip(sizes, window, strides or window, pads, dilation, strict=True)
        axes = [reference.pooling_windows(*axis, ceil_mode) for axis in geometry]
        touching = [
            all(any(0 <= i < n for i in taps) for taps in windows)
            for n, windows in zip(sizes, axes, strict=True)
        ]
        if all(axes) and all(touching):
            break
    options = {"strides": strides, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
    extra = {}
    if kind == "avg":
        extra["count_include_pad"] = r.random() < 0.5
    if kind == "lp":
        extra["p"] = r.choice((1, 2, 3, 2.5))
    return kind, sizes, window, options, pads, extra


def by_reference(seed):
    """(input, cotangent, value, gradient) of a random case, by loops in float64."""
    kind, sizes, window, options, pads, extra = random_case(seed)
    rng = np.random.default_rng(seed)
    shape = (2, *sizes, 2)
    # Small integers tie often, and their sums are exact.
    x = rng.normal(size=shape) if kind in ("lp", "softmax") else rng.integers(-3, 4, shape)
    x = x.astype(np.float32)

    strides = options["strides"] or window
    of_window = {
        "max": reference.largest,
        "min": reference.smallest,
        "avg": reference.mean,
        "lp": reference.norm(extra.get("p")),
        "softmax": reference.softmax_mean,
    }[kind]
    expected, gradient = reference.pool(
        x,
        of_window,
        window,
        strides,
        pads,
        options["dilation"],
        options["ceil_mode"],
        extra.get("count_include_pad", True),
    )
    g = rng.integers(-3, 4, expected.shape).astype(np.float32)
    return x, g, expected, gradient(g)


def check_case(seed):
    kind, sizes, window, options, pads, extra = random_case(seed)
    x, g, expected, expected_dx = by_reference(seed)
    strides = options["strides"] or window
    pool = getattr(ops, f"{kind}_pool")
    for path in ("cpu", "gpu"):
        with forced(path):
            y, dx = value_and_gradient(partial(pool, window=window, **options, **extra), x, g)
        assert y.dtype == jnp.float32
        note = f"seed {seed} {path}: {kind} {sizes} {window} {options} {extra}"
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5, err_msg=note)
        np.testing.assert_allclose(dx, expected_dx, rtol=1e-4, atol=1e-4, err_msg=note)
    seen = {"cpu", "gpu"}
    if by_onnx(x, kind, window, strides, pads, options, extra, expected):
        seen.add("onnxruntime")
    if f"pool {seed} value" in make_grid.stored():
        seen.add("torch")
        stored = (make_grid.stored()[f"pool {seed} {name}"] for name in ("value", "gradient"))
        for a, b in zip(stored, (expected, expected_dx), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
    return seen


def value_and_gradient(f, x, g):
    """f(x) and the gradient of sum(g · f(x)), compiled as one function."""

    def both(x, g):
        y, vjp = jax.vjp(f, x)
        return y, *vjp(g)

    return jax.tree.map(np.asarray, jax.jit(both)(x, g))


def by_onnx(x, kind, window, strides, pads, options, extra, expected):
    operators = {"max": "MaxPool", "avg": "AveragePool", "lp": "LpPool"}
    too_much = any(max(pair) >= k for pair, k in zip(pads, window, strict=True))  # for it
    if kind not in operators or extra.get("p", 1) not in (1, 2, 3) or too_much:
        return False
    attributes = {
        "kernel_shape": window,
        "strides": strides,
        "pads": [before for before, _ in pads] + [after for _, after in pads],
        "dilations": options["dilation"],
        "ceil_mode": int(options["ceil_mode"]),
    }
    if kind == "avg":
        attributes["count_include_pad"] = int(extra["count_include_pad"])
    if kind == "lp":
        attributes["p"] = extra["p"]
    y = run_onnx(operators[kind], np.moveaxis(x, -1, 1), attributes)
    np.testing.assert_allclose(np.moveaxis(y, 1, -1), expected, rtol=1e-5, atol=1e-5)
    return True


def run_onnx(operator, x, attributes):
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "pool",
        [helper.make_tensor_value_info("x", float32, x.shape)],
        [helper.make_tensor_value_info("y", float32, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


def by_torch(x, g, kind, window, strides, pads, options, extra):
    """(value, gradient) as PyTorch has them, or None where it lacks the option."""
    import torch

    even = all(before == after <= k // 2 for (before, after), k in zip(pads, window, strict=True))
    dilated = max(options["dilation"]) > 1
    if kind not in ("max", "avg") or not even or (dilated and kind == "avg"):
        return None
    if kind == "avg" and len(window) == 3 and any(np.less(x.shape[1:-1], window)):
        return None  # it wants the window to fit without padding, but only in three dimensions
    pool = getattr(torch.nn.functional, f"{kind}_pool{len(window)}d")
    arguments = {
        "stride": strides,
        "padding": [before for before, _ in pads],
        "ceil_mode": options["ceil_mode"],
        **({"dilation": options["dilation"]} if kind == "max" else extra),
    }
    xt = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    y = pool(xt, window, **arguments)
    y.backward(torch.tensor(np.moveaxis(g, -1, 1)))
    return np.moveaxis(y.detach().numpy(), 1, -1), np.moveaxis(xt.grad.numpy(), 1, -1)


@pytest.mark.parametrize("seed", range(FAST_CASES))
def test_random_options(seed):
    check_case(seed)


def test_pytorch_was_asked_where_it_has_the_options():
    stored = {int(name.split()[1]) for name in make_grid.stored() if name.startswith("pool")}
    assert len(stored) > make_grid.POOLINGS / 3
    kinds = {random_case(seed)[0] for seed in stored if seed < FAST_CASES}
    assert kinds == {"max", "avg"}


@pytest.mark.slow
@pytest.mark.parametrize("block", range(SLOW_BLOCKS))
def test_many_random_options(block):
    first = FAST_CASES + block * SLOW_BLOCK
    oracles = [check_case(seed) for seed in range(first, first + SLOW_BLOCK)]
    assert sum("onnxruntime" in seen for seen in oracles) > SLOW_BLOCK / 4
