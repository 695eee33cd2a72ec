"""What rows should have said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from ledger.database import tables
from ledger.errors import UnknownRow
from ledger.marks import PROPOSED
from ledger.records import Correction, known_user
from ledger.store.base import chunks
from ledger.store.interactions import Interactions
from ledger.store.queue import dequeue, enqueue


class Stated(NamedTuple):
    """A correction as it stands in the ledger; `text` is None where its key is gone."""

    seq: int
    ts: float
    source: str
    author: str
    decision: str
    text: str | None
    why: str


def holding(row_ids: Sequence[str] | None = None) -> sa.Select[Any]:
    """Numbers of the corrections that hold, which is the last one of each row.

    Args:
        row_ids: of these rows alone, so that no others are read.
    """
    table = tables.corrections
    query = sa.select(sa.func.max(table.c.seq)).group_by(table.c.row_id)
    return query if row_ids is None else query.where(table.c.row_id.in_(row_ids))


class Corrections(Interactions):
    """The table `corrections`."""

    def add_correction(
        self, row: Correction, connection: sa.Connection | None = None
    ) -> int | None:
        """Append a statement about what a row should have said.

        A proposed one lets its row wait in the queue, any other takes it out.

        Returns:
            Its number; None where its text could not be redacted, so that it is not kept.

        Raises:
            UnknownRow: the row does not exist.
        """
        if connection is None:
            with self.transaction() as own:
                return self.add_correction(row, own)
        found = self.row_owner(row.row_id, connection)
        if found is None:
            raise UnknownRow(f"no row {row.row_id!r} to correct")
        owner, known = found
        said = {"text": row.text, "why": row.why}
        text, kept = self.redacted(said, self._conversation(known))
        if kept:
            values = row.model_dump(exclude={"text", "why"})
            user = known_user(row.source, row.author)
            owners = [owner] if user is None else [owner, user]
            values["text"] = self._packed(text, _name(row.row_id, row.ts), owners, connection)
            insert = sa.insert(tables.corrections).values(values)
            seq = connection.scalar(insert.returning(tables.corrections.c.seq))
            if row.decision == "proposed":
                enqueue(row.row_id, PROPOSED, connection)
            else:
                dequeue(row.row_id, connection)
            return seq
        return None

    def as_stored(self, row_id: str, fields: dict[str, Any]) -> dict[str, Any]:
        """How text about a row would be stored: with the row's own placeholders."""
        with self.reading() as connection:
            _, known = self.row_owner(row_id, connection) or ("", {})
        return self.redacted(fields, self._conversation(known))[0]

    def corrections(
        self, *, decision: str | None = None, row_ids: Sequence[str] | None = None
    ) -> dict[str, Correction]:
        """What holds now: the last correction of each row, in the order they were given.

        Those whose text is gone, because somebody was forgotten, are left out.
        """
        table = tables.corrections
        query = sa.select(table).order_by(table.c.seq)
        if decision is not None:
            query = query.where(table.c.decision == decision)
        rows: list[dict[str, Any]] = []
        with self.reading() as connection:
            for chunk in [None] if row_ids is None else list(chunks(row_ids)):
                part = query.where(table.c.seq.in_(holding(chunk)))
                rows += [dict(values) for values in connection.execute(part).mappings()]
            keys = self._keys((fields["text"] for fields in rows), connection)
            found = {}
            for fields in sorted(rows, key=lambda fields: fields.pop("seq")):
                name = _name(fields["row_id"], fields["ts"])
                text = self._text(fields.pop("text"), name, keys, connection)
                if text is not None and text.fields:
                    found[fields["row_id"]] = Correction(**fields, **text.fields)
        return found

    def correction_history(self, row_id: str) -> list[Stated]:
        """All that was ever stated about a row, oldest first."""
        table = tables.corrections
        query = sa.select(table).where(table.c.row_id == row_id).order_by(table.c.seq)
        with self.reading() as connection:
            rows = connection.execute(query).all()
            keys = self._keys((row.text for row in rows), connection)
            found = []
            for row in rows:
                text = self._text(row.text, _name(row_id, row.ts), keys, connection)
                said = {} if text is None else text.fields
                plain = (row.seq, row.ts, row.source, row.author, row.decision)
                found.append(Stated(*plain, said.get("text"), said.get("why", "")))
        return found


def _name(row_id: str, ts: float) -> str:
    """What the text of a correction is bound to."""
    return f"corrections:{row_id}:{ts!r}"
