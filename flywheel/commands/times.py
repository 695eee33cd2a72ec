"""Times as people type them: `7d` and the like, and moments."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

import click

from ledger.clock import now

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


def _seconds(given: str) -> float | None:
    """A span in seconds; None where it is none."""
    span = _SPAN.fullmatch(given.strip())
    return None if span is None else float(span[1]) * _UNITS[span[2]]


class Span(NamedTuple):
    """How long: in seconds, and as it was typed."""

    seconds: float
    given: str

    def __str__(self) -> str:
        return self.given


class SpanType(click.ParamType):
    """How long: a number with s, m, h, d or w, more than nothing."""

    name = "span"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Span:
        """Read it."""
        if isinstance(value, Span):
            return value
        given = str(value).strip()
        seconds = _seconds(given)
        if not seconds:
            self.fail(f"{given!r} is no span of time: write 30s, 5m, 12h, 7d or 4w")
        return Span(seconds, given)


class Moment(click.ParamType):
    """A time, seconds since the epoch: a span before now (`7d`, `12h`) or an ISO 8601 time."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it; without a time zone it is UTC."""
        if isinstance(value, float):
            return value
        given = str(value)
        seconds = _seconds(given)
        if seconds is not None:
            return now() - seconds
        if given == "now":
            return now()
        try:
            moment = datetime.fromisoformat(given)
        except ValueError:
            self.fail(f"{given!r} is no time: write 7d, 12h, 2026-05-01 or 2026-05-01T14:30")
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
