"""How far a long preparation has come, and how long it will take."""

import collections
import datetime
import sys
import time

import tqdm

EVERY = 10.0  # seconds between lines
SAMPLES = 12  # lines over which the speed is taken


class Progress:
    """A bar on a terminal, else a line at times; a context manager."""

    def __init__(self) -> None:
        self._bar: tqdm.tqdm | None = None
        self._samples: collections.deque[tuple[float, int]] = collections.deque(maxlen=SAMPLES)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, done: int, total: int) -> None:
        """Shows that `done` examples of `total` are done; called by one thread at a time."""
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm.tqdm(total=total, unit=" images", unit_scale=True)
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        if not self._samples:
            self._samples.append((now, done))
        if now >= self._samples[-1][0] + EVERY:
            print(describe(done, total, now, *self._samples[0]), flush=True)
            self._samples.append((now, done))


def describe(done: int, total: int, now: float, then: float, before: int) -> str:
    """Returns a line on `done` examples at the time `now`, of which `before` were at `then`.

    >>> describe(3000, 9000, 20.0, 10.0, 2000)
    '3,000 of 9,000 images (33 %), 100/s, 0:01:00 left'
    """
    speed = (done - before) / max(now - then, 1e-9)
    line = f"{done:,} of {total:,} images ({done * 100 // max(total, 1)} %), {speed:,.0f}/s"
    if speed:
        line += f", {datetime.timedelta(seconds=round((total - done) / speed))} left"
    return line
