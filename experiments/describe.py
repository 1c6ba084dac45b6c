"""Prints the layer table of a network: shapes, parameters, multiply-adds, receptive fields, memory.

python -m experiments.describe --model=vgg11 --input=224,224,1 --format=markdown
python -m experiments.describe --model=lenet --option=pool=max --option=channels=8,24
python -m experiments.describe --model=lenet --layout=channels_first

Shapes are height×width×channels. With --layout=channels_first they are [1, channels, height, width]
as PyTorch and its courses write them, --input too, and activations have rows of their own.

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

# The images that each family of networks was made for, or that this project trains it on, by how
# the names begin; the first that fits counts.
INPUTS = {
    "alexnet_torchvision": (224, 224, 3),
    "googlenet_torchvision": (224, 224, 3),
    "resnet18_book": (96, 96, 1),
    "densenet_book": (96, 96, 1),
    "regnetx32_book": (96, 96, 1),
    **{f"resnet{depth}": (224, 224, 3) for depth in (18, 34, 50, 101, 152)},
    "resnet": (32, 32, 3),
    "plain": (32, 32, 3),
    "wrn": (32, 32, 3),
    "resnext": (224, 224, 3),
    "densenet": (224, 224, 3),
    "regnetx": (224, 224, 3),
    "softmax": (28, 28, 1),
    "mlp": (28, 28, 1),
    "lenet": (28, 28, 1),
    "alexnet": (224, 224, 1),
    "vgg": (224, 224, 1),
    "nin": (224, 224, 1),
    "googlenet": (96, 96, 1),
    "cifar_quick": (32, 32, 3),
}

LAYOUTS = ("channels_last", "channels_first")
NAMES = {"channels_last": "height,width,channels", "channels_first": "channels,height,width"}
EXAMPLES = {"channels_last": "28,28,1", "channels_first": "1,28,28"}

Rows = list[tuple[str, ...]]


def main() -> int:
    given = flags.FLAGS
    if given.model is None:
        return launch.fail(f"give a network, --model={', '.join(models.MODELS)}.")
    launch.check_folder("output")
    text = describe_network(given.model, given.input, given.option, given.format, given.layout)
    if given.output is None:
        print(text)
    else:
        files.write_text(pathlib.Path(given.output), text + "\n")
        print(f"wrote {given.output}")
    return 0


def describe_network(
    name: str, shape: str | None, options: list[str], style: str, layout: str = LAYOUTS[0]
) -> str:
    """Returns the table of a network as 'text', 'markdown' or 'json', its shapes in a layout.

    Raises:
      UserError: a name, an option or an input that can't work.
    """
    try:
        network = models.create(name, **read_options(name, options))
    except ops.ArgumentError as error:
        raise UserError(str(error)) from error
    pixels = choose_input(name) if shape is None else read_shape(shape, layout)
    first = layout == "channels_first"
    shown = show_shape(pixels, layout)
    try:
        table = layer_table.analyze(network, pixels, activations=first)
    except (TypeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        with_options = f" with {' '.join(options)}" if options else ""
        raise UserError(f"{name}{with_options} can't take {shown}: {reason}") from error
    if style == "json":
        return json.dumps(to_json(name, options, table, layout), indent=2)
    title = " ".join([name, *options, "on", shown])
    cells = _cells_channels_first(table) if first else _cells(table)
    summary = _summary(table) if first else f"{_summary(table)}\n\n{LEGEND}"
    return {"text": to_text, "markdown": to_markdown}[style](title, cells, summary)


def show_shape(shape: tuple[int, ...], layout: str) -> str:
    """The shape of one image or feature map, [*spatial, C]: '28×28×6' or '[1, 6, 28, 28]'."""
    return str(list(to_channels_first(shape))) if layout == "channels_first" else _by(shape)


def to_channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape [*spatial, C] of one image as that of a batch of one, (1, C, *spatial)."""
    return (1, shape[-1], *shape[:-1])


def choose_input(name: str) -> tuple[int, ...]:
    """Returns the usual image of a network, [height, width, channels].

    Raises:
      UserError: the network is none of this package's.
    """
    shape = next((shape for family, shape in INPUTS.items() if name.startswith(family)), None)
    if shape is None:
        raise UserError(f"{name} has no usual image; give --input=height,width,channels.")
    return shape


def read_shape(text: str, layout: str = LAYOUTS[0]) -> tuple[int, ...]:
    """'224,224,1', or with the channels first '1,224,224' or '1,1,224,224' → (224, 224, 1)."""
    names, example = NAMES[layout], EXAMPLES[layout]
    try:
        shape = tuple(int(size) for size in text.split(","))
    except ValueError:
        shape = ()
    first = layout == "channels_first"
    if first and len(shape) == 4 and shape[0] == 1:  # the batch
        shape = shape[1:]
    if len(shape) != 3 or min(shape) < 1:
        raise UserError(f"--input={text} must be {names}, as in --input={example}.")
    readings = {"channels_last": shape, "channels_first": (*shape[1:], shape[0])}
    image = readings.pop(layout)
    ((other, turned),) = readings.items()
    if _is_usual(turned) and not _is_usual(image):
        right = turned if other == "channels_first" else (shape[2], *shape[:2])
        here, there = ("first", "last") if first else ("last", "first")
        raise UserError(
            f"channels come {here}, and those of --input={text} seem to be {there}: write "
            f"--input={','.join(map(str, right))}, or give --layout={other}."
        )
    return image


def _is_usual(shape: tuple[int, ...]) -> bool:
    """Whether [H, W, C] is that of a gray or a color image."""
    return shape[2] in (1, 3) and min(shape[:2]) > 3


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


def to_json(
    name: str, options: list[str], table: layer_table.Analysis, layout: str
) -> dict[str, Any]:
    """The table as a JSON object, with `layout` if it isn't the usual one."""
    described = {"model": name, "options": options, **dataclasses.asdict(table)}
    if layout == "channels_first":
        described |= {"layout": layout, "input": to_channels_first(table.input)}
        for row in described["layers"]:
            row["output_shape"] = to_channels_first(row["output_shape"])
    return described


def to_markdown(title: str, cells: Rows, summary: str) -> str:
    """A heading, the table and a summary."""
    header, *rows = cells
    rule = ("---", "---", *("---:",) * (len(header) - 2))
    lines = ["| " + " | ".join(row) + " |" for row in (header, rule, *rows)]
    return "\n".join([f"## {title}", "", *lines, "", summary])


def to_text(title: str, cells: Rows, summary: str) -> str:
    """Aligned columns, then a summary."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def line(row: tuple[str, ...]) -> str:
        names = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        return "  ".join(names + numbers).rstrip()

    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    header, *layers, total = map(line, cells)
    table_lines = [header, rule, *layers, rule, total]
    return "\n".join([title, "", *table_lines, "", summary])


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


def _cells_channels_first(table: layer_table.Analysis) -> Rows:
    """The same with PyTorch's shapes, without what a course doesn't ask for."""
    rows: Rows = [
        ("layer", "output shape", "parameters", "multiply-adds", "receptive field", "output in KiB")
    ]
    for layer in table.layers:
        field = layer.receptive_field
        rows.append(
            (
                layer.name,
                show_shape(layer.output_shape, "channels_first"),
                f"{layer.parameters:,}",
                f"{layer.multiply_adds:,}",
                "?" if field is None else f"{_by(field)} pixels",
                _kib(layer.forward_bytes) if layer.forward_bytes else "in place",
            )
        )
    totals = (f"{table.parameters:,}", f"{table.multiply_adds:,}", "", _kib(table.forward_bytes))
    return [*rows, ("total", "", *totals)]


def _summary(table: layer_table.Analysis) -> str:
    dense = 100 * table.dense_parameters / max(table.parameters, 1)
    return f"""\
{table.parameters:,} parameters, {dense:.1f} % of them in dense layers.
{table.multiply_adds:,} multiply-adds for one image forward, \
{table.backward_multiply_adds:,} more backward.
{_kib(table.inference_peak_bytes)} KiB of activations at once for inference of one image, \
{_kib(table.training_peak_bytes)} KiB for training."""


LEGEND = """\
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
    flags.DEFINE_string(
        "input", None, "Height,width,channels, or as --layout says; by default its usual image."
    )
    flags.DEFINE_enum("layout", LAYOUTS[0], LAYOUTS, "How to read and write shapes.")
    flags.DEFINE_multi_string("option", [], "An option of the network, name=value; repeat.")
    flags.DEFINE_enum("format", "text", ("text", "markdown", "json"), "How to write it.")
    launch.define_path("output", None, "Write to this file instead of the screen.")
    launch.run(main)
