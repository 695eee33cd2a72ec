"""How clusters do over time: share of traffic, failures, corrections, pairs, first and last seen.

Shares and rates are of all traffic, estimated from the sample that stands for it
(`curate.clusters.sample`): a row counts as many times as it has weight. Their intervals are
Wilson's, with the effective number of rows in place of the number (`curate.estimates`).
Corrections, pairs and rows are counted as they are.

A row failed where somebody gave it negative feedback (`ledger.records.is_negative`) or it carries
one of the tags in `FAILURES`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from curate.clusters.model import latest
from curate.estimates import Interval, wilson
from ledger.database import tables
from ledger.marks import GOLD_MISS, USER_EDIT, USER_NEGATIVE
from ledger.store import Store
from ledger.store.base import STREAM, chunks

#: Tags that say that an answer was not good.
FAILURES = (USER_NEGATIVE, USER_EDIT, GOLD_MISS)
#: The name shown for rows that are like nothing known.
NOTHING_KNOWN = "like nothing known"
_DAY = 86_400.0

_lines, _rows = tables.cluster_rows, tables.interactions


class ClusterCounts(NamedTuple):
    """The numbers of a cluster in a window of time.

    Attributes:
        cluster: its number; None for rows that are like nothing known.
        name: its terms.
        answers: how many answers the sample says that it had.
        share: of the traffic; None where there was none.
        failure_rate: of its traffic; None where it had none.
        failures: rows with a sign of failure, counted as they are.
        corrections: rows with a correction.
        rows: rows that were looked at.
        pairs: rows of the alias's newest dataset, whenever they were answered.
        first_seen, last_seen: over all time, seconds since the epoch; None where it has no rows.
        new: whether the newest dataset has no row of it; False where there is no dataset.
    """

    cluster: int | None
    name: str
    answers: float
    share: Interval | None
    failure_rate: Interval | None
    failures: int
    corrections: int
    rows: int
    pairs: int
    first_seen: float | None
    last_seen: float | None
    new: bool


class Day(NamedTuple):
    """A UTC day of a cluster; `day` is its start, seconds since the epoch. See `ClusterCounts`."""

    day: float
    cluster: int | None
    answers: float
    share: Interval | None
    failure_rate: Interval | None


class _Sum:
    """Weights of rows, and of those that failed."""

    def __init__(self) -> None:
        self.weight = self.squares = self.failed = 0.0

    def add(self, weight: float, *, failed: bool) -> None:
        self.weight += weight
        self.squares += weight * weight
        self.failed += weight * failed


def counts(
    store: Store, alias: str, *, since: float | None = None, until: float | None = None
) -> list[ClusterCounts]:
    """Every cluster that has rows in a window or at all, those with most failures and corrections
    first; rows like nothing known last.

    Args:
        since, until: seconds since the epoch; the first inclusive, the second not.
    """
    window = _window(alias, since, until)
    failed = _failed().label("failed")
    corrected = _has(tables.corrections).label("corrected")
    query = sa.select(
        _lines.c.cluster,
        _lines.c.traffic,
        failed,
        corrected,
        sa.func.count().label("rows"),
        sa.func.sum(_lines.c.weight).label("weight"),
        sa.func.sum(_lines.c.weight * _lines.c.weight).label("squares"),
    ).where(*window)
    sub = query.group_by(
        _lines.c.cluster, _lines.c.traffic, sa.text("failed"), sa.text("corrected")
    )
    sums: dict[int | None, _Sum] = {}
    plain: dict[int | None, list[int]] = {}
    with store.reading() as connection:
        for row in connection.execute(sub):
            known = plain.setdefault(row.cluster, [0, 0, 0])
            known[0] += row.rows
            known[1] += row.rows * bool(row.failed)
            known[2] += row.rows * bool(row.corrected)
            if row.traffic:
                one = sums.setdefault(row.cluster, _Sum())
                one.weight += row.weight
                one.squares += row.squares
                one.failed += row.weight * bool(row.failed)
        times = {
            row.cluster: (row.first, row.last)
            for row in connection.execute(
                sa.select(
                    _lines.c.cluster,
                    sa.func.min(_lines.c.ts).label("first"),
                    sa.func.max(_lines.c.ts).label("last"),
                )
                .where(_lines.c.alias == alias)
                .group_by(_lines.c.cluster)
            )
        }
        pairs = pairs_by_cluster(alias, connection)
    clusters = latest(store, alias)
    all_weight = sum(one.weight for one in sums.values())
    all_squares = sum(one.squares for one in sums.values())
    found = []
    for number in {*clusters, *plain, *times}:
        if number is not None and number not in clusters:
            continue  # being renumbered right now
        one = sums.get(number, _Sum())
        rows, failures, corrections = plain.get(number, (0, 0, 0))
        first, last = times.get(number, (None, None))
        found.append(
            ClusterCounts(
                number,
                NOTHING_KNOWN if number is None else clusters[number].name,
                one.weight,
                _share(one.weight, all_weight, all_squares),
                _share(one.failed, one.weight, one.squares),
                failures,
                corrections,
                rows,
                0 if pairs is None else pairs.get(number, 0),
                first,
                last,
                pairs is not None and number is not None and not pairs.get(number, 0),
            )
        )
    return sorted(
        found,
        key=lambda one: (one.cluster is None, -one.failures - one.corrections, -one.answers),
    )


def daily(
    store: Store, alias: str, *, since: float | None = None, until: float | None = None
) -> list[Day]:
    """The same by UTC day, for a picture: days ascending, clusters without traffic left out."""
    query = sa.select(
        _lines.c.ts, _lines.c.cluster, _lines.c.weight, _failed().label("failed")
    ).where(*_window(alias, since, until), _lines.c.traffic)
    sums: dict[tuple[float, int | None], _Sum] = {}
    whole: dict[float, _Sum] = {}
    with store.reading() as connection:
        for row in connection.execute(query, execution_options=STREAM):
            day = math.floor(row.ts / _DAY) * _DAY
            for one in (
                sums.setdefault((day, row.cluster), _Sum()),
                whole.setdefault(day, _Sum()),
            ):
                one.add(row.weight, failed=bool(row.failed))
    return [
        Day(
            day,
            cluster,
            one.weight,
            _share(one.weight, whole[day].weight, whole[day].squares),
            _share(one.failed, one.weight, one.squares),
        )
        for (day, cluster), one in sorted(
            sums.items(), key=lambda item: (item[0][0], item[0][1] is None, item[0][1] or 0)
        )
    ]


def neighbours(store: Store, alias: str, row_id: str, limit: int = 5) -> list[str]:
    """Other rows of a row's cluster whose text is there, the newest first."""
    cluster = cluster_of(store, [row_id]).get(row_id)
    if cluster is None:
        return []
    query = (
        sa.select(_lines.c.row_id)
        .join(_rows, _rows.c.row_id == _lines.c.row_id)
        .where(
            _lines.c.alias == alias,
            _lines.c.cluster == cluster,
            _lines.c.row_id != row_id,
            _rows.c.stored_text,
        )
        .order_by(_lines.c.ts.desc())
        .limit(limit)
    )
    with store.reading() as connection:
        return list(connection.scalars(query))


def cluster_of(store: Store, row_ids: Sequence[str]) -> dict[str, int | None]:
    """The cluster of each row; None: like nothing known. Rows not looked at are left out."""
    query = sa.select(_lines.c.row_id, _lines.c.cluster)
    with store.reading() as connection:
        return {
            row.row_id: row.cluster
            for chunk in chunks(row_ids)
            for row in connection.execute(query.where(_lines.c.row_id.in_(chunk)))
        }


def pairs_by_cluster(alias: str, connection: sa.Connection) -> dict[int | None, int] | None:
    """Rows of the newest dataset by cluster; None where the alias has no dataset."""
    datasets, members = tables.datasets, tables.dataset_rows
    newest = (
        sa.select(datasets.c.dataset_id)
        .where(datasets.c.alias == alias)
        .order_by(datasets.c.seq.desc())
        .limit(1)
    )
    dataset_id = connection.scalar(newest)
    if dataset_id is None:
        return None
    query = (
        sa.select(_lines.c.cluster, sa.func.count())
        .join(members, members.c.row_id == _lines.c.row_id)
        .where(members.c.dataset_id == dataset_id)
        .group_by(_lines.c.cluster)
    )
    return {cluster: int(number) for cluster, number in connection.execute(query)}


def _window(alias: str, since: float | None, until: float | None) -> list[Any]:
    window: list[Any] = [_lines.c.alias == alias]
    window += [] if since is None else [_lines.c.ts >= since]
    window += [] if until is None else [_lines.c.ts < until]
    return window


def _has(table: sa.Table, *conditions: Any) -> Any:
    return sa.exists().where(table.c.row_id == _lines.c.row_id, *conditions)


def _failed() -> Any:
    """Whether somebody was not content with a line's row; `is_negative` in SQL."""
    given = tables.feedback.c
    negative = sa.or_(
        given.rating == "down",
        given.score < 0.5,
        given.regenerate,
        given.report,
        given.success == sa.false(),
    )
    return sa.or_(
        _has(tables.tags, tables.tags.c.tag.in_(FAILURES)), _has(tables.feedback, negative)
    )


def _share(part: float, whole: float, squares: float) -> Interval | None:
    """A weighted share with its interval; None of nothing."""
    if whole <= 0 or squares <= 0:
        return None
    return wilson(part / whole, whole * whole / squares)
