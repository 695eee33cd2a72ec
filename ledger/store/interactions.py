"""Answers: what was asked, what was said, by which version, how sure it was."""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ledger.database import tables
from ledger.errors import LedgerError, UnknownRow
from ledger.keys.keyring import owner_of
from ledger.keys.pack import pack
from ledger.records import Interaction
from ledger.store.base import NO_TEXT, STREAM, Base, chunks

logger = logging.getLogger(__name__)

# What is sealed. The last holds what a client gives its template: documents, perhaps.
_TEXT = ("messages", "response", "tools", "metadata", "chat_template_kwargs")
_TOKENS = "token_logprobs"  # sealed with the text: lengths and probabilities tell much of it
_PLACEHOLDERS = "placeholders"
_PLAIN = [
    column.name
    for column in tables.interactions.columns
    if column.name not in ("seq", "text", "sampling", "chat_template_kwargs", "sample_key", "bytes")
]
_TABLE = "interactions"


class Prepared(NamedTuple):
    """A row whose text is redacted and packed, and whether that worked."""

    row: Interaction
    text: bytes
    stored: bool


class Interactions(Base):
    """The table `interactions`."""

    def add_interactions(
        self, rows: Sequence[Interaction], connection: sa.Connection | None = None
    ) -> int:
        """Insert answers; the same answer delivered twice is kept once.

        A client may choose its own request id and use it twice: the second answer is kept
        too, under a row id with a suffix.

        Returns:
            The number of rows that were new.
        """
        prepared = self.prepared(rows)
        if connection is not None:
            return self.add_prepared(prepared, connection)
        with self.transaction() as own:
            return self.add_prepared(prepared, own)

    def prepared(self, rows: Sequence[Interaction]) -> list[Prepared]:
        """Redact and compress what rows say: all the work that needs no lock of the ledger."""
        return [self._prepared(row) for row in rows]

    def _prepared(self, row: Interaction) -> Prepared:
        if not row.stored_text:
            return Prepared(row, NO_TEXT, False)
        conversation = self._conversation()
        text, kept = self.redacted({name: getattr(row, name) for name in _TEXT}, conversation)
        if conversation is not None and conversation.known and text:
            text[_PLACEHOLDERS] = conversation.known
        if row.token_logprobs and kept and text["response"] == row.response:
            text[_TOKENS] = row.token_logprobs
        return Prepared(row, pack(text), kept)

    def add_prepared(self, rows: Sequence[Prepared], connection: sa.Connection) -> int:
        """Insert rows that were prepared; see `add_interactions`."""
        ids = [row_id for one in rows for row_id in (one.row.row_id, _second_id(one.row))]
        seen: dict[str, float] = {}
        for chunk in chunks(ids):
            query = sa.select(tables.interactions.c.row_id, tables.interactions.c.ts)
            found = connection.execute(query.where(tables.interactions.c.row_id.in_(chunk)))
            seen.update((row_id, ts) for row_id, ts in found)
        insert = []
        for one in rows:
            row_id, ts = one.row.row_id, one.row.ts
            if seen.get(row_id) == ts:
                continue
            if row_id in seen:
                row_id = _second_id(one.row)
                if row_id in seen:
                    continue
            seen[row_id] = ts
            insert.append(self._values(one, row_id, connection))
        if insert:
            connection.execute(sa.insert(tables.interactions), insert)
        return len(insert)

    def _values(self, one: Prepared, row_id: str, connection: sa.Connection) -> dict[str, Any]:
        row, text, stored = one
        owner = owner_of(row.subject, row.session, row.ts)
        if self.was_forgotten(owner, row.ts):
            text, stored = NO_TEXT, False
        sealed = self._sealed(text, _name(row_id), [owner], connection)
        return {name: getattr(row, name) for name in _PLAIN} | {
            "row_id": row_id,
            "text": sealed,
            "bytes": len(sealed),
            "stored_text": stored,
            "sampling": json.dumps(row.sampling),
            "chat_template_kwargs": None,
            "sample_key": self._sample_key(row_id),
        }

    def _record(
        self, values: Any, keys: dict[bytes, AESGCM | None], connection: sa.Connection
    ) -> Interaction | None:
        """A row as a record; None where its text is damaged."""
        text = self._text(values["text"], _name(values["row_id"]), keys, connection)
        if text is None:
            return None
        fields = {name: values[name] for name in _PLAIN}
        if text.gone:
            fields["stored_text"] = False
        fields |= {key: value for key, value in text.fields.items() if key != _PLACEHOLDERS}
        try:
            if values["chat_template_kwargs"] is not None:  # rows of the first schema
                fields["chat_template_kwargs"] = json.loads(values["chat_template_kwargs"])
            return Interaction(**fields, sampling=json.loads(values["sampling"]))
        except ValueError as error:  # a value that nobody stores: a bit of the file has flipped
            self.damaged += 1
            name = values["row_id"]
            logger.error("skipped row %s: it is damaged (%s)", name, type(error).__name__)
            return None

    def owners(self, row_ids: Sequence[str], connection: sa.Connection) -> dict[str, str]:
        """Whose key seals each row, without opening it; rows that are not there are left out."""
        table = tables.interactions
        query = sa.select(table.c.row_id, table.c.subject, table.c.session, table.c.ts)
        return {
            row.row_id: owner_of(row.subject, row.session, row.ts)
            for chunk in chunks(row_ids)
            for row in connection.execute(query.where(table.c.row_id.in_(chunk)))
        }

    def row_owner(
        self, row_id: str, connection: sa.Connection
    ) -> tuple[str, dict[str, str]] | None:
        """Whose key seals a row, and its placeholders; None where there is no such row.

        What is said about a row later belongs to the same person and uses the same placeholders.
        """
        table = tables.interactions
        query = sa.select(
            table.c.subject, table.c.session, table.c.ts, table.c.text, table.c.row_id
        )
        row = connection.execute(query.where(table.c.row_id == row_id)).first()
        if row is None:
            return None
        text = self._text(row.text, _name(row_id), self._keys([row.text], connection), connection)
        known = {} if text is None else text.fields.get(_PLACEHOLDERS, {})
        return owner_of(row.subject, row.session, row.ts), known

    def interaction(self, row_id: str) -> Interaction:
        """One row by its id.

        Raises:
            UnknownRow: there is none.
            LedgerError: its text is damaged.
        """
        query = sa.select(tables.interactions).where(tables.interactions.c.row_id == row_id)
        with self.reading() as connection:
            found = connection.execute(query).mappings().first()
            row = None
            if found is not None:
                row = self._record(found, self._keys([found["text"]], connection), connection)
        if found is None:
            raise UnknownRow(
                f"no answer has the id {row_id!r}",
                remedy="Use the `id` of the completion, as the client received it.",
            )
        if row is None:
            raise LedgerError(
                f"the text of row {row_id!r} is damaged",
                remedy="Restore the ledger from a backup, or go on without the row.",
            )
        return row

    def interactions(
        self,
        *,
        alias: str | None = None,
        version: str | None = None,
        tag: str | None = None,
        since: float | None = None,
        until: float | None = None,
        after_seq: int = 0,
        row_ids: Sequence[str] | None = None,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> Iterator[Interaction]:
        """Rows that fit all of what is given, oldest first unless asked otherwise.

        Args:
            since, until: seconds since the epoch; the first inclusive, the second not.
            after_seq: only rows stored after this sequence number.
        """
        table = tables.interactions
        by_id = row_ids is not None
        query = _chosen(sa.select(table), alias, version, tag, since, until, by_id=by_id)
        query = query.where(table.c.seq > after_seq)
        query = query.order_by(table.c.seq.desc() if newest_first else table.c.seq)
        if limit is not None:
            query = query.limit(limit)
        with self.reading() as connection:
            for chunk in [None] if row_ids is None else list(chunks(row_ids)):
                part = query if chunk is None else query.where(table.c.row_id.in_(chunk))
                with connection.execute(part, execution_options=STREAM) as result:
                    for page in result.mappings().partitions():
                        keys = self._keys((values["text"] for values in page), connection)
                        for values in page:
                            if (row := self._record(values, keys, connection)) is not None:
                                yield row

    def row_ids(
        self,
        *,
        alias: str | None = None,
        version: str | None = None,
        tag: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> list[str]:
        """Ids of the rows that fit all of what is given, oldest first, without their text."""
        table = tables.interactions
        query = _chosen(sa.select(table.c.row_id), alias, version, tag, since, until)
        with self.reading() as connection:
            return list(connection.scalars(query.order_by(table.c.ts, table.c.seq)))

    def row_id(
        self, request_id: str, choice: int = 0, connection: sa.Connection | None = None
    ) -> str | None:
        """The row of a completion's choice, the newest where a client used an id twice."""
        if connection is None:
            with self.reading() as own:
                return self.row_id(request_id, choice, own)
        table = tables.interactions
        query = (
            sa.select(table.c.row_id)
            .where(table.c.request_id == request_id, table.c.choice == choice)
            .order_by(table.c.seq.desc())
            .limit(1)
        )
        return connection.scalar(query)

    def answered_by(self, row_id: str, connection: sa.Connection) -> tuple[str | None, str]:
        """Alias and pinned version of a row that is there."""
        table = tables.interactions
        query = sa.select(table.c.alias, table.c.version).where(table.c.row_id == row_id)
        alias, version = connection.execute(query).one()
        return alias, version

    def counts(self, alias: str | None = None) -> dict[str, int]:
        """Number of answers by version, those that were let go included."""
        totals: dict[str, int] = {}
        with self.snapshot() as connection:
            for table, number in (
                (tables.interactions, sa.func.count()),
                (tables.rollups, sa.func.sum(tables.rollups.c.rows)),
            ):
                query = sa.select(table.c.version, number).group_by(table.c.version)
                if alias is not None:
                    query = query.where(table.c.alias == alias)
                for version, count in connection.execute(query):
                    totals[version] = totals.get(version, 0) + int(count)
        return totals


def _chosen(
    query: sa.Select[Any],
    alias: str | None,
    version: str | None,
    tag: str | None,
    since: float | None,
    until: float | None,
    *,
    by_id: bool = False,
) -> sa.Select[Any]:
    """A query of interactions, narrowed.

    Args:
        by_id: the rows are looked up by id. Then not by the indexes on aliases and versions, which
            SQLite would take instead, and read all rows of the one asked for.
    """
    table, tags = tables.interactions, tables.tags
    for column, wanted in ((table.c.alias, alias), (table.c.version, version)):
        if wanted is not None:
            plain = sa.func.coalesce(column, "") if by_id else column
            query = query.where(plain == wanted)
    if tag is not None:
        query = query.where(table.c.row_id.in_(sa.select(tags.c.row_id).where(tags.c.tag == tag)))
    if since is not None:
        query = query.where(table.c.ts >= since)
    if until is not None:
        query = query.where(table.c.ts < until)
    return query


def _name(row_id: str) -> str:
    """What the text of a row is bound to."""
    return f"{_TABLE}:{row_id}"


def _second_id(row: Interaction) -> str:
    """Row id of an answer whose request id was used before: the same however often it comes."""
    return f"{row.row_id}~{struct.pack('>d', row.ts).hex()}"
