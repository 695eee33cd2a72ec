"""The sample that stands for all traffic: so many answers a UTC day, chosen by a keyed hash.

Of each day the rows with the smallest sample keys are taken. Which rows these are depends on
nothing but the rows there are: not on when anybody looked, nor in how many steps. The key is the
one by which the hold-back chooses what stays (`ledger.keeping.sampling`), so a row is here with
the probability min(p, t): p is its inclusion probability, t the day's threshold, the first key
that did not fit. One over that is its weight, how many answers it stands for.

The key is computed again from the row's id, since the rows of a day's sample may have been let go
when more of the day comes in. Rows without text are not in the sample, and not in what it stands
for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import sqlalchemy as sa

from ledger.database import tables
from ledger.store import Store
from ledger.store.base import chunks

DAY = 86_400.0
_BITS = 53  # of a double, as in ledger.keeping.sampling

_lines, _rows = tables.cluster_rows, tables.interactions

# Rows that have a line whether or not they are in the sample.
_SAID = (tables.tags, tables.feedback, tables.corrections)


class Drawn(NamedTuple):
    """Rows of a page that are in the sample now.

    Attributes:
        weights: by row, how many answers each stands for.
        out: rows of the sample that had to make room; they go unless somebody said something.
        thresholds: by day, where they changed.
    """

    weights: dict[str, float]
    out: list[str]
    thresholds: dict[int, float]


class _Day(NamedTuple):
    keys: dict[str, float]
    threshold: float


def sample_key(store: Store, row_id: str) -> float:
    """The key of a row, in [0, 1): what its column `sample_key` says."""
    digits = store.mac("sample", row_id.encode())[:16]
    return (int(digits, 16) >> (64 - _BITS)) / 2**_BITS


def _said(table: sa.Table) -> Any:
    return sa.exists().where(table.c.row_id == _lines.c.row_id)


class Sampler:
    """The samples of days, for one pass over new rows.

    Args:
        a_day: most rows of a UTC day.
    """

    def __init__(self, store: Store, alias: str, a_day: int) -> None:
        self._store, self._alias, self._most = store, alias, a_day
        self._days: dict[int, _Day] = {}
        self._next: dict[int, _Day] = {}

    def draw(self, rows: Iterable[Any]) -> Drawn:
        """What a page of new rows changes. Nothing holds before `done`.

        Args:
            rows: with `row_id`, `ts`, `sample_key` and `inclusion_probability`.
        """
        by_day: dict[int, dict[str, Any]] = {}
        for row in rows:
            by_day.setdefault(math.floor(row.ts / DAY), {})[row.row_id] = row
        weights: dict[str, float] = {}
        out: list[str] = []
        thresholds: dict[int, float] = {}
        self._next = {}
        for day, new in by_day.items():
            was = self._day(day)
            keys = dict(was.keys)
            for row_id, row in new.items():
                key = self._key(row)
                if key < was.threshold:
                    keys[row_id] = key
            threshold = was.threshold
            if len(keys) > self._most:
                threshold = sorted(keys.values())[self._most]
                out += [row_id for row_id in was.keys if keys[row_id] >= threshold]
                keys = {row_id: key for row_id, key in keys.items() if key < threshold}
            if threshold < was.threshold:
                thresholds[day] = threshold
            for row_id in keys.keys() & new.keys() - was.keys.keys():
                weights[row_id] = 1 / min(new[row_id].inclusion_probability, threshold)
            self._next[day] = _Day(keys, threshold)
        return Drawn(weights, out, thresholds)

    def done(self) -> None:
        """What was drawn last is in the ledger."""
        self._days |= self._next
        if len(self._days) > 8:  # a page rarely has more days
            self._days = dict(list(self._days.items())[-4:])

    def forget(self) -> None:
        """Somebody else changed the samples."""
        self._days.clear()

    def write(self, drawn: Drawn, connection: sa.Connection) -> None:
        """Let rows make room, and give those that stay their weights."""
        for chunk in chunks(drawn.out):
            these = _lines.c.row_id.in_(chunk)
            said = sa.or_(*(_said(table) for table in _SAID))
            connection.execute(
                sa.update(_lines).where(these, said).values(traffic=False, weight=0.0)
            )
            connection.execute(sa.delete(_lines).where(these, ~said))
        for day, threshold in drawn.thresholds.items():
            if threshold <= 0:
                continue
            light = sa.update(_lines).where(
                _lines.c.alias == self._alias,
                _lines.c.ts >= day * DAY,
                _lines.c.ts < (day + 1) * DAY,
                _lines.c.traffic,
                _lines.c.weight < 1 / threshold,
            )
            connection.execute(light.values(weight=1 / threshold))

    def _key(self, row: Any) -> float:
        """The key of a row, also of one that was let go, or that is older than keys are."""
        return row.sample_key or sample_key(self._store, row.row_id)

    def _day(self, day: int) -> _Day:
        if day not in self._days:
            query = (
                sa.select(_lines.c.row_id, _lines.c.weight, _rows.c.sample_key)
                .outerjoin(_rows, _rows.c.row_id == _lines.c.row_id)
                .where(
                    _lines.c.alias == self._alias,
                    _lines.c.ts >= day * DAY,
                    _lines.c.ts < (day + 1) * DAY,
                    _lines.c.traffic,
                )
            )
            with self._store.reading() as connection:
                rows = connection.execute(query).all()
            keys = {row.row_id: self._key(row) for row in rows}
            # Nobody weighs less than one over the threshold.
            least = min((row.weight for row in rows), default=1.0)
            self._days[day] = _Day(keys, 1 / max(least, 1.0))
        return self._days[day]
