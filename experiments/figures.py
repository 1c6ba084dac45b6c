"""Figures of a finished run, and a page that shows them all.

python -m experiments.figures --run=runs/lenet
python -m experiments.figures --run=runs/lenet --kind=activations --classes=pullover,coat
python -m experiments.figures --run=runs/lenet --kind=activations --image=shirt.png --format=svg

They are written to the run's `figures/` (those of --checkpoint=best to `figures/best/`), or where
--output says; `index.html` beside them shows them, each with a sentence on how to read it. Kinds:

curves        loss, accuracy and learning rate over the epochs
predictions   random test images of all classes: their class and the network's guess
mistakes      the most confidently wrong ones
kernels       the kernels of the first convolution
activations   the feature maps of every convolution and pooling, for a random test image of each of
              --classes, or for --image
fields        the receptive field of a unit in the middle of each layer's map
confusion     the confusion matrix: how often each class is taken for which, and its accuracy
calibration   how far the probabilities can be believed
"""

import pathlib

import tqdm
from absl import flags

from cnn_jax import files
from cnn_jax.display import show_progress
from cnn_jax.figures import gallery, run_figures
from cnn_jax.figures.evaluated import Evaluated, choose_images, read_images
from experiments import launch

RUN = launch.define_path("run", None, "The directory of a run.")
CHECKPOINT = launch.define_checkpoint()
KIND = flags.DEFINE_enum("kind", "all", ("all", *run_figures.KINDS), "Which of them.")
CLASSES = flags.DEFINE_list(
    "classes", [], "For activations: classes; two random ones if not given."
)
IMAGE = flags.DEFINE_list("image", [], "For activations: files, instead of classes.")
FORMAT = flags.DEFINE_enum("format", "png", ("png", "svg"), "The figures' format.")
OUTPUT = launch.define_path("output", None, "The folder to write to; else the run's figures/.")


def main() -> int:
    launch.require(run=RUN.value)
    evaluated = Evaluated(pathlib.Path(RUN.value), CHECKPOINT.value)
    folder = (
        pathlib.Path(OUTPUT.value) if OUTPUT.value else files.make_folder(evaluated.run, "figures")
    )
    if CHECKPOINT.value != "last" and not OUTPUT.value:
        folder = folder / str(CHECKPOINT.value)  # the others are of the newest
    kinds = tuple(run_figures.KINDS) if KIND.value == "all" else (KIND.value,)
    chosen = []
    if "activations" in kinds:
        own = IMAGE.value and read_images(evaluated, IMAGE.value)
        chosen = own or choose_images(evaluated, CLASSES.value)
    for kind in show_progress(kinds, "drawing"):
        drawn = run_figures.draw(evaluated, kind, chosen, folder, FORMAT.value)
        for file in drawn:
            tqdm.tqdm.write(f"wrote {file}")  # above the line of progress
        if not drawn:
            tqdm.tqdm.write(f"nothing to draw for {kind}: {run_figures.KINDS[kind].nothing}")
    if folder.is_dir():
        page = run_figures.write_gallery(evaluated, folder)
        print(f"wrote {page}" if page else f"left {folder / gallery.PAGE} as it is: another page")
    return 0


if __name__ == "__main__":
    launch.run(main)
