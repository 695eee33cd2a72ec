"""What time it is. Everything that decides by time asks here, so that a test can live a month.

    with clock.at(lambda: simulated.now):
        tick(…)

A replacement holds in this process only. Durations (latencies, timeouts) are not asked here:
they use `time.monotonic` and `time.perf_counter`.

A time lapse makes all processes of a demo live faster: `FLYWHEEL_TIME_LAPSE=START:FACTOR:FIRST`,
where the real moment START shows FIRST, and from then on each second FACTOR seconds. What happened
in the world, rather than in the story, asks `wall`: a lease is lost after real seconds.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ledger.errors import ConfigError

#: The environment variable of a time lapse.
LAPSE = "FLYWHEEL_TIME_LAPSE"


class Lapse(NamedTuple):
    """Time that goes `factor` times as fast; moments in seconds since the epoch.

    Attributes:
        start: the real moment at which it begins.
        first: what the clock shows then.
    """

    start: float
    factor: float
    first: float

    def __str__(self) -> str:
        return f"{self.start:.3f}:{self.factor:g}:{self.first:.3f}"

    def shown(self, real: float) -> float:
        """What the clock shows at a real moment."""
        return self.first + (real - self.start) * self.factor

    def real(self, shown: float) -> float:
        """When the clock shows a moment; the inverse of `shown`."""
        return self.start + (shown - self.first) / self.factor


def lapse() -> Lapse | None:
    """The time lapse that this process was started in; None where time is the real one.

    Raises:
        ConfigError: the variable is not three numbers, or its factor is below 1.
    """
    text = os.environ.get(LAPSE, "")
    if not text:
        return None
    try:
        found = Lapse(*map(float, text.split(":")))
    except (TypeError, ValueError):
        found = Lapse(math.nan, math.nan, math.nan)
    if not all(map(math.isfinite, found)) or found.factor < 1:
        raise ConfigError(
            f"{LAPSE} is {text!r}",
            rule="It is START:FACTOR:FIRST: two moments in seconds since the epoch, and how many "
            "times as fast time goes, 1 or more.",
            remedy="Only the demo sets it. Unset it, and time is the real one.",
        )
    return found


def warning(found: Lapse) -> str:
    """What a person has to know where a time lapse is on."""
    return (
        f"TIME LAPSE: a minute is {found.factor / 60:g} hours here ({LAPSE}); for demos only, "
        "never with a ledger that anybody needs"
    )


_source: Callable[[], float] | None = None


def wall() -> float:
    """Seconds since the epoch, UTC, whatever a time lapse makes of them."""
    return time.time() if _source is None else _source()


def now() -> float:
    """Seconds since the epoch, UTC; faster ones in a time lapse.

    Raises:
        ConfigError: see `lapse`.
    """
    if _source is not None:
        return _source()
    real, found = time.time(), lapse()
    return real if found is None else found.shown(real)


@contextmanager
def at(source: Callable[[], float]) -> Iterator[None]:
    """Take the time from somewhere else, in all threads of this process, until it ends."""
    global _source
    before, _source = _source, source
    try:
        yield
    finally:
        _source = before
