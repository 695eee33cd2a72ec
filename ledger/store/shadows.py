"""What a candidate would have said to live questions that another version answered.

An answer is sealed as its row is, goes when the row's text goes, and is nobody's traffic.
"""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from ledger.clock import now
from ledger.database import tables
from ledger.keys.keyring import owner_of
from ledger.store.base import insert_new
from ledger.store.interactions import Interactions

_shadows = tables.shadows


class ShadowAnswer(NamedTuple):
    """One answer out of sight.

    Attributes:
        version: pinned name of the candidate.
        text: what it said; sealed.
        latency_ms: from asking to the whole answer.
        preferred: candidate, live or tie; None: not judged.
    """

    row_id: str
    version: str
    text: str
    mean_logprob: float | None
    prompt_tokens: int
    completion_tokens: int
    latency_ms: float
    preferred: str | None


class ShadowCounts(NamedTuple):
    """Comparisons: those that the candidate won, lost, tied, and answers that nobody judged."""

    won: int
    lost: int
    tied: int
    not_judged: int


class Shadows(Interactions):
    """The table `shadows`."""

    def add_shadow(self, alias: str, answer: ShadowAnswer) -> bool:
        """Keep an answer; False where it is there already, or its user was forgotten meanwhile."""
        rows = tables.interactions
        query = sa.select(rows.c.subject, rows.c.session, rows.c.ts, rows.c.stored_text)
        with self.transaction() as connection:
            row = connection.execute(query.where(rows.c.row_id == answer.row_id)).first()
            if row is None or not row.stored_text:
                return False
            owner = owner_of(row.subject, row.session, row.ts)
            if self.was_forgotten(owner, row.ts):
                return False
            fields, _ = self.redacted({"text": answer.text})
            name = _name(answer.row_id, answer.version)
            values = answer._asdict() | {"alias": alias, "ts": now()}
            values["text"] = self._packed(fields, name, [owner], connection)
            return insert_new(connection, _shadows, values)

    def shadow_text(self, row_id: str, version: str) -> str | None:
        """What a candidate said to a row; None where it was not asked, or nobody can read it."""
        query = sa.select(_shadows.c.text).where(
            _shadows.c.row_id == row_id, _shadows.c.version == version
        )
        with self.reading() as connection:
            data = connection.scalar(query)
            if data is None:
                return None
            keys = self._keys([data], connection)
            text = self._text(data, _name(row_id, version), keys, connection)
        return None if text is None else text.fields.get("text")

    def shadowed_rows(self, alias: str, version: str, *, since: float) -> set[str]:
        """Rows that a candidate was asked since then, seconds since the epoch."""
        query = sa.select(_shadows.c.row_id).where(*_of(alias, version, since))
        with self.reading() as connection:
            return set(connection.scalars(query))

    def shadow_counts(self, alias: str, version: str, *, since: float = 0.0) -> ShadowCounts:
        """How the comparisons of a candidate came out, of those asked since then."""
        query = (
            sa.select(_shadows.c.preferred, sa.func.count())
            .where(*_of(alias, version, since))
            .group_by(_shadows.c.preferred)
        )
        with self.reading() as connection:
            found = {preferred: int(count) for preferred, count in connection.execute(query)}
        return ShadowCounts(
            found.get("candidate", 0), found.get("live", 0), found.get("tie", 0), found.get(None, 0)
        )


def _of(alias: str, version: str, since: float) -> tuple[sa.ColumnElement[bool], ...]:
    return (_shadows.c.alias == alias, _shadows.c.version == version, _shadows.c.ts >= since)


def _name(row_id: str, version: str) -> str:
    """What the text of an answer is bound to."""
    return f"shadows:{row_id}:{version}"
