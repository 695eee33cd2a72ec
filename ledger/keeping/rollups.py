"""The numbers of rows that were let go, by hour, alias, version and arm.

A row's numbers are added in the transaction that deletes the row, so the rows that are there
plus the rollups are always everything that ever was: `totals` reads that. A histogram tells what
a sum cannot. Covers no text, and of feedback only counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from ledger.database import tables
from ledger.keeping.histogram import Histogram
from ledger.store import Store

SECONDS = 3600
_rows, _rollups = tables.interactions, tables.rollups

#: What `Stats.add` reads of a row.
COLUMNS = (
    _rows.c.row_id,
    _rows.c.ts,
    _rows.c.alias,
    _rows.c.version,
    _rows.c.arm,
    _rows.c.prompt_tokens,
    _rows.c.completion_tokens,
    _rows.c.latency_ms,
    _rows.c.ttft_ms,
    _rows.c.mean_logprob,
    _rows.c.finish_reason,
    _rows.c.stored_text,
)
_COUNTED = ("prompt_tokens", "completion_tokens", "stored_text")
_MEASURED = ("latency_ms", "ttft_ms", "surprise", "length")


class Group(NamedTuple):
    """Whose numbers they are."""

    alias: str | None
    version: str
    arm: str


class Used(NamedTuple):
    """Answers, and the tokens of their questions and of themselves."""

    answers: int
    prompt_tokens: int
    completion_tokens: int


class Measure:
    """Count, sum, sum of squares and histogram of one quantity."""

    def __init__(self) -> None:
        self.count, self.sum, self.squares = 0, 0.0, 0.0
        self.histogram = Histogram()

    def add(self, value: float | None) -> None:
        """Take in a value; None and what is not finite is left out."""
        if value is None or not math.isfinite(value):
            return
        self.count += 1
        self.sum += value
        self.squares += value * value
        self.histogram.add(value)

    def merge(self, other: Measure) -> None:
        """Take in another's values."""
        self.count += other.count
        self.sum += other.sum
        self.squares += other.squares
        self.histogram.merge(other.histogram)

    @property
    def mean(self) -> float | None:
        """The mean; None where there is no value."""
        return self.sum / self.count if self.count else None

    def dump(self) -> dict[str, Any]:
        """For a JSON column."""
        return {
            "count": self.count,
            "sum": self.sum,
            "squares": self.squares,
            "histogram": self.histogram.dump(),
        }

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> Measure:
        """The inverse of `dump`."""
        measure = cls()
        measure.count, measure.sum = dumped["count"], dumped["sum"]
        measure.squares = dumped["squares"]
        measure.histogram = Histogram.load(dumped["histogram"])
        return measure


class Stats:
    """The numbers of some rows.

    Attributes:
        rows: how many.
        counts: sums of whole numbers: tokens, rows with text, `finish:<reason>`, and of feedback
            `feedback`, `feedback:<what>`, `tag:<tag>` and `corrections`.
        measures: `latency_ms`, `ttft_ms`, `surprise`, which is minus the mean logprob, nats, and
            `length`, an answer's tokens.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.counts: dict[str, int] = {}
        self.measures = {name: Measure() for name in _MEASURED}

    def add(self, row: Any) -> None:
        """Take in a row with the columns of `COLUMNS`."""
        self.rows += 1
        for name in _COUNTED:
            self.count(name, int(getattr(row, name)))
        self.count(f"finish:{row.finish_reason}")
        self.measures["latency_ms"].add(row.latency_ms)
        self.measures["ttft_ms"].add(row.ttft_ms)
        self.measures["surprise"].add(None if row.mean_logprob is None else -row.mean_logprob)
        self.measures["length"].add(row.completion_tokens)

    def count(self, name: str, more: int = 1) -> None:
        """Count something."""
        self.counts[name] = self.counts.get(name, 0) + more

    def merge(self, other: Stats) -> None:
        """Take in another's rows."""
        self.rows += other.rows
        for name, more in other.counts.items():
            self.count(name, more)
        for name, measure in other.measures.items():
            self.measures[name].merge(measure)

    def dumps(self) -> str:
        """As JSON, without the number of rows, which has a column."""
        measures = {name: measure.dump() for name, measure in self.measures.items()}
        return json.dumps({"counts": self.counts, "measures": measures}, sort_keys=True)

    @classmethod
    def loads(cls, rows: int, text: str) -> Stats:
        """The inverse of `dumps`."""
        stats, read = cls(), json.loads(text)
        stats.rows, stats.counts = rows, read["counts"]
        for name, dumped in read["measures"].items():
            stats.measures[name] = Measure.load(dumped)
        return stats


class Gone:
    """Numbers of the rows that one transaction deletes."""

    def __init__(self) -> None:
        self._stats: dict[tuple[int, Group], Stats] = {}

    def add(self, row: Any) -> None:
        """Take in a row with the columns of `COLUMNS`."""
        self._of(row).add(row)

    def count(self, row: Any, name: str) -> None:
        """Count something that was said about a row."""
        self._of(row).count(name)

    def _of(self, row: Any) -> Stats:
        return self._stats.setdefault((hour_of(row.ts), _group(row)), Stats())

    def save(self, connection: sa.Connection) -> None:
        """Add the numbers to the ledger's; the transaction holds its write lock."""
        for hour, stats in self._by_hour().items():
            query = sa.select(_rollups).where(_rollups.c.hour == hour)
            known = {
                Group(old.alias, old.version, old.arm): old for old in connection.execute(query)
            }
            for group, more in stats.items():
                old = known.get(group)
                if old is None:
                    values = {"hour": hour, **group._asdict()}
                    values |= {"rows": more.rows, "stats": more.dumps()}
                    connection.execute(sa.insert(_rollups).values(values))
                    continue
                whole = Stats.loads(old.rows, old.stats)
                whole.merge(more)
                connection.execute(
                    sa.update(_rollups)
                    .where(_rollups.c.seq == old.seq)
                    .values(rows=whole.rows, stats=whole.dumps())
                )

    def _by_hour(self) -> dict[int, dict[Group, Stats]]:
        found: dict[int, dict[Group, Stats]] = {}
        for (hour, group), stats in sorted(
            self._stats.items(), key=lambda item: (item[0][0], str(item[0][1]))
        ):
            found.setdefault(hour, {})[group] = stats
        return found


def hour_of(ts: float) -> int:
    """Hours since the epoch, whole ones."""
    return int(ts // SECONDS)


def totals(
    store: Store,
    *,
    alias: str | None = None,
    version: str | None = None,
    since: int | None = None,
    until: int | None = None,
) -> dict[Group, Stats]:
    """The numbers of all rows that ever were: those that are there, and those let go.

    Of what was said about rows only rows that are gone are counted here (`counts`): for others
    the ledger has it itself.

    Args:
        since: first hour since the epoch.
        until: first hour that is left out.
    """
    found: dict[Group, Stats] = {}
    with store.snapshot() as connection:
        query = _chosen(sa.select(_rollups), _rollups, alias, version)
        if since is not None:
            query = query.where(_rollups.c.hour >= since)
        if until is not None:
            query = query.where(_rollups.c.hour < until)
        for old in connection.execute(query):
            found.setdefault(_group(old), Stats()).merge(Stats.loads(old.rows, old.stats))
        query = _chosen(sa.select(*COLUMNS), _rows, alias, version)
        if since is not None:
            query = query.where(_rows.c.ts >= since * SECONDS)
        if until is not None:
            query = query.where(_rows.c.ts < until * SECONDS)
        for row in connection.execution_options(yield_per=1000).execute(query):
            found.setdefault(_group(row), Stats()).add(row)
    return found


def used(
    store: Store, *, since: int, until: int | None = None
) -> dict[tuple[str | None, str], Used]:
    """Answers and tokens by alias and version, of all rows that ever were, as `totals` has them.

    Summed by the database: reads no row, so it is quick where `totals` is thorough. The alias is
    None where a request named the base model itself.

    Args:
        since: first hour since the epoch.
        until: first hour that is left out.
    """
    rows = sa.select(
        _rows.c.alias,
        _rows.c.version,
        sa.func.count(),
        sa.func.sum(_rows.c.prompt_tokens),
        sa.func.sum(_rows.c.completion_tokens),
    ).where(_rows.c.ts >= since * SECONDS)
    gone = sa.select(_rollups).where(_rollups.c.hour >= since)
    if until is not None:
        rows = rows.where(_rows.c.ts < until * SECONDS)
        gone = gone.where(_rollups.c.hour < until)
    found: dict[tuple[str | None, str], list[int]] = {}
    with store.snapshot() as connection:
        for alias, version, *sums in connection.execute(
            rows.group_by(_rows.c.alias, _rows.c.version)
        ):
            found[alias, version] = [int(one) for one in sums]
        for old in connection.execute(gone):
            counts = json.loads(old.stats)["counts"]
            sums = found.setdefault((old.alias, old.version), [0, 0, 0])
            sums[0] += old.rows
            sums[1] += counts.get("prompt_tokens", 0)
            sums[2] += counts.get("completion_tokens", 0)
    return {key: Used(*sums) for key, sums in found.items()}


def whole(parts: Iterable[Stats]) -> Stats:
    """The sum of several groups."""
    found = Stats()
    for part in parts:
        found.merge(part)
    return found


def _group(row: Any) -> Group:
    return Group(row.alias, row.version, row.arm)


def _chosen(query: Any, table: sa.Table, alias: str | None, version: str | None) -> Any:
    if alias is not None:
        query = query.where(table.c.alias == alias)
    return query if version is None else query.where(table.c.version == version)
