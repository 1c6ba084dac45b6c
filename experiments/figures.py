"""Figures of a finished run: what it learned, how it errs, what its layers see.

python -m experiments.figures --run=runs/lenet
python -m experiments.figures --run=runs/lenet --kind=activations --classes=pullover,coat
python -m experiments.figures --run=runs/lenet --kind=activations --image=shirt.png --format=svg

They are written to the run's `figures/` (those of --checkpoint=best to `figures/best/`), or where
--output says. Kinds:

curves        loss, accuracy and learning rate over the epochs
predictions   test images with their true and their predicted class
mistakes      the most confidently wrong ones
kernels       the kernels of the first convolution
activations   what every convolution and pooling makes of an image of each of --classes (the first
              of them in the test set), or of --image
fields        what an output in the middle of each layer sees of an image
confusion     how often each class is mistaken for which, and its accuracy
calibration   how far the probabilities can be believed
"""

import pathlib

from absl import flags

from cnn_jax import files
from cnn_jax.figures import run_figures
from experiments import launch

RUN = launch.define_path("run", None, "The directory of a run.")
CHECKPOINT = launch.define_checkpoint()
KIND = flags.DEFINE_enum("kind", "all", ("all", *run_figures.KINDS), "Which of them.")
CLASSES = flags.DEFINE_list("classes", [], "For activations: classes; the first two if not given.")
IMAGE = flags.DEFINE_list("image", [], "For activations: files, instead of classes.")
FORMAT = flags.DEFINE_enum("format", "png", ("png", "svg"), "The figures' format.")
OUTPUT = launch.define_path("output", None, "The folder to write to; else the run's figures/.")


def main() -> int:
    launch.require(run=RUN.value)
    evaluated = run_figures.Evaluated(pathlib.Path(RUN.value), CHECKPOINT.value)
    folder = (
        pathlib.Path(OUTPUT.value) if OUTPUT.value else files.make_folder(evaluated.run, "figures")
    )
    if CHECKPOINT.value != "last" and not OUTPUT.value:
        folder = folder / str(CHECKPOINT.value)  # the others are of the newest
    kinds = tuple(run_figures.KINDS) if KIND.value == "all" else (KIND.value,)
    chosen = []
    if "activations" in kinds:
        own = IMAGE.value and run_figures.read_images(evaluated, IMAGE.value)
        chosen = own or run_figures.choose_images(evaluated, CLASSES.value)
    for kind in kinds:
        drawn = run_figures.draw(evaluated, kind, chosen, folder, FORMAT.value)
        for file in drawn:
            print(f"wrote {file}")
        if not drawn:
            print(f"nothing to draw for {kind}: {run_figures.KINDS[kind].nothing}")
    return 0


if __name__ == "__main__":
    launch.run(main)
