"""Answers to the gate's questions, kept so that no version is asked the same thing twice.

What a key stands for is `eval.asking.cache`'s business. Where a question is a stored row, its
answer is sealed with the row's key and goes when the row's text goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from ledger.clock import now
from ledger.database import tables
from ledger.keys.keyring import owner_of
from ledger.store.base import chunks, insert_new
from ledger.store.interactions import Interactions

_answers = tables.gate_answers


class GateAnswer(NamedTuple):
    """One answer.

    Attributes:
        key: names version, question, sampling and sample; see `eval.asking.cache`.
        version: the pinned name that was asked.
        row_id: the stored row that the question is, where it is one.
        fields: JSON values; all of them are sealed.
    """

    key: str
    version: str
    row_id: str | None
    fields: dict[str, Any]


class GateAnswers(Interactions):
    """The table `gate_answers`."""

    def add_gate_answers(self, alias: str, answers: Iterable[GateAnswer]) -> int:
        """Keep answers; returns how many were new.

        Those to rows that are gone, or whose user was forgotten meanwhile, are not kept.
        """
        answers, kept = list(answers), 0
        with self.transaction() as connection:
            rows = self._owners_left([a.row_id for a in answers if a.row_id], connection)
            ts = now()
            nobody = owner_of(None, None, ts)
            for one in answers:
                owner = nobody if one.row_id is None else rows.get(one.row_id)
                if owner is None:
                    continue
                text = self._packed(one.fields, _name(one.key), [owner], connection)
                values = {"key": one.key, "ts": ts, "alias": alias, "version": one.version}
                values |= {"row_id": one.row_id, "text": text}
                kept += insert_new(connection, _answers, values)
        return kept

    def gate_answers(self, keys: Sequence[str], *, since: float = 0.0) -> dict[str, dict[str, Any]]:
        """Fields of the answers that are there and can be read, by key.

        Args:
            since: only those kept from then on, seconds since the epoch.
        """
        found: dict[str, dict[str, Any]] = {}
        query = sa.select(_answers.c.key, _answers.c.text).where(_answers.c.ts >= since)
        with self.reading() as connection:
            for chunk in chunks(keys):
                rows = connection.execute(query.where(_answers.c.key.in_(chunk))).all()
                opening = self._keys((row.text for row in rows), connection)
                for row in rows:
                    text = self._text(row.text, _name(row.key), opening, connection)
                    if text is not None and not text.gone and text.fields:
                        found[row.key] = text.fields
        return found

    def remove_gate_answers(self, alias: str, *, before: float) -> int:
        """Remove an alias's answers that were kept before a time; returns how many.

        Args:
            before: seconds since the epoch.
        """
        old = sa.delete(_answers).where(_answers.c.alias == alias, _answers.c.ts < before)
        with self.transaction() as connection:
            return connection.execute(old).rowcount

    def _owners_left(self, row_ids: Sequence[str], connection: sa.Connection) -> dict[str, str]:
        """Whose key seals each row, without those who were forgotten since it was stored."""
        table, found = tables.interactions, {}
        columns = (table.c.row_id, table.c.subject, table.c.session, table.c.ts)
        for chunk in chunks(list(dict.fromkeys(row_ids))):
            query = sa.select(*columns).where(table.c.row_id.in_(chunk))
            for row in connection.execute(query):
                owner = owner_of(row.subject, row.session, row.ts)
                if not self.was_forgotten(owner, row.ts):
                    found[row.row_id] = owner
        return found


def _name(key: str) -> str:
    """What the text of an answer is bound to."""
    return f"gate_answers:{key}"
