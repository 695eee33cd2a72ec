"""Taking in what is new: the sample of all traffic, and rows that somebody said something about.

A page of new rows is read and placed without the ledger's lock; then one transaction moves the
cursor and writes the lines. Of two passes over the same page one finds the cursor moved and drops
what it did. Where somebody learned new spaces meanwhile, the page is placed anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from curate.clusters.model import Model, newest_space
from curate.clusters.names import Asked
from curate.clusters.sample import Drawn, Sampler
from ledger.database import tables
from ledger.questions import question
from ledger.store import Store
from ledger.store.base import chunks

#: New rows that are looked at together: of whole days few are chosen in vain.
SCAN = 50_000
#: Lines written in one transaction, and marks read at once.
PAGE = 1000

_lines, _rows = tables.cluster_rows, tables.interactions
_SAID = (tables.tags, tables.feedback, tables.corrections)


class Taken(NamedTuple):
    """What an intake found: answers that were new, lines written, and those near nothing."""

    seen: int = 0
    placed: int = 0
    unknown: int = 0


def asked(store: Store, row_ids: Sequence[str]) -> dict[str, Asked]:
    """The question of each row, and whose it is; rows without text are left out."""
    found = {}
    for row in store.interactions(row_ids=list(row_ids)):
        if row.stored_text and row.messages:
            text = question(row.messages)
            if text:
                found[row.row_id] = Asked(text, row.subject or row.session or row.row_id)
    return found


class Intake:
    """One pass over what is new of an alias.

    Args:
        load: reads the model.
        a_day: most rows of a UTC day in the sample of traffic.
    """

    def __init__(self, store: Store, alias: str, load: Callable[[], Model], a_day: int) -> None:
        self._store, self._alias, self._load = store, alias, load
        self._sampler = Sampler(store, alias, a_day)
        self.model = load()

    def run(self) -> Taken:
        """Take in everything that is new.

        Raises:
            ServerError: the endpoint does not answer; what was not placed is new the next time.
        """
        parts = [self._traffic(), *(self._said(table) for table in _SAID)]
        return Taken(*map(sum, zip(*parts, strict=True)))

    # -- the sample of traffic -----------------------------------------------------------

    def _traffic(self) -> Taken:
        cursor = f"clusters.interactions:{self._alias}"
        columns = (
            *(_rows.c.seq, _rows.c.row_id, _rows.c.ts, _rows.c.alias, _rows.c.sample_key),
            *(_rows.c.inclusion_probability, _rows.c.stored_text),
        )
        done = Taken()
        while True:
            start = self._store.cursor(cursor)
            # By number alone: with the alias a database may choose its index, and sort.
            query = sa.select(*columns).where(_rows.c.seq > start).order_by(_rows.c.seq)
            with self._store.reading() as connection:
                page = connection.execute(query.limit(SCAN)).all()
            if not page:
                return done
            own = [row for row in page if row.alias == self._alias]
            new = [row for row in own if row.stored_text]
            drawn = self._sampler.draw(new)
            chosen = [row for row in new if row.row_id in drawn.weights]
            where = self._place([row.row_id for row in chosen])
            lines = [
                {**self._line(row, where), "traffic": True, "weight": drawn.weights[row.row_id]}
                for row in chosen
            ]
            if self._write(cursor, start, page[-1].seq, lines, drawn):
                self._sampler.done()
                done = _sum(done, len(own), lines)
            else:
                self._sampler.forget()

    def _write(
        self, cursor: str, start: int, end: int, lines: list[dict[str, Any]], drawn: Drawn
    ) -> bool:
        """Write what was drawn, some at a time, and move the cursor with the last of it.

        A pass that ends half way leaves rows of the sample behind that the next one draws too.
        """
        parts = [lines[at : at + PAGE] for at in range(0, len(lines), PAGE)] or [[]]
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            with self._store.transaction() as connection:
                if not self._may_write(cursor, end if last else start, start, connection):
                    return False
                _upsert(part, connection)
                if last:
                    self._sampler.write(drawn, connection)
        return True

    # -- what was said about -------------------------------------------------------------

    def _said(self, table: sa.Table) -> Taken:
        cursor = f"clusters.{table.name}:{self._alias}"
        done = Taken()
        while True:
            start = self._store.cursor(cursor)
            query = sa.select(table.c.seq, table.c.row_id).where(table.c.seq > start)
            with self._store.reading() as connection:
                page = connection.execute(query.order_by(table.c.seq).limit(PAGE)).all()
                if not page:
                    return done
                new = self._without_line(list({row.row_id for row in page}), connection)
            where = self._place([row.row_id for row in new])
            lines = [{**self._line(row, where), "traffic": False, "weight": 0.0} for row in new]
            with self._store.transaction() as connection:
                if not self._may_write(cursor, page[-1].seq, start, connection):
                    continue
                _insert_new(lines, connection)
            done = _sum(done, 0, lines)

    def _without_line(self, row_ids: Sequence[str], connection: sa.Connection) -> list[Any]:
        """Rows of the alias with text that have no line yet."""
        known = sa.exists().where(_lines.c.row_id == _rows.c.row_id)
        # By id alone: with the alias SQLite takes that index, and reads all of its rows.
        columns = (_rows.c.row_id, _rows.c.ts, _rows.c.alias, _rows.c.stored_text)
        query = sa.select(*columns).where(~known)
        return [
            row
            for chunk in chunks(row_ids)
            for row in connection.execute(query.where(_rows.c.row_id.in_(chunk)))
            if row.alias == self._alias and row.stored_text
        ]

    # -- both ----------------------------------------------------------------------------

    def _place(self, row_ids: list[str]) -> dict[str, int | None]:
        if not self.model.clusters or not row_ids:
            return {}
        texts = asked(self._store, row_ids)
        places = self.model.place([one.text for one in texts.values()])
        return dict(zip(texts, places, strict=True))

    def _line(self, row: Any, where: dict[str, int | None]) -> dict[str, Any]:
        cluster = where.get(row.row_id)
        return {"row_id": row.row_id, "alias": self._alias, "cluster": cluster, "ts": row.ts}

    def _may_write(self, cursor: str, position: int, start: int, connection: sa.Connection) -> bool:
        """Move the cursor, unless somebody else did, or learned something meanwhile."""
        if newest_space(self._alias, connection) != self.model.newest:
            self.model = self._load()
            return False
        return self._store.move_cursor(cursor, position, expected=start, connection=connection)


def _sum(done: Taken, seen: int, lines: Sequence[dict[str, Any]]) -> Taken:
    unknown = sum(line["cluster"] is None for line in lines)
    return Taken(done.seen + seen, done.placed + len(lines), done.unknown + unknown)


def _upsert(lines: list[dict[str, Any]], connection: sa.Connection) -> None:
    """Insert lines of the sample; rows that have a line because of a mark join it."""
    if lines:
        insert = _insert(connection)
        joined = {name: insert.excluded[name] for name in ("traffic", "weight")}
        connection.execute(
            insert.on_conflict_do_update(index_elements=["row_id"], set_=joined), lines
        )


def _insert_new(lines: list[dict[str, Any]], connection: sa.Connection) -> None:
    if lines:
        connection.execute(_insert(connection).on_conflict_do_nothing(), lines)


def _insert(connection: sa.Connection) -> Any:
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return insert(_lines)
