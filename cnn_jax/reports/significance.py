"""Groups of runs against a baseline, seed by seed: differences and their significance."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cnn_jax import checkpoints
from cnn_jax import config as config_lib
from cnn_jax.errors import ReportError
from cnn_jax.reports.run_groups import Group, differing_paths
from cnn_jax.sweeps import spaces
from cnn_jax.text import one_line

LEGEND = (
    "Difference: mean over the seeds that a configuration and the baseline share; its interval for "
    "each comparison by itself; p: paired t-test, adjusted by Holm's method for all rows."
)


class Comparison(NamedTuple):
    """A group against a baseline, by the differences of the accuracies of their common seeds."""

    n: int  # seeds in common
    difference: float  # mean; positive if the group is better than the baseline
    low: float  # ends of its 95 % confidence interval
    high: float
    p: float  # paired t-test, two-sided, by Holm's method for all comparisons of the table


def find_baseline(groups: Sequence[Group], chosen: str) -> Group:
    """Returns the group that 'optimizer.learning_rate=0.1,model.activation=relu' means.

    The values are any that tell it from the others, written as on the command line; None is the
    network's own value, as it is there.

    Raises:
      ReportError, ConfigError: no group has these values, or several have.
    """
    values = spaces.parse_values("baseline", chosen)
    fitting = [group for group in groups if _fits(group.config, values)]
    if len(fitting) != 1:
        differing = ", ".join(differing_paths([group.config for group in groups]))
        raise ReportError(
            f"--baseline={one_line(chosen)} fits {len(fitting)} configurations of the "
            f"{len(groups)}; it must fit one. They differ in {differing or 'nothing'}."
        )
    return fitting[0]


def _fits(config: config_lib.Config, values: Mapping[str, Any]) -> bool:
    """Whether a recorded configuration, which is resolved, is one with these values."""
    there = config_lib.flatten(config)
    if any(there[path] != value for path, value in values.items() if value is not None):
        return False
    unset = {path: None for path, value in values.items() if value is None}
    if not unset:
        return True
    try:
        own = config_lib.flatten(config_lib.resolve(config_lib.with_values(config, unset)))
    except ValueError:  # its other options don't go with them
        return False
    return all(there[path] == own[path] for path in unset)


def compare(groups: Sequence[Group], baseline: Group) -> list[Comparison | None]:
    """Compares each group with the baseline by a paired t-test over their common seeds.

    Runs of one seed see the same order of examples, so they are pairs. None for the baseline itself
    and for groups with fewer than two seeds in common with it. The p values are adjusted by Holm's
    method: among groups that are all as good as the baseline, the chance that any p is below 0.05
    is at most 5 %.
    """
    from scipy import stats  # slow to import

    reference = {run.config.seed: run.rows[-1][checkpoints.BEST] for run in baseline.runs}
    found: list[Comparison | None] = []
    for group in groups:
        own = {run.config.seed: run.rows[-1][checkpoints.BEST] for run in group.runs}
        differences = [own[seed] - reference[seed] for seed in own if seed in reference]
        if group is baseline or len(differences) < 2:
            found.append(None)
            continue
        mean, sd = statistics.fmean(differences), statistics.stdev(differences)
        error = sd / len(differences) ** 0.5
        half = float(stats.t.ppf(0.975, len(differences) - 1)) * error
        t = mean / error if error else float("inf") if mean else 0.0
        p = 2 * float(stats.t.sf(abs(t), len(differences) - 1))
        found.append(Comparison(len(differences), mean, mean - half, mean + half, p))
    ordered = sorted((c.p, i) for i, c in enumerate(found) if c)
    adjusted = 0.0
    for rank, (p, i) in enumerate(ordered):
        adjusted = max(adjusted, min(1.0, p * (len(ordered) - rank)))
        comparison = found[i]
        assert comparison
        found[i] = comparison._replace(p=adjusted)
    return found


def format_comparison(compared: Comparison | None) -> list[str]:
    """Returns difference, interval and p as a table shows them; dashes for None."""
    if compared is None:
        return ["–", "–", "–"]
    interval = f"{compared.low:+.4f} to {compared.high:+.4f}"
    p = f"{compared.p:.3f}" if compared.p >= 0.001 else "< 0.001"
    return [f"{compared.difference:+.4f}", interval, p]
