"""Writes a trained network to a file that other programs read.

python -m experiments.export --run=runs/lenet --output=lenet.safetensors
python -m experiments.export --run=runs/lenet --output=lenet.safetensors --layout=torch
python -m experiments.export --run=runs/lenet --output=lenet.stablehlo

.safetensors holds the parameters, as the network has them ('params/Conv_0/kernel', HWIO) or, with
--layout=torch, as a PyTorch state dict of the same network ('Conv_0.weight', OIHW). The file's
metadata are the run's 'config' and 'data' as JSON: the network, the names of the classes, and the
mean and standard deviation by which images, scaled to [0, 1], are normalized (whitened ones: of
each pixel and each spatial frequency, row by row).

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

from cnn_jax import config, files, ops, weights
from cnn_jax.inspection import torch_weights, trained_network
from experiments import launch

RUN = launch.define_path("run", None, "The directory of a run.")
OUTPUT = launch.define_path("output", None, "A file that ends in .safetensors or .stablehlo.")
LAYOUT = flags.DEFINE_enum("layout", "flax", ("flax", "torch"), "Names and axes in .safetensors.")


def main() -> int:
    launch.require(run=RUN.value)
    file = pathlib.Path(OUTPUT.value or "")
    if file.suffix not in (".safetensors", ".stablehlo"):
        return launch.fail("give a file that ends in .safetensors or .stablehlo as --output.")
    launch.check_folder("output")
    network = trained_network.load(RUN.value)
    if file.is_dir():
        return launch.fail(f"--output={file} is a directory; give a file.")
    if file.suffix == ".stablehlo":
        files.write_bytes(file, serialize(network))
    else:
        settings = config.to_dict(network.config)
        about = {"config": json.dumps(settings), "data": json.dumps(network.data)}
        if LAYOUT.value == "torch":
            shape = network.input_shape
            torch_weights.save_torch(file, network.variables, network.model, shape, about=about)
        else:
            weights.save(file, network.variables, about)
    print(f"wrote {file}, {file.stat().st_size:,} bytes")
    return 0


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
