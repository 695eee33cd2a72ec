"""Frozen datasets, verdicts of the gate, and how far repeated passes have come."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ledger.clock import now
from ledger.database import tables
from ledger.records import DatasetRecord, Evaluation
from ledger.store.base import Base, chunks, insert_new

_ROWS = 2000  # of a dataset, written in one transaction: some milliseconds


class Frozen(NamedTuple):
    """A dataset as the ledger knows it. `report` is what its card says; `path` its folder."""

    seq: int
    dataset_id: str
    ts: float
    alias: str
    path: str
    pairs: int
    report: dict[str, Any]


class Datasets(Base):
    """The tables `datasets`, `dataset_rows`, `left_out`, `evaluations` and `cursors`."""

    def add_dataset(self, row: DatasetRecord) -> None:
        """Record which rows a frozen dataset holds; the same dataset is recorded once.

        Its rows come first and in pages, so that the write lock is never held for long; the
        dataset is there when its own line is.
        """
        table, rows = tables.datasets, tables.dataset_rows
        known = sa.select(table.c.seq).where(table.c.dataset_id == row.dataset_id)
        with self.reading() as connection:
            if connection.scalar(known) is not None:
                return
        insert = postgresql.insert if self.engine.dialect.name == "postgresql" else sqlite.insert
        for page in chunks(row.row_ids, _ROWS):
            held = [{"dataset_id": row.dataset_id, "row_id": row_id} for row_id in page]
            with self.transaction() as connection:
                connection.execute(insert(rows).on_conflict_do_nothing(), held)
        with self.transaction() as connection:
            values = row.model_dump(exclude={"row_ids", "report"})
            values["report"] = None if row.report is None else json.dumps(row.report)
            insert_new(connection, table, values)

    def datasets(self, alias: str | None = None) -> list[Frozen]:
        """Frozen datasets, oldest first."""
        table = tables.datasets
        query = sa.select(table).order_by(table.c.seq)
        if alias is not None:
            query = query.where(table.c.alias == alias)
        with self.reading() as connection:
            return [
                Frozen(**{**row, "report": json.loads(row["report"] or "{}")})
                for row in connection.execute(query).mappings()
            ]

    def dataset_rows(self, dataset_id: str) -> set[str]:
        """Ids of the rows that a frozen dataset holds, or held before somebody was forgotten."""
        table = tables.dataset_rows
        query = sa.select(table.c.row_id).where(table.c.dataset_id == dataset_id)
        with self.reading() as connection:
            return set(connection.scalars(query))

    def left_out(self, alias: str) -> dict[str, str]:
        """Why rows of an alias were left out when a dataset was last built, by row.

        Those that are in again are not in it.
        """
        table = tables.left_out
        last = sa.select(sa.func.max(table.c.seq)).group_by(table.c.row_id)
        query = sa.select(table.c.row_id, table.c.reason).where(
            table.c.alias == alias, table.c.seq.in_(last), table.c.reason != ""
        )
        with self.reading() as connection:
            return {row_id: reason for row_id, reason in connection.execute(query)}

    def add_left_out(self, alias: str, dataset_id: str, reasons: dict[str, str]) -> int:
        """Append why rows are not in a dataset, where that is not what was said of them last.

        Args:
            reasons: of all rows that are left out, by row. Who is not in it any more is noted
                as being in again.

        Returns:
            How many lines were appended.
        """
        before = self.left_out(alias)
        changed = {row: why for row, why in reasons.items() if before.get(row) != why}
        changed |= dict.fromkeys(before.keys() - reasons.keys(), "")
        for page in chunks(sorted(changed)):
            values = [
                {"row_id": row_id, "alias": alias, "ts": now(), "reason": changed[row_id]}
                | {"dataset_id": dataset_id}
                for row_id in page
            ]
            with self.transaction() as connection:
                connection.execute(sa.insert(tables.left_out), values)
        return len(changed)

    def add_evaluation(self, row: Evaluation) -> None:
        """Record a verdict of the gate."""
        values = row.model_dump(exclude={"report"})
        values["report"] = json.dumps(row.report, ensure_ascii=False)
        with self.transaction() as connection:
            connection.execute(sa.insert(tables.evaluations).values(**values))

    def evaluations(self, alias: str) -> dict[str, Evaluation]:
        """The last verdict on each version of an alias, by the version's name."""
        table = tables.evaluations
        query = sa.select(table).where(table.c.alias == alias).order_by(table.c.seq)
        found = {}
        with self.reading() as connection:
            for values in connection.execute(query).mappings():
                fields = dict(values)
                fields.pop("seq")
                fields["report"] = json.loads(fields["report"])
                found[fields["candidate"]] = Evaluation(**fields)
        return found

    def cursor(self, name: str) -> int:
        """How far a repeated pass over a table has come; 0 where it never ran."""
        table = tables.cursors
        with self.reading() as connection:
            found = connection.scalar(sa.select(table.c.position).where(table.c.name == name))
        return 0 if found is None else int(found)

    def move_cursor(
        self, name: str, position: int, *, expected: int, connection: sa.Connection
    ) -> bool:
        """Compare-and-set of a cursor; False where another pass moved it first.

        Call it before anything else in the transaction: it takes the write lock, so that of
        two passes over the same rows one waits here and then learns that the work is done.
        """
        table = tables.cursors
        insert_new(connection, table, {"name": name, "position": 0})
        moved = connection.execute(
            sa.update(table)
            .where(table.c.name == name, table.c.position == expected)
            .values(position=position)
        )
        return moved.rowcount == 1
