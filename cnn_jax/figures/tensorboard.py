"""What TensorBoard shows of a run besides its metrics, written without TensorFlow.

The configuration as text and as hyperparameters, the network as a graph, images of the input, of
the kernels and of every layer's maps, histograms of the kernels. `writer` is a
tensorboardX.SummaryWriter throughout.
"""

from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.extend.core import Literal

from cnn_jax import config as config_lib
from cnn_jax.figures import plots
from cnn_jax.figures.style import color_signed, measure_scale
from cnn_jax.ops import platform
from cnn_jax.text import one_line

HISTOGRAM_SIZE = 100_000  # numbers at most; larger kernels are sampled evenly
MAPS = 16  # channels shown of each layer


def add_configuration(writer: Any, settings: config_lib.Config) -> None:
    """Writes the configuration as a table, for the Text page."""
    leaves = config_lib.flatten(settings)
    lines = ["| field | value |", "|---|---|"]
    lines += [f"| {path} | {one_line(str(value))} |" for path, value in leaves.items()]
    writer.add_text("configuration", "\n".join(lines), 0)


def add_hyperparameters(writer: Any, settings: config_lib.Config, row: Mapping[str, Any]) -> None:
    """Writes the hyperparameters and the final metrics, for the HParams page."""
    from tensorboardX.summary import hparams  # slow to import

    leaves = {
        path: value if isinstance(value, bool | int | float | str) else str(value)
        for path, value in config_lib.flatten(settings).items()
        if value is not None and not path.startswith(config_lib.FREE)
    }
    metrics = {name: row[name] for name in ("test_accuracy", "test_loss", "train_loss")}
    for summary in hparams(leaves, metrics):
        writer.file_writer.add_summary(summary)


def add_graph(writer: Any, model: nn.Module, variables: Any, images: Any) -> None:
    """Writes the network's operations, in their plain forms, for the Graphs page.

    Each operation and each parameter of an evaluation is a node, within its layer. `images` are the
    network's inputs, [N, H, W, C]; only their shape matters.
    """
    from tensorboardX.proto.event_pb2 import Event  # slow to import
    from tensorboardX.proto.graph_pb2 import GraphDef
    from tensorboardX.proto.versions_pb2 import VersionDef

    def apply(variables: Any, x: Any) -> Any:
        return model.apply(variables, x, train=False)

    with platform.forced("gpu"):
        traced = jax.make_jaxpr(apply)(variables, jax.ShapeDtypeStruct(images.shape, jnp.float32))
    nodes = _Nodes()
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(variables)]
    names = ["/".join(str(part.key) for part in path[1:]) for path in paths]
    *parameters, image = traced.jaxpr.invars
    inputs = [
        nodes.add(name, "VariableV2", [], variable.aval)
        for name, variable in zip(names, parameters, strict=True)
    ]
    inputs.append(nodes.add("input", "Placeholder", [], image.aval))
    outputs = nodes.walk(traced.jaxpr, inputs, "")
    nodes.add("logits", "Identity", outputs, traced.jaxpr.outvars[0].aval)
    graph = GraphDef(node=nodes.list, versions=VersionDef(producer=22))
    writer.file_writer.add_event(Event(graph_def=graph.SerializeToString()))


class _Nodes:
    """The nodes so far; names are made unique."""

    def __init__(self) -> None:
        self.list: list[Any] = []
        self._count: dict[str, int] = {}

    def add(self, name: str, op: str, inputs: list[str], aval: Any) -> str:
        """Adds a node and returns its name."""
        from tensorboardX.proto.attr_value_pb2 import AttrValue
        from tensorboardX.proto.node_def_pb2 import NodeDef
        from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto

        self._count[name] = self._count.get(name, 0) + 1
        if self._count[name] > 1:
            name = f"{name}_{self._count[name] - 1}"
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=n) for n in aval.shape])
        shapes = AttrValue(list=AttrValue.ListValue(shape=[shape]))
        inputs = list(dict.fromkeys(i for i in inputs if i))
        self.list.append(NodeDef(name=name, op=op, input=inputs, attr={"_output_shapes": shapes}))
        return name

    def walk(self, jaxpr: Any, inputs: list[str], scope: str) -> list[str]:
        """Adds the operations of a jaxpr; returns the nodes of its outputs, '' for constants."""
        node: dict[Any, str] = dict(zip(jaxpr.invars, inputs, strict=True))

        def of(variables: Any) -> list[str]:
            return ["" if isinstance(v, Literal) else node.get(v, "") for v in variables]

        for equation in jaxpr.eqns:
            names = str(equation.source_info.name_stack).split("/")
            inner = "/".join(part for part in names[1:] if part)  # the first is the network
            where = "/".join(part for part in (scope, inner) if part)
            called = next(
                (v for v in equation.params.values() if hasattr(getattr(v, "jaxpr", v), "eqns")),
                None,
            )
            operands = of(equation.invars)
            if called is not None and equation.primitive.name not in ("while", "scan", "cond"):
                body = getattr(called, "jaxpr", called)
                results = self.walk(body, operands[-len(body.invars) :], where)
            else:
                name = f"{where}/{equation.primitive.name}" if where else equation.primitive.name
                made = self.add(name, equation.primitive.name, operands, equation.outvars[0].aval)
                results = [made] * len(equation.outvars)
            node.update(zip(equation.outvars, results, strict=True))
        return of(jaxpr.outvars)


def add_images(
    writer: Any, image: np.ndarray, maps: Mapping[str, np.ndarray], step: int, tag: str
) -> None:
    """Writes a uint8 image [H, W, C] and the layers' maps of it, for the Images page.

    `maps` has [h, w, c] for each layer, whose first channels are shown side by side in the colors
    of the figures; `step` is that of training, and `tag` names the image.
    """
    shown = plots.select_visible(image)
    tag = one_line(tag).replace("/", "_")  # a / would open a group of its own
    writer.add_image(f"{tag}/0_input", shown, step, dataformats="HWC"[: shown.ndim])
    for number, (name, values) in enumerate(maps.items(), 1):
        tiles = _tile(values[..., :MAPS])
        writer.add_image(f"{tag}/{number}_{name}", tiles, step, dataformats="HWC")


def add_kernels(writer: Any, params: Any, first: tuple[str, np.ndarray] | None, step: int) -> None:
    """Writes a histogram of every kernel, and the first convolution's kernels as images.

    `first` is its name and its kernels [h, w, C_in, C_out]; None for a network without one.
    """
    for path, value in flax.traverse_util.flatten_dict(dict(params)).items():
        if path[-1] == "kernel":
            flat = np.clip(np.asarray(value, np.float32).ravel(), -9e19, 9e19)  # within the bins
            writer.add_histogram("/".join(path), flat[:: -(-flat.size // HISTOGRAM_SIZE)], step)
    if first is not None:
        name, kernels = first[0], first[1].mean(2)  # over input channels
        tiles = _tile(kernels[..., :64].repeat(6, 0).repeat(6, 1))
        writer.add_image(f"{name}/kernels", tiles, step, dataformats="HWC")


def _tile(values: np.ndarray) -> np.ndarray:
    """[h, w, n] → n tiles side by side, uint8 [h + 2, n·(w + 2), 3], white lines between them.

    Their colors are those of the sign, on one scale.
    """
    colors = color_signed(values, measure_scale(values))
    tiles = np.pad(colors, ((1, 1), (1, 1), (0, 0), (0, 0)), constant_values=255)
    return np.concatenate(list(np.moveaxis(tiles, 2, 0)), 1)
