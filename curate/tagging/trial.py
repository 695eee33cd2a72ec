"""Rules on the past: tried without writing anything, or applied.

A sweep gives rules only what comes in. This looks at rows that are there already: what a rule
would have tagged, how many of them would wait in the queue, and how many a day that makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from curate.tagging.matching import Matcher
from curate.tagging.rules import COLUMNS, Rule
from ledger.database import tables
from ledger.marks import REOPENS, queue_rank
from ledger.store import Store, now
from ledger.store.base import PAGE, STREAM, chunks

#: Row ids shown of what a rule tags.
EXAMPLES = 5
_DAY = 86_400.0


class Trial(NamedTuple):
    """What one rule does with the past.

    Attributes:
        matched: rows that match.
        sampled: those in the rule's sample.
        already: those that have its tag from it already.
        tagged: those that it tagged now, or would tag.
        queued: those of `tagged` that came into the queue, or would.
        per_day: `tagged` by the days that were looked at.
        timeouts: rows on which its pattern took too long; they count as not matching.
        examples: some of the rows it tags, the newest first.
    """

    rule: str
    tag: str
    matched: int
    sampled: int
    already: int
    tagged: int
    queued: int
    per_day: float
    timeouts: int
    examples: list[str]


def run(
    store: Store,
    rules: Sequence[Rule],
    *,
    since: float | None = None,
    alias: str | None = None,
    dry: bool = True,
) -> list[Trial]:
    """Apply rules to rows that are there, or say what that would do.

    Args:
        since: seconds since the epoch; None: from the first row on.
        alias: only its rows.
        dry: write nothing.

    Raises:
        LedgerError, LedgerLocked: the ledger cannot be read or written.
    """
    matcher = Matcher(rules, store)
    found = {rule.name: _Found() for rule in rules}
    first = None
    for rows in _pages(store, since, alias):
        first = rows[0].ts if first is None else min(first, rows[0].ts)
        matched = matcher.match(rows)
        for rule in rules:
            one, ids = found[rule.name], matched.rows[rule.name]
            one.matched += len(ids)
            one.timeouts += matched.timeouts.get(rule.name, 0)
            chosen = [row_id for row_id in ids if rule.sampled(store, row_id)]
            one.sampled += len(chosen)
            new = _not_yet(store, rule, chosen)
            one.already += len(chosen) - len(new)
            one.tagged += len(new)
            one.queued += _would_wait(store, rule, new)
            one.examples = [*reversed(new), *one.examples][:EXAMPLES]
            if new and not dry:
                _tag(store, rule, new)
    begin = since if since is not None else (first if first is not None else now())
    days = max((now() - begin) / _DAY, 1.0)
    return [found[rule.name].trial(rule, days) for rule in rules]


class _Found:
    def __init__(self) -> None:
        self.matched = self.sampled = self.already = self.tagged = self.queued = 0
        self.timeouts = 0
        self.examples: list[str] = []

    def trial(self, rule: Rule, days: float) -> Trial:
        return Trial(
            rule.name,
            rule.tag,
            self.matched,
            self.sampled,
            self.already,
            self.tagged,
            self.queued,
            round(self.tagged / days, 1),
            self.timeouts,
            self.examples,
        )


def _pages(store: Store, since: float | None, alias: str | None) -> Iterator[Sequence[Any]]:
    table = tables.interactions
    query = sa.select(*COLUMNS).order_by(table.c.seq)
    if since is not None:
        query = query.where(table.c.ts >= since)
    if alias is not None:
        query = query.where(table.c.alias == alias)
    last = 0
    while True:
        # Page by page, so that a connection is not held while rows are tagged.
        with store.reading() as connection:
            page = query.where(table.c.seq > last).limit(20 * PAGE)
            with connection.execute(page, execution_options=STREAM) as result:
                rows = list(result)
        if not rows:
            return
        last = rows[-1].seq
        for start in range(0, len(rows), PAGE):
            yield rows[start : start + PAGE]


def _not_yet(store: Store, rule: Rule, row_ids: list[str]) -> list[str]:
    """Rows that do not have the rule's tag from it."""
    table, has = tables.tags, set[str]()
    with store.reading() as connection:
        for chunk in chunks(row_ids):
            query = sa.select(table.c.row_id).where(
                table.c.row_id.in_(chunk), table.c.tag == rule.tag, table.c.who == rule.who
            )
            has.update(connection.scalars(query))
    return [row_id for row_id in row_ids if row_id not in has]


def _would_wait(store: Store, rule: Rule, row_ids: list[str]) -> int:
    """How many rows the tag brings into the queue; see `ledger.store.queue.enqueue`."""
    rank = queue_rank(rule.tag, rule.who)
    if rank is None:
        return 0
    rows, queue = tables.interactions, tables.queue
    count = 0
    with store.reading() as connection:
        for chunk in chunks(row_ids):
            new = sa.and_(queue.c.row_id.is_(None), rows.c.stored_text)
            back = sa.and_(queue.c.row_id.is_not(None), ~queue.c.waiting)
            query = (
                sa.select(sa.func.count())
                .select_from(rows.outerjoin(queue, queue.c.row_id == rows.c.row_id))
                .where(rows.c.row_id.in_(chunk), sa.or_(new, back) if rank <= REOPENS else new)
            )
            count += int(connection.scalar(query) or 0)
    return count


def _tag(store: Store, rule: Rule, row_ids: list[str]) -> None:
    rows = tables.interactions
    for chunk in chunks(row_ids):
        with store.transaction() as connection:
            # A row that was let go meanwhile leaves no tag behind.
            query = sa.select(rows.c.row_id).where(rows.c.row_id.in_(chunk))
            there = set(connection.scalars(query))
            store.add_tags((rule.mark(one) for one in chunk if one in there), connection)
