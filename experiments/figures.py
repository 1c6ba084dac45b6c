"""Pictures of a finished run: what it learned, how it errs, what its layers see.

python -m experiments.figures --run=runs/lenet
python -m experiments.figures --run=runs/lenet --kind=activations --classes=pullover,coat
python -m experiments.figures --run=runs/lenet --kind=activations --image=shirt.png --format=svg

They are written to the run's `figures/`, or where --output says. Kinds:

curves        loss, accuracy and learning rate over the epochs
predictions   test pictures with their true and their predicted class
mistakes      the most confidently wrong ones
kernels       the kernels of the first convolution
activations   what every convolution and pooling makes of a picture of each of --classes (the first
              of them in the test set), or of one's own --image
fields        what an output in the middle of each layer sees of a picture
confusion     which classes are taken for which, and the accuracy of each
calibration   how far the probabilities can be believed
"""

import pathlib

from absl import flags

from cnn_jax import files
from cnn_jax.figures import run_figures
from experiments import launch

RUN = launch.define_path("run", None, "The directory of a run.")
KIND = flags.DEFINE_enum("kind", "all", ("all", *run_figures.KINDS), "Which of them.")
CLASSES = flags.DEFINE_list("classes", [], "For activations: classes; the first two if not given.")
IMAGE = flags.DEFINE_list("image", [], "For activations: one's own pictures, instead of classes.")
FORMAT = flags.DEFINE_enum("format", "png", ("png", "svg"), "The pictures' format.")
OUTPUT = launch.define_path("output", None, "The folder to write to; else the run's figures/.")


def main() -> int:
    """Runs the command."""
    if RUN.value is None:
        return launch.fail("give the directory of a run, --run=runs/lenet say.")
    evaluated = run_figures.Evaluated(pathlib.Path(RUN.value))
    folder = (
        pathlib.Path(OUTPUT.value) if OUTPUT.value else files.make_folder(evaluated.run, "figures")
    )
    kinds = run_figures.KINDS if KIND.value == "all" else (KIND.value,)
    chosen = []
    if "activations" in kinds:
        own = IMAGE.value and run_figures.choose_own(evaluated, IMAGE.value)
        chosen = own or run_figures.choose(evaluated, CLASSES.value)
    for kind in kinds:
        drawn = run_figures.draw(evaluated, kind, chosen, folder, FORMAT.value)
        for file in drawn:
            print(f"wrote {file}")
        if not drawn:
            print(f"nothing to draw for {kind}: {run_figures.NOTHING[kind]}")
    return 0


if __name__ == "__main__":
    launch.run(main)
