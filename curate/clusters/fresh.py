"""Reporting clusters that nothing was learned about: much asked lately, absent from the newest
dataset; alone, or together with others that nobody asked before the window.

A report is a row of `alerts`, and some rows of the cluster get the tag `new_cluster`, which
brings them into the queue. Where there is no dataset yet, everything would be new, and nothing is
reported.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from curate.clusters.counts import pairs_by_cluster
from curate.clusters.model import latest
from ledger.database import tables
from ledger.marks import NEW_CLUSTER
from ledger.records import Tag
from ledger.settings.curation import Clusters
from ledger.store import Store

#: Rows of a new cluster that are tagged, so that the queue does not drown in them.
TAGGED = 50
_WHO = f"rule:{NEW_CLUSTER}"

_lines, _alerts, _rows = tables.cluster_rows, tables.alerts, tables.interactions


class Fresh(NamedTuple):
    """A cluster that is new: its number, name, share of recent traffic, and rows tagged."""

    cluster: int
    name: str
    share: float
    tagged: int


def report(store: Store, alias: str, settings: Clusters, at: float) -> list[Fresh]:
    """Report the clusters that are new in the window that ends at `at`, each once a window.

    Args:
        at: seconds since the epoch.
    """
    since = at - settings.recent_hours * 3600
    with store.reading() as connection:
        candidates = _candidates(alias, settings, since, at, connection)
    if not candidates:
        return []
    names = {number: cluster.name for number, cluster in latest(store, alias).items()}
    found = []
    with store.transaction() as connection:
        known = _reported(alias, since, connection)
        for number, share, rows in candidates:
            if number in known or number not in names:
                continue
            why = f"new cluster {number}: {names[number]}"
            tags = [
                Tag(row_id=row_id, tag=NEW_CLUSTER, who=_WHO, why=why, ts=at)
                for row_id in _to_tag(alias, number, since, at, connection)
            ]
            tagged = store.add_tags(tags, connection)
            found.append(Fresh(number, names[number], share, tagged))
            said = {
                "cluster": number,
                "name": names[number],
                "share": round(share, 4),
                "rows": rows,
                "tagged": tagged,
            }
            store.add_alert(alias, NEW_CLUSTER, said, connection, at=at, since=since, until=at)
    return found


def _candidates(
    alias: str, settings: Clusters, since: float, at: float, connection: sa.Connection
) -> list[tuple[int, float, int]]:
    """Clusters without pairs and with enough traffic: number, share, rows of the sample."""
    pairs = pairs_by_cluster(alias, connection)
    if pairs is None:
        return []
    query = (
        sa.select(_lines.c.cluster, sa.func.sum(_lines.c.weight), sa.func.count())
        .where(*_recent(alias, since, at), _lines.c.traffic)
        .group_by(_lines.c.cluster)
    )
    sums = connection.execute(query).all()
    whole = sum(weight for _, weight, _ in sums)
    absent = [
        (number, weight / whole, rows)
        for number, weight, rows in sums
        if number is not None and not pairs.get(number) and rows >= settings.min_size
    ]
    # One product is often several clusters, so those that nobody asked before count together.
    young = _young(alias, [number for number, _, _ in absent], since, connection)
    together = sum(share for number, share, _ in absent if number in young)
    return [
        one
        for one in absent
        if one[1] > settings.new_share or (one[0] in young and together > settings.new_share)
    ]


def _young(alias: str, numbers: Sequence[int], since: float, connection: sa.Connection) -> set[int]:
    """Clusters whose first row came in the window."""
    before = sa.exists().where(
        _lines.c.alias == alias, _lines.c.cluster == sa.bindparam("number"), _lines.c.ts < since
    )
    query = sa.select(before)
    return {n for n in numbers if not connection.scalar(query, {"number": n})}


def _reported(alias: str, since: float, connection: sa.Connection) -> set[int]:
    """Clusters that were reported within the window."""
    query = sa.select(_alerts.c.report).where(
        _alerts.c.alias == alias, _alerts.c.ts > since, _alerts.c.kind == NEW_CLUSTER
    )
    return {json.loads(text)["cluster"] for text in connection.scalars(query)}


def _to_tag(
    alias: str, cluster: int, since: float, at: float, connection: sa.Connection
) -> Sequence[str]:
    """The newest rows of a cluster in the window whose text is there."""
    query = (
        sa.select(_lines.c.row_id)
        .join(_rows, _rows.c.row_id == _lines.c.row_id)
        .where(*_recent(alias, since, at), _lines.c.cluster == cluster, _rows.c.stored_text)
        .order_by(_lines.c.ts.desc())
        .limit(TAGGED)
    )
    return list(connection.scalars(query))


def _recent(alias: str, since: float, at: float) -> list[Any]:
    return [_lines.c.alias == alias, _lines.c.ts >= since, _lines.c.ts <= at]
