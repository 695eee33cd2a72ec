"""The sweep: tags what is new, applies the rules, and takes over users' corrections.

A vote only marks a row. Only feedback that says what the answer should have been makes a
correction, and the acceptance policy decides what becomes of it. Rows are looked at once, when a
sweep first sees them, and again by rules about feedback and tags when some comes: a threshold or a
rule that is changed later holds for later rows. `flywheel tag --rule` applies a rule to the past.

Running it again, or twice at once, changes nothing more: a batch and the cursor behind it are one
transaction, and of two sweeps that read the same batch one finds it done; tags are kept once,
whoever writes them. Texts are opened and judged before the ledger's write lock is taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from curate.acceptance import Acceptance
from curate.tagging.gold_miss import GoldMisses
from curate.tagging.matching import Matcher
from curate.tagging.rules import COLUMNS
from curate.tagging.swept import Counts, SweepReport, add, columns_of, mark
from curate.tagging.takeover import Takeover
from ledger.database import tables
from ledger.keeping.confidence import Thresholds
from ledger.keeping.rollups import hour_of
from ledger.marks import LOW_CONFIDENCE
from ledger.records import Tag
from ledger.settings import Settings
from ledger.store import Store, now

__all__ = ["SweepReport", "sweep"]

_INTERACTIONS, _TAGS = "curate.interactions", "curate.tags"
#: Rows read at once.
_BATCH = 2000
#: Tags written in one transaction: the write lock is held for milliseconds.
_TAGS_AT_ONCE = 500
#: Rows whose cluster is looked at again by rules about clusters, seconds.
_RECENT = 2 * 86_400.0
#: What is read of a row where there are no rules.
_FEW = tuple(
    tables.interactions.c[name]
    for name in ("seq", "row_id", "ts", "alias", "version", "stored_text", "mean_logprob")
)


def sweep(settings: Settings, store: Store) -> SweepReport:
    """Tag what is new since the last sweep, and take over users' corrections.

    Raises:
        ConfigError: a rule or a check of the configuration is malformed; nothing is done then.
        GoldError: a gold set cannot be read.
        LedgerError, LedgerLocked: the ledger cannot be read or written.
    """
    matcher, counts = Matcher.of(settings, store), Counts()
    Acceptance.of(settings, store)  # a check that is malformed is said before anything is written
    _Rows(settings, store, matcher.of_rows(), counts).sweep()
    Takeover(settings, store, matcher.that_use("feedback"), counts).sweep()
    _sweep_tags(store, matcher.that_use("tagged"), counts)
    _sweep_clusters(store, matcher.that_use("cluster"), counts)
    return counts.report()


# -- answers ---------------------------------------------------------------------------------


class _Rows:
    """Tags answers as they come in: unsure ones, gold questions answered wrongly, by rule."""

    def __init__(self, settings: Settings, store: Store, matcher: Matcher, counts: Counts) -> None:
        self._settings, self._store = settings, store
        self._matcher, self._counts = matcher, counts
        self._gold = GoldMisses(settings, store)

    def sweep(self) -> None:
        while self._batch():
            pass

    def _batch(self) -> bool:
        store, table = self._store, tables.interactions
        start = store.cursor(_INTERACTIONS)
        query = (
            sa.select(*(COLUMNS if self._matcher.rules else _FEW), table.c.sample_key)
            .where(table.c.seq > start)
            .order_by(table.c.seq)
            .limit(_BATCH)
        )
        with store.reading() as connection:
            found = connection.execute(query).all()
            if not found:
                return False
            tags = self._unsure(found, connection)
        by_rule, timeouts = self._matcher.tags(found)
        tags += by_rule + self._gold.tags(found)
        end = found[-1].seq
        # A tag is kept once, so that those before the last may be written without the cursor.
        while len(tags) > _TAGS_AT_ONCE:
            with store.transaction() as connection:
                add(store, tags[:_TAGS_AT_ONCE], connection, self._counts)
            del tags[:_TAGS_AT_ONCE]
        with store.transaction() as connection:
            if not store.move_cursor(_INTERACTIONS, end, expected=start, connection=connection):
                return True
            add(store, tags, connection, self._counts)
        self._counts.interactions += len(found)
        self._counts.timeouts += timeouts
        return True

    def _unsure(self, found: Sequence[Any], connection: sa.Connection) -> list[Tag]:
        thresholds = Thresholds(self._settings.curate, connection)
        tags = []
        for row in found:
            if row.mean_logprob is None:
                continue
            threshold = thresholds.of(row.version, hour_of(row.ts))
            if row.mean_logprob < threshold:
                why = f"mean logprob {row.mean_logprob:.2f} nats is below {threshold:.2f}"
                tags.append(mark(row.row_id, LOW_CONFIDENCE, "rule:low_confidence", why))
        return tags


# -- what rules look at again ----------------------------------------------------------------


def _sweep_tags(store: Store, matcher: Matcher, counts: Counts) -> None:
    """Rules about tags, on rows that got one; without such rules the cursor goes along."""
    table = tables.tags
    while True:
        start = store.cursor(_TAGS)
        query = sa.select(table.c.seq, table.c.row_id).where(table.c.seq > start)
        query = query.order_by(table.c.seq.desc() if not matcher.rules else table.c.seq)
        with store.reading() as connection:
            found = connection.execute(query.limit(_TAGS_AT_ONCE if matcher.rules else 1)).all()
        if not found:
            return
        end = found[-1].seq
        rows = sorted({row.row_id for row in found}) if matcher.rules else []
        tags, timeouts = matcher.tags(columns_of(store, rows))
        with store.transaction() as connection:
            if store.move_cursor(_TAGS, end, expected=start, connection=connection):
                add(store, tags, connection, counts)
                counts.timeouts += Counter(timeouts)


def _sweep_clusters(store: Store, matcher: Matcher, counts: Counts) -> None:
    """Rules about clusters, on the rows of two days: which cluster one is in is known later."""
    rows, links, tags = tables.interactions, tables.cluster_rows, tables.tags
    for rule in matcher.rules:
        done = sa.select(tags.c.row_id).where(tags.c.tag == rule.tag, tags.c.who == rule.who)
        query = (
            sa.select(*COLUMNS)
            .join(links, links.c.row_id == rows.c.row_id)
            .where(links.c.ts >= now() - _RECENT, links.c.cluster.is_not(None))
            .where(rows.c.row_id.not_in(done))
            .order_by(rows.c.seq)
        )
        if rule.when.alias is not None:
            query = query.where(links.c.alias == rule.when.alias)
        with store.reading() as connection:
            found = connection.execute(query).all()
        one = Matcher([rule], store)
        for begin in range(0, len(found), _TAGS_AT_ONCE):
            new, timeouts = one.tags(found[begin : begin + _TAGS_AT_ONCE])
            counts.timeouts += Counter(timeouts)
            if new:
                with store.transaction() as connection:
                    add(store, new, connection, counts)
