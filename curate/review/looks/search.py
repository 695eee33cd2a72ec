"""Finding rows: by tag, version, time, confidence, cluster, correction and feedback, newest first.

Every page costs about the same however large the ledger is. Rows with a tag, a correction or
feedback are few and are looked up from there; anything else is looked for among the newest
`WINDOW` rows before where the last page ended, and the page says how far back that was. Text is
sealed, so a search for words opens rows: the newest `OPENED` that fit the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from ledger.database import tables
from ledger.marks import USER_NEGATIVE
from ledger.records import Interaction
from ledger.store import Store
from ledger.store.corrections import holding

#: Rows shown at once.
SHOWN = 50
#: Rows that are passed over at most, looking for those that fit.
WINDOW = 50_000
#: Texts opened at most, looking for words.
OPENED = 1000
# Marked rows up to so many are all looked up and put in order.
_FEW = 50_000
_BATCH = 250

CORRECTED = ("any", "proposed", "accepted", "rejected")
SAID = ("any", "negative")

_rows, _tags, _clusters = tables.interactions, tables.tags, tables.cluster_rows
_corrections, _feedback = tables.corrections, tables.feedback


class Filter(NamedTuple):
    """What rows must fit; None fits all.

    Attributes:
        since, until: seconds since the epoch; the second is left out.
        low, high: mean logprob, nats.
        correction: one of `CORRECTED`; a decision is the last one about the row.
        feedback: one of `SAID`.
        text: words, in the question or the answer.
    """

    tag: str | None = None
    version: str | None = None
    since: float | None = None
    until: float | None = None
    low: float | None = None
    high: float | None = None
    cluster: int | None = None
    correction: str | None = None
    feedback: str | None = None
    text: str | None = None


class Cursor(NamedTuple):
    """A place in the order of time: the rows before it come next."""

    ts: float
    seq: int

    def __str__(self) -> str:
        return f"{self.ts!r}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """The inverse; None where it is none."""
        ts, _, seq = text.rpartition("-")
        try:
            found = cls(float(ts), int(seq))
        except ValueError:
            return None
        return found if abs(found.ts) < 1e12 and abs(found.seq) < 2**62 else None


class Hit(NamedTuple):
    """A row that fits, without its text."""

    row_id: str
    ts: float
    seq: int


class Found(NamedTuple):
    """A page of rows.

    Attributes:
        older: where to go on; None where there is nothing more.
        back_to: time of the oldest row that was looked at, where not all were.
        opened: texts that were searched.
    """

    hits: list[Hit]
    older: Cursor | None
    back_to: float | None
    opened: int


def find(
    store: Store,
    alias: str,
    wanted: Filter,
    before: Cursor | None = None,
    *,
    limit: int = SHOWN,
    window: int = WINDOW,
    open_: int = OPENED,
) -> Found:
    """A page of the rows that fit, newest first.

    Args:
        window: rows that are passed over at most.
        open_: texts opened at most, where words are looked for.
    """
    if not wanted.text:
        return _page(store, alias, wanted, before, limit, window)
    words = wanted.text.casefold()
    hits: list[Hit] = []
    opened, place = 0, before
    while opened < open_:
        page = _page(store, alias, wanted, place, min(_BATCH, open_ - opened), window)
        texts = {
            row.row_id: row for row in store.interactions(row_ids=[hit.row_id for hit in page.hits])
        }
        for hit in page.hits:
            place, opened = Cursor(hit.ts, hit.seq), opened + 1
            if hit.row_id in texts and words in words_of(texts[hit.row_id]).casefold():
                hits.append(hit)
            if len(hits) == limit:
                return Found(hits, place, hit.ts, opened)
        if page.older is None or page.back_to is not None:
            return Found(hits, page.older, page.back_to, opened)
        place = page.older
    return Found(hits, place, place.ts if place else None, opened)


def words_of(row: Interaction) -> str:
    """All that a row says, the conversation before its answer included."""
    said = [content_of(message) for message in row.messages or []]
    return "\n".join([*said, row.response or ""])


def content_of(message: dict[str, Any]) -> str:
    """The words of a message, whatever form it has."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "\n".join(part for part in parts if isinstance(part, str))
    return ""


def _page(
    store: Store, alias: str, wanted: Filter, before: Cursor | None, limit: int, window: int
) -> Found:
    with store.reading() as connection:
        sides = _sides(wanted)
        few = [side for side in sides if _is_few(connection, side)]
        if wanted.cluster is not None:
            query, floor = _of_cluster(alias, wanted), None
        elif few:
            query, floor = _from(few[0], alias, wanted), None
        else:
            floor = _floor(connection, alias, wanted, before, window)
            query = _newest(alias, wanted)
            if floor is not None:
                query = query.where(_rows.c.ts >= floor)
        for side in sides:
            query = query.where(_rows.c.row_id.in_(side))
        ts: sa.ColumnElement[float] = query.selected_columns["place"]
        if before is not None:
            earlier = sa.and_(ts == before.ts, _rows.c.seq < before.seq)
            query = query.where(ts <= before.ts, sa.or_(ts < before.ts, earlier))
        query = query.order_by(ts.desc(), _rows.c.seq.desc()).limit(limit + 1)
        hits = [Hit(row.row_id, row.ts, row.seq) for row in connection.execute(query)]
    if len(hits) > limit:
        last = hits[limit - 1]
        return Found(hits[:limit], Cursor(last.ts, last.seq), None, 0)
    if floor is None:
        return Found(hits, None, None, 0)
    return Found(hits, Cursor(floor, 0), floor, 0)


def _sides(wanted: Filter) -> list[sa.Select[Any]]:
    """Row ids of what is marked as asked for, one query for each mark."""
    sides: list[sa.Select[Any]] = []
    if wanted.tag is not None:
        sides.append(sa.select(_tags.c.row_id).where(_tags.c.tag == wanted.tag))
    if wanted.correction == "any":
        sides.append(sa.select(_corrections.c.row_id))
    elif wanted.correction is not None:
        sides.append(
            sa.select(_corrections.c.row_id).where(
                _corrections.c.decision == wanted.correction, _corrections.c.seq.in_(holding())
            )
        )
    if wanted.feedback == "any":
        sides.append(sa.select(_feedback.c.row_id))
    elif wanted.feedback == "negative":
        said = sa.select(_feedback.c.row_id).where(negative())
        tagged = sa.select(_tags.c.row_id).where(_tags.c.tag == USER_NEGATIVE)
        sides.append(sa.select(said.union(tagged).subquery().c.row_id))
    return sides


def negative() -> sa.ColumnElement[bool]:
    """Whether a piece of feedback is negative: `ledger.records.is_negative` in SQL; may be NULL."""
    given = _feedback.c
    return sa.or_(
        given.rating == "down", given.score < 0.5, given.regenerate, given.report, ~given.success
    )


def _is_few(connection: sa.Connection, side: sa.Select[Any]) -> bool:
    counted = sa.select(sa.func.count()).select_from(side.limit(_FEW + 1).subquery())
    return int(connection.scalar(counted) or 0) <= _FEW


def _columns(ts: sa.ColumnElement[float]) -> sa.Select[Any]:
    return sa.select(_rows.c.row_id, _rows.c.ts, _rows.c.seq, ts.label("place"))


def _newest(alias: str, wanted: Filter) -> sa.Select[Any]:
    """In the order of an index on time."""
    ts: sa.ColumnElement[float] = _rows.c.ts
    query = _columns(ts)
    if wanted.version is not None:  # the index on a version's time, not on the alias's
        return query.where(*_fits(alias, wanted, _rows.c.alias + "", _rows.c.version, ts))
    return query.where(*_fits(alias, wanted, _rows.c.alias, _rows.c.version, ts))


def _from(side: sa.Select[Any], alias: str, wanted: Filter) -> sa.Select[Any]:
    """From the marked rows, which are few: no index on time may be taken, so none can be."""
    ts = _rows.c.ts + 0.0
    fits = _fits(alias, wanted, _rows.c.alias + "", _rows.c.version + "", ts)
    return _columns(ts).where(_rows.c.row_id.in_(side), *fits)


def _of_cluster(alias: str, wanted: Filter) -> sa.Select[Any]:
    """In the order of the index on a cluster's rows."""
    ts: sa.ColumnElement[float] = _clusters.c.ts
    joined = _clusters.join(_rows, _rows.c.row_id == _clusters.c.row_id)
    fits = _fits(alias, wanted, _clusters.c.alias, _rows.c.version + "", ts)
    chosen = _clusters.c.cluster == wanted.cluster
    return _columns(ts).select_from(joined).where(chosen, *fits)


def _fits(
    alias: str,
    wanted: Filter,
    alias_column: sa.ColumnElement[Any],
    version: sa.ColumnElement[Any],
    ts: sa.ColumnElement[float],
) -> list[sa.ColumnElement[bool]]:
    """Conditions on a row's own columns."""
    found = [alias_column == alias]
    if wanted.version is not None:
        found.append(version == wanted.version)
    if wanted.since is not None:
        found.append(ts >= wanted.since)
    if wanted.until is not None:
        found.append(ts < wanted.until)
    if wanted.low is not None:
        found.append(_rows.c.mean_logprob >= wanted.low)
    if wanted.high is not None:
        found.append(_rows.c.mean_logprob <= wanted.high)
    return found


def _floor(
    connection: sa.Connection, alias: str, wanted: Filter, before: Cursor | None, window: int
) -> float | None:
    """Time of the row that is `window` rows further back; None where there are not so many."""
    chosen = _rows.c.alias == alias
    if wanted.version is not None:
        chosen = _rows.c.version == wanted.version
    query = sa.select(_rows.c.ts).where(chosen)
    ends = [end for end in (wanted.until, before and before.ts) if end is not None]
    if ends:
        query = query.where(_rows.c.ts <= min(ends))
    found = connection.scalar(query.order_by(_rows.c.ts.desc()).offset(window).limit(1))
    if found is None or (wanted.since is not None and found <= wanted.since):
        return None
    return float(found)


def tag_counts(store: Store, limit: int = 40) -> list[tuple[str, int]]:
    """The most frequent tags, with how often each was given."""
    number = sa.func.count()
    query = sa.select(_tags.c.tag, number).group_by(_tags.c.tag)
    with store.reading() as connection:
        found = connection.execute(query.order_by(number.desc(), _tags.c.tag).limit(limit))
        return [(tag, count) for tag, count in found]


def in_order(hits: Sequence[Hit], rows: Sequence[Interaction]) -> list[Interaction]:
    """Rows in the order in which they were found."""
    known = {row.row_id: row for row in rows}
    return [known[hit.row_id] for hit in hits if hit.row_id in known]
