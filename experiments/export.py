"""Writes a trained network to a file that other programs read.

python -m experiments.export --run=runs/lenet --output=lenet.safetensors
python -m experiments.export --run=runs/lenet --output=lenet.safetensors --layout=torch
python -m experiments.export --run=runs/resnet --output=net.safetensors --names=torchvision
python -m experiments.export --run=runs/lenet --output=lenet.stablehlo

.safetensors holds the parameters, as the network has them ('params/Conv_0/kernel', HWIO) or, with
--layout=torch, as a PyTorch state dict of the same network ('Conv_0.weight', OIHW). With
--names=torchvision it is the state dict of torchvision's network, where there is the same one, for
`load_state_dict`. The file's metadata are the run's 'config' and 'data' as JSON: the network, the
names of the classes, and the mean and standard deviation by which images, scaled to [0, 1], are
normalized (whitened ones: of each pixel and each spatial frequency, row by row).

.stablehlo holds the compiled-to-be function itself: uint8 images [N, H, W, C], for any N, to
probabilities [N, classes], preprocessing included. It runs on a CPU, an NVIDIA GPU or a TPU, and
needs JAX but nothing of this package:

    function = jax.export.deserialize(open("lenet.stablehlo", "rb").read())
    probabilities = function.call(images)
"""

import json
import pathlib

import jax
import numpy as np
from absl import flags
from jax import export

from cnn_jax import config, files, ops, torch_weights, weights
from cnn_jax.inspection import trained_network
from experiments import launch

RUN = launch.define_path("run", None, "The directory of a run.")
CHECKPOINT = launch.define_checkpoint()
OUTPUT = launch.define_path("output", None, "A file that ends in .safetensors or .stablehlo.")
LAYOUT = flags.DEFINE_enum("layout", "flax", ("flax", "torch"), "Names and axes in .safetensors.")
NAMES = flags.DEFINE_enum(
    "names", "own", ("own", "torchvision"), "Whose names; torchvision's have its layout too."
)


def main() -> int:
    launch.require(run=RUN.value)
    file = pathlib.Path(OUTPUT.value or "")
    if file.suffix not in (".safetensors", ".stablehlo"):
        return launch.fail("give a file that ends in .safetensors or .stablehlo as --output.")
    launch.check_folder("output")
    if NAMES.value == "torchvision" and file.suffix == ".stablehlo":
        return launch.fail("--names=torchvision is for a file that ends in .safetensors.")
    network = trained_network.load(RUN.value, CHECKPOINT.value)
    if file.is_dir():
        return launch.fail(f"--output={file} is a directory; give a file.")
    if file.suffix == ".stablehlo":
        files.write_bytes(file, serialize(network))
    else:
        settings = config.to_dict(network.config)
        about = {"config": json.dumps(settings), "data": json.dumps(network.data)}
        if LAYOUT.value == "torch" or NAMES.value == "torchvision":
            save_torch(file, network, about)
        else:
            weights.save(file, network.variables, about)
    print(f"wrote {file}, {file.stat().st_size:,} bytes")
    return 0


def save_torch(file: pathlib.Path, network: trained_network.Trained, about: dict[str, str]) -> None:
    """Writes the network as a PyTorch state dict.

    Raises:
      ConfigError: it shall have torchvision's names, which has no such network.
    """
    model, shape = network.model, network.input_shape
    names = None
    if NAMES.value == "torchvision":
        names = torch_weights.list_torchvision_names(model, shape)
        if names is None:
            raise config.ConfigError(
                f"torchvision has no network like this {network.config.model.name}; leave out "
                "--names=torchvision, and the layers have the names that they have here."
            )
    torch_weights.save_torch(file, network.variables, model, shape, names, about)


def serialize(network: trained_network.Trained) -> bytes:
    """Returns the function from uint8 images to probabilities, as StableHLO for any batch."""

    def predict(images: jax.Array) -> jax.Array:
        return jax.nn.softmax(network.compute_logits(network.variables, images))

    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *network.image_shape), np.uint8)
    with ops.platform.forced("gpu"):  # the plain forms, which every platform compiles
        exported = export.export(jax.jit(predict), platforms=("cpu", "cuda", "tpu"))(images)
    return bytes(exported.serialize())


if __name__ == "__main__":
    launch.run(main)
