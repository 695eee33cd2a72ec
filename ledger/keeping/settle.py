"""Deciding which held rows stay.

Every answer is held until an hour, and all feedback that comes within `sampling.hold_hours` of
its end, are complete. Then rows with feedback, a tag, a correction or low confidence stay for
certain, and a sample of the others within the budget: per version, so that a canary has a sample
of its own, below a threshold of the sample keys (`sampling`). The rest is deleted and leaves its
numbers in the rollups.

The threshold is decided and stored first, and holds for rows that come late too. Then it is
applied, some hundred rows a transaction, and a row's numbers are added in the transaction that
deletes it: this can end anywhere and be taken up again, by another process too.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa

from ledger.database import tables
from ledger.keeping import confidence
from ledger.keeping.histogram import Histogram
from ledger.keeping.rollups import COLUMNS, SECONDS, Gone, hour_of
from ledger.keeping.sampling import allocate, cutoff
from ledger.settings import Settings
from ledger.store import Store
from ledger.store.base import NO_TEXT

#: Rows decided on in one transaction, and rows read at once.
CHUNK = 500
_SCAN = 1000
# An answer's time is its request's: an hour is complete when its answers had time to be said.
_COMPLETE_SECONDS = 300.0
# How long the size of the hour that is being filled is taken as known.
_MEASURE_SECONDS = 60.0
_MIB = 1 << 20
_HOURS_A_DAY = 24

_rows, _settled = tables.interactions, tables.settled


def _said_about(table: sa.Table, name: str) -> sa.Label[bool]:
    return sa.exists().where(table.c.row_id == _rows.c.row_id).label(name)


# Why a row stays for certain, the strongest reason first.
_FLAGS = (
    _said_about(tables.corrections, "corrected"),
    _said_about(tables.feedback, "feedback"),
    _said_about(tables.tags, "tagged"),
)
REASONS = ("corrected", "feedback", "tagged", "low_confidence")


class Held(NamedTuple):
    """The hold-back.

    Attributes:
        rows: answers that wait.
        bytes: of their text.
        oldest: time of the oldest, seconds since the epoch; None where none waits.
        early: hours of versions that were decided on before their time, for lack of room.
    """

    rows: int
    bytes: int
    oldest: float | None
    early: int


def held(store: Store) -> Held:
    """What waits in the hold-back."""
    numbers = (sa.func.count(), sa.func.sum(_rows.c.bytes), sa.func.min(_rows.c.ts))
    early = sa.select(sa.func.count()).where(_settled.c.early == sa.true())
    with store.reading() as connection:
        waiting = sa.select(*numbers).where(_rows.c.held == sa.true())
        rows, size, oldest = connection.execute(waiting).one()
        return Held(rows, int(size or 0), oldest, connection.scalar(early) or 0)


class Rule(NamedTuple):
    """What holds for the rows of one version in one hour."""

    threshold: float
    unsure: float


class _Rest:
    """The rows of a version that nothing but the sample keeps."""

    def __init__(self) -> None:
        # Arrays: an hour can have some hundred thousand rows.
        self.keys, self.sizes = array("d"), array("q")
        self.surprise = array("d")  # minus the mean logprob; NaN where there is none

    def unless(self, unsure: float) -> list[tuple[float, int]]:
        """Key and size of those that are not unsure."""
        return [
            (key, size)
            for key, size, surprise in zip(self.keys, self.sizes, self.surprise, strict=True)
            if not -surprise < unsure
        ]


class Settle:
    """The pass over held rows. Kept between passes: it remembers how large hours are.

    Attributes:
        early: hours settled before their time by this process, for lack of room.
    """

    def __init__(self, store: Store, settings: Settings, clock: Callable[[], float]) -> None:
        self._store, self._settings, self._clock = store, settings, clock
        self._bytes: dict[int, tuple[int, float]] = {}  # of an hour, and when they were counted
        self.early = 0

    def steps(self) -> Iterator[None]:
        """One pass over everything that is due, in pieces of some tens of milliseconds."""
        after = -math.inf
        while (hour := self._first_held(after)) is not None:
            after = (hour + 1) * SECONDS
            waited = self._clock() - after
            early = waited < self._settings.sampling.hold_hours * SECONDS
            if early:
                if waited < _COMPLETE_SECONDS:
                    return
                over = yield from self._over()
                if not over:
                    return
                self.early += 1
            yield from self._decide(hour, early=early)
            yield from self._apply(hour)
            self._bytes.pop(hour, None)

    def _first_held(self, after: float) -> int | None:
        query = sa.select(_rows.c.ts).where(_rows.c.held == sa.true())
        if after > -math.inf:
            query = query.where(_rows.c.ts >= after)
        with self._store.reading() as connection:
            ts = connection.scalar(query.order_by(_rows.c.ts).limit(1))
        return None if ts is None else hour_of(ts)

    def _over(self) -> Generator[None, None, bool]:
        """Whether held text needs more room than it has; measures hours not known yet."""
        hour, after = self._first_held(-math.inf), -math.inf
        found: dict[int, tuple[int, float]] = {}
        while hour is not None:
            after = (hour + 1) * SECONDS
            known = self._bytes.get(hour)
            now = self._clock()
            # Once complete an hour hardly grows.
            still = known is not None and known[1] > after + _COMPLETE_SECONDS
            if known is None or not (still or 0 <= now - known[1] < _MEASURE_SECONDS):
                query = sa.select(sa.func.sum(_rows.c.bytes)).where(*_held_in(hour))
                with self._store.reading() as connection:
                    known = int(connection.scalar(query) or 0), now
                yield
            found[hour] = known
            hour = self._first_held(after)
        self._bytes = found
        total = sum(size for size, _ in found.values())
        return total > self._settings.sampling.hold_mib * _MIB

    # -- deciding ------------------------------------------------------------------------

    def _decide(self, hour: int, *, early: bool) -> Iterator[None]:
        """Store thresholds for the versions of an hour that have none yet."""
        rest: dict[str, _Rest] = {}
        said: dict[str, Histogram] = {}
        for page in self._pages(hour):
            for row in page:
                surprise = math.nan if row.mean_logprob is None else -row.mean_logprob
                said.setdefault(row.version, Histogram()).add(surprise)
                others = rest.setdefault(row.version, _Rest())
                if not (row.corrected or row.feedback or row.tagged):
                    others.keys.append(row.sample_key)
                    others.sizes.append(row.bytes)
                    others.surprise.append(surprise)
            yield
        with self._store.transaction() as connection:
            known = _rules(connection, hour)
            new = {version: rows for version, rows in rest.items() if version not in known}
            if new:
                self._store_rules(connection, hour, new, said, early=early)

    def _store_rules(
        self,
        connection: sa.Connection,
        hour: int,
        rest: dict[str, _Rest],
        said: dict[str, Histogram],
        *,
        early: bool,
    ) -> None:
        unsure = {}
        for version in rest:
            week = Histogram()
            if self._settings.curate.low_confidence_percent is not None:
                week = confidence.past(connection, version, hour)
                week.merge(said[version])
            unsure[version] = confidence.threshold(self._settings.curate, week)
        open_ = {version: rows.unless(unsure[version]) for version, rows in rest.items()}
        sizes = {version: len(rows) for version, rows in open_.items()}
        share = self._settings.sampling.share
        wanted = sum(math.ceil(share * size) for size in sizes.values())
        most, most_bytes = self._left(connection, hour)
        counts = allocate(sizes, wanted if most is None else min(wanted, most))
        for version, rows in open_.items():
            part = None
            if most_bytes is not None:
                part = most_bytes * counts[version] // max(1, sum(counts.values()))
            threshold, kept, kept_bytes = cutoff(rows, counts[version], part)
            if not rows:  # for those that come late
                threshold = 0.0 if most == 0 else share
            elif not kept:
                threshold = 0.0
            values = {
                "hour": hour,
                "version": version,
                "ts": self._clock(),
                "early": early,
                "threshold": threshold,
                "unsure": unsure[version],
                "kept": kept,
                "kept_bytes": kept_bytes,
                "confidence": json.dumps(said[version].dump()),
            }
            connection.execute(sa.insert(_settled).values(values))

    def _left(self, connection: sa.Connection, hour: int) -> tuple[int | None, int | None]:
        """Rows and bytes that the day's caps leave to an hour.

        By the end of an hour the day may have used as much of its cap as it is old: what an hour
        does not need goes to later ones, and none is left without by those before it.
        """
        sampling = self._settings.sampling
        first = hour // _HOURS_A_DAY * _HOURS_A_DAY
        query = sa.select(sa.func.sum(_settled.c.kept), sa.func.sum(_settled.c.kept_bytes)).where(
            _settled.c.hour >= first, _settled.c.hour < first + _HOURS_A_DAY
        )
        rows, size = (int(number or 0) for number in connection.execute(query).one())
        age = (hour - first + 1) / _HOURS_A_DAY
        most, mib = sampling.max_rows_a_day, sampling.max_mib_a_day
        return (
            None if most is None else max(0, math.floor(most * age) - rows),
            None if mib is None else max(0, math.floor(mib * _MIB * age) - size),
        )

    # -- applying ------------------------------------------------------------------------

    def _apply(self, hour: int) -> Iterator[None]:
        """Keep or let go every held row of an hour whose version has a rule."""
        after: tuple[float, int] | None = None
        while True:
            with self._store.transaction() as connection:
                page = connection.execute(_page(hour, after, CHUNK)).all()
                if page:
                    _apply_to(page, _rules(connection, hour), connection)
            if not page:
                return
            after = page[-1].ts, page[-1].seq
            yield

    def _pages(self, hour: int) -> Iterator[Any]:
        after: tuple[float, int] | None = None
        while True:
            with self._store.reading() as connection:
                page = connection.execute(_page(hour, after, _SCAN)).all()
            if not page:
                return
            after = page[-1].ts, page[-1].seq
            yield page


def _apply_to(page: Any, rules: dict[str, Rule], connection: sa.Connection) -> None:
    stay: dict[tuple[str, float], list[int]] = {}
    leave: list[int] = []
    left: list[str] = []
    gone = Gone()
    for row in page:
        rule = rules.get(row.version)
        if rule is None:  # came after the rules were made: the next pass makes one
            continue
        why = _why(row, rule)
        if why is not None:
            stay.setdefault((why, 1.0), []).append(row.seq)
        elif row.sample_key < rule.threshold:
            stay.setdefault(("sample", rule.threshold), []).append(row.seq)
        else:
            leave.append(row.seq)
            left.append(row.row_id)
            gone.add(row)
    for (why, probability), seqs in stay.items():
        connection.execute(
            sa.update(_rows)
            .where(_rows.c.seq.in_(seqs))
            .values(held=False, kept_because=why, inclusion_probability=probability)
        )
    if leave:
        gone.save(connection)
        connection.execute(sa.delete(_rows).where(_rows.c.seq.in_(leave)))
        # How a comparison came out stays; what was said goes with its row.
        shadows = tables.shadows
        gone_with = sa.update(shadows).where(shadows.c.row_id.in_(left))
        connection.execute(gone_with.values(text=NO_TEXT))


def _why(row: Any, rule: Rule) -> str | None:
    """Why a row stays for certain."""
    unsure = row.mean_logprob is not None and row.mean_logprob < rule.unsure
    flags = (row.corrected, row.feedback, row.tagged, unsure)
    return next((reason for reason, is_set in zip(REASONS, flags, strict=True) if is_set), None)


def _rules(connection: sa.Connection, hour: int) -> dict[str, Rule]:
    query = sa.select(_settled).where(_settled.c.hour == hour)
    return {row.version: Rule(row.threshold, row.unsure) for row in connection.execute(query)}


def _held_in(hour: int) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        _rows.c.held == sa.true(),
        _rows.c.ts >= hour * SECONDS,
        _rows.c.ts < (hour + 1) * SECONDS,
    )


def _page(hour: int, after: tuple[float, int] | None, limit: int) -> sa.Select[Any]:
    """The next held rows of an hour, in the order of the index."""
    columns = (*COLUMNS, _rows.c.seq, _rows.c.sample_key, _rows.c.bytes, *_FLAGS)
    query = sa.select(*columns).where(*_held_in(hour))
    if after is not None:
        ts, seq = after
        query = query.where(
            _rows.c.ts >= ts, sa.or_(_rows.c.ts > ts, sa.and_(_rows.c.ts == ts, _rows.c.seq > seq))
        )
    return query.order_by(_rows.c.ts, _rows.c.seq).limit(limit)
