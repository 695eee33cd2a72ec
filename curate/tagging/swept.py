"""What a sweep counts as it goes, and the small steps that all its parts share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from curate.tagging.rules import COLUMNS
from ledger.database import tables
from ledger.records import Tag
from ledger.store import Store, now
from ledger.store.base import chunks


class SweepReport(NamedTuple):
    """What a sweep found.

    Attributes:
        tags: new tags by name, those of rules included.
        proposed, accepted, rejected: users' corrections, by what became of them.
        skipped: users' corrections that were not taken, by reason.
        reasons: why corrections wait or were rejected; one may have several.
        timeouts: texts on which the pattern of a rule took too long, by rule.
    """

    interactions: int
    feedback: int
    tags: dict[str, int]
    proposed: int
    accepted: int
    skipped: dict[str, int]
    rejected: int
    reasons: dict[str, int]
    timeouts: dict[str, int]


class Counts:
    """What a sweep counts as it goes."""

    def __init__(self) -> None:
        self.interactions = self.feedback = 0
        self.tags, self.taken = Counter[str](), Counter[str]()
        self.skipped, self.reasons = Counter[str](), Counter[str]()
        self.timeouts = Counter[str]()

    def report(self) -> SweepReport:
        """All of it."""
        return SweepReport(
            self.interactions,
            self.feedback,
            {name: count for name, count in self.tags.items() if count},
            self.taken["proposed"],
            self.taken["accepted"],
            dict(self.skipped),
            self.taken["rejected"],
            dict(self.reasons),
            dict(self.timeouts),
        )


def mark(row_id: str, tag: str, who: str, why: str, ts: float | None = None) -> Tag:
    """A tag, of now unless a time is given."""
    return Tag(row_id=row_id, tag=tag, who=who, why=why, ts=now() if ts is None else ts)


def add(store: Store, tags: Iterable[Tag], connection: sa.Connection, counts: Counts) -> None:
    """Append tags of rows that are there: one that was let go meanwhile leaves none behind."""
    tags = list(tags)
    table, there = tables.interactions, set[str]()
    for chunk in chunks(sorted({tag.row_id for tag in tags})):
        query = sa.select(table.c.row_id).where(table.c.row_id.in_(chunk))
        there.update(connection.scalars(query))
    for tag in tags:
        if tag.row_id in there:
            counts.tags[tag.tag] += store.add_tags([tag], connection)


def columns_of(store: Store, row_ids: Sequence[str]) -> list[Any]:
    """What rules see of rows without opening them."""
    found: list[Any] = []
    with store.reading() as connection:
        for chunk in chunks(row_ids):
            query = sa.select(*COLUMNS).where(tables.interactions.c.row_id.in_(chunk))
            found += connection.execute(query).all()
    return found
