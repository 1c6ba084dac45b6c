"""The table of results: which experiments it has, how they are run, and how they are shown.

results.json is what is kept: a row is replaced when all its runs are finished, and otherwise stays
as it was recorded, here or on another machine. The tables for people are written from it alone.
"""

import json
import math
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

import jax
import numpy as np

from cnn_jax import config as config_lib
from cnn_jax import data, layers, models
from cnn_jax.config import Config
from cnn_jax.errors import ResultsError
from cnn_jax.reports import published, run_groups, study, tables

BEST = "best/"  # begins the name of a network's best recipe


class Row(NamedTuple):
    """An experiment of the table, run once for each seed."""

    name: str  # in the table, on the command line and of its directory
    section: str  # of the table
    file: str  # the configuration, as --config takes it
    config: Config
    seeds: tuple[int, ...]
    target: float | None = None  # the mean accuracy to reach
    # The best published for the network within the same epochs, by any framework, and its source.
    highest: float | None = None
    source: str = ""
    same_as: str = ""  # the row whose published numbers are this row's too
    needs_gpu: bool = False  # it would take days without one


class Number(TypedDict):
    """A published number, as results.json holds it."""

    value: float
    what: str
    source: str
    minimum: float | None
    maximum: float | None
    n: int | None
    examples_per_second: str | None


class Entry(TypedDict):
    """A row as results.json holds it; numbers are None where it wasn't run."""

    name: str
    section: str
    recipe: dict[str, Any]
    model: str
    config: str
    dataset: str
    part: str
    epochs: int
    parameters: int | None
    n: int
    test_accuracy_mean: float | None
    test_accuracy_sd: float | None
    test_accuracies: list[float]
    train_accuracy_mean: NotRequired[float]
    train_loss_mean: NotRequired[float]
    published: float | None
    published_minimum: float | None
    published_maximum: float | None
    published_n: int | None
    published_highest: float | None
    published_highest_source: str | None
    also_published: list[Number]
    command: str
    device: str | None
    versions: dict[str, str]
    seconds: float | None
    examples_per_second: NotRequired[float]
    data: NotRequired[str | None]
    target: float | None
    needs_gpu: bool


class Results(TypedDict):
    """What results.json holds."""

    rows: list[Entry]


class Agreement(NamedTuple):
    """Runs here compared with the recorded row: is the difference of their means in the spread?"""

    here: run_groups.Statistics
    recorded: run_groups.Statistics
    same: bool  # to the last digit, seed by seed
    within: bool  # |difference| ≤ 2 standard errors of it


def plan_study(rows: Sequence[Row]) -> list[study.Variant]:
    """Returns the rows as variants of one study, whose runs are in ROW/seed=N."""
    return [study.Variant(row.name, row.config, row.seeds, f"{row.name}/") for row in rows]


def make_command(row: Row) -> str:
    """Returns the command that trains the row's runs anew, without this table."""
    seeds = ",".join(map(str, row.seeds))
    workdir = f"runs/{row.name.replace('/', '_')}"
    command = f"python -m experiments.sweep --config={row.file} --grid=seed={seeds}"
    return f"{command} --workdir={workdir}"


def read_group(row: Row, directory: pathlib.Path) -> run_groups.Group | None:
    """Returns the row's finished runs, if all are there.

    Raises:
      ReportError: they were trained on different data.
    """
    found = study.read_groups(plan_study([row]), directory).get(row.name)
    if found is None or len(found.runs) < len(row.seeds):
        return None
    run_groups.check_same_data(found.runs)
    return found


def make_entry(
    row: Row,
    runs: run_groups.Group | None,
    count_parameters: Callable[[run_groups.Run], int | None],
) -> dict[str, Any]:
    """Returns the row as results.json holds it; `n` is 0 where it wasn't run."""
    if runs is None:
        found: dict[str, Any] = {
            "model": row.config.model.name,
            "dataset": row.config.dataset.name,
            "part": run_groups.part_name(row.config),
            "epochs": row.config.epochs,
            "parameters": count_row_parameters(row),
            "n": 0,
            "test_accuracy_mean": None,
            "test_accuracy_sd": None,
            "test_accuracies": [],
            "device": None,
            "versions": {},
            "seconds": None,
        }
    else:
        found = tables.result_rows([runs], count_parameters)[0]
        found["data"] = runs.runs[0].environment.get("data", {}).get("provenance")
    return {
        "name": row.name,
        "section": row.section,
        "recipe": flatten_recipe(row),
        **found,
        "config": row.file,
        "command": make_command(row),
    }


def count_row_parameters(row: Row) -> int | None:
    """Returns the parameters of the row's network; None if its data set isn't a published one."""
    settings = row.config
    if (info := data.DATASETS.get(settings.dataset.name)) is None:
        return None
    height, width, channels = info.image_shape
    size = settings.dataset.image_size
    image = jax.ShapeDtypeStruct((1, size or height, size or width, channels), np.float32)
    options = config_lib.model_options(settings.model)
    classes = len(settings.dataset.classes or info.class_names)
    model = models.create(settings.model.name, classes=classes, **options)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    return layers.count_parameters(variables["params"])


def flatten_recipe(row: Row) -> dict[str, Any]:
    """Returns all hyperparameters of the row but the seed, by path, as JSON gives them back."""
    leaves = dict(run_groups.recipe_key(config_lib.resolve(row.config)))
    return json.loads(json.dumps(leaves))


def merge_entries(
    rows: Sequence[Row], recorded: Sequence[Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Returns the entries of all rows: new ones, else recorded ones, else empty ones.

    What is recorded of a recipe that has changed since is dropped; a hyperparameter that the record
    doesn't name is younger than it, and had its default. A row's place in the table and its
    published numbers are taken from the row in any case.
    """
    old = {found["name"]: found for found in recorded}
    merged = []
    configs = {row.name: row.config for row in rows}
    for row in rows:
        kept = old.get(row.name)
        defaults = config_lib.make_defaults(row.config.model.name)
        by_default = flatten_recipe(row._replace(config=defaults))
        if kept and (not kept["n"] or {**by_default, **kept["recipe"]} != flatten_recipe(row)):
            kept = None
        found = dict(new.get(row.name) or kept or make_entry(row, None, lambda run: None))
        numbers = published.find_published(configs.get(row.same_as, row.config))
        first = numbers[0]._asdict() if numbers else {}
        found |= {
            "recipe": flatten_recipe(row),
            "section": row.section,
            "target": row.target,
            "published": first.get("value"),
            "published_minimum": first.get("minimum"),
            "published_maximum": first.get("maximum"),
            "published_n": first.get("n"),
            "also_published": [number._asdict() for number in numbers[1:]],
            "published_highest": row.highest,
            "published_highest_source": row.source or None,
            "needs_gpu": row.needs_gpu,
        }
        merged.append(found)
    return merged


def compare_entries(here: Mapping[str, Any], recorded: Mapping[str, Any]) -> Agreement:
    """Compares a row's runs with those recorded, by their means and standard deviations."""
    a, b = (run_groups.summarize(found["test_accuracies"]) for found in (here, recorded))
    error = math.sqrt(sum((s.sd or 0.0) ** 2 / s.n for s in (a, b)))
    return Agreement(
        a,
        b,
        list(here["test_accuracies"]) == list(recorded["test_accuracies"]),
        abs(a.mean - b.mean) <= 2 * error,
    )


def estimate_sd(minimum: float, maximum: float, n: int) -> float:
    """Returns the standard deviation that n normal numbers with this range have, on average.

    The range over d₂(n) = ∫ 1 − Φ(x)ⁿ − (1 − Φ(x))ⁿ dx (Tippett, 1925).

    Raises:
      ValueError: n is less than 2.
    """
    if n < 2:
        raise ValueError(f"a range needs at least 2 numbers, got n={n}.")
    normal, step = statistics.NormalDist(), 0.01
    points = (normal.cdf(i * step) for i in range(-800, 801))
    d2 = step * math.fsum(1 - p**n - (1 - p) ** n for p in points)
    return (maximum - minimum) / d2


# Tables ------------------------------------------------------------------------------------------


def make_table(entries: Sequence[Mapping[str, Any]], root: str) -> str:
    """Returns the entries of one section as a markdown table, in their order.

    `root` leads from the document's folder to the repository's, such as '../../', for links.
    """
    spread = any(found["published_minimum"] is not None for found in entries)
    highest = any(found["published_highest"] is not None for found in entries)
    header = ["network", "parameters", "epochs", "published"]
    header += ["its range, n", "its sd"] * spread + ["highest published"] * highest
    header += ["here", "range", "n", "s per run", "examples/s"]
    rows = []
    for found in entries:
        file = found["config"].partition(":")[0]
        row = [f"[{found['name']}]({root}{file})"]
        row += [_or_dash(found["parameters"], ","), str(found["epochs"])]
        row += [_or_dash(found["published"], ".3f")]
        if spread:
            row += _published_spread(found)
        if highest:
            row += [_or_dash(found["published_highest"], ".3f")]
        if found["n"]:
            statistics_here = run_groups.summarize(found["test_accuracies"])
            row += [tables.format_mean(statistics_here)]
            row += [f"{statistics_here.minimum:.4f}–{statistics_here.maximum:.4f}"]
            row += [str(found["n"]), f"{found['seconds']:.0f}"]
            row += [_or_dash(found.get("examples_per_second"), ",.0f")]
        else:
            row += ["not run: needs a GPU" if found["needs_gpu"] else "not run"]
            row += ["–", "0", "–", "–"]
        rows.append(row)
    return tables.markdown_table(header, rows, words=1)


def make_short_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """Returns a markdown table with a row for each network, for a document in the root folder.

    The entries 'NAME' and 'best/NAME' share a row. Variants, whose configuration has options, are
    left out, and so are the networks of `format_waiting`.
    """
    rows = []
    for name, (same, best) in _pair_networks(entries).items():
        if _waits(same, best):
            continue
        shown = same or best
        assert shown
        row = [_link(name, shown), _or_dash(shown["parameters"], ",")]
        row += [_or_dash(same and same["published"], ".3f")]
        row += [_mean_accuracy(found) for found in (same, best)]
        rows.append(row)
    header = ["network", "parameters", "published", "same hyperparameters", "best recipe"]
    return tables.markdown_table(header, rows, words=1)


def format_waiting(entries: Sequence[Mapping[str, Any]]) -> str:
    """Returns a sentence with the networks that need a GPU and have no result yet, or ''."""
    texts = []
    for name, (same, best) in _pair_networks(entries).items():
        if _waits(same, best):
            shown = same or best
            assert shown
            published = shown["published"]
            texts.append(_link(name, shown) + (f" ({published:.3f})" if published else ""))
    if not texts:
        return ""
    return f"Not run yet, as they need a GPU (published accuracies): {', '.join(texts)}."


def _pair_networks(
    entries: Sequence[Mapping[str, Any]],
) -> dict[str, tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]]:
    """The entries 'NAME' and 'best/NAME' of each network, without variants."""
    named = {found["name"]: found for found in entries if ":" not in found["config"]}
    names = dict.fromkeys(name.removeprefix(BEST) for name in named)
    return {name: (named.get(name), named.get(BEST + name)) for name in names}


def _waits(*pair: Mapping[str, Any] | None) -> bool:
    return all(found["needs_gpu"] and not found["n"] for found in pair if found)


def _link(name: str, found: Mapping[str, Any]) -> str:
    where = "" if found["dataset"] == "fashion_mnist" else f" on {found['dataset']}"
    return f"[{name}]({found['config']}){where}"


def _mean_accuracy(found: Mapping[str, Any] | None) -> str:
    if not (found and found["n"]):
        return "–"
    return tables.format_mean(run_groups.summarize(found["test_accuracies"]))


def format_also_published(entries: Sequence[Mapping[str, Any]]) -> str:
    """Returns a sentence with the further numbers published for these recipes, or ''."""
    texts = []
    for found in entries:
        for number in found.get("also_published", ()):
            text = f"{found['name']} {number['value']:.3f}, {number['what']}"
            if None not in (number["minimum"], number["maximum"]):
                text += f", {number['minimum']:.3f}–{number['maximum']:.3f}"
            if number["examples_per_second"]:
                text += f", {number['examples_per_second']}"
            texts.append(text)
    return f"Also published: {'; '.join(texts)}." if texts else ""


def _or_dash(value: Any, form: str) -> str:
    return "–" if value is None else format(value, form)


def _published_spread(found: Mapping[str, Any]) -> list[str]:
    low, high, n = (found[f"published_{k}"] for k in ("minimum", "maximum", "n"))
    published = found["published"]
    if None in (published, low, high):
        return ["–", "–"] if n is None else [f"n={n}", "–"]
    centered = abs(published - (low + high) / 2) <= (high - low) / 3
    sd = f"{estimate_sd(low, high, n):.4f}" if centered else "skewed"
    return [f"{low:.3f}–{high:.3f}, {n}", sd]


def replace_between(text: str, start: str, end: str, new: str) -> str:
    """Returns the text with `new` in place of the lines between two marks.

    Raises:
      ResultsError: the marks aren't there, each once and in this order.
    """
    before, found, rest = text.partition(start)
    _, ended, after = rest.partition(end)
    if not (found and ended) or text.count(start) > 1 or text.count(end) > 1:
        raise ResultsError(f"the text has no place for the table, between {start} and {end}.")
    return f"{before}{start}\n{new}\n{end}{after}"
