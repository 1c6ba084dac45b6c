r"""What each ingredient of a recipe is worth: the recipe without it, a plain recipe with it alone.

python -m experiments.ablation --config=experiments/configs/best/mlp.py \
    --plain=experiments/configs/mlp.py --workdir=runs/ablation_mlp \
    --output=experiments/reports/ablation_mlp.md

What differs between the two configurations is taken apart into ingredients (momentum, schedule,
initialization …). Every variant is trained with every seed; the same command goes on where it
stopped, and may run several times at once. A change of momentum or batch size changes the learning
rate too, so that the steps stay as large. The table has mean ± standard deviation and the
difference from the whole recipe, or from the plain one, seed by seed, with its significance.

Exit codes: 0, 1 a run failed, 2 wrong input, 128 + n stopped by signal n.
"""

import pathlib

from absl import flags

from cnn_jax import files, records
from cnn_jax.reports import ablation, run_groups
from experiments import config_options, launch, trial_loop

CONFIG = launch.define_config()
PLAIN = launch.define_config("plain", "The recipe without the ingredients")
WORKDIR = launch.define_path("workdir", None, "Where the runs are; made if need be.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2", "3", "4"], "Every variant is trained with each.")
ALONE = flags.DEFINE_bool("alone", True, "Also the plain recipe with one ingredient each.")
OUTPUT = launch.define_path("output", None, "Write the table there, its JSON beside it.")


def main() -> int:
    launch.require(config=CONFIG.value, plain=PLAIN.value, workdir=WORKDIR.value)
    seeds = [int(seed) for seed in SEEDS.value if seed.isdecimal()]
    if len(set(seeds)) < max(2, len(SEEDS.value)):
        given = ",".join(SEEDS.value)
        return launch.fail(f"--seeds={given} must be two or more different whole numbers.")
    launch.check_report("output")
    output = pathlib.Path(OUTPUT.value) if OUTPUT.value else None
    directory = pathlib.Path(WORKDIR.value)
    recipes = ablation.make_recipes(PLAIN.value, CONFIG.value, ALONE.value)
    planned = ablation.plan_study(recipes, seeds)
    code = trial_loop.run_study(ablation.make_trials(planned), directory)
    groups = ablation.read_groups(planned, directory)
    text = document(recipes, groups)
    if output:
        files.write_text(output, text)
        records.write_json(
            output.with_suffix(".json"), {"rows": ablation.make_rows(recipes, groups)}
        )
        print(f"wrote {output} and {output.with_suffix('.json')}")
    else:
        print(f"\n{text}", end="")
    return code


def document(recipes: list[ablation.Recipe], groups: dict[str, run_groups.Group]) -> str:
    """Returns the table with what it means."""
    file, plain = map(config_options.format_given, ("config", "plain"))
    where = "; ".join(dict.fromkeys(map(run_groups.devices, groups.values())))
    what = run_groups.part_name(recipes[0].config)
    seeds = ",".join(SEEDS.value)
    options = "" if ALONE.value else " --noalone"
    return f"""# What the ingredients are worth

`{file} {plain}`: {recipes[0].config.model.name}, \
{recipes[0].config.epochs} epochs of {recipes[0].config.dataset.name}, on {where or "–"}.

{ablation.make_table(recipes, groups)}

Accuracy on the {what} set after the last epoch, mean ± sample standard deviation over n seeds. \
Difference: from the whole recipe ('all') where an ingredient is left out, from the plain one \
('none') where it stands alone; mean over the seeds in common, 95 % interval of each by itself, p \
of a paired t-test adjusted by Holm's method. A change of momentum or batch size changes the \
learning rate too, so that steps stay as large; no variant's other values are tuned anew.

`python -m experiments.ablation {file} {plain} --seeds={seeds}{options} \
--workdir={WORKDIR.value}`
"""


if __name__ == "__main__":
    launch.run(main)
