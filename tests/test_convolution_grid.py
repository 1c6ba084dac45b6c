"""Random combinations of all of convolution's options: values and both gradients, on both paths.

Images, kernels and cotangents are small integers, so that results are exact whatever the order of
the sums, and equal the float64 loops of `reference` to the last bit; rounded to bfloat16 in every
fourth case. What PyTorch computes is in golden/grid.npz; ONNX Runtime (where it has the option) is
asked too.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

from cnn_jax import ops
from cnn_jax.ops.platform import forced
from tests import reference
from tests.golden import make_grid

FAST_SEEDS, SLOW_CASES, CASES_PER_TEST = 16, 620, 20


class Case(NamedTuple):
    """One combination; `padding` is what the user writes, `pads` what it means."""

    x: np.ndarray
    kernel: np.ndarray
    strides: list[int]
    padding: object
    pads: list[tuple[int, int]]
    dilation: list[int]
    groups: int
    mode: str
    bias: np.ndarray

    def __str__(self):
        names = self._fields[2:-1]
        options = ", ".join(f"{n}={v}" for n, v in zip(names, self[2:-1], strict=True))
        return f"x {self.x.shape}, kernel {self.kernel.shape}, {options}"


def random_case(seed: int) -> Case:
    """A combination that works, drawn such that every option meets every other."""
    rng = np.random.default_rng(seed)

    def draw(low, high):
        return int(rng.integers(low, high + 1))

    axes = int(rng.choice([1, 2, 2, 2, 3]))
    window = [draw(1, 4 if axes < 3 else 2) for _ in range(axes)]
    strides = [draw(1, 3) for _ in range(axes)]
    dilation = [int(rng.choice([1, 1, 2, 3])) for _ in range(axes)]
    mode = str(rng.choice(["zeros", "zeros", "zeros", "reflect", "replicate", "circular"]))

    kind = str(rng.choice(["number", "per axis", "pairs", "SAME", "VALID"]))
    if kind == "number":
        padding = draw(0, 3)
        pads = [(padding, padding)] * axes
    elif kind == "per axis":
        padding = [draw(0, 3) for _ in range(axes)]
        pads = [(p, p) for p in padding]
    elif kind == "pairs":
        padding = pads = [(draw(0, 3), draw(0, 3)) for _ in range(axes)]
    else:
        padding, pads = kind, [(0, 0)] * axes

    spans = [d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True)]
    sizes = []
    for span, pair in zip(spans, pads, strict=True):
        reach = {"reflect": max(pair) + 1, "circular": max(pair)}.get(mode, 1)
        sizes.append(max(1, span - sum(pair), reach) + draw(0, 6 if axes < 3 else 2))
    if kind == "SAME":
        totals = [
            max(0, (-(-n // s) - 1) * s + span - n)
            for n, s, span in zip(sizes, strides, spans, strict=True)
        ]
        pads = [(total // 2, total - total // 2) for total in totals]

    groups = int(rng.choice([1, 1, 1, 2, 3]))
    per_group = int(rng.choice([1, 2, 3, 5] if groups > 1 else [1, 1, 2, 3, 5, 9]))
    features = groups * draw(1, 3)
    x = rng.integers(-3, 4, (draw(1, 3), *sizes, groups * per_group))
    kernel = rng.integers(-3, 4, (*window, per_group, features))
    bias = rng.integers(-3, 4, features)
    return Case(x, kernel, strides, padding, pads, dilation, groups, mode, bias)


RESULTS = ("value", "input gradient", "kernel gradient", "bias gradient")


def by_reference(case: Case, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """A cotangent g, and what RESULTS are with it, by loops in float64."""
    geometry = case.strides, case.pads, case.dilation, case.groups, case.mode
    y = reference.conv(case.x, case.kernel, *geometry) + case.bias
    g = np.random.default_rng(seed).integers(-3, 4, y.shape)
    dx, dkernel = reference.conv_gradients(case.x, case.kernel, g, *geometry)
    return g, [y, dx, dkernel, g.sum(tuple(range(g.ndim - 1)))]


def check(seed: int) -> None:
    case = random_case(seed)
    g, expected = by_reference(case, seed)

    def convolve(x, kernel, bias):
        y = ops.conv(
            x,
            kernel,
            strides=case.strides,
            padding=case.padding,
            dilation=case.dilation,
            groups=case.groups,
            padding_mode=case.mode,
        )
        return ops.add_bias(y, bias)

    dtype = jnp.bfloat16 if seed % 4 == 3 else jnp.float32
    arguments = [jnp.array(a, dtype) for a in (case.x, case.kernel, case.bias, g)]
    for platform in ("cpu", "gpu"):

        @jax.jit
        def value_and_gradients(x, kernel, bias, g):
            y, vjp = jax.vjp(convolve, x, kernel, bias)
            return y, *vjp(g)

        with forced(platform):
            got = value_and_gradients(*arguments)
        for name, a, b in zip(RESULTS, got, expected, strict=True):
            note = f"{platform}, {name}, seed {seed}: {case}"
            assert a.dtype == dtype, note
            if dtype == jnp.bfloat16:  # rounded after the convolution, and in sums for the bias
                rounding = (0.02, 1) if name == "bias gradient" else (0.01, 0)
                np.testing.assert_allclose(a.astype("float32"), b, *rounding, err_msg=note)
            else:
                np.testing.assert_array_equal(a, b, note)

    if case.mode == "zeros":
        value = by_onnxruntime(case) + case.bias
        np.testing.assert_allclose(value, expected[0], atol=1e-4, err_msg=str(case))
    if seed < make_grid.CONVOLUTIONS:
        for name, b in zip(RESULTS, expected, strict=True):
            a = make_grid.stored()[f"conv {seed} {name}"]
            np.testing.assert_array_equal(a, b, f"PyTorch's, {name}: {case}")


def by_onnxruntime(case: Case) -> np.ndarray:
    """The value as ONNX Runtime's Conv has it, which is channels first."""
    x = np.moveaxis(case.x, -1, 1).astype(np.float32)
    kernel = np.moveaxis(case.kernel, (-1, -2), (0, 1)).astype(np.float32)
    node = onnx.helper.make_node(
        "Conv",
        ["x", "kernel"],
        ["y"],
        strides=case.strides,
        dilations=case.dilation,
        group=case.groups,
        pads=[before for before, _ in case.pads] + [after for _, after in case.pads],
    )
    value = partial(onnx.helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT)
    graph = onnx.helper.make_graph(
        [node],
        "conv",
        [value("x", shape=x.shape), value("kernel", shape=kernel.shape)],
        [value("y", shape=None)],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 22)], ir_version=10
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, {"x": x, "kernel": kernel})
    return np.moveaxis(y, 1, -1)


def by_torch(case: Case, g: np.ndarray) -> list[np.ndarray]:
    """RESULTS as PyTorch has them; its own padding only where it has such an option."""
    import torch

    def tensor(array):
        return torch.tensor(np.ascontiguousarray(array), dtype=torch.float32)

    x = tensor(np.moveaxis(case.x, -1, 1)).requires_grad_()
    kernel = tensor(np.moveaxis(case.kernel, (-1, -2), (0, 1))).requires_grad_()
    sides = [p for pair in reversed(case.pads) for p in pair]
    mode = "constant" if case.mode == "zeros" else case.mode
    padded = torch.nn.functional.pad(x, sides, mode)
    convolve = getattr(torch.nn.functional, f"conv{x.ndim - 2}d")
    bias = tensor(case.bias).requires_grad_()
    y = convolve(padded, kernel, bias, case.strides, 0, case.dilation, case.groups)
    y.backward(tensor(np.moveaxis(g, -1, 1)))
    return [
        np.moveaxis(y.detach().numpy(), 1, -1),
        np.moveaxis(x.grad.numpy(), 1, -1),
        np.moveaxis(kernel.grad.numpy(), (0, 1), (-1, -2)),
        bias.grad.numpy(),
    ]


@pytest.mark.parametrize("seed", range(FAST_SEEDS))
def test_C11_random_options(seed):
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(FAST_SEEDS, FAST_SEEDS + SLOW_CASES, CASES_PER_TEST))
def test_C11_random_options_in_numbers(first):
    for seed in range(first, first + CASES_PER_TEST):
        check(seed)
    jax.clear_caches()  # hundreds of compiled functions that nobody calls again


def test_the_grid_reaches_every_option():
    """Each option of the fast grid takes each of its values, so that a broken one can't hide."""
    cases = [random_case(seed) for seed in range(FAST_SEEDS)]
    assert {case.mode for case in cases} == {"zeros", "reflect", "replicate", "circular"}
    assert {case.x.ndim for case in cases} == {3, 4, 5}
    assert {case.groups for case in cases} == {1, 2, 3}
    assert {"SAME", "VALID"} < {str(case.padding) for case in cases}
    assert any(case.groups == case.x.shape[-1] > 1 for case in cases)  # depthwise
    assert any(before != after for case in cases for before, after in case.pads)
    assert any(case.mode != "zeros" and any(map(any, case.pads)) for case in cases)
    assert {1, 2, 3} == {s for case in cases for s in case.strides}
    assert {1, 2, 3} == {d for case in cases for d in case.dilation}
