"""A curve in a line of text, which grows with what it shows and keeps its width."""

import math

LEVELS = "▁▂▃▄▅▆▇█"
MOST = 64  # points that are kept; of more, neighbors become one


class Sparkline:
    """The curve of a mean over time, one point for each `add`.

    >>> curve = Sparkline()
    >>> for loss in (8.0, 4.0, 2.0, 1.0):
    ...     curve.add(loss, 1.0)
    >>> curve.draw(10), curve.draw(2)
    ('█▄▂▁', '█▁')
    """

    def __init__(self) -> None:
        self._points: list[tuple[float, float, int]] = []  # sum, weight, how many were added
        self._each = 1  # how many make a point

    def add(self, total: float, weight: float) -> None:
        """Adds the mean total / weight."""
        if self._points and self._points[-1][2] < self._each:
            self._points[-1] = _merge([self._points[-1], (total, weight, 1)])
        else:
            self._points.append((total, weight, 1))
        if len(self._points) > MOST:
            self._points = self._in_groups(math.ceil(len(self._points) / 2))
            self._each *= 2

    def draw(self, width: int) -> str:
        """Returns at most `width` characters, from the lowest level for the least mean shown."""
        means = [total / weight for total, weight, _ in self._in_groups(width) if weight]
        low, high = min(means, default=0.0), max(means, default=0.0)
        scale = (len(LEVELS) - 1) / (high - low) if high > low else 0.0
        return "".join(LEVELS[round((mean - low) * scale)] for mean in means)

    def _in_groups(self, count: int) -> list[tuple[float, float, int]]:
        """The points, or `count` groups of neighbors where there are more."""
        each = max(1, math.ceil(len(self._points) / max(count, 1)))
        starts = range(0, len(self._points), each)
        return [_merge(self._points[start : start + each]) for start in starts]


def _merge(points: list[tuple[float, float, int]]) -> tuple[float, float, int]:
    totals, weights, counts = zip(*points, strict=True)
    return sum(totals), sum(weights), sum(counts)
