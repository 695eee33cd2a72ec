"""What share of the traffic is in clusters that no training data has.

Curation finds the clusters and reports those that are new (`alerts` of the kind `new_cluster`);
here their share of the last day's sample is estimated with its interval, so that one busy hour of
a few questions is no drift. A cluster that the newest dataset has rows of is not new any more.
"""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from eval.drift.windows import wilson
from ledger.database import tables
from ledger.keeping.rollups import SECONDS
from ledger.marks import NEW_CLUSTER
from ledger.store import Store

#: Hours whose traffic is looked at.
WINDOW = 24
#: How long a report of curation makes a cluster new, hours.
REPORTED = 14 * 24

_lines = tables.cluster_rows


class NewShare(NamedTuple):
    """A share of the traffic with its interval; `questions` is their effective number."""

    value: float
    low: float
    high: float
    questions: float


def new_share(store: Store, alias: str, hour: int, z: float) -> NewShare | None:
    """The share in the day that ends with an hour; None where no question was placed.

    Args:
        z: half the interval's width, in standard errors.
    """
    until = (hour + 1) * SECONDS
    since = until - WINDOW * SECONDS
    reported = store.alerts(alias, kind=NEW_CLUSTER, since=until - REPORTED * SECONDS)
    numbers = {one.report.get("cluster") for one in reported} - {None}
    query = (
        sa.select(
            _lines.c.cluster,
            sa.func.sum(_lines.c.weight),
            sa.func.sum(_lines.c.weight * _lines.c.weight),
        )
        .where(
            _lines.c.alias == alias,
            _lines.c.ts >= since,
            _lines.c.ts < until,
            _lines.c.traffic,
        )
        .group_by(_lines.c.cluster)
    )
    with store.reading() as connection:
        numbers -= _learned(alias, connection)
        sums = connection.execute(query).all()
    whole = sum(weight for _, weight, _ in sums)
    if not whole:
        return None
    effective = whole * whole / sum(squares for _, _, squares in sums)
    new = sum(weight for cluster, weight, _ in sums if cluster in numbers)
    share = new / whole
    return NewShare(share, *wilson(share, effective, z), effective)


def _learned(alias: str, connection: sa.Connection) -> set[int]:
    """Clusters that the newest dataset has rows of."""
    datasets, members = tables.datasets, tables.dataset_rows
    newest = (
        sa.select(datasets.c.dataset_id)
        .where(datasets.c.alias == alias)
        .order_by(datasets.c.seq.desc())
        .limit(1)
        .scalar_subquery()
    )
    query = (
        sa.select(_lines.c.cluster)
        .join(members, members.c.row_id == _lines.c.row_id)
        .where(members.c.dataset_id == newest, _lines.c.cluster.is_not(None))
        .distinct()
    )
    return set(connection.scalars(query))
