"""Where values lie, which of them stand at an axis, and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

DAY = 86_400.0


class Scale(NamedTuple):
    """Values from `low` to `high` on places from `start` to `end`; what is beyond stays at it."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value."""
        width = self.high - self.low
        share = 0.0 if width == 0 else (min(max(value, self.low), self.high) - self.low) / width
        return self.start + share * (self.end - self.start)


class Tick(NamedTuple):
    """A value at an axis, and how it is written there."""

    value: float
    text: str


def steps(low: float, high: float, count: int = 4) -> list[float]:
    """Round values from below `low` to above `high`, about so many of them.

    Steps are 1, 2 or 5 times a power of ten.
    """
    if not high > low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]


def days(start: float, end: float, most: int = 5) -> list[Tick]:
    """Midnights of UTC between two times as `17 Nov`, or full hours where that is under two days.

    Args:
        start, end: seconds since the epoch.
    """
    span = end - start
    if span < 2 * DAY:
        step = next((h for h in (1, 2, 3, 6, 12) if span / (h * 3600) <= most), 24) * 3600.0
    else:
        step = next((d for d in (1, 2, 7, 14, 28, 91) if span / (d * DAY) <= most), 365) * DAY
    grid = min(step, DAY)
    first = math.ceil(start / grid) * grid
    places = [first + n * step for n in range(math.floor(max(end - first, 0) / step) + 1)]
    return [Tick(ts, _time(ts, hours=span < 2 * DAY)) for ts in places if start <= ts <= end]


def _time(ts: float, *, hours: bool) -> str:
    moment = datetime.fromtimestamp(ts, UTC)
    return f"{moment:%H:%M}" if hours else f"{moment.day} {moment:%b}"


def plain(value: float) -> str:
    """A number as people write it: 12,345 or 0.042."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}".replace("-", "−")
    return f"{value:.3g}".replace("-", "−")


def percent(value: float) -> str:
    """A share, 0 to 1, as per cent."""
    shown = 100 * value
    digits = 0 if shown == 0 or abs(shown) >= 10 else 1 if abs(shown) >= 1 else 2
    text = f"{shown:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{text} %".replace("-", "−")


def points(value: float) -> str:
    """A difference of two shares, -1 to 1, in percentage points with its sign."""
    shown = 100 * value
    text = f"{shown:+.1f}".removesuffix(".0")
    return "0" if text in ("+0", "-0") else text.replace("-", "−")


def shorten(text: str, characters: int) -> str:
    """A text that fits, with an ellipsis where it was cut."""
    return text if len(text) <= characters else text[: max(characters - 1, 1)] + "…"


def limits(values: Sequence[float], *, zero: bool) -> tuple[float, float]:
    """Lowest and highest of some values; from or to 0 where asked."""
    low, high = min(values), max(values)
    return (min(low, 0.0), max(high, 0.0)) if zero else (low, high)


def moment(ts: float) -> str:
    """A time of UTC as `2026-11-17 09:00`, the day alone where it is midnight."""
    at = datetime.fromtimestamp(ts, UTC)
    return f"{at:%Y-%m-%d}" if ts % DAY == 0 else f"{at:%Y-%m-%d %H:%M}"
