"""What time it is. Everything that decides by time asks here, so that a test can live a month.

    with clock.at(lambda: simulated.now):
        tick(…)

A replacement holds in this process only. Durations (latencies, timeouts) are not asked here:
they use `time.monotonic` and `time.perf_counter`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_source: Callable[[], float] = time.time


def now() -> float:
    """Seconds since the epoch, UTC."""
    return _source()


@contextmanager
def at(source: Callable[[], float]) -> Iterator[None]:
    """Take the time from somewhere else, in all threads of this process, until it ends."""
    global _source
    before, _source = _source, source
    try:
        yield
    finally:
        _source = before
