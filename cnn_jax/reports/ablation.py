"""What each ingredient of a recipe does: the recipe without it, and a plain recipe with it alone.

Both recipes are configurations of networks with the same options; what differs between them is
taken apart into the ingredients below, and other options one by one. A change that alters the size
of a step keeps it by the learning rate, which is divided by 1 − m without momentum m, and is
proportional to the batch size (Goyal et al., 2017).
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cnn_jax import config as config_lib
from cnn_jax.config import Config, ConfigError
from cnn_jax.reports import run_groups, significance, study, tables
from cnn_jax.sweeps import spaces

INGREDIENTS: Mapping[str, tuple[str, ...]] = {
    "activation": ("model.activation",),
    "pooling": ("model.pool",),
    "batch normalization": ("model.norm",),
    "initialization": ("model.kernel_init", "model.bias_init"),
    "dropout": ("model.dropout",),
    "channels and units": (
        "model.channels",
        "model.kernel_sizes",
        "model.paddings",
        "model.hidden",
        "model.width",
    ),
    "input normalization": ("dataset.normalization", "dataset.whiten_epsilon"),
    "mirrored pictures": ("augment.flip",),
    "shifted pictures": ("augment.pad", "augment.pad_probability"),
    "cutout": ("augment.cutout",),
    "random resized crops": ("augment.crop_area",),
    "color jitter": (
        "augment.brightness",
        "augment.contrast",
        "augment.saturation",
        "augment.hue",
    ),
    "RandAugment": ("augment.rand_augment", "augment.rand_augment_magnitude"),
    "mixup": ("augment.mixup",),
    "CutMix": ("augment.cutmix",),
    "random erasing": ("augment.erase",),
    "label smoothing": ("label_smoothing",),
    "optimizer": ("optimizer.name", "optimizer.beta1", "optimizer.beta2"),
    "weight decay": ("optimizer.weight_decay", "optimizer.decoupled"),
    "momentum": ("optimizer.momentum", "optimizer.nesterov"),
    "batch size": ("batch_size",),
    "schedule": (
        "optimizer.schedule",
        "optimizer.warmup_epochs",
        "optimizer.step_epochs",
        "optimizer.step_factor",
        "optimizer.minimum_factor",
        "optimizer.restart_epochs",
        "optimizer.restart_factor",
        "optimizer.plateau_patience",
    ),
    "averaged weights": ("optimizer.ema_decay",),
    "clipped gradients": ("optimizer.clip_norm",),
    "frozen parts": ("optimizer.freeze",),
    "learning rates of parts": ("optimizer.learning_rate_scale",),
}
# Other options of these parts, such as those of a network that was added, are ingredients of their
# own, by their paths; the precision of the computation is none.
PARTS = ("augment.", "model.", "optimizer.")
PRECISION = "model.dtype"
# The network and its learning rate belong to either recipe as a whole.
WHOLE = ("model.name", "optimizer.learning_rate")


class Recipe(NamedTuple):
    """A recipe to be trained: 'all', 'none', or one ingredient left out or alone."""

    name: str  # 'without momentum'
    config: Config
    baseline: str | None  # the name of the recipe that it is compared with


def find_ingredients(plain: Config, full: Config) -> dict[str, tuple[str, ...]]:
    """Returns the ingredients in which two resolved recipes differ, with their paths.

    Raises:
      ConfigError: they differ in nothing, or in what is no ingredient.
    """
    a, b = config_lib.flatten(plain), config_lib.flatten(full)
    different = {path for path in a if a[path] != b[path] and not path.startswith(config_lib.FREE)}
    different -= {*WHOLE, "seed"}
    found = {name: paths for name, paths in INGREDIENTS.items() if different & set(paths)}
    rest = different - {path for paths in found.values() for path in paths}
    own = [path for path in a if path in rest and path.startswith(PARTS) and path != PRECISION]
    found |= {path: (path,) for path in own}
    if rest := rest - set(own):
        path = min(rest)
        raise ConfigError(
            f"the recipes differ in config.{path} ({a[path]!r} and {b[path]!r}), which is no "
            "ingredient; make it the same in both."
        )
    if not found:
        raise ConfigError("the recipes don't differ; there is nothing to leave out.")
    return found


def make_recipes(plain: Config, full: Config, alone: bool = True) -> list[Recipe]:
    """Returns the recipe, it without each ingredient, and, if `alone`, the plain one with each.

    Raises:
      ConfigError: as `find_ingredients`, or a recipe can't work.
    """
    _check({"the plain recipe": plain, "the whole recipe": full})
    plain, full = config_lib.resolve(plain), config_lib.resolve(full)
    found = find_ingredients(plain, full)
    result = [Recipe("all", full, None)]
    result += [Recipe(f"without {name}", swap(full, plain, found[name]), "all") for name in found]
    if alone:
        result.append(Recipe("none", plain, None))
        result += [
            Recipe(f"{name} alone", swap(plain, full, found[name]), "none") for name in found
        ]
    _check({recipe.name: recipe.config for recipe in result})
    return result


def _check(configs: Mapping[str, Config]) -> None:
    for name, settings in configs.items():
        try:
            config_lib.check(settings)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error


def swap(recipe: Config, other: Config, paths: Sequence[str]) -> Config:
    """Returns the recipe with another's values at some paths, its steps as large as before."""
    leaves = config_lib.flatten(other)
    values: dict[str, Any] = {path: leaves[path] for path in paths}
    learning_rate = recipe.optimizer.learning_rate
    if "optimizer.momentum" in values:
        learning_rate *= (1 - other.optimizer.momentum) / (1 - recipe.optimizer.momentum)
    if "batch_size" in values:
        learning_rate *= other.batch_size / recipe.batch_size
    values["optimizer.learning_rate"] = float(f"{learning_rate:.6g}")
    return config_lib.with_values(recipe, values)


def plan_study(recipes: Sequence[Recipe], seeds: Sequence[int]) -> list[study.Variant]:
    """Returns the recipes as variants of a study, with runs in 'without_momentum,seed=0' etc."""
    return [study.Variant(r.name, r.config, seeds, f"{r.name.replace(' ', '_')},") for r in recipes]


def make_trials(planned: Sequence[study.Variant]) -> list[spaces.Trial]:
    """Returns the trials of a study, seed after seed, so that pairs come early."""
    by_variant = [study.make_trials([variant]) for variant in planned]
    return [trial for one_seed in zip(*by_variant, strict=True) for trial in one_seed]


def read_groups(
    planned: Sequence[study.Variant], directory: pathlib.Path
) -> dict[str, run_groups.Group]:
    """Returns the finished runs of each variant that has any, by the variant's name.

    Raises:
      ReportError: they were trained on different data.
    """
    groups = study.read_groups(planned, directory)
    run_groups.check_same_data([run for group in groups.values() for run in group.runs])
    return groups


def compare_all(
    recipes: Sequence[Recipe], found: Mapping[str, run_groups.Group]
) -> dict[str, significance.Comparison | None]:
    """Compares every recipe with its baseline, seed by seed; those of one baseline together."""
    result: dict[str, significance.Comparison | None] = {}
    for baseline in {r.baseline: None for r in recipes if r.baseline in found}:
        names = [r.name for r in recipes if r.baseline == baseline and r.name in found]
        compared = significance.compare([found[name] for name in names], found[str(baseline)])
        result |= dict(zip(names, compared, strict=True))
    return result


def make_rows(
    recipes: Sequence[Recipe], found: Mapping[str, run_groups.Group]
) -> list[dict[str, Any]]:
    """Returns one JSON object for each recipe that was run."""
    compared = compare_all(recipes, found)
    return [
        {
            "variant": r.name,
            "learning_rate": r.config.optimizer.learning_rate,
            "seeds": [run.config.seed for run in found[r.name].runs],
            "test_accuracies": (accuracies := found[r.name].values("test_accuracy")),
            "test_accuracy_mean": (statistics := run_groups.summarize(accuracies)).mean,
            "test_accuracy_sd": statistics.sd,
            "baseline": r.baseline,
            "against_baseline": (c := compared.get(r.name)) and c._asdict(),
            "device": run_groups.devices(found[r.name]),
            "versions": run_groups.versions(found[r.name]),
        }
        for r in recipes
        if r.name in found
    ]


def make_table(recipes: Sequence[Recipe], found: Mapping[str, run_groups.Group]) -> str:
    """Returns the recipes as a markdown table, in their order."""
    compared = compare_all(recipes, found)
    lines = []
    for r in recipes:
        if r.name not in found:
            lines.append([r.name, "–", "0", "not run", "", "", ""])
            continue
        accuracy = run_groups.summarize(found[r.name].values("test_accuracy"))
        line = [r.name, f"{r.config.optimizer.learning_rate:g}", str(accuracy.n)]
        line += [tables.format_mean(accuracy)]
        line += significance.format_comparison(compared.get(r.name)) if r.baseline else ["", "", ""]
        lines.append(line)
    header = ["recipe", "rate", "n", "accuracy", "difference", "95 % interval", "p"]
    return tables.markdown_table(header, lines, words=1)
