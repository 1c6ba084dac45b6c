r"""Says whether an experiment fits a machine, how long it will take and why, without having it.

python -m experiments.plan --config=experiments/configs/imagenet.py --target=h100:8 \
    --target=v5e:2x4 --batch_size=1024 --price=2.5 --format=markdown

The project's own training program is compiled for each target. That needs
`pip install 'cnn-jax[plan]'`, the plugins of CUDA and of TPUs, but no driver and no hardware; for
those that aren't installed the answer is worked out on paper, and says so.
--target=cpu is this machine, whose rates are measured first; with --measure some steps are trained
here too, and the plan is compared with them.
"""

import dataclasses
import json
import pathlib
from typing import Any

import jax
from absl import flags

from cnn_jax import config, files
from cnn_jax.inspection import cpu_rates, plan, planned_data, targets
from cnn_jax.inspection.plan import Plan
from cnn_jax.inspection.roofline import PARTS, SHARES, Range
from experiments import launch, plan_measured

STYLES = ("text", "markdown", "json")
Rows = list[tuple[str, str]]


def main() -> int:
    given = flags.FLAGS
    launch.require(config=given.config)
    launch.check_folder("output")
    if not given.target:
        return launch.fail("give a machine, for example --target=h100:8, v5e:2x4 or cpu.")
    wanted = [targets.parse(name) for name in given.target]
    if given.measure and any(target.chip for target in wanted):
        return launch.fail("--measure trains on this CPU; give it with --target=cpu alone.")
    settings = config.resolve(given.config)
    config.check(settings)
    if given.batch_size:
        settings = dataclasses.replace(settings, batch_size=given.batch_size)
    facts = planned_data.read_facts(given.data) if given.data else None
    dataset, origin = planned_data.stand_in(settings.dataset, facts)
    # The default device computes nothing but the rates of a CPU.
    jax.config.update("jax_platforms", "cpu")
    rates = cpu_rates.measure() if any(target.chip is None for target in wanted) else None
    plans = [
        plan.make(
            settings,
            target,
            dataset,
            price=given.price,
            cores=given.cores,
            search=given.search,
            rates=rates,
        )
        for target in wanted
    ]
    measured = [plan_measured.measure(settings, dataset)] if given.measure else []
    text = write(plans, origin, given.format, measured)
    if given.output is None:
        print(text)
    else:
        files.write_text(pathlib.Path(given.output), text + "\n")
        print(f"wrote {given.output}")
    return 0


def write(
    plans: list[Plan],
    origin: str,
    style: str,
    measured: list[plan_measured.Measured] = [],  # noqa: B006
) -> str:
    """Returns plans of one experiment as 'text', 'markdown' or 'json'."""
    if style == "json":
        described: list[dict[str, Any]] = [{**made.to_json(), "numbers": origin} for made in plans]
        for row, found in zip(described, measured, strict=False):
            row["measured"] = found._asdict()
        return json.dumps(described, indent=2)
    columns = [rows(made) for made in plans]
    for column, made, found in zip(columns, plans, measured, strict=False):
        column += plan_measured.rows(made, found)
    names = list(dict.fromkeys(name for column in columns for name, _ in column))
    table = [(name, *(dict(column).get(name, "") for column in columns)) for name in names]
    title = heading(plans[0], origin)
    if style == "markdown":
        header = ("", *(made.target for made in plans))
        lines = ["| " + " | ".join(row) + " |" for row in (header, *table)]
        lines.insert(1, "|---|" + "---|" * len(plans))
        where = launch.describe_environment()
        command = f"`{' '.join(where['command'])}`, {where['processor']}"
        text = [f"## {title}", "", command, "", *lines]
    else:
        text = [title]
        width = max(map(len, names))
        for made, column in zip(plans, columns, strict=True):
            text += ["", f"{made.target}: {made.chips} × {made.chip}"]
            text += [f"  {name.ljust(width)}  {value}" for name, value in column]
    return "\n".join([*text, "", *footnotes(plans)])


def heading(made: Plan, origin: str) -> str:
    """Says what is planned."""
    shape = "×".join(map(str, made.image_shape))
    return (
        f"{made.network} on {made.data} ({made.train_examples:,} training images, {shape}; "
        f"{origin}), batch {made.batch_size:,}, {made.dtype}, {made.epochs} epochs"
    )


def rows(made: Plan) -> Rows:
    """Returns the names and the values of a plan's lines."""
    memory, times = made.memory, made.times
    fixed, slope = made.moved_bytes
    left = abs(memory.available - memory.total)
    found: Rows = [
        ("worked out", "on paper" if made.not_compiled else "compiled for it"),
        ("images a chip", f"{made.images_per_chip:,}"),
        (
            "memory",
            f"{size(memory.total)} of {size(memory.available)} a chip: "
            + (f"fits, {size(left)} left" if memory.fits else f"{size(left)} TOO MUCH"),
        ),
        ("  parameters", f"{made.parameter_count:,}, {size(memory.parameters)}"),
        ("  optimizer", size(memory.optimizer)),
        ("  data", f"{size(memory.data)}, {'all of it' if made.resident else 'streamed'}"),
        (
            "  temporary",
            f"{size(memory.temporary)} (activations on paper: {size(memory.activations)})",
        ),
        ("largest batch", "" if made.largest_batch is None else f"{made.largest_batch:,}"),
        ("arithmetic", f"{made.multiply_adds / 1e9:,.4g} billion multiply-adds a step"),
        (
            "bytes moved",
            f"{size(fixed + slope * made.images_per_chip)} a step and chip, "
            f"by {made.kernels:,} kernels",
        ),
        ("collectives", collectives(made)),
        ("step", f"{span(times.step, seconds)}, limited by {times.limit}"),
    ]
    found += [
        (f"  {name}", span(getattr(times, name), seconds))
        for name in PARTS
        if getattr(times, name)[1] > 0
    ]
    low, high = made.images_per_second
    found.append(("images a second", f"{amount(low)} to {amount(high)}"))
    if made.decoding_cores:
        low, high = made.decoding_cores
        found.append(("decoding", f"{amount(low)} to {amount(high)} cores for JPEGs of that size"))
    found.append(("run", f"{made.steps:,} steps, {span(made.run_seconds, seconds)}"))
    if made.cost:
        found.append(("cost", f"{amount(made.cost[0])} to {amount(made.cost[1])}"))
    return found + [("note", note) for note in made.notes]


def collectives(made: Plan) -> str:
    """Says how often chips wait for each other in a step, and for how many bytes."""
    parts = [
        f"{count} {kind}{'s' if count > 1 else ''}, {size(bytes_)}"
        for kind, (count, bytes_) in made.collectives.items()
    ]
    return "; ".join(parts) or "none"


def footnotes(plans: list[Plan]) -> list[str]:
    """Says what was assumed, and what would make the plan better."""
    lines = [
        "A range is from the best to the worst case: all parts of a step at once, or one after "
        "the other."
    ]
    for kind in dict.fromkeys(targets.parse(made.target).platform for made in plans):
        if kind in SHARES:
            assumed = SHARES[kind]
            lines.append(
                f"Assumed of a {kind.upper()}: products at {_percent(assumed.arithmetic)} of its "
                "peak where their sizes fill it, memory at "
                f"{_percent(assumed.memory)} and links at {_percent(assumed.link)} of their "
                f"bandwidth; {_micro(assumed.launch)} µs a kernel, {_micro(assumed.latency)} µs a "
                "collective."
            )
        else:
            lines.append("The rates of this CPU were measured, as they were just now.")
    if any(targets.parse(made.target).platform == "gpu" for made in plans):
        lines.append(
            f"Of a GPU's memory JAX reserves {plan.RESERVED:.0%}; {plan.FRACTION}=0.92 gives more."
        )
    return lines + list(dict.fromkeys(made.not_compiled for made in plans if made.not_compiled))


def _percent(span: Range) -> str:
    return f"{100 * span[0]:.0f} to {100 * span[1]:.0f} %"


def _micro(span: Range) -> str:
    return f"{span[0] * 1e6:g} to {span[1] * 1e6:g}"


def size(bytes_: float) -> str:
    """'1.5 GiB'."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(bytes_) >= unit:
            return f"{bytes_ / unit:,.4g} {name}"
    return f"{bytes_:.0f} B"


def seconds(value: float) -> str:
    """'1.5 ms'."""
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
        if value >= (2 if name == "days" else 1) * unit:
            return f"{value / unit:.3g} {name}"
    return f"{value * 1e6:.3g} µs"


def span(values: Range, show: Any) -> str:
    """'1.5 to 3 ms'."""
    low, high = map(show, values)
    if low == high:
        return str(low)
    if low.rpartition(" ")[2] == high.rpartition(" ")[2]:
        low = low.rpartition(" ")[0]
    return f"{low} to {high}"


def amount(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{float(f'{value:.3g}'):,.10g}"


if __name__ == "__main__":
    launch.define_config()
    flags.DEFINE_multi_string("target", [], "h100:8, v5e:2x4, cpu …; repeat it for several.")
    flags.DEFINE_integer("batch_size", None, "In place of the configuration's.", lower_bound=1)
    flags.DEFINE_string(
        "data", None, f"{planned_data.FORM}, of a data set that isn't here.".capitalize()
    )
    flags.DEFINE_float("price", None, "Of a chip for an hour.", lower_bound=0)
    flags.DEFINE_float("cores", None, "That decode streamed pictures.", lower_bound=0.01)
    flags.DEFINE_bool("search", True, "Look for the largest batch; it compiles three times.")
    flags.DEFINE_bool("measure", False, "Train on this CPU too, and compare.")
    flags.DEFINE_enum("format", "text", STYLES, "How to write it.")
    launch.define_path("output", None, "Write to this file instead of the screen.")
    launch.run(main)
