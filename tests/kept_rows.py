"""Rows for the tests of what is kept: many, in given hours, and everything that can be counted."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import sqlalchemy as sa

from ledger.database import tables
from ledger.keeping.rollups import SECONDS, Stats, totals, whole
from ledger.records import Feedback, Interaction, Tag
from ledger.store import Store

#: Any full day: its first hour since the epoch.
DAY = 20_000 * 24
NOON = DAY + 12


class Clock:
    """A clock that stands where it is put."""

    def __init__(self, hour: float) -> None:
        self.now = hour * SECONDS

    def __call__(self) -> float:
        return self.now

    def set(self, hour: float) -> None:
        self.now = hour * SECONDS


def make(
    row_id: str, *, hour: float = NOON, text: str = "some words", **fields: Any
) -> Interaction:
    draw = random.Random(row_id)
    values: dict[str, Any] = {
        "ts": hour * SECONDS + draw.random() * (SECONDS - 1),
        "api": "chat",
        "alias": "support",
        "version": "support@v1",
        "base_model": "base",
        "arm": "live",
        "messages": [{"role": "user", "content": text}],
        "response": "billing",
        "finish_reason": draw.choice(["stop", "length"]),
        "mean_logprob": -draw.random(),
        "prompt_tokens": draw.randrange(1, 50),
        "completion_tokens": draw.randrange(1, 9),
        "latency_ms": draw.choice([None, 100 * draw.random()]),
        "ttft_ms": 10 * draw.random(),
    }
    return Interaction(row_id=row_id, request_id=row_id, **(values | fields))


def fill(store: Store, count: int, prefix: str = "r", **fields: Any) -> list[Interaction]:
    """Add rows `<prefix>0` and on."""
    rows = [make(f"{prefix}{number}", **fields) for number in range(count)]
    assert store.add_interactions(rows) == count
    return rows


def say(store: Store, row_id: str, **fields: Any) -> None:
    """Add feedback."""
    given = {"ts": 0.0, "rating": "down"} | fields
    name = f"{row_id}-{sorted(given.items())}"
    assert store.add_feedback(Feedback(feedback_id=name, row_id=row_id, **given))


def tag(store: Store, row_id: str, name: str = "odd", why: str = "") -> None:
    """Add a tag."""
    assert store.add_tags([Tag(row_id=row_id, tag=name, who="operator:ada", why=why, ts=0.0)])


def kept(store: Store) -> dict[str, sa.Row[Any]]:
    """The rows that are there, by id, as they lie in the table."""
    with store.reading() as connection:
        query = sa.select(tables.interactions)
        return {row.row_id: row for row in connection.execute(query)}


def reasons(store: Store) -> Counter[str]:
    return Counter(row.kept_because for row in kept(store).values())


def everything(store: Store) -> Stats:
    """The numbers of all rows that ever were."""
    return whole(totals(store).values())


def same(found: Stats, expected: Stats, *, but: Iterable[str] = ()) -> None:
    """Check all numbers: counts exactly, sums to what rounding allows."""
    assert found.rows == expected.rows
    left_out = set(but)
    for counts in (found.counts, expected.counts):
        assert all(isinstance(count, int) for count in counts.values())
    mine = {name: count for name, count in found.counts.items() if name not in left_out}
    theirs = {name: count for name, count in expected.counts.items() if name not in left_out}
    assert mine == theirs
    for name, measure in expected.measures.items():
        other = found.measures[name]
        assert other.count == measure.count
        assert other.histogram.dump() == measure.histogram.dump()
        assert math.isclose(other.sum, measure.sum, rel_tol=1e-12)
        assert other.squares == pytest.approx(measure.squares, rel=1e-12)


def check_plans(store: Store, run: Callable[[], Any]) -> None:
    """Check that what `run` asks of SQLite goes by an index, whatever it asks."""
    asked: list[tuple[str, Any]] = []

    def note(conn, cursor, sql, parameters, context, executemany):  # type: ignore[no-untyped-def]
        if sql.startswith(("SELECT", "UPDATE", "DELETE")):
            asked.append((sql, parameters[0] if executemany else parameters))

    sa.event.listen(store.engine, "before_cursor_execute", note)
    run()
    sa.event.remove(store.engine, "before_cursor_execute", note)
    assert asked
    with store.reading() as connection:
        for sql, parameters in asked:
            for step in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters):
                does = step[3].replace("SCAN CONSTANT ROW", "")
                assert "SCAN" not in does, (does, sql)
                # All rows that were ever decided on, which is as bad; the first one is not.
                assert not does.endswith("_ts (held=?)") or "LIMIT" in sql, (does, sql)
