"""What users made of answers."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from ledger.database import tables
from ledger.records import Feedback
from ledger.store.base import NO_TEXT, chunks, insert_new
from ledger.store.interactions import Interactions

_TABLE = "feedback"


class FeedbackRows(Interactions):
    """The table `feedback`."""

    def add_feedback(self, row: Feedback, connection: sa.Connection | None = None) -> bool:
        """Insert a piece of feedback; False where the same one is there already."""
        if connection is None:
            with self.transaction() as own:
                return self.add_feedback(row, own)
        table = tables.feedback
        values = row.model_dump(exclude={"correction", "reason"})
        values["text"] = self._feedback_text(row, connection)
        return insert_new(connection, table, values)

    def _feedback_text(self, row: Feedback, connection: sa.Connection) -> bytes:
        if row.correction is None and row.reason is None:
            return NO_TEXT  # a vote: its row need not be opened
        owner, known = self.row_owner(row.row_id, connection) or (None, {})
        said = {"correction": row.correction, "reason": row.reason}
        text, _ = self.redacted(said, self._conversation(known))
        owners = [one for one in (owner, row.subject) if one is not None]
        return self._packed(text, f"{_TABLE}:{row.feedback_id}", owners, connection)

    def feedback(
        self,
        *,
        row_ids: Sequence[str] | None = None,
        after_seq: int = 0,
        limit: int | None = None,
    ) -> list[tuple[int, Feedback]]:
        """Feedback with its sequence number, oldest first; `limit` counts per 500 row ids."""
        table = tables.feedback
        query = sa.select(table).where(table.c.seq > after_seq).order_by(table.c.seq).limit(limit)
        found: list[tuple[int, Feedback]] = []
        with self.reading() as connection:
            for chunk in [None] if row_ids is None else list(chunks(row_ids)):
                part = query if chunk is None else query.where(table.c.row_id.in_(chunk))
                page = connection.execute(part).mappings().all()
                keys = self._keys((values["text"] for values in page), connection)
                for values in page:
                    fields = dict(values)
                    name = f"{_TABLE}:{fields['feedback_id']}"
                    seq = fields.pop("seq")
                    text = self._text(fields.pop("text"), name, keys, connection)
                    # What was said in numbers holds, whatever became of the words.
                    found.append((seq, Feedback(**fields, **({} if text is None else text.fields))))
        return found
