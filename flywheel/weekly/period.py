"""The days that a report is about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

DAY = 86_400.0


class Period(NamedTuple):
    """Some days. Times are seconds since the epoch, midnights of UTC.

    Attributes:
        name: as files are called: `2026-W47`, or `2026-11-26-7d` for days up to one.
        until: its end; of days up to now the end of today.
    """

    name: str
    since: float
    until: float

    @property
    def days(self) -> int:
        """How many."""
        return round((self.until - self.since) / DAY)

    @property
    def before(self) -> Period:
        """As many days, just before."""
        return Period(f"{self.name}-before", self.since - (self.until - self.since), self.since)

    @property
    def said(self) -> str:
        """In words: `16 November to 22 November 2026`."""
        first, last = (datetime.fromtimestamp(ts, UTC) for ts in (self.since, self.until - DAY / 2))
        year = "" if first.year == last.year else f" {first.year}"
        if self.days == 1:
            return f"{last.day} {last:%B %Y}"
        return f"{first.day} {first:%B}{year} to {last.day} {last:%B %Y}"


def last_week(now: float) -> Period:
    """The last week that is over, Monday to Sunday of UTC (ISO 8601)."""
    today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    end = today - timedelta(days=today.weekday())
    begin = end - timedelta(days=7)
    year, week, _ = begin.isocalendar()
    return Period(f"{year}-W{week:02}", begin.timestamp(), end.timestamp())


def last_days(now: float, days: int) -> Period:
    """Days of UTC up to today, today among them."""
    today = now // DAY * DAY
    name = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d}-{days}d"
    return Period(name, today - (days - 1) * DAY, today + DAY)
