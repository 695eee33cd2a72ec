"""How rows stand: who has said what about them, and which are settled.

Reads only; `curate.judging.decisions` is what people say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import sqlalchemy as sa

from ledger.database import tables
from ledger.store import Store
from ledger.store.base import chunks

Role = Literal["viewer", "reviewer", "operator"]
#: From the least to the most: who may look, who may judge with others, whose word settles.
ROLES: tuple[Role, ...] = get_args(Role)

_OLD_TAG = "reviewed"  # what said so before there were reviews

_queue, _reviews = tables.queue, tables.reviews


class Shown(NamedTuple):
    """What of a row was on the screen: numbers of its last correction and word, 0 for none."""

    correction: int
    word: int


def shown(store: Store, row_id: str, connection: sa.Connection | None = None) -> Shown:
    """How a row stands now."""
    if connection is None:
        with store.reading() as own:
            return shown(store, row_id, own)
    corrections = tables.corrections
    last = sa.select(sa.func.max(corrections.c.seq)).where(corrections.c.row_id == row_id)
    word = sa.select(sa.func.max(_reviews.c.seq)).where(
        _reviews.c.row_id == row_id, _reviews.c.action != "skip"
    )
    return Shown(connection.scalar(last) or 0, connection.scalar(word) or 0)


def judged(
    store: Store, row_ids: Sequence[str], connection: sa.Connection | None = None
) -> set[str]:
    """Those rows that people have settled, as far as nobody has taken it back."""
    if connection is None:
        with store.reading() as own:
            return judged(store, row_ids, own)
    found: set[str] = set()
    for chunk in chunks(row_ids):
        tagged = sa.select(tables.tags.c.row_id).where(
            tables.tags.c.row_id.in_(chunk), tables.tags.c.tag == _OLD_TAG
        )
        found |= set(connection.scalars(tagged))
        waiting = set(
            connection.scalars(
                sa.select(_queue.c.row_id).where(_queue.c.row_id.in_(chunk), _queue.c.waiting)
            )
        )
        for row_id, words in words_about(chunk, connection).items():
            if row_id not in waiting or any(role == "operator" for _, role in words.values()):
                found.add(row_id)
    return found


def words_about(
    row_ids: Sequence[str], connection: sa.Connection
) -> dict[str, dict[str, tuple[str, str]]]:
    """The last word of each person about each row, and their role then."""
    query = (
        sa.select(_reviews.c.row_id, _reviews.c.who, _reviews.c.action, _reviews.c.role)
        .where(_reviews.c.row_id.in_(row_ids), _reviews.c.action != "skip")
        .order_by(_reviews.c.seq)
    )
    said: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for row_id, who, action, role in connection.execute(query):
        words = said.setdefault(row_id, {}).setdefault(who, [])
        if action != "undo":
            words.append((action, role))
        elif words:
            words.pop()
    last = {
        row_id: {who: words[-1] for who, words in people.items() if words}
        for row_id, people in said.items()
    }
    return {row_id: people for row_id, people in last.items() if people}


def done_since(store: Store, who: str, since: float) -> int:
    """How many rows somebody has judged since a time, without what they took back."""
    query = (
        sa.select(_reviews.c.row_id, _reviews.c.action)
        .where(_reviews.c.who == who, _reviews.c.ts >= since, _reviews.c.action != "skip")
        .order_by(_reviews.c.seq)
    )
    count: dict[str, int] = {}
    with store.reading() as connection:
        for row_id, action in connection.execute(query):
            change = -1 if action == "undo" else 1
            count[row_id] = max(0, count.get(row_id, 0) + change)
    return sum(1 for number in count.values() if number)
