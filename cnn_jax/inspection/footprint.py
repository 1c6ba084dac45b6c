"""What a training program takes on each device: as its compiler says, or on paper."""

import math
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from cnn_jax import experiment, programs
from cnn_jax.inspection import layer_table, program_text, targets
from cnn_jax.inspection.program_text import Moved

PAPER_STATE_PASSES = 5  # parameters are read twice and written, their gradients written and read


class Footprint(NamedTuple):
    """Bytes on a device, and what a step does there."""

    arguments: int  # state, examples and their order
    temporary: int  # activations, gradients and scratch
    total: int
    moved: Moved


def compile_for(ready: experiment.Experiment, platform: str) -> Footprint:
    """Compiles the program of all training steps and returns what it takes on each device.

    A program too large for a TPU isn't compiled; its compiler says the total only.
    """
    state = jax.eval_shape(ready.init_state)
    totals, examples = _shapes(ready.start_totals()), _shapes(ready.train_data)
    steps, batch_size = ready.steps_per_epoch, ready.config.batch_size
    order = programs.Order(
        jax.ShapeDtypeStruct((steps, batch_size), np.int32),
        jax.ShapeDtypeStruct((steps, batch_size), np.float32),
    )
    train: Any = ready.program.train_steps
    lowered = train.lower(state, totals, examples, order, 0, steps)
    try:
        with targets.quiet():
            compiled = lowered.compile(compiler_options=targets.COMPILER_OPTIONS[platform] or None)
    except jax.errors.JaxRuntimeError as error:
        if (total := _too_large(str(error))) is None:
            raise
        return Footprint(bytes_of((state, examples)), 0, total, Moved(0, 0, {}))
    used = compiled.memory_analysis()
    return Footprint(
        used.argument_size_in_bytes,
        used.temp_size_in_bytes,
        used.argument_size_in_bytes
        + used.output_size_in_bytes
        - used.alias_size_in_bytes
        + used.temp_size_in_bytes
        + used.generated_code_size_in_bytes,
        program_text.read(compiled.as_text()),
    )


def _too_large(message: str) -> int | None:
    """The bytes that a program needs, that a TPU's compiler refuses: 'Used 45.5G of 15.7G hbm'."""
    found = re.search(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm", message)
    return int(float(found[1]) * 1024 ** (1 + "KMGT".index(found[2]))) if found else None


def on_paper(ready: experiment.Experiment, table: layer_table.Analysis, chips: int) -> Footprint:
    """Returns what the layer table lets expect of a program whose batch is shared by chips."""
    state = jax.eval_shape(ready.init_state)
    images = ready.config.batch_size // chips
    parameters, whole = bytes_of(state.params), bytes_of(state)
    arguments = whole + bytes_of(ready.train_data)
    # Each output is written and read again in the forward and in the backward pass, and so is each
    # gradient.
    outputs = images * sum(3 * row.forward_bytes + 2 * row.backward_bytes for row in table.layers)
    temporary = images * table.training_peak_bytes + parameters
    weighted = sum(row.multiply_adds > 0 for row in table.layers)
    kernels = 3 * weighted + 2 * (len(table.layers) - weighted) + 10
    collectives = {"all-reduce": (2, parameters)} if chips > 1 else {}
    moved = Moved(kernels, int(outputs + PAPER_STATE_PASSES * whole), collectives)
    return Footprint(arguments, temporary, arguments + temporary, moved)


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype), tree)


def bytes_of(tree: Any) -> int:
    """Bytes of all arrays in a tree, or of their shapes."""
    return sum(
        math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)
    )
