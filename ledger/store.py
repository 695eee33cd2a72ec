"""The store: rows in, rows out. Opening it migrates it.

Every text that comes in passes the redaction here, whoever brings it: the server's writer,
a command, the demo. Where redaction fails no text is kept and `redaction_failures` counts it.
Deployments live in `ledger.deployments`, which uses the same engine.
"""

from __future__ import annotations

import json
import logging
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ledger import redact, tables
from ledger.engine import open_engine, translated
from ledger.errors import UnknownRow
from ledger.pack import pack, unpack
from ledger.records import (
    Correction,
    DatasetRecord,
    Evaluation,
    Feedback,
    Interaction,
    Tag,
)
from ledger.settings import Settings

logger = logging.getLogger(__name__)

_TEXT_OF_INTERACTION = ("messages", "response", "tools", "metadata")
_JSON_OF_INTERACTION = ("sampling", "chat_template_kwargs")  # the second may hold text too
_PLAIN_OF_INTERACTION = [
    column.name
    for column in tables.interactions.columns
    if column.name not in ("seq", "text", *_JSON_OF_INTERACTION)
]


class Store:
    """All that happened. One instance a process; threads may share it.

    Args:
        engine: an engine whose schema is up to date, from `ledger.engine.open_engine`.
        redactor: applied to every text field, JSON value in and out; None keeps text as it is.
    """

    def __init__(self, engine: sa.Engine, redactor: Callable[[Any], Any] | None) -> None:
        self.engine = engine
        self.url = engine.url.render_as_string()
        self.redaction_failures = 0
        self._redactor = redactor

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Open the ledger of a configuration.

        Raises:
            LedgerError, LedgerLocked: see `ledger.engine.open_engine`.
        """
        engine = open_engine(settings.ledger.url, lock_seconds=settings.ledger.lock_seconds)
        return cls(engine, redact.redact if settings.privacy.redact else None)

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """One transaction: all of it is kept, or nothing."""
        with translated(self.url), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with translated(self.url), self.engine.connect() as connection:
            yield connection

    # -- text ----------------------------------------------------------------------------

    def redacted(self, fields: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """Redact text fields; ({}, False) where that failed, and it is counted."""
        if self._redactor is None:
            return fields, True
        try:
            return {key: self._redactor(value) for key, value in fields.items()}, True
        except Exception as error:  # fail closed, whatever a detector does
            self.redaction_failures += 1
            # Only what kind of error: its message may quote the text.
            logger.error("redaction failed (%s); the text is not kept", type(error).__name__)
            return {}, False

    # -- interactions --------------------------------------------------------------------

    def add_interactions(
        self, rows: Sequence[Interaction], connection: sa.Connection | None = None
    ) -> int:
        """Insert answers; the same answer delivered twice is kept once.

        A client may choose its own request id and use it twice: the second answer is kept
        too, under a row id with a suffix.

        Returns:
            The number of rows that were new.
        """
        if connection is None:
            with self.transaction() as own:
                return self.add_interactions(rows, own)
        new = [self._interaction_values(row) for row in rows]
        ids = [row_id for values in new for row_id in (values["row_id"], _second_id(values))]
        seen: dict[str, float] = {}
        for chunk in _chunks(ids):
            query = sa.select(tables.interactions.c.row_id, tables.interactions.c.ts)
            found = connection.execute(query.where(tables.interactions.c.row_id.in_(chunk)))
            seen.update((row_id, ts) for row_id, ts in found)
        insert = []
        for values in new:
            if seen.get(values["row_id"]) == values["ts"]:
                continue
            if values["row_id"] in seen:
                values["row_id"] = _second_id(values)
                if values["row_id"] in seen:
                    continue
            seen[values["row_id"]] = values["ts"]
            insert.append(values)
        if insert:
            connection.execute(sa.insert(tables.interactions), insert)
        return len(insert)

    def _interaction_values(self, row: Interaction) -> dict[str, Any]:
        values = {name: getattr(row, name) for name in _PLAIN_OF_INTERACTION}
        text = {
            name: getattr(row, name) for name in (*_TEXT_OF_INTERACTION, "chat_template_kwargs")
        }
        if row.stored_text:
            text, values["stored_text"] = self.redacted(text)
        else:
            text = {}
        kwargs = text.pop("chat_template_kwargs", None)
        values["text"] = pack(text)
        values["sampling"] = json.dumps(row.sampling)
        values["chat_template_kwargs"] = None if kwargs is None else json.dumps(kwargs)
        return values

    @staticmethod
    def _interaction(values: Any) -> Interaction:
        fields = {name: values[name] for name in _PLAIN_OF_INTERACTION}
        kwargs = values["chat_template_kwargs"]
        return Interaction(
            **fields,
            **unpack(values["text"]),
            sampling=json.loads(values["sampling"]),
            chat_template_kwargs=None if kwargs is None else json.loads(kwargs),
        )

    def interaction(self, row_id: str) -> Interaction:
        """One row by its id.

        Raises:
            UnknownRow: there is none.
        """
        query = sa.select(tables.interactions).where(tables.interactions.c.row_id == row_id)
        with self._reading() as connection:
            found = connection.execute(query).mappings().first()
        if found is None:
            raise UnknownRow(
                f"no answer has the id {row_id!r}",
                remedy="Use the `id` of the completion, as the client received it.",
            )
        return self._interaction(found)

    def interactions(
        self,
        *,
        alias: str | None = None,
        version: str | None = None,
        tag: str | None = None,
        since: float | None = None,
        after_seq: int = 0,
        row_ids: Sequence[str] | None = None,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> Iterator[Interaction]:
        """Rows that fit all of what is given, oldest first unless asked otherwise.

        Args:
            since: seconds since the epoch, inclusive.
            after_seq: only rows stored after this sequence number.
        """
        table = tables.interactions
        query = sa.select(table).where(table.c.seq > after_seq)
        if alias is not None:
            query = query.where(table.c.alias == alias)
        if version is not None:
            query = query.where(table.c.version == version)
        if tag is not None:
            tagged = sa.select(tables.tags.c.row_id).where(tables.tags.c.tag == tag)
            query = query.where(table.c.row_id.in_(tagged))
        if since is not None:
            query = query.where(table.c.ts >= since)
        query = query.order_by(table.c.seq.desc() if newest_first else table.c.seq)
        if limit is not None:
            query = query.limit(limit)
        with self._reading() as connection:
            for chunk in [None] if row_ids is None else list(_chunks(row_ids)):
                part = query if chunk is None else query.where(table.c.row_id.in_(chunk))
                for values in connection.execute(part).mappings():
                    yield self._interaction(values)

    def row_id(
        self, request_id: str, choice: int = 0, connection: sa.Connection | None = None
    ) -> str | None:
        """The row of a completion's choice, the newest where a client used an id twice."""
        if connection is None:
            with self._reading() as own:
                return self.row_id(request_id, choice, own)
        table = tables.interactions
        query = (
            sa.select(table.c.row_id)
            .where(table.c.request_id == request_id, table.c.choice == choice)
            .order_by(table.c.seq.desc())
            .limit(1)
        )
        return connection.scalar(query)

    def logprobs(self, *, after_seq: int, limit: int) -> list[tuple[int, str, float | None]]:
        """Sequence number, row id and mean logprob (nats) of the next rows, without their text."""
        table = tables.interactions
        query = (
            sa.select(table.c.seq, table.c.row_id, table.c.mean_logprob)
            .where(table.c.seq > after_seq)
            .order_by(table.c.seq)
            .limit(limit)
        )
        with self._reading() as connection:
            return [(seq, row_id, mean) for seq, row_id, mean in connection.execute(query)]

    def counts(self, alias: str | None = None) -> dict[str, int]:
        """Number of rows by version."""
        table = tables.interactions
        query = sa.select(table.c.version, sa.func.count()).group_by(table.c.version)
        if alias is not None:
            query = query.where(table.c.alias == alias)
        with self._reading() as connection:
            return {version: count for version, count in connection.execute(query)}

    # -- feedback ------------------------------------------------------------------------

    def add_feedback(self, row: Feedback, connection: sa.Connection | None = None) -> bool:
        """Insert a piece of feedback; False where the same one is there already."""
        if connection is None:
            with self.transaction() as own:
                return self.add_feedback(row, own)
        table = tables.feedback
        values = row.model_dump(exclude={"correction", "reason"})
        text, _ = self.redacted({"correction": row.correction, "reason": row.reason})
        return _insert_new(connection, table, {**values, "text": pack(text)})

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
        with self._reading() as connection:
            for chunk in [None] if row_ids is None else list(_chunks(row_ids)):
                part = query if chunk is None else query.where(table.c.row_id.in_(chunk))
                for values in connection.execute(part).mappings():
                    fields = dict(values)
                    seq, text = fields.pop("seq"), unpack(fields.pop("text"))
                    found.append((seq, Feedback(**fields, **text)))
        return found

    # -- tags ----------------------------------------------------------------------------

    def add_tags(self, rows: Iterable[Tag], connection: sa.Connection | None = None) -> int:
        """Append tags; the same tag by the same hand on the same row is kept once.

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
            new += _insert_new(connection, tables.tags, values)
        return new

    def tags(self, row_ids: Sequence[str]) -> dict[str, list[Tag]]:
        """Tags by row, oldest first."""
        table = tables.tags
        found: dict[str, list[Tag]] = {}
        with self._reading() as connection:
            for chunk in _chunks(row_ids):
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
        with self._reading() as connection:
            return {tag: count for tag, count in connection.execute(query)}

    # -- corrections ---------------------------------------------------------------------

    def add_correction(self, row: Correction, connection: sa.Connection | None = None) -> None:
        """Append a statement about what a row should have said.

        Raises:
            UnknownRow: the row does not exist.
        """
        if connection is None:
            with self.transaction() as own:
                return self.add_correction(row, own)
        exists = sa.select(tables.interactions.c.seq).where(
            tables.interactions.c.row_id == row.row_id
        )
        if connection.scalar(exists) is None:
            raise UnknownRow(f"no row {row.row_id!r} to correct")
        text, kept = self.redacted({"text": row.text, "why": row.why})
        if kept:
            values = row.model_dump(exclude={"text", "why"})
            connection.execute(sa.insert(tables.corrections).values(**values, text=pack(text)))

    def corrections(
        self, *, decision: str | None = None, row_ids: Sequence[str] | None = None
    ) -> dict[str, Correction]:
        """What holds now: the last correction of each row, in the order they were given."""
        table = tables.corrections
        last = sa.select(sa.func.max(table.c.seq)).group_by(table.c.row_id)
        query = sa.select(table).where(table.c.seq.in_(last)).order_by(table.c.seq)
        if decision is not None:
            query = query.where(table.c.decision == decision)
        rows: list[dict[str, Any]] = []
        with self._reading() as connection:
            for chunk in [None] if row_ids is None else list(_chunks(row_ids)):
                part = query if chunk is None else query.where(table.c.row_id.in_(chunk))
                rows += [dict(values) for values in connection.execute(part).mappings()]
        found = {}
        for fields in sorted(rows, key=lambda fields: fields.pop("seq")):
            text = unpack(fields.pop("text"))
            found[fields["row_id"]] = Correction(**fields, **text)
        return found

    # -- datasets and evaluations --------------------------------------------------------

    def add_dataset(self, row: DatasetRecord) -> None:
        """Record which rows a frozen dataset holds; the same dataset is recorded once."""
        with self.transaction() as connection:
            table = tables.datasets
            known = sa.select(table.c.seq).where(table.c.dataset_id == row.dataset_id)
            if connection.scalar(known) is not None:
                return
            connection.execute(sa.insert(table).values(**row.model_dump(exclude={"row_ids"})))
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
        with self._reading() as connection:
            for values in connection.execute(query).mappings():
                fields = dict(values)
                fields.pop("seq")
                fields["report"] = json.loads(fields["report"])
                found[fields["candidate"]] = Evaluation(**fields)
        return found

    # -- cursors -------------------------------------------------------------------------

    def cursor(self, name: str) -> int:
        """How far a repeated pass over a table has come; 0 where it never ran."""
        table = tables.cursors
        with self._reading() as connection:
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
        _insert_new(connection, table, {"name": name, "position": 0})
        moved = connection.execute(
            sa.update(table)
            .where(table.c.name == name, table.c.position == expected)
            .values(position=position)
        )
        return moved.rowcount == 1


def _insert_new(connection: sa.Connection, table: sa.Table, values: dict[str, Any]) -> bool:
    """Insert a row unless it is there, also where two processes try at once; whether it was new."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return connection.execute(insert(table).values(values).on_conflict_do_nothing()).rowcount == 1


def _second_id(values: dict[str, Any]) -> str:
    """Row id of an answer whose request id was used before: the same however often it comes."""
    return f"{values['row_id']}~{struct.pack('>d', values['ts']).hex()}"


def now() -> float:
    """Seconds since the epoch, UTC."""
    return time.time()


def _chunks(items: Sequence[str], size: int = 500) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
