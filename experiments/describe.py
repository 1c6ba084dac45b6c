"""Prints the layer table of a network: shapes, parameters, multiply-adds, receptive fields, memory.

python -m experiments.describe --model=vgg11 --input=224,224,1 --format=markdown
python -m experiments.describe --model=lenet --option=pool=max --option=channels=8,24

Nothing is computed, so that large networks take a second too. What is counted, and how, is told in
`cnn_jax.inspection.layer_table`.
"""

import ast
import dataclasses
import inspect
import json
import pathlib
from typing import Any

from absl import flags

from cnn_jax import files, models, ops
from cnn_jax.errors import UserError
from cnn_jax.inspection import layer_table
from experiments import launch

# The images that each family of networks was made for, or that this project trains it on.
INPUTS = {
    "softmax": (28, 28, 1),
    "mlp": (28, 28, 1),
    "lenet": (28, 28, 1),
    "alexnet": (224, 224, 1),
    "vgg": (224, 224, 1),
    "nin": (224, 224, 1),
    "googlenet": (96, 96, 1),
    "cifar_quick": (32, 32, 3),
}

Rows = list[tuple[str, ...]]


def main() -> int:
    given = flags.FLAGS
    if given.model is None:
        return launch.fail(f"give a network, --model={', '.join(models.MODELS)}.")
    launch.check_folder("output")
    text = describe_network(given.model, given.input, given.option, given.format)
    if given.output is None:
        print(text)
    else:
        files.write_text(pathlib.Path(given.output), text + "\n")
        print(f"wrote {given.output}")
    return 0


def describe_network(name: str, shape: str | None, options: list[str], style: str) -> str:
    """Returns the table of a network as 'text', 'markdown' or 'json'.

    Raises:
      UserError: a name, an option or an input that can't work.
    """
    try:
        network = models.create(name, **read_options(name, options))
    except ops.ArgumentError as error:
        raise UserError(str(error)) from error
    pixels = choose_input(name) if shape is None else read_shape(shape)
    try:
        table = layer_table.analyze(network, pixels)
    except (TypeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        with_options = f" with {' '.join(options)}" if options else ""
        raise UserError(f"{name}{with_options} can't take {_by(pixels)}: {reason}") from error
    if style == "json":
        return json.dumps(
            {"model": name, "options": options, **dataclasses.asdict(table)}, indent=2
        )
    title = " ".join([name, *options, "on", _by(pixels)])
    return {"text": to_text, "markdown": to_markdown}[style](title, table)


def choose_input(name: str) -> tuple[int, ...]:
    """Returns the usual image of a network, [height, width, channels].

    Raises:
      UserError: the network is none of this package's.
    """
    shape = next((shape for family, shape in INPUTS.items() if name.startswith(family)), None)
    if shape is None:
        raise UserError(f"{name} has no usual image; give --input=height,width,channels.")
    return shape


def read_shape(text: str) -> tuple[int, ...]:
    """'224,224,1' → (224, 224, 1)."""
    try:
        shape = tuple(int(size) for size in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) != 3 or min(shape) < 1:
        raise UserError(f"--input={text} must be height,width,channels, as in --input=28,28,1.")
    return shape


def read_options(name: str, options: list[str]) -> dict[str, Any]:
    """['pool=max', 'channels=6,16'] → values of the types that the network's options have."""
    if name not in models.MODELS:
        models.create(name)  # says which there are
    parameters = inspect.signature(models.MODELS[name]).parameters
    values: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals:
            raise UserError(f"--option={option} must be name=value, as in --option=pool=max.")
        if key not in parameters:
            models.create(name, **{key: text})  # says which there are
        default = parameters[key].default
        values[key] = text if isinstance(default, str) else _read(option, text, default)
    return values


def _read(option: str, text: str, default: Any) -> Any:
    """A Python value; what should be a tuple may be a single value or lack its parentheses."""
    try:
        value = ast.literal_eval(text.strip())
    except (SyntaxError, ValueError):
        value = None
    if isinstance(default, tuple) and not isinstance(value, tuple | list):
        value = None if value is None else (value,)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, type(default)):
        raise UserError(f"--option={option} must be of the kind of its default, {default!r}.")
    return value


def to_markdown(title: str, table: layer_table.Analysis) -> str:
    """A heading, the table and a summary."""
    header, *rows = _cells(table)
    rule = ("---", "---", *("---:",) * (len(header) - 2))
    lines = ["| " + " | ".join(row) + " |" for row in (header, rule, *rows)]
    return "\n".join([f"## {title}", "", *lines, "", _summary(table)])


def to_text(title: str, table: layer_table.Analysis) -> str:
    """Aligned columns, then a summary."""
    rows = _cells(table)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: tuple[str, ...]) -> str:
        names = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        return "  ".join(names + numbers).rstrip()

    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    header, *layers, total = map(line, rows)
    table_lines = [header, rule, *layers, rule, total]
    return "\n".join([title, "", *table_lines, "", _summary(table)])


def _cells(table: layer_table.Analysis) -> Rows:
    """Header, one row for each layer, totals."""
    costs = ("layer", "output", "parameters", "%", "multiply-adds", "%")
    rows: Rows = [(*costs, "field", "stride", "from", "forward", "backward")]
    for layer in table.layers:
        rows.append(
            (
                layer.name,
                _by(layer.output_shape),
                f"{layer.parameters:,}",
                _percent(layer.parameters, table.parameters),
                f"{layer.multiply_adds:,}",
                _percent(layer.multiply_adds, table.multiply_adds),
                "?" if layer.receptive_field is None else _by(layer.receptive_field),
                _once(layer.receptive_field_stride),
                _once(layer.receptive_field_start),
                _kib(layer.forward_bytes),
                _kib(layer.backward_bytes),
            )
        )
    totals = (f"{table.parameters:,}", "100.0", f"{table.multiply_adds:,}", "100.0")
    rows.append(("total", "", *totals, "", "", "", _kib(table.forward_bytes), ""))
    return rows


def _summary(table: layer_table.Analysis) -> str:
    dense = 100 * table.dense_parameters / max(table.parameters, 1)
    return f"""\
{table.parameters:,} parameters, {dense:.1f} % of them in dense layers.
{table.multiply_adds:,} multiply-adds for one image forward, \
{table.backward_multiply_adds:,} more backward.
{_kib(table.inference_peak_bytes)} KiB of activations at once for inference of one image, \
{_kib(table.training_peak_bytes)} KiB for training.

field: a unit sees so many pixels, padding included; its neighbor's field lies a stride further;
       the first unit's begins at pixel 'from'. Stride 0: the unit has no position.
forward, backward: KiB of activations for one image."""


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _once(values: tuple[int, ...] | None) -> str:
    """One number where the axes agree."""
    if values is None:
        return "?"
    return str(values[0]) if len(set(values)) == 1 else ",".join(map(str, values))


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if part else ""


def _kib(size: int) -> str:
    return f"{size / 1024:,.1f}"


if __name__ == "__main__":
    names = ", ".join(models.MODELS)
    flags.DEFINE_string("model", None, f"A network: {names}.")
    flags.DEFINE_string("input", None, "Height,width,channels; by default its usual image.")
    flags.DEFINE_multi_string("option", [], "An option of the network, name=value; repeat.")
    flags.DEFINE_enum("format", "text", ("text", "markdown", "json"), "How to write it.")
    launch.define_path("output", None, "Write to this file instead of the screen.")
    launch.run(main)
