"""Gold questions that users asked, and that were answered wrongly: the tag `gold_miss`.

A row asks a gold question where `ledger.gold.question_key` says so. To know it the text has to be
opened and redacted, 0.3 ms a row, so not every row is looked at: of each alias with gold sets about
`A_DAY` answers a UTC day, chosen by the row's sample key, the share falling as the day's traffic
grows. Of those only the ones whose turns fold like a gold question's are redacted again. So of a
gold question that many ask some misses are found, not each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from curate.acceptance.company import same_question_as
from ledger.checking import score
from ledger.database import tables
from ledger.gold import GoldQuestion, question_key
from ledger.marks import GOLD_MISS
from ledger.packs import kept_out
from ledger.records import Interaction, Tag
from ledger.settings import Settings
from ledger.store import Store, now

#: Answers of an alias a UTC day of which each is looked at; of n further ones the n-th is with a
#: probability of A_DAY / (A_DAY + n).
A_DAY = 300
WHO = "rule:gold_miss"


class GoldMisses:
    """Looks for gold questions among rows."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._store = store
        self._gold: dict[str, dict[str, list[GoldQuestion]]] = {}
        self._keys: dict[str, str] = {}
        self._seen: dict[tuple[str, int], int] = {}
        for name, alias in settings.aliases.items():
            scored = [question for question in kept_out(alias.gate) if question.checks]
            if scored:
                self._gold[name] = _by_shape(scored)

    def tags(self, rows: Sequence[Any]) -> list[Tag]:
        """Tags of the rows that miss a gold question.

        Args:
            rows: with the columns `row_id`, `alias`, `ts`, `stored_text`, `sample_key`.
        """
        if not self._gold:
            return []
        wanted = [row.row_id for row in rows if self._looked_at(row)]
        found = []
        for row in self._store.interactions(row_ids=wanted) if wanted else ():
            if (why := self._miss(row)) is not None:
                found.append(Tag(row_id=row.row_id, tag=GOLD_MISS, who=WHO, why=why, ts=now()))
        return found

    def _looked_at(self, row: Any) -> bool:
        if row.alias not in self._gold or not row.stored_text:
            return False
        key = (row.alias, int(row.ts // 86_400))
        if key not in self._seen:
            self._seen[key] = self._rows_before(row.alias, row.ts)
        self._seen[key] += 1
        share = min(1.0, A_DAY / self._seen[key])
        return bool(row.sample_key < share)

    def _rows_before(self, alias: str, ts: float) -> int:
        """How many answers of an alias there are of the same UTC day, up to a time."""
        table = tables.interactions
        query = sa.select(sa.func.count()).where(
            table.c.alias == alias, table.c.ts >= ts // 86_400 * 86_400, table.c.ts < ts
        )
        with self._store.reading() as connection:
            return int(connection.scalar(query) or 0)

    def _miss(self, row: Interaction) -> str | None:
        """Which gold question a row answered wrongly; None where it asks none, or is right."""
        assert row.alias is not None
        alike = self._gold[row.alias].get(same_question_as(row.messages or []))
        if not alike or row.response is None:
            return None
        asked = question_key(row.messages or [])
        for gold in alike:
            if gold.id not in self._keys:
                self._keys[gold.id] = question_key(gold.messages)
            if self._keys[gold.id] == asked and not score(gold, row.response).value:
                return f"gold question {gold.id}"
        return None


def _by_shape(questions: Sequence[GoldQuestion]) -> dict[str, list[GoldQuestion]]:
    found: dict[str, list[GoldQuestion]] = {}
    for gold in questions:
        found.setdefault(same_question_as(_stored(gold.messages)), []).append(gold)
    return found


def _stored(messages: list[dict[str, Any]]) -> Any:
    """A question as a row would hold it."""
    from ledger.redact import redact

    return redact(messages)
