"""What TensorBoard shows of a run besides its numbers, written without TensorFlow.

The configuration as text and as hyperparameters, the network as a graph, pictures of the input,
the kernels and what every layer makes of the input, histograms of the kernels. `writer` is a
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
from cnn_jax.ops import platform
from cnn_jax.text import one_line

HISTOGRAM_SIZE = 100_000  # numbers at most; of larger kernels every so manieth
MAPS = 16  # channels shown of each layer


def add_configuration(writer: Any, settings: config_lib.Config) -> None:
    """Writes the configuration as a table, for the Text page."""
    leaves = config_lib.flatten(settings)
    lines = ["| field | value |", "|---|---|"]
    lines += [f"| {path} | {one_line(str(value))} |" for path, value in leaves.items()]
    writer.add_text("configuration", "\n".join(lines), 0)


def add_hyperparameters(writer: Any, settings: config_lib.Config, row: Mapping[str, Any]) -> None:
    """Writes what can be varied and the final metrics, for the HParams page."""
    from tensorboardX.summary import hparams  # slow to import

    leaves = {
        path: value if isinstance(value, bool | int | float | str) else str(value)
        for path, value in config_lib.flatten(settings).items()
        if value is not None and not path.startswith(config_lib.FREE)
    }
    metrics = {name: row[name] for name in ("test_accuracy", "test_loss", "train_loss")}
    for summary in hparams(leaves, metrics):
        writer.file_writer.add_summary(summary)


def add_graph(writer: Any, model: nn.Module, variables: Any, inputs: Any) -> None:
    """Writes the network's operations, grouped by layer, for the Graphs page.

    `inputs` are the network's, [N, H, W, C]; only their shape matters.
    """
    from tensorboardX.proto.event_pb2 import Event  # slow to import

    writer.file_writer.add_event(
        Event(graph_def=graph(model, variables, inputs).SerializeToString())
    )


def graph(model: nn.Module, variables: Any, inputs: Any) -> Any:
    """Returns the operations of an evaluation as a GraphDef: a node for each, named by its layer.

    Nodes are what JAX traces, in the plain form of every operation; parameters are nodes too.
    """
    from tensorboardX.proto.graph_pb2 import GraphDef
    from tensorboardX.proto.versions_pb2 import VersionDef

    def apply(variables: Any, x: Any) -> Any:
        return model.apply(variables, x, train=False)

    with platform.forced("gpu"):
        traced = jax.make_jaxpr(apply)(variables, jax.ShapeDtypeStruct(inputs.shape, jnp.float32))
    nodes = _Nodes()
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(variables)]
    names = ["/".join(str(part.key) for part in path[1:]) for path in paths]
    leaves = nodes.leaves(names, traced.jaxpr.invars[:-1])
    picture = nodes.add("input", "Placeholder", [], traced.jaxpr.invars[-1].aval)
    outputs = nodes.walk(traced.jaxpr, [*leaves, picture], "")
    nodes.add("logits", "Identity", outputs, traced.jaxpr.outvars[0].aval)
    return GraphDef(node=nodes.list, versions=VersionDef(producer=22))


class _Nodes:
    """The nodes so far; names are made unique."""

    def __init__(self) -> None:
        self.list: list[Any] = []
        self._count: dict[str, int] = {}

    def leaves(self, names: list[str], variables: list[Any]) -> list[str]:
        """Adds the parameters and statistics, within their layers."""
        return [
            self.add(name, "VariableV2", [], variable.aval)
            for name, variable in zip(names, variables, strict=True)
        ]

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
        """Adds the operations of a jaxpr and of those it calls; returns the nodes of its outputs.

        Constants have no node: ''.
        """
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


def add_pictures(
    writer: Any, image: np.ndarray, maps: Mapping[str, np.ndarray], step: int, tag: str
) -> None:
    """Writes a picture and what the layers make of it, for the Images page.

    Args:
      writer: where to.
      image: uint8 [H, W, C].
      maps: [h, w, c] for each layer; the first channels of each are shown side by side.
      step: of training.
      tag: what the picture is called.
    """
    shown = plots.visible(image)
    tag = one_line(tag).replace("/", "_")  # a / would open a group of its own
    writer.add_image(f"{tag}/0_input", shown, step, dataformats="HWC"[: shown.ndim])
    for number, (name, values) in enumerate(maps.items(), 1):
        tiles = np.stack([_unit(values[..., i]) for i in range(min(MAPS, values.shape[-1]))])
        writer.add_image(f"{tag}/{number}_{name}", _row(tiles), step, dataformats="HW")


def add_kernels(writer: Any, params: Any, first: tuple[str, np.ndarray] | None, step: int) -> None:
    """Writes a histogram of every kernel, and pictures of the first convolution's.

    `first` is its name and its kernels [h, w, C_in, C_out]; None for a network without one.
    """
    for path, value in flax.traverse_util.flatten_dict(dict(params)).items():
        if path[-1] == "kernel":
            flat = np.clip(np.asarray(value, np.float32).ravel(), -9e19, 9e19)  # within the bins
            writer.add_histogram("/".join(path), flat[:: -(-flat.size // HISTOGRAM_SIZE)], step)
    if first is not None:
        name, kernels = first[0], first[1].mean(2)  # over input channels
        tiles = np.stack([_unit(kernels[..., i]) for i in range(min(64, kernels.shape[-1]))])
        writer.add_image(
            f"{name}/kernels", _row(tiles.repeat(6, 1).repeat(6, 2)), step, dataformats="HW"
        )


def _unit(values: np.ndarray) -> np.ndarray:
    """Brings values to 0 … 255."""
    low, high = float(values.min()), float(values.max())
    return (255 * (values - low) / (high - low or 1.0)).astype(np.uint8)


def _row(tiles: np.ndarray) -> np.ndarray:
    """[n, h, w] → the tiles side by side, a light line between them."""
    return np.concatenate(list(np.pad(tiles, ((0, 0), (1, 1), (1, 1)), constant_values=255)), 1)
