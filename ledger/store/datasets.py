"""Frozen datasets, verdicts of the gate, and how far repeated passes have come."""

from __future__ import annotations

import json

import sqlalchemy as sa

from ledger.database import tables
from ledger.records import DatasetRecord, Evaluation
from ledger.store.base import Base, insert_new


class Datasets(Base):
    """The tables `datasets`, `dataset_rows`, `evaluations` and `cursors`."""

    def add_dataset(self, row: DatasetRecord) -> None:
        """Record which rows a frozen dataset holds; the same dataset is recorded once."""
        with self.transaction() as connection:
            table = tables.datasets
            known = sa.select(table.c.seq).where(table.c.dataset_id == row.dataset_id)
            if connection.scalar(known) is not None:
                return
            values = row.model_dump(exclude={"row_ids", "report"})
            values["report"] = None if row.report is None else json.dumps(row.report)
            connection.execute(sa.insert(table).values(**values))
            if row.row_ids:
                connection.execute(
                    sa.insert(tables.dataset_rows),
                    [{"dataset_id": row.dataset_id, "row_id": row_id} for row_id in row.row_ids],
                )

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
