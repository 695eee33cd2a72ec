"""What the next dataset of an alias would hold: everything that the choice depends on, brought
together from the ledger and given to `curate.datasets.select`.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import NamedTuple

import sqlalchemy as sa

from curate.datasets.candidates import candidates, refresh
from curate.datasets.near import Signer
from curate.datasets.select import Gold, History, Selection, select
from ledger.database import tables
from ledger.deployments import BASE, Deployments
from ledger.errors import RegistryError
from ledger.gold import question_turns, turns_key
from ledger.packs import kept_out, recorded_packs
from ledger.registry import Registry
from ledger.settings import Settings
from ledger.store import Frozen, Store
from ledger.store.base import STREAM


class Plan(NamedTuple):
    """What the next dataset would hold.

    Attributes:
        tags, clusters: of rows of the alias.
        names: of clusters.
        parent: the last dataset of the alias.
        trained: rows that the live version learned from.
    """

    selection: Selection
    tags: Mapping[str, list[str]]
    clusters: Mapping[str, int | None]
    names: Mapping[int, str]
    parent: Frozen | None
    trained: Collection[str] = frozenset()


def plan(settings: Settings, store: Store, alias: str) -> Plan:
    """Choose the pairs of an alias. Opens only rows that no build has looked at.

    Raises:
        ConfigError: there is no such alias, or no detector of names where one is asked for.
        GoldError: a gold set of the alias cannot be read; nothing is built without it.
    """
    gold = _gold(settings, store, alias)
    refresh(settings, store)
    earlier = store.datasets(alias)
    parent = earlier[-1] if earlier else None
    history = History(
        trained=learned_from(settings, store, alias, Deployments(store).state(alias).live),
        before=store.dataset_rows(parent.dataset_id) if parent else frozenset(),
    )
    clusters = _clusters(store, alias)
    found = candidates(settings, store, alias)
    selection = select(found, gold, settings.curate, history, clusters, store.mac)
    return Plan(
        selection,
        _tags(store, alias),
        clusters,
        _names(store, alias),
        parent,
        history.trained,
    )


def _gold(settings: Settings, store: Store, alias: str) -> Gold:
    gold = kept_out(settings.alias(alias).gate, recorded_packs(store, alias))
    turns = [question_turns(question.messages) for question in gold]
    signer = Signer(store)
    keys = frozenset(store.mac("question", turns_key(one).encode()) for one in turns)
    return Gold(keys, [signer.sign(one) for one in turns])


def learned_from(settings: Settings, store: Store, alias: str, version: int) -> set[str]:
    """Rows that a version was trained on; none of the base model."""
    if version == BASE:
        return set()
    try:
        manifest = Registry(settings.registry).get(alias, version).manifest
    except RegistryError:
        return set()  # nothing is known of it: the caps count everything
    return store.dataset_rows(manifest.dataset_id)


def _tags(store: Store, alias: str) -> dict[str, list[str]]:
    table, known = tables.tags, tables.candidates
    query = (
        sa.select(table.c.row_id, table.c.tag)
        .distinct()
        .join(known, known.c.row_id == table.c.row_id)
        .where(known.c.alias == alias)
        .order_by(table.c.row_id, table.c.tag)
    )
    found: dict[str, list[str]] = {}
    with (
        store.reading() as connection,
        connection.execute(query, execution_options=STREAM) as result,
    ):
        for row_id, tag in result:
            found.setdefault(row_id, []).append(sys.intern(tag))
    return found


def _clusters(store: Store, alias: str) -> dict[str, int | None]:
    table, known = tables.cluster_rows, tables.candidates
    query = (
        sa.select(table.c.row_id, table.c.cluster)
        .join(known, known.c.row_id == table.c.row_id)
        .where(known.c.alias == alias, table.c.alias == alias)
    )
    with store.reading() as connection:
        return {row_id: cluster for row_id, cluster in connection.execute(query)}


def _names(store: Store, alias: str) -> dict[int, str]:
    table = tables.clusters
    query = sa.select(table.c.cluster, table.c.name).where(table.c.alias == alias)
    with store.reading() as connection:
        return {cluster: name for cluster, name in connection.execute(query.order_by(table.c.seq))}
