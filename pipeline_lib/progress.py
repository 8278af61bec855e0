"""Progress of long work as log lines: name, share, speed, time left."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

log = logging.getLogger("whyscore.progress")

EVERY_SECONDS = 5.0

Listener = Callable[["Progress", str], None]
"""Gets the counter and its line at each log line; it must not raise."""

Points = Sequence[tuple[int, float]]
"""A curve: the units done, and a value."""

_listener: ContextVar[Listener | None] = ContextVar("listener of progress", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send all progress that begins meanwhile in this context to `listener` too."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class Progress:
    """Counts finished units and logs a line at most every `EVERY_SECONDS`, and one at the end."""

    def __init__(self, what: str, total: int, unit: str = "images"):
        self.what, self.total, self.unit = what, total, unit
        self.done = self.skipped = 0
        self.started = self.last_line = time.monotonic()
        self.listener = _listener.get()
        self.curves: dict[str, list[tuple[int, float]]] = {}  # figures by name, each with the units done and a value

    def skip(self, units: int) -> None:
        """Count units that an earlier run finished; they do not count for the speed."""
        self.done += units
        self.skipped += units

    def draw(self, at: int, figures: Mapping[str, float]) -> None:
        """Add a point to the curve of each figure, for listeners; shown with the next line."""
        for name, value in figures.items():
            self.curves.setdefault(name, []).append((at, value))

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count finished units; `note` is shown behind the line, e.g. a loss."""
        self.done += units
        now = time.monotonic()
        if now - self.last_line < EVERY_SECONDS and self.done < self.total:
            return
        self.last_line = now
        elapsed = now - self.started
        speed = (self.done - self.skipped) / elapsed if elapsed else 0.0
        line = f"{self.what}: {self.done}/{self.total} {self.unit}"
        if self.done >= self.total:
            line += f" in {duration(elapsed)}"
        elif speed:
            line += f", {speed:.1f}/s, {duration((self.total - self.done) / speed)} left"
        line += f" ({note})" if note else ""
        log.info("%s", line)
        if self.listener:
            self.listener(self, line)


def thinned(points: Points, most: int) -> list[tuple[int, float]]:
    """At most so many of the points, evenly spread, the last one among them."""
    step = max(1, math.ceil(len(points) / most))
    return list(points[::-step][::-1])


def duration(seconds: float) -> str:
    """Seconds in words: `42 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
