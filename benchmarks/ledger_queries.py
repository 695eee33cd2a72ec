"""Queries on a ledger of many rows, for `benchmarks.ledger`."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa

from benchmarks.records import records
from ledger.database import tables
from ledger.records import Interaction, Tag
from ledger.settings import Settings
from ledger.store import Store

_DAYS = 30
_DAY = 86_400.0
_START = 1_760_000_000.0 // _DAY * _DAY
_TAG, _TAGGED = "user_negative", 0.02
_BLOB = 600  # bytes of text; queries by number do not read it, but it is on their way
_CHUNK = 5000
_REPEATS = 9


def query_times(settings: Settings, rows: int) -> dict[str, float]:
    """Fill a ledger and ask it; milliseconds, medians of warm queries."""
    store = Store.open(settings)
    rng = random.Random(11)
    _fill(store, rows, rng)
    _sealed_on_top(store)
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
    day = _START + 12 * _DAY
    found = {
        "tag_day_query_ms": _median(
            lambda: store.row_ids(tag=_TAG, alias="support", since=day, until=day + _DAY)
        ),
        "version_hour_query_ms": _median(
            lambda: store.row_ids(version="support@v2", since=day, until=day + 3600)
        ),
        "tag_newest_50_ms": _median(
            lambda: list(store.interactions(tag=_TAG, newest_first=True, limit=50))
        ),
    }
    store.close()
    return found


def _median(ask: Callable[[], Any]) -> float:
    taken = []
    for _ in range(_REPEATS + 1):
        started = time.perf_counter()
        if not ask():
            raise RuntimeError("a query found nothing")
        taken.append((time.perf_counter() - started) * 1e3)
    return round(statistics.median(taken[1:]), 2)


def _fill(store: Store, rows: int, rng: random.Random) -> None:
    """Rows of 30 days in the order of their time, written as they would lie there."""
    blob = rng.randbytes(_BLOB)
    for chunk in _chunks(rows):
        values = [_values(number, rows, blob, rng) for number in chunk]
        tagged = [
            {
                "row_id": one["row_id"],
                "tag": _TAG,
                "who": "rule:feedback",
                "why": "",
                "ts": one["ts"] + 60,
            }
            for one in values
            if rng.random() < _TAGGED
        ]
        with store.transaction() as connection:
            connection.execute(sa.insert(tables.interactions), values)
            if tagged:
                connection.execute(sa.insert(tables.tags), tagged)


def _chunks(rows: int) -> Iterator[range]:
    for start in range(0, rows, _CHUNK):
        yield range(start, min(start + _CHUNK, rows))


def _values(number: int, rows: int, blob: bytes, rng: random.Random) -> dict[str, Any]:
    row_id = f"chatcmpl-{rng.getrandbits(64):016x}{number:08x}"
    return {
        "row_id": row_id,
        "request_id": row_id,
        "choice": 0,
        "ts": _START + number / rows * _DAYS * _DAY,
        "api": "chat",
        "alias": "support",
        "version": f"support@v{number % 3}",
        "base_model": "base",
        "deployment": 1,
        "arm": "live",
        "text": blob,
        "bytes": _BLOB,
        "stored_text": True,
        "finish_reason": "stop",
        "sampling": "{}",
        "mean_logprob": -rng.random(),
        "min_logprob": -4 * rng.random(),
        "prompt_tokens": 500,
        "completion_tokens": 420,
        "ttft_ms": 40.0,
        "latency_ms": 900.0,
        "subject": f"{number % 5000:032x}",
        "session": None,
        "kept_because": "sample",
        "inclusion_probability": 0.05,
        "held": False,
        "sample_key": rng.random(),
    }


def _sealed_on_top(store: Store) -> None:
    """The newest tagged rows have text that opens."""
    for record in records(60, seed=77, personal=True):
        row_id = record["request_id"]
        store.add_interactions(
            [
                Interaction(
                    row_id=row_id,
                    request_id=row_id,
                    ts=_START + _DAYS * _DAY,
                    api="chat",
                    alias="support",
                    version="support@v2",
                    base_model="base",
                    subject="a" * 32,
                    messages=record["body"]["messages"],
                    response=record["response"],
                )
            ]
        )
        store.add_tags([Tag(row_id=row_id, tag=_TAG, who="rule:feedback", ts=_START)])
