"""When an answer counts as unsure: one rule for what is kept and for what is tagged.

The threshold is `curate.low_confidence_nats`, or, where `curate.low_confidence_percent` is set,
the version's own lowest percent: of everything it said in the week up to the hour in question,
as `settled` has it. A version that has said too little for that is judged by the fixed threshold.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import sqlalchemy as sa

from ledger.database import tables
from ledger.keeping.histogram import Histogram
from ledger.settings import Curate
from ledger.store import Store

#: Hours of a version's past that say what is usual for it.
WEEK = 7 * 24
#: Fewer answers have no lowest percent worth the name.
LEAST = 200

_settled = tables.settled


def threshold(curate: Curate, past: Histogram) -> float:
    """The mean logprob, nats, below which an answer is unsure.

    Args:
        past: minus the mean logprobs of what the version said.
    """
    percent = curate.low_confidence_percent
    if percent is None or past.count < LEAST:
        return curate.low_confidence_nats
    return -past.quantile(1 - percent / 100)


def past(connection: sa.Connection, version: str, hour: int) -> Histogram:
    """Minus the mean logprobs of what a version said in the settled hours of the week before."""
    query = sa.select(_settled.c.confidence).where(
        _settled.c.version == version, _settled.c.hour > hour - WEEK, _settled.c.hour < hour
    )
    parts = (Histogram.load(json.loads(text)) for text in connection.scalars(query))
    return Histogram.merged(parts)


class Said(NamedTuple):
    """How sure an answer was, and how likely it was to be kept."""

    mean_logprob: float
    inclusion_probability: float


def newest(store: Store, version: str, limit: int = 5000) -> list[Said]:
    """The newest answers of a version that are there, newest first, to be weighted."""
    rows = tables.interactions
    query = (
        sa.select(rows.c.mean_logprob, rows.c.inclusion_probability)
        .where(rows.c.version == version, rows.c.mean_logprob.is_not(None))
        .order_by(rows.c.ts.desc())
        .limit(limit)
    )
    with store.reading() as connection:
        return [Said(*row) for row in connection.execute(query)]


class Thresholds:
    """The thresholds of hours and versions, each looked up once.

    A settled hour has the threshold by which it was settled.
    """

    def __init__(self, curate: Curate, connection: sa.Connection) -> None:
        self._curate, self._connection = curate, connection
        self._known: dict[tuple[int, str], float] = {}

    def of(self, version: str, hour: int) -> float:
        """The mean logprob, nats, below which an answer of that hour is unsure."""
        key = (hour, version)
        if key not in self._known:
            query = sa.select(_settled.c.unsure).where(
                _settled.c.hour == hour, _settled.c.version == version
            )
            found = self._connection.scalar(query)
            if found is None:
                found = self._curate.low_confidence_nats
                if self._curate.low_confidence_percent is not None:
                    found = threshold(self._curate, past(self._connection, version, hour))
            self._known[key] = found
        return self._known[key]
