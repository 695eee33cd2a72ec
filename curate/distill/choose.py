"""Which rows a teacher is asked about: those that nobody has corrected, in a fixed order.

By default rows that wait in the queue, in its order, then other rows with a tag, newest first.
Left out is what was asked before: a row with a correction of whatever kind, or with one of the
teacher's own tags; what people have judged; and rows without text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from curate.judging.standing import judged
from ledger.database import tables
from ledger.marks import DRIFT_WINDOW, IMPORTED
from ledger.records import Interaction
from ledger.store import Store
from ledger.store.base import chunks

#: On rows whose answer the teacher gave, too: it is good.
AGREES = "teacher_agrees"
#: On rows that the teacher cannot answer.
FAILED = "teacher_failed"

#: Who put them there: this, and the model.
BY = "teacher:"

_PAGE = 100
_rows, _queue, _tags = tables.interactions, tables.queue, tables.tags


def chosen(
    store: Store, alias: str, *, tag: str | None = None, cluster: int | None = None
) -> list[str]:
    """Ids of the rows to ask about, in the order of asking.

    Args:
        tag, cluster: only rows with it, waiting or not.
    """
    ids = _candidates(store, alias, tag, cluster)
    settled = judged(store, ids)
    return [row_id for row_id in ids if row_id not in settled]


def _candidates(store: Store, alias: str, tag: str | None, cluster: int | None) -> list[str]:
    with store.reading() as connection:
        if tag is None and cluster is None:
            waiting = _open(alias).join(_queue, _queue.c.row_id == _rows.c.row_id)
            waiting = waiting.where(_queue.c.waiting)
            waiting = waiting.order_by(_queue.c.rank, _queue.c.ts.desc(), _queue.c.row_id)
            ids = list(connection.scalars(waiting))
            # A drift window and a file are too many rows to pay for by default.
            other = _tags.c.tag.not_in((IMPORTED, DRIFT_WINDOW))
            tagged = connection.scalars(_newest(_tagged(alias, other)))
            return list(dict.fromkeys([*ids, *tagged]))
        query = _open(alias) if tag is None else _tagged(alias, _tags.c.tag == tag)
        if cluster is not None:
            members = tables.cluster_rows
            own = sa.select(members.c.row_id).where(
                members.c.alias == alias, members.c.cluster == cluster
            )
            query = query.where(_rows.c.row_id.in_(own))
        return list(connection.scalars(_newest(query)))


def opened(store: Store, row_ids: list[str]) -> Iterator[Interaction]:
    """The rows in the order of their ids, some at a time; those without text are left out."""
    for page in chunks(row_ids, _PAGE):
        found = {row.row_id: row for row in store.interactions(row_ids=page)}
        for row_id in page:
            row = found.get(row_id)
            if row is not None and row.stored_text and row.messages:
                yield row


def problem(row: Interaction) -> str:
    """Why a row cannot be asked about; "" where it can."""
    if row.api == "completions":
        return "a text completion, not a conversation"
    assert row.messages
    if row.messages[-1].get("role") == "assistant":
        return "the prompt ends with the start of an answer"
    return ""


def keep_waiting(row_id: str, before: Any, connection: sa.Connection) -> None:
    """Undo what a correction that nobody may see did to the queue.

    Args:
        before: the row's line in the queue as it was, from `place`.
    """
    if before is not None and before.waiting:
        values = {"waiting": True, "who": before.who, "until": before.until}
        connection.execute(sa.update(_queue).where(_queue.c.row_id == row_id).values(values))


def place(row_id: str, connection: sa.Connection) -> Any:
    """A row's line in the queue; None where it has none."""
    return connection.execute(sa.select(_queue).where(_queue.c.row_id == row_id)).first()


def _open(alias: str) -> sa.Select[Any]:
    """Rows that nobody has corrected, and no teacher has seen."""
    said = tables.corrections
    return sa.select(_rows.c.row_id).where(
        _rows.c.alias == alias,
        _rows.c.stored_text,
        ~sa.exists().where(said.c.row_id == _rows.c.row_id),
        ~sa.exists().where(
            _tags.c.row_id == _rows.c.row_id,
            _tags.c.tag.in_((AGREES, FAILED)),
            _tags.c.who.startswith(BY, autoescape=True),
        ),
    )


def _tagged(alias: str, which: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return _open(alias).where(_rows.c.row_id.in_(sa.select(_tags.c.row_id).where(which)))


def _newest(query: sa.Select[Any]) -> sa.Select[Any]:
    return query.order_by(_rows.c.ts.desc(), _rows.c.row_id)
