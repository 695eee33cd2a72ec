"""Marks on rows: appended statements, never a rewrite of a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from ledger.database import tables
from ledger.marks import queue_rank
from ledger.records import Tag
from ledger.store.base import Base, chunks, insert_new
from ledger.store.queue import enqueue


class Tags(Base):
    """The table `tags`."""

    def add_tags(self, rows: Iterable[Tag], connection: sa.Connection | None = None) -> int:
        """Append tags; the same tag by the same hand on the same row is kept once.

        Some bring their row into the queue, see `ledger.marks`.

        Returns:
            The number of tags that were new.
        """
        if connection is None:
            with self.transaction() as own:
                return self.add_tags(rows, own)
        new = 0
        for row in rows:
            text, _ = self.redacted({"why": row.why})
            values = {**row.model_dump(), "why": text.get("why", "")}
            if insert_new(connection, tables.tags, values):
                new += 1
                if (rank := queue_rank(row.tag, row.who)) is not None:
                    enqueue(row.row_id, rank, connection)
        return new

    def tags(self, row_ids: Sequence[str]) -> dict[str, list[Tag]]:
        """Tags by row, oldest first."""
        table = tables.tags
        found: dict[str, list[Tag]] = {}
        with self.reading() as connection:
            for chunk in chunks(row_ids):
                query = sa.select(table).where(table.c.row_id.in_(chunk)).order_by(table.c.seq)
                for values in connection.execute(query).mappings():
                    fields = dict(values)
                    fields.pop("seq")
                    found.setdefault(fields["row_id"], []).append(Tag(**fields))
        return found

    def tag_counts(self) -> dict[str, int]:
        """Number of rows that carry each tag."""
        table = tables.tags
        query = sa.select(table.c.tag, sa.func.count(table.c.row_id.distinct())).group_by(
            table.c.tag
        )
        with self.reading() as connection:
            return {tag: count for tag, count in connection.execute(query)}
