"""What the training program of each network becomes for GPUs and TPUs, which needn't be there."""

import re

import jax
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import config, experiment, layers
from cnn_jax.ops import platform
from tests.networks import SMALL

QUICK = ("lenet", "alexnet", "resnet20")
TARGETS = {"gpu": ("cuda", "rocm"), "tpu": ("tpu",)}


def build(network, dtype, **arguments):
    options, size, _ = SMALL[network]
    base = config.Config(
        dataset=config.DatasetConfig(name="synthetic:size=28,train=40,test=24", image_size=size),
        model=config.ModelConfig(network, dtype=dtype),
        batch_size=8,
        eval_batch_size=8,
    )
    own = {f"model.{name}": value for name, value in options.items() if name != "classes"}
    settings = config.resolve(config.with_values(base, {**own, "optimizer.momentum": 0.9}))
    return experiment.build(settings, experiment.load_dataset(settings.dataset), **arguments)


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype), tree)


def trace(ready):
    """The traced program of all training steps."""
    state = jax.eval_shape(ready.init_state)
    data, order = shapes(ready.train_data), shapes(ready.train_order(0))
    return ready.program.train_steps.trace(state, shapes(ready.start_totals()), data, order, 0, 1)


def count_convolutions(ready):
    """How many convolutions a forward pass has."""
    calls = []

    def count(call, args, kwargs, context):
        if isinstance(context.module, layers.Conv) and context.method_name == "__call__":
            calls.append(context.module.name)
        return call(*args, **kwargs)

    def forward():
        images = ready.preprocess(ready.train_data.images[:1], None)
        with nn.intercept_methods(count):
            return ready.model.init(jax.random.key(0), images, train=True)

    jax.eval_shape(forward)
    return len(calls)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "network", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SMALL]
)
def test_a_step_for_an_accelerator_has_no_trace_of_the_forms_for_a_cpu(network, dtype):
    ready = build(network, dtype)
    convolutions = count_convolutions(ready)
    for kind, targets in TARGETS.items():
        with platform.forced(kind):
            traced = trace(ready)
        for target in targets:
            text = traced.lower(lowering_platforms=(target,)).as_text()
            assert "custom_call" not in text
            assert "callback" not in text
            found = re.findall(r"stablehlo\.convolution.*?dim_numbers = \[(.*?)\]x", text)
            # A value and two gradients each, but the gradient of the pictures isn't needed.
            assert len(found) == max(0, 3 * convolutions - 1)
            assert set(found) <= {"b, 0, 1, f", "f, 0, 1, b"}


def test_a_program_for_given_devices_is_traced_for_their_platform():
    here = trace(build("lenet", "float32"))
    given = trace(build("lenet", "float32", devices=jax.devices()))
    with platform.forced("gpu"):
        forced = trace(build("lenet", "float32", devices=jax.devices()))
        elsewhere = trace(build("lenet", "float32"))
    assert str(here.jaxpr) == str(given.jaxpr) == str(forced.jaxpr)
    assert str(elsewhere.jaxpr) != str(here.jaxpr)
