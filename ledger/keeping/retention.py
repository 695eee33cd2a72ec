"""Letting go of text and rows by age and by bytes, per kind of row.

A kind is read from `kept_because`: `corrected`, flagged (feedback, a tag, low confidence), and
sampled (all others). What is said about a row after it was sampled raises its kind; its
`inclusion_probability` stays, for that is how it came to be there.

Text goes first: the row's, and that of its feedback, corrections and tags. Its numbers stay.
A row goes with all that was said about it and leaves its numbers in the rollups; a row of a
frozen dataset stays without text, so that what a version was trained on can still be told.
Everything is small transactions, each of them whole.

What is removed here is gone for queries. That its bytes cannot be read anywhere any more is
promised by forgetting (`Store.forget`), not by retention.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from ledger.database import tables
from ledger.keeping.rollups import COLUMNS, Gone
from ledger.records import is_negative
from ledger.settings import Keep, Settings
from ledger.store import Store
from ledger.store.base import NO_TEXT, remove_text

#: Rows changed in one transaction.
CHUNK = 500
_DAY = 86_400.0
_MIB = 1 << 20

#: The reasons of each kind, as `settings.retention` names it; a held row is of none yet.
KINDS = {
    "sampled": ("sample", "all"),
    "flagged": ("feedback", "tagged", "low_confidence"),
    "corrected": ("corrected",),
}

_rows = tables.interactions
# `bytes` is 0 where retention took the text, so that a row is visited once; a row without text
# of its own has a few, and may have feedback with text.
_TAKEN = 0
# What is said later, where we look for it, and what it may replace.
_LATER = (
    ("retention.corrections", tables.corrections, "corrected"),
    ("retention.feedback", tables.feedback, "feedback"),
    ("retention.tags", tables.tags, "tagged"),
)
_RANKS = ("corrected", "feedback", "tagged", "low_confidence", "sample", "all")


def retention(store: Store, settings: Settings, clock: Callable[[], float]) -> Iterator[None]:
    """One pass, in pieces of some tens of milliseconds."""
    yield from raise_kinds(store)
    for kind, reasons in KINDS.items():
        keep: Keep = getattr(settings.retention, kind)
        now = clock()
        if keep.row_days is not None:
            for reason in reasons:
                yield from _rows_by_age(store, reason, now - keep.row_days * _DAY)
        days = [days for days in (keep.text_days, keep.row_days) if days is not None]
        if days:  # a row that has to stay for its dataset loses its text at the same age
            for reason in reasons:
                yield from _text_by_age(store, reason, now - min(days) * _DAY)
        if keep.text_mib is not None:
            yield from _text_by_bytes(store, reasons, math.floor(keep.text_mib * _MIB))


# -- kinds -----------------------------------------------------------------------------------


def raise_kinds(store: Store) -> Iterator[None]:
    """Look at what was said about rows since the last pass; rows that are held are left alone."""
    for cursor, table, reason in _LATER:
        while True:
            start = store.cursor(cursor)
            query = sa.select(table.c.seq, table.c.row_id).where(table.c.seq > start)
            with store.transaction() as connection:
                found = connection.execute(query.order_by(table.c.seq).limit(CHUNK)).all()
                if not found or not store.move_cursor(
                    cursor, found[-1].seq, expected=start, connection=connection
                ):
                    break
                _raise({row.row_id for row in found}, reason, connection)
            yield


def _raise(row_ids: Collection[str], reason: str, connection: sa.Connection) -> None:
    weaker = _RANKS[_RANKS.index(reason) + 1 :]
    columns = (_rows.c.seq, _rows.c.kept_because, _rows.c.bytes)
    about = connection.execute(sa.select(*columns).where(_rows.c.row_id.in_(row_ids))).all()
    for chosen, values in (
        ([row.seq for row in about if row.kept_because in weaker], {"kept_because": reason}),
        # What was said may have brought text, which has its time too.
        ([row.seq for row in about if row.bytes == _TAKEN], {"bytes": len(NO_TEXT)}),
    ):
        if chosen:
            connection.execute(sa.update(_rows).where(_rows.c.seq.in_(chosen)).values(values))


# -- text ------------------------------------------------------------------------------------


def _text_by_age(store: Store, reason: str, before: float) -> Iterator[None]:
    query = _old(reason).where(_rows.c.ts < before, _rows.c.bytes > _TAKEN).limit(CHUNK)
    while True:
        with store.transaction() as connection:
            page = connection.execute(query).all()
            clear_text(page, connection)
        if not page:
            return
        yield


def _text_by_bytes(store: Store, reasons: Sequence[str], most: int) -> Iterator[None]:
    sizes = sa.select(sa.func.sum(_rows.c.bytes)).where(_rows.c.kept_because.in_(reasons))
    with store.reading() as connection:
        too_much = int(connection.scalar(sizes) or 0) - most
    yield
    while too_much > 0:
        with store.transaction() as connection:
            # One query a reason: each reads its part of the index in order and stops.
            pages = [
                connection.execute(
                    _old(reason).where(_rows.c.bytes > len(NO_TEXT)).limit(CHUNK)
                ).all()
                for reason in reasons
            ]
            page: list[Any] = []
            for row in heapq.merge(*pages, key=lambda row: (row.ts, row.seq)):
                if too_much <= 0 or len(page) == CHUNK:
                    break
                page.append(row)
                too_much -= row.bytes
            clear_text(page, connection)
        if not page:
            return
        yield


def clear_text(page: Sequence[Any], connection: sa.Connection) -> None:
    """Remove the text of rows, and of what was said about them.

    Args:
        page: rows with `row_id`.
    """
    if not page:
        return
    row_ids = [row.row_id for row in page]
    remove_text(row_ids, connection, size=_TAKEN)
    connection.execute(
        sa.update(tables.tags).where(tables.tags.c.row_id.in_(row_ids)).values(why="")
    )


def _old(reason: str) -> sa.Select[Any]:
    """Rows of a reason in the order of the index, oldest first."""
    columns = (_rows.c.seq, _rows.c.row_id, _rows.c.ts, _rows.c.bytes)
    return sa.select(*columns).where(_rows.c.kept_because == reason).order_by(_rows.c.ts)


# -- rows ------------------------------------------------------------------------------------


def _rows_by_age(store: Store, reason: str, before: float) -> Iterator[None]:
    in_dataset = sa.exists().where(tables.dataset_rows.c.row_id == _rows.c.row_id)
    query = (
        sa.select(*COLUMNS, _rows.c.seq)
        .where(
            _rows.c.kept_because == reason,
            _rows.c.ts < before,
            ~in_dataset,
        )
        .order_by(_rows.c.ts)
        .limit(CHUNK)
    )
    while True:
        with store.transaction() as connection:
            page = connection.execute(query).all()
            if page:
                _let_go(page, connection)
        if not page:
            return
        yield


def _let_go(page: Sequence[Any], connection: sa.Connection) -> None:
    rows = {row.row_id: row for row in page}
    gone = Gone()
    for row in page:
        gone.add(row)
    feedback, tags, corrections = tables.feedback, tables.tags, tables.corrections
    said = (
        feedback.c.rating,
        feedback.c.score,
        feedback.c.regenerate,
        feedback.c.report,
        feedback.c.success,
    )
    query = sa.select(feedback.c.row_id, *said).where(feedback.c.row_id.in_(rows))
    for one in connection.execute(query):
        for name in _feedback_counts(one):
            gone.count(rows[one.row_id], name)
    tagged = sa.select(tags.c.row_id, tags.c.tag).where(tags.c.row_id.in_(rows)).distinct()
    for row_id, tag in connection.execute(tagged):
        gone.count(rows[row_id], f"tag:{tag}")
    corrected = sa.select(corrections.c.row_id).where(corrections.c.row_id.in_(rows)).distinct()
    for row_id in connection.scalars(corrected):
        gone.count(rows[row_id], "corrections")
    gone.save(connection)
    for table in (
        *(feedback, tags, corrections, tables.queue, tables.reviews, tables.drafts),
        *(tables.cluster_rows, tables.candidates, tables.left_out, tables.gate_answers),
        tables.shadows,
    ):
        connection.execute(sa.delete(table).where(table.c.row_id.in_(rows)))
    connection.execute(sa.delete(_rows).where(_rows.c.seq.in_([row.seq for row in page])))


def _feedback_counts(one: Any) -> list[str]:
    """What a piece of feedback counts as."""
    names = ["feedback"]
    names += ["feedback:negative"] if is_negative(one) else []
    names += [f"feedback:{one.rating}"] if one.rating else []
    names += ["feedback:regenerate"] if one.regenerate else []
    names += ["feedback:report"] if one.report else []
    if one.success is not None:
        names.append("feedback:success" if one.success else "feedback:failure")
    return names
