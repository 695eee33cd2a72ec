"""Everything that is known of one row: what was said about it, and what became of it."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from curate import clusters
from ledger.database import tables
from ledger.errors import UnknownRow
from ledger.records import Feedback, Interaction, Tag
from ledger.registry import Registry
from ledger.settings import Settings
from ledger.store import Store
from ledger.store.corrections import Stated
from ledger.store.queue import Review

_NEIGHBOURS = 6


class InDataset(NamedTuple):
    """A dataset that the row is in, and the versions that were trained on it."""

    dataset_id: str
    ts: float
    pairs: int
    versions: list[int]


class LeftOut(NamedTuple):
    """What was said of the row when a dataset was built; `reason` "" is: it is in."""

    ts: float
    reason: str
    dataset_id: str


class Cluster(NamedTuple):
    """The cluster of a row, and a few other rows of it, newest first."""

    number: int
    name: str
    neighbours: list[Interaction]


class Whole(NamedTuple):
    """One row with all that is known of it. Lists are oldest first, reviews newest first."""

    row: Interaction
    feedback: list[Feedback]
    tags: list[Tag]
    corrections: list[Stated]
    reviews: list[Review]
    datasets: list[InDataset]
    left_out: list[LeftOut]
    cluster: Cluster | None
    queued: bool


def whole(settings: Settings, store: Store, alias: str, row_id: str) -> Whole:
    """Everything about a row of an alias.

    Raises:
        UnknownRow: there is none, or it is another alias's.
        LedgerError: its text is damaged.
    """
    row = of_alias(store, alias, row_id)
    with store.reading() as connection:
        waiting = sa.select(tables.queue.c.waiting).where(tables.queue.c.row_id == row_id)
        queued = bool(connection.scalar(waiting))
    return Whole(
        row=row,
        feedback=[said for _, said in store.feedback(row_ids=[row_id])],
        tags=store.tags([row_id]).get(row_id, []),
        corrections=store.correction_history(row_id),
        reviews=store.reviews(row_id),
        datasets=_datasets(settings, store, alias, row_id),
        left_out=_left_out(store, row_id),
        cluster=_cluster(store, alias, row_id),
        queued=queued,
    )


def of_alias(store: Store, alias: str, row_id: str) -> Interaction:
    """A row of an alias, or one that a version of the alias answered without it.

    Raises:
        UnknownRow, LedgerError: as `whole` does.
    """
    row = store.interaction(row_id)
    if row.alias != alias and not (row.alias is None and row.version.startswith(f"{alias}@")):
        raise UnknownRow(f"no answer of {alias} has the id {row_id!r}")
    return row


def _datasets(settings: Settings, store: Store, alias: str, row_id: str) -> list[InDataset]:
    datasets, rows = tables.datasets, tables.dataset_rows
    query = (
        sa.select(datasets.c.dataset_id, datasets.c.ts, datasets.c.pairs)
        .join(rows, rows.c.dataset_id == datasets.c.dataset_id)
        .where(rows.c.row_id == row_id)
        .order_by(datasets.c.seq)
    )
    with store.reading() as connection:
        found = connection.execute(query).all()
    if not found:
        return []
    trained = trained_on(settings, alias)
    return [InDataset(*row, trained.get(row.dataset_id, [])) for row in found]


def trained_on(settings: Settings, alias: str) -> dict[str, list[int]]:
    """Versions of an alias by the dataset that they were trained on."""
    found: dict[str, list[int]] = {}
    for version in Registry(settings.registry).versions(alias):
        manifest = version.manifest
        found.setdefault(manifest.dataset_id, []).append(manifest.version)
    return found


def _left_out(store: Store, row_id: str) -> list[LeftOut]:
    table = tables.left_out
    query = sa.select(table.c.ts, table.c.reason, table.c.dataset_id)
    with store.reading() as connection:
        rows = connection.execute(query.where(table.c.row_id == row_id).order_by(table.c.seq))
        return [LeftOut(*row) for row in rows]


def _cluster(store: Store, alias: str, row_id: str) -> Cluster | None:
    number = clusters.cluster_of(store, [row_id]).get(row_id)
    if number is None:
        return None
    named = clusters.latest(store, alias).get(number)
    ids = clusters.neighbours(store, alias, row_id, _NEIGHBOURS)
    rows = sorted(store.interactions(row_ids=ids), key=lambda one: one.ts, reverse=True)
    return Cluster(number, named.name if named else f"cluster {number}", rows)
