"""Learning clusters: everything anew, or what is like nothing known.

Everything is fitted anew when there are twice as many rows as the last time, so the work for a
row stays bounded however long a ledger lives. In between, rows near no cluster gather; when there
are a tenth more of them they are fitted among themselves, and those that are alike make new
clusters in a layer of their own. That is how a new product is found by a space that was made
before anybody asked about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from curate.clusters import names
from curate.clusters.intake import asked
from curate.clusters.model import (
    LAYER,
    Group,
    Model,
    add_clusters,
    add_space,
    newest_space,
    next_number,
)
from ledger.database import tables
from ledger.store import Store
from ledger.store.base import PAGE, chunks

if TYPE_CHECKING:
    from curate.clusters.names import Asked
    from curate.clusters.space import Floats

#: Most questions that a space is fitted on, the newest ones.
POOL = 20_000
#: Rows near nothing that are looked at together, and the part of them that must be new.
UNKNOWN, PART = 3000, 10
#: Questions of known clusters that say which words are common.
COMMON = 500
#: Everything is fitted anew at so many times the rows of the last time, or so many layers.
GROWTH, LAYERS = 2, 12
#: The first fit waits for so many times the least size of a cluster.
FIRST = 4

_NOWHERE = -1  # the number of no cluster

_lines = tables.cluster_rows


class Learned(NamedTuple):
    """What was learned: the clusters that are new, and whether everything was fitted anew."""

    new: tuple[int, ...] = ()
    fitted: bool = False


class _Found(NamedTuple):
    groups: list[Group]
    numbers: list[int | None]  # the cluster of each question
    new: tuple[int, ...]


def learn(store: Store, alias: str, model: Model, say: Callable[[str], None]) -> Learned:
    """Learn what is to be learned; the model is out of date afterwards where anything was.

    Raises:
        ServerError: the endpoint does not answer; nothing was changed.
    """
    if model.root is not None:
        _repair(store, alias, model)
    with store.reading() as connection:
        every = sa.select(sa.func.count()).where(_lines.c.alias == alias)
        total = int(connection.scalar(every) or 0)
        unknown = int(connection.scalar(every.where(_lines.c.cluster.is_(None))) or 0)
    if total < FIRST * model.settings.min_size:
        return Learned()
    if model.root is None or total >= GROWTH * model.fitted_on or len(model.spaces) > LAYERS:
        return _everything(store, alias, model, total, say)
    return _unknown(store, alias, model, unknown, say)


# -- everything ----------------------------------------------------------------------------------


def _everything(
    store: Store, alias: str, model: Model, total: int, say: Callable[[str], None]
) -> Learned:
    from curate.clusters.endpoint import Endpoint
    from curate.clusters.space import Tfidf

    newest = sa.select(_lines.c.row_id, _lines.c.cluster).where(_lines.c.alias == alias)
    with store.reading() as connection:
        found = connection.execute(newest.order_by(_lines.c.ts.desc()).limit(POOL)).all()
    old = {row.row_id: row.cluster for row in found}
    pool = asked(store, list(old))
    if len(pool) < FIRST * model.settings.min_size:
        return Learned()
    say(f"{alias}: fitting clusters on {len(pool):,} questions")
    texts = [one.text for one in pool.values()]
    space: Any
    if model.settings.embedding == "endpoint":
        space = Endpoint(model.settings, model.http)
    else:
        space = Tfidf.fit(texts)
    before = [old[row_id] for row_id in pool]
    made = _grouped(store, alias, model, space, pool, before, taken=())
    with store.transaction() as connection:
        if newest_space(alias, connection) != model.newest:
            return Learned()  # somebody else was faster
        number = add_space(alias, space, space.kind, total, connection)
        add_clusters(alias, number, made.groups, connection)
    _move(store, dict(zip(pool, made.numbers, strict=True)), old)
    _settle_rest(store, alias, model, pool, before, made)
    _unknown_seen(store, alias)
    return Learned(made.new, fitted=True)


def _settle_rest(
    store: Store,
    alias: str,
    model: Model,
    pool: dict[str, Asked],
    before: Sequence[int | None],
    made: _Found,
) -> None:
    """Rows that were not in the pool: those of clusters that are no more go where most of their
    like went; at first all of them are placed."""
    living = {group.cluster for group in made.groups}
    went: dict[int, dict[int | None, int]] = {}
    for was, now in zip(before, made.numbers, strict=True):
        if was is not None and was not in living:
            counts = went.setdefault(was, {})
            counts[now] = counts.get(now, 0) + 1
    for gone in sorted(_used(store, alias) - living):
        counts = went.get(gone, {None: 1})
        to = max(counts, key=lambda number: (counts[number], number is not None, number or 0))
        _rename(store, alias, gone, to)
    if model.root is None:
        _place_unknown(store, alias, Model.load(store, alias, model.settings, model.http), pool)


def _used(store: Store, alias: str) -> set[int]:
    """Numbers of clusters that rows are in."""
    distinct = sa.select(_lines.c.cluster).where(_lines.c.alias == alias).distinct()
    with store.reading() as connection:
        return {number for number in connection.scalars(distinct) if number is not None}


def _repair(store: Store, alias: str, model: Model) -> None:
    """Place rows of clusters that are no more: a process died while it moved them."""
    gone = _used(store, alias) - set(model.clusters)
    if not gone:
        return
    query = sa.select(_lines.c.row_id).where(_lines.c.alias == alias, _lines.c.cluster.in_(gone))
    with store.reading() as connection:
        ids = list(connection.scalars(query))
    for chunk in chunks(ids, 2 * PAGE):
        texts = asked(store, chunk)
        places = model.place([one.text for one in texts.values()])
        to = dict.fromkeys(chunk, None) | dict(zip(texts, places, strict=True))
        _move(store, to, dict.fromkeys(chunk, _NOWHERE))


def _rename(store: Store, alias: str, gone: int, to: int | None) -> None:
    """Give the rows of a cluster that is no more another one, some at a time."""
    mine = sa.select(_lines.c.row_id).where(_lines.c.alias == alias, _lines.c.cluster == gone)
    while True:
        with store.transaction() as connection:
            part = list(connection.scalars(mine.limit(PAGE)))
            if part:
                change = sa.update(_lines).where(_lines.c.row_id.in_(part))
                connection.execute(change.values(cluster=to))
        if not part:
            return


def _place_unknown(store: Store, alias: str, model: Model, but: dict[str, Asked]) -> None:
    """Place every row that is in no cluster, page by page, but those that were just looked at."""
    query = sa.select(_lines.c.row_id).where(_lines.c.alias == alias, _lines.c.cluster.is_(None))
    with store.reading() as connection:
        ids = [row_id for row_id in connection.scalars(query) if row_id not in but]
    for chunk in chunks(ids, 2 * PAGE):
        texts = asked(store, chunk)
        places = model.place([one.text for one in texts.values()])
        _move(store, dict(zip(texts, places, strict=True)), {})


# -- what is like nothing known ------------------------------------------------------------------


def _unknown(
    store: Store, alias: str, model: Model, unknown: int, say: Callable[[str], None]
) -> Learned:
    from curate.clusters.space import Tfidf

    start = store.cursor(_cursor(alias))
    looked_at = min(start, unknown)
    least = max(model.settings.min_size, min(unknown, UNKNOWN) // PART)
    if unknown - looked_at < least:
        return Learned()
    query = sa.select(_lines.c.row_id).where(_lines.c.alias == alias, _lines.c.cluster.is_(None))
    with store.reading() as connection:
        ids = list(connection.scalars(query.order_by(_lines.c.ts.desc()).limit(UNKNOWN)))
    pool = asked(store, ids)
    made = None
    if len(pool) >= model.settings.min_size:
        root: Any = model.root
        space: Any = root
        kind = root.kind
        if isinstance(root, Tfidf):
            space, kind = Tfidf.fit([one.text for one in pool.values()], below=root), LAYER
        taken = [cluster.name for cluster in model.clusters.values()]
        made = _grouped(
            store,
            alias,
            model,
            space,
            pool,
            [None] * len(pool),
            taken=taken,
            others=_known(store, alias),
        )
    if made is not None and made.groups:
        with store.transaction() as connection:
            same = newest_space(alias, connection) == model.newest
            cursor = _cursor(alias)
            if not same or not store.move_cursor(
                cursor, unknown, expected=start, connection=connection
            ):
                return Learned()  # somebody else was faster
            number = max(model.spaces)
            if space is not root:
                number = add_space(alias, space, kind, len(pool), connection)
            add_clusters(alias, number, made.groups, connection)
        say(
            f"{alias}: {len(made.groups)} clusters among {len(pool):,} questions like nothing known"
        )
        _move(store, dict(zip(pool, made.numbers, strict=True)), {})
    _unknown_seen(store, alias)
    return Learned(made.new if made is not None else ())


def _known(store: Store, alias: str) -> list[Asked]:
    """Some of the questions that are in clusters, the newest ones."""
    query = sa.select(_lines.c.row_id).where(_lines.c.alias == alias, _lines.c.cluster.is_not(None))
    with store.reading() as connection:
        ids = list(connection.scalars(query.order_by(_lines.c.ts.desc()).limit(COMMON)))
    return list(asked(store, ids).values())


def _unknown_seen(store: Store, alias: str) -> None:
    """Remember how many rows are in no cluster after they were looked at."""
    query = sa.select(sa.func.count()).where(_lines.c.alias == alias, _lines.c.cluster.is_(None))
    cursor = _cursor(alias)
    start = store.cursor(cursor)
    with store.transaction() as connection:
        left = int(connection.scalar(query) or 0)
        store.move_cursor(cursor, left, expected=start, connection=connection)


def _cursor(alias: str) -> str:
    return f"clusters.unknown:{alias}"


# -- both ----------------------------------------------------------------------------------------


def _grouped(
    store: Store,
    alias: str,
    model: Model,
    space: Any,
    pool: dict[str, Asked],
    before: Sequence[int | None],
    *,
    taken: Sequence[str],
    others: Sequence[Asked] = (),
) -> _Found:
    """Group questions in a space, number the groups and name them.

    Args:
        before: the cluster that each was in.
        taken: names that other clusters have.
        others: questions of other clusters, which say what is common.
    """
    import numpy as np

    from curate.clusters.group import ALONE, centroids, grouped, matched
    from curate.clusters.space import one_thread

    questions = list(pool.values())
    seen = space.see([one.text for one in questions])
    known = seen.energy >= max(space.floor, 1e-6)
    settings = model.settings
    with one_thread():
        labels = grouped(seen.vectors, known, settings.similarity, settings.min_size)
    sizes = np.bincount(labels[labels != ALONE])
    with store.reading() as connection:
        number = next_number(alias, connection)
    same = matched(labels, before)
    new = []
    for label in np.argsort(-sizes, kind="stable"):
        if int(label) not in same:
            same[int(label)] = number
            new.append(number)
            number += 1
    centres: Floats = centroids(seen.vectors, labels, np.arange(len(sizes)))
    members = {label: np.flatnonzero(labels == label) for label in range(len(sizes))}
    terms = names.telling_terms(
        {same[label]: [questions[i] for i in rows] for label, rows in members.items()},
        [*others, *(questions[i] for i in np.flatnonzero(labels == ALONE))],
    )
    used = list(taken)
    groups = []
    for label in sorted(members, key=lambda label: (-sizes[label], same[label])):
        cluster = same[label]
        used.append(names.name_of(terms[cluster], cluster, used))
        groups.append(Group(cluster, used[-1], terms[cluster], centres[label], int(sizes[label])))
    numbers = [None if label == ALONE else same[int(label)] for label in labels]
    return _Found(groups, numbers, tuple(new))


def _move(store: Store, to: dict[str, int | None], was: Mapping[str, int | None]) -> None:
    """Write where rows belong, some at a time, where that changed."""
    changed = [
        {"row": row_id, "to": cluster}
        for row_id, cluster in to.items()
        if was.get(row_id) != cluster
    ]
    change = (
        sa.update(_lines)
        .where(_lines.c.row_id == sa.bindparam("row"))
        .values(cluster=sa.bindparam("to"))
    )
    for start in range(0, len(changed), PAGE):
        with store.transaction() as connection:
            connection.execute(change, changed[start : start + PAGE])
