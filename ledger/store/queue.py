"""Rows that wait for eyes: who has which on the screen, what was said of them, and drafts.

A row comes in with a mark or a proposed correction, in the transaction that appends it, and
leaves when somebody has judged it. The table says only what waits now; the reviews say what
was done, and stay.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from ledger.clock import now
from ledger.database import tables
from ledger.errors import UnknownRow
from ledger.marks import PROPOSED, REOPENS
from ledger.store.interactions import Interactions

Action = Literal["accept", "reject", "edit", "good", "skip", "undo"]
#: How long a row that somebody skipped is not shown to them again, seconds.
SKIP_SECONDS = 12 * 3600.0

_queue, _reviews, _drafts = tables.queue, tables.reviews, tables.drafts


class Review(NamedTuple):
    """What somebody did with a row. `correction` is the number of the one judged, or made."""

    seq: int
    row_id: str
    ts: float
    who: str
    role: str
    action: str
    correction: int | None
    why: str


class Waiting(NamedTuple):
    """A row of the queue. `since` is when it came in; who has it, and until when."""

    row_id: str
    rank: int
    since: float
    who: str | None
    until: float


def enqueue(row_id: str, rank: int, connection: sa.Connection) -> None:
    """Let a row wait, or move it forward. Rows without text are left out: nothing can be seen."""
    known = connection.execute(
        sa.select(_queue.c.rank, _queue.c.waiting).where(_queue.c.row_id == row_id)
    ).first()
    if known is None:
        rows = tables.interactions
        query = sa.select(rows.c.alias, rows.c.ts).where(
            rows.c.row_id == row_id, rows.c.stored_text
        )
        if (row := connection.execute(query).first()) is not None:
            values = {"row_id": row_id, "alias": row.alias, "ts": row.ts, "rank": rank}
            values |= {"waiting": True, "since": now()}
            connection.execute(sa.insert(_queue).values(values))
        return
    changed: dict[str, Any] = {}
    if known.waiting:
        changed = {"rank": rank} if rank < known.rank else {}
    elif rank <= REOPENS:
        changed = {"rank": rank, "waiting": True, "since": now(), "who": None, "until": 0.0}
    if changed:
        connection.execute(sa.update(_queue).where(_queue.c.row_id == row_id).values(changed))


def dequeue(row_id: str, connection: sa.Connection) -> None:
    """Take a row out of the queue, because it was judged."""
    done = {"waiting": False, "who": None, "until": 0.0}
    connection.execute(sa.update(_queue).where(_queue.c.row_id == row_id).values(done))


class Queue(Interactions):
    """The tables `queue`, `reviews` and `drafts`."""

    def waiting(self, alias: str | None = None) -> dict[int, int]:
        """Number of rows that wait, by rank."""
        query = sa.select(_queue.c.rank, sa.func.count()).where(_queue.c.waiting)
        if alias is not None:
            query = query.where(_queue.c.alias == alias)
        with self.reading() as connection:
            return {rank: n for rank, n in connection.execute(query.group_by(_queue.c.rank))}

    def queued(self, alias: str, limit: int, *, offset: int = 0) -> list[Waiting]:
        """The rows that wait, in the order in which they are shown: rank, then newest first."""
        query = self._in_order(alias).limit(limit).offset(offset)
        with self.reading() as connection:
            return [Waiting(*row) for row in connection.execute(query)]

    def claim(self, alias: str, who: str, *, seconds: float) -> str | None:
        """Give somebody the next row, and nobody else for so long; None where none is left.

        Who has one keeps it. Rows that they judged or lately skipped are passed over: another
        person may be waited for.
        """
        with self.transaction() as connection:
            time = now()
            own = sa.select(_queue.c.row_id).where(
                _queue.c.who == who, _queue.c.until > time, _queue.c.waiting,
                _queue.c.alias == alias,
            )  # fmt: skip
            row_id = connection.scalar(own.limit(1))
            if row_id is None:
                judged = sa.exists().where(
                    _reviews.c.row_id == _queue.c.row_id,
                    _reviews.c.who == who,
                    _reviews.c.ts >= _queue.c.since,
                    sa.or_(_reviews.c.action != "skip", _reviews.c.ts > time - SKIP_SECONDS),
                )
                free = sa.or_(_queue.c.who.is_(None), _queue.c.until <= time)
                query = self._in_order(alias).where(free, ~judged).limit(1)
                row_id = connection.scalar(query)
            if row_id is not None:
                self._lease(row_id, who, time + seconds, connection)
        return row_id

    def claim_row(self, row_id: str, who: str, *, seconds: float) -> str | None:
        """Take one row onto the screen; who has it where somebody else does, else None."""
        with self.transaction() as connection:
            query = sa.select(_queue.c.who, _queue.c.until).where(_queue.c.row_id == row_id)
            held = connection.execute(query).first()
            if held is not None and held.who not in (None, who) and held.until > now():
                return str(held.who)
            self._lease(row_id, who, now() + seconds, connection)
        return None

    def release(self, row_id: str, who: str) -> None:
        """Give a row back."""
        with self.transaction() as connection:
            mine = (_queue.c.row_id == row_id, _queue.c.who == who)
            free = {"who": None, "until": 0.0}
            connection.execute(sa.update(_queue).where(*mine).values(free))

    def requeue(self, row_id: str, connection: sa.Connection, *, rank: int = PROPOSED) -> None:
        """Let a row wait as if it had just come in, because a judgement was taken back."""
        changed = {"rank": rank, "waiting": True, "since": now(), "who": None, "until": 0.0}
        done = connection.execute(
            sa.update(_queue).where(_queue.c.row_id == row_id).values(changed)
        )
        if not done.rowcount:
            enqueue(row_id, rank, connection)

    @staticmethod
    def _in_order(alias: str) -> sa.Select[Any]:
        columns = (_queue.c.row_id, _queue.c.rank, _queue.c.since, _queue.c.who, _queue.c.until)
        query = sa.select(*columns).where(_queue.c.alias == alias, _queue.c.waiting)
        return query.order_by(_queue.c.rank, _queue.c.ts.desc(), _queue.c.row_id)

    @staticmethod
    def _lease(row_id: str, who: str, until: float, connection: sa.Connection) -> None:
        change = {"who": who, "until": until}
        connection.execute(sa.update(_queue).where(_queue.c.row_id == row_id).values(change))

    # -- reviews -------------------------------------------------------------------------

    def add_review(
        self,
        row_id: str,
        who: str,
        role: str,
        action: Action,
        connection: sa.Connection,
        *,
        correction: int | None = None,
        why: str = "",
    ) -> None:
        """Append what somebody did with a row."""
        text, _ = self.redacted({"why": why})
        values = {"row_id": row_id, "ts": now(), "who": who, "role": role, "action": action}
        values |= {"correction": correction, "why": text.get("why", "")}
        connection.execute(sa.insert(_reviews).values(values))

    def reviews(
        self,
        row_id: str | None = None,
        *,
        who: str | None = None,
        since: float = 0.0,
        limit: int | None = None,
        connection: sa.Connection | None = None,
    ) -> list[Review]:
        """What was done, the newest first."""
        if connection is None:
            with self.reading() as own:
                return self.reviews(row_id, who=who, since=since, limit=limit, connection=own)
        query = sa.select(_reviews).where(_reviews.c.ts >= since).order_by(_reviews.c.seq.desc())
        if row_id is not None:
            query = query.where(_reviews.c.row_id == row_id)
        if who is not None:
            query = query.where(_reviews.c.who == who)
        if limit is not None:
            query = query.limit(limit)
        return [Review(**row) for row in connection.execute(query).mappings()]

    # -- drafts --------------------------------------------------------------------------

    def save_draft(self, row_id: str, who: str, text: str) -> None:
        """Keep what somebody has typed about a row so far, sealed like the row; "" removes it.

        Raises:
            UnknownRow: there is no such row.
        """
        with self.transaction() as connection:
            mine = (_drafts.c.row_id == row_id, _drafts.c.who == who)
            connection.execute(sa.delete(_drafts).where(*mine))
            if not text:
                return
            found = self.row_owner(row_id, connection)
            if found is None:
                raise UnknownRow(f"no row {row_id!r} to write about")
            owner, known = found
            said, kept = self.redacted({"text": text}, self._conversation(known))
            if kept:
                data = self._packed(said, _name(row_id, who), [owner], connection)
                values = {"row_id": row_id, "who": who, "ts": now(), "text": data}
                connection.execute(sa.insert(_drafts).values(values))

    def draft(self, row_id: str, who: str) -> str | None:
        """What somebody has typed about a row so far."""
        query = sa.select(_drafts.c.text).where(_drafts.c.row_id == row_id, _drafts.c.who == who)
        with self.reading() as connection:
            data = connection.scalar(query)
            if data is None:
                return None
            text = self._text(data, _name(row_id, who), self._keys([data], connection), connection)
        return None if text is None else text.fields.get("text")


def _name(row_id: str, who: str) -> str:
    """What the text of a draft is bound to."""
    return f"drafts:{row_id}:{who}"
