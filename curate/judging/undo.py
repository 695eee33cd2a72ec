"""Undo: the last thing that somebody did with a row is taken back, and they get the row again.

Nothing is deleted: the correction that held before is appended once more, and so holds.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import sqlalchemy as sa

from curate.judging.decisions import PAST, Outdated, append, restated
from curate.judging.standing import Role
from ledger.database import tables
from ledger.errors import RecordError
from ledger.marks import PROPOSED
from ledger.records import Decision
from ledger.settings import Settings
from ledger.store import Review, Store, now
from ledger.store.corrections import Stated

_MOST = 200  # reviews of a person that are looked through for one that can be taken back

_queue = tables.queue


class Undone(NamedTuple):
    """What was taken back, and of which alias the row is."""

    row_id: str
    alias: str | None
    action: str


def undo(store: Store, settings: Settings, who: str, role: Role) -> Undone:
    """Take back the last thing that somebody did, and give them the row again.

    The correction before holds again; where there was none, the one that was made is rejected.
    A skip is taken back by showing the row. A text that they wrote becomes their draft.

    Raises:
        Outdated: somebody has said something about the row since.
        RecordError: there is nothing to take back.
    """
    with store.transaction() as connection:
        last = _last(store, who, connection)
        row_id = last.row_id
        queued = connection.execute(
            sa.select(_queue.c.alias, _queue.c.rank).where(_queue.c.row_id == row_id)
        ).first()
        history = store.correction_history(row_id)
        if not store.interaction(row_id).stored_text:
            raise RecordError(
                f"the text of row {row_id!r} is gone", field="row_id", rule="It stays as it is."
            )
        rank = PROPOSED if queued is None else queued.rank
        if last.action != "skip":
            number = _take_back(store, last, history, who, connection)
            store.add_review(row_id, who, role, "undo", connection, correction=number)
            store.requeue(row_id, connection, rank=rank)
        until = now() + settings.curate.review.lease_minutes * 60
        others = sa.update(_queue).where(_queue.c.who == who)
        connection.execute(others.values(who=None, until=0.0))
        lease = sa.update(_queue).where(_queue.c.row_id == row_id)
        connection.execute(lease.values(who=who, until=until))
    if last.action == "edit" and history and history[-1].text:
        store.save_draft(row_id, who, history[-1].text)
    return Undone(row_id, None if queued is None else queued.alias, last.action)


def _last(store: Store, who: str, connection: sa.Connection) -> Review:
    """The last review that can be taken back."""
    undone: dict[str, int] = {}
    for one in store.reviews(who=who, limit=_MOST, connection=connection):
        if one.action == "undo":
            undone[one.row_id] = undone.get(one.row_id, 0) + 1
        elif one.action == "skip":
            if _skipped(one, connection):
                return one
        elif undone.get(one.row_id):
            undone[one.row_id] -= 1
        else:
            return one
    raise RecordError("there is nothing to undo", field="who")


def _skipped(review: Review, connection: sa.Connection) -> bool:
    """Whether a skipped row still waits, on nobody's screen."""
    free = sa.or_(_queue.c.who.is_(None), _queue.c.until <= now())
    query = sa.select(_queue.c.row_id).where(
        _queue.c.row_id == review.row_id, _queue.c.waiting, free
    )
    return connection.scalar(query) is not None


def _take_back(
    store: Store, last: Review, history: list[Stated], who: str, connection: sa.Connection
) -> int | None:
    """Append what takes a review back; the number of the correction that holds then."""
    holds = history[-1] if history else None
    if (last.correction or 0) != (0 if holds is None else holds.seq):
        raise Outdated(
            "somebody has said something about this row since",
            field="row_id",
            rule="Nothing was changed.",
            remedy="Look at how it stands now.",
        )
    made = last.action == "edit" or (
        last.action in PAST and holds is not None and holds.decision != "proposed"
    )
    if not made or holds is None:
        return last.correction
    if not holds.text:
        raise RecordError(
            f"the text of the correction of row {last.row_id!r} is gone", field="row_id"
        )
    before = history[-2] if len(history) > 1 else None
    if before is None or not before.text:
        restored = restated(last.row_id, holds, "rejected", f"undone by {who}")
    else:
        decision = cast(Decision, before.decision)
        restored = restated(last.row_id, before, decision, before.why)
    return append(store, restored, connection)
