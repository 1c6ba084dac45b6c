"""Writes a page of plans on 1 to 256 chips: where each network stops scaling, and what would help.

python -m experiments.plan --config=experiments/configs/lenet.py --target=h100:8 --format=json \
    --output=lenet.json
python -m experiments.scale lenet.json --output=scale.md

Nothing is compiled: a plan for several chips has all that is needed.
"""

import pathlib

from absl import flags

from cnn_jax import files
from cnn_jax.inspection import scaling, targets
from cnn_jax.inspection.scaling import COUNTS, ENOUGH, Recorded, Scaled
from experiments import launch
from experiments.plan import amount

LEGEND = f"""\
Images a second are given from the worst to the best case of a plan. Efficiency is what a chip does
beside one alone with as many images, and communication its share of a step, both in the middle of
the range. Cores: how many decode JPEGs of the size that is kept, all hosts together.
With the images of a chip kept, a batch grows with the chips, and its learning rate must follow.
With the batch kept, each chip has ever fewer images: a network stops scaling where chips do less
than {ENOUGH:.0%} of what one does alone with the whole batch."""


def main(*names: str) -> int:
    launch.check_folder("output")
    plans = [made for name in names for made in scaling.read(pathlib.Path(name))]
    text = write(plans)
    if (output := flags.FLAGS.output) is None:
        print(text, end="")
    else:
        files.write_text(pathlib.Path(output), text)
        print(f"wrote {output}")
    return 0


def write(plans: list[Recorded]) -> str:
    """Returns the page in Markdown."""
    command = " ".join(launch.describe_environment()["command"])
    parts = [f"# Scale on paper\n\n`{command}`\n\n{LEGEND}\n"]
    parts += [summary(plans), *map(section, plans)]
    return "\n".join(parts)


def summary(plans: list[Recorded]) -> str:
    """A row for each plan: where it stops with its batch kept, and what would help there."""
    lines = [
        "| network | chip | batch | images a second on 1 chip | on 256, images of a chip kept | "
        "with the batch kept it stops at | there it waits for | what would help |",
        "|---|---|--:|--:|--:|--:|---|---|",
    ]
    for made in plans:
        first, last = (scaling.scale(made, n, made["images_per_chip"]) for n in (1, COUNTS[-1]))
        stop = find_stop(made)
        worst = stop or strong(made, COUNTS[-1])
        lines.append(
            f"| {made['network']} | {_kind(made)} | {made['batch_size']:,} | {_speed(first)} | "
            f"{_speed(last)} | {f'{stop.chips} chips' if stop else 'not up to 256'} | "
            f"{worst.times.limit} | {scaling.advise(worst, made['collectives'], made['dtype'])} |"
        )
    return "\n".join(lines) + "\n"


def strong(made: Recorded, chips: int) -> Scaled:
    """The plan's batch shared by so many chips; efficiency is beside one chip with all of it."""
    scaled = scaling.scale(made, chips, made["batch_size"] / chips)
    alone = scaling.scale(made, 1, made["batch_size"])
    return scaled._replace(efficiency=alone.times.middle / scaled.times.middle / chips)


def find_stop(made: Recorded) -> Scaled | None:
    """The first number of chips that is not worth it with the batch kept."""
    several = (strong(made, n) for n in COUNTS[1:] if n <= made["batch_size"])
    return next((found for found in several if found.efficiency < ENOUGH), None)


def section(made: Recorded) -> str:
    """The table of one plan."""
    shape = "×".join(map(str, made["image_shape"]))
    how = "on paper" if made["not_compiled"] else f"compiled for {made['target']}"
    kinds = [f"{count} {kind}" for kind, (count, _) in made["collectives"].items()]
    lines = [
        f"## {made['network']} on {_kind(made)}",
        "",
        f"{made['data']}, {shape}, {made['dtype']}, {made['images_per_chip']:,} images a chip; "
        f"{how}: {', '.join(kinds)} of "
        f"{sum(size for _, size in made['collectives'].values()) / 1e6:,.4g} MB a step.",
        "",
        "| chips | batch | images a second | efficiency | communication | cores | "
        f"efficiency with batch {made['batch_size']:,} |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for chips in COUNTS:
        found = scaling.scale(made, chips, made["images_per_chip"])
        cores = "" if found.decoding_cores is None else _span(found.decoding_cores)
        kept = f"{strong(made, chips).efficiency:.0%}" if chips <= made["batch_size"] else ""
        lines.append(
            f"| {chips} | {chips * made['images_per_chip']:,} | {_speed(found)} | "
            f"{found.efficiency:.0%} | {found.share:.0%} | {cores} | {kept} |"
        )
    return "\n".join(lines) + "\n"


def _kind(made: Recorded) -> str:
    return targets.parse(made["target"]).name.partition(":")[0]


def _speed(found: Scaled) -> str:
    return _span(found.images_per_second)


def _span(span: tuple[float, float]) -> str:
    return f"{amount(span[0])} to {amount(span[1])}"


if __name__ == "__main__":
    launch.define_path("output", None, "Write to this file instead of the screen.")
    launch.run(main, "PLAN.json…")
