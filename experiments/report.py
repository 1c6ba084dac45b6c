"""Turns run directories into a table: mean ± standard deviation over seeds, published numbers.

python -m experiments.report runs/lenet_rates
python -m experiments.report runs --output=experiments/reports/rates.md --json=rates.json

Runs are found below the directories. Those that differ only in the seed make a row; unfinished runs
are listed and not averaged. With --output the table is written there, with learning curves and the
accuracy over what was swept as figures beside it. --baseline=model.activation=sigmoid compares
every configuration with that one, seed by seed: difference, confidence interval, significance. Exit
codes: 0, 1 if a run's records are damaged, 2 wrong input.
"""

import pathlib

from absl import flags

from cnn_jax import files, records
from cnn_jax.reports import group_figures, run_groups, significance, tables
from experiments import launch

OUTPUT = launch.define_path("output", None, "Write markdown there, with figures beside it.")
BASELINE = flags.DEFINE_string(
    "baseline", None, "Compare with the configuration that has these values, PATH=VALUE,…"
)
JSON = launch.define_path("json", None, "Write the rows there as JSON.")


def main(*directories: str) -> int:
    launch.check_folder("output")
    launch.check_folder("json")
    runs = run_groups.find_runs(directories)
    groups, repeated = run_groups.group_runs(runs)
    groups = run_groups.best_first(groups)
    baseline = significance.find_baseline(groups, BASELINE.value) if BASELINE.value else None
    text = tables.report(groups, repeated, runs, baseline)
    if JSON.value:
        rows = tables.result_rows(groups, tables.count_run_parameters)
        if baseline:
            for row, compared in zip(rows, significance.compare(groups, baseline), strict=True):
                row["against_baseline"] = compared and compared._asdict()
        records.write_json(pathlib.Path(JSON.value), {"rows": rows})
        print(f"wrote {JSON.value}")
    if OUTPUT.value:
        file = pathlib.Path(OUTPUT.value)
        files.write_text(file, text + draw(groups, file))
        print(f"wrote {file}")
    if not (OUTPUT.value or JSON.value):
        print(text, end="")
    return int(any(run.damaged for run in runs))


def draw(groups: list[run_groups.Group], file: pathlib.Path) -> str:
    """Draws the groups' figures beside the file; returns the markdown that shows them."""
    text = ""
    if groups:
        curves = file.with_name(f"{file.stem}_curves.png")
        group_figures.draw_group_curves(groups, curves)
        text += f"\n![Learning curves]({curves.name})\n"
        sensitivity = file.with_name(f"{file.stem}_sensitivity.png")
        if group_figures.draw_sensitivity(groups, sensitivity):
            text += f"\n![Accuracy over what was swept]({sensitivity.name})\n"
    return text


if __name__ == "__main__":
    launch.run(main, "DIR…")
