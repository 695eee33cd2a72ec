"""What answers were like, hour by hour: how sure, how long, how slow, refused, cut off.

Numbers are those of all answers, rows that were let go included (`ledger.keeping.rollups`). Only
refusals need text: some answers of an hour are opened, those with the smallest sample keys, and
each counts as often as it stands for. Answers of a candidate are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from eval.drift.rules import Hour
from ledger.database import tables
from ledger.keeping.histogram import Histogram
from ledger.keeping.rollups import SECONDS, Group, Stats, totals, whole
from ledger.store import Store
from ledger.wording import refuses

#: How an answer ends that nobody got to the end of.
ERRORS = ("abort", "error", "disconnected")
#: Signals that are places in a histogram of the warm-up, by the measure that they look at.
PLACES = {"confidence": "surprise", "length": "length", "latency": "latency_ms"}
#: Share of the baseline's answers that count as unsure.
UNSURE = 0.05

_rows = tables.interactions
_CANDIDATE = "candidate"


def numbers(store: Store, alias: str, hour: int) -> dict[Group, Stats]:
    """The numbers of an hour since the epoch, without a candidate's."""
    found = totals(store, alias=alias, since=hour, until=hour + 1)
    return {group: stats for group, stats in found.items() if group.arm != _CANDIDATE}


def of_version(found: Mapping[Group, Stats], version: str) -> Stats:
    """The numbers of one version."""
    return whole(stats for group, stats in found.items() if group.version == version)


def errors(found: Mapping[Group, Stats], hour: int) -> Hour:
    """Answers that were not finished: the engine failed, or the client went away before."""
    stats = whole(found.values())
    bad = sum(stats.counts.get(f"finish:{reason}", 0) for reason in ERRORS)
    return Hour(hour, float(stats.rows), float(bad))


def place(histogram: Histogram, reference: Histogram, hour: int) -> Hour:
    """Each answer's place among those of the warm-up, 0 to 1, ties in the middle.

    The sum over its count is the chance that an answer lies above one of the warm-up: the area
    under the ROC curve, Mann and Whitney's U.
    """
    below, places, seen = 0, {}, reference.count
    for low, _, count in reference.buckets():
        places[low] = (below, count)
        below += count
    ends = sorted(places)
    total = 0.0
    for low, _, count in histogram.buckets():
        if low in places:
            under, ties = places[low]
        else:
            under, ties = sum(places[end][1] for end in ends if end < low), 0
        total += count * (under + ties / 2) / seen
    return Hour(hour, float(histogram.count), total)


def above(histogram: Histogram, reference: Histogram, hour: int) -> Hour:
    """Answers that are less sure than all but a few of the warm-up."""
    edge = unsure_edge(reference)
    bad = sum(count for low, _, count in histogram.buckets() if low >= edge)
    return Hour(hour, float(histogram.count), float(bad))


def unsure_edge(reference: Histogram) -> float:
    """The surprise, nats, from which an answer counts as unsure: the start of a bucket."""
    left = UNSURE * reference.count
    for low, _, count in reversed(reference.buckets()):
        left -= count
        if left <= 0:
            return low
    return float("inf")


def refusals(store: Store, alias: str, version: str, hour: int, most: int) -> Hour:
    """Answers that begin by declining, in as many equally weighted ones as say the same (Kish)."""
    query = (
        sa.select(_rows.c.row_id, _rows.c.sample_key, _rows.c.inclusion_probability)
        .where(
            _rows.c.alias == alias,
            _rows.c.ts >= hour * SECONDS,
            _rows.c.ts < (hour + 1) * SECONDS,
            _rows.c.version + "" == version,
            _rows.c.arm != _CANDIDATE,
            _rows.c.stored_text,
        )
        .order_by(_rows.c.sample_key)
        .limit(most + 1)
    )
    with store.reading() as connection:
        found: list[Any] = list(connection.execute(query))
    threshold = found[most].sample_key if len(found) > most else 1.0
    weights = {
        row.row_id: 1 / min(row.inclusion_probability, threshold or 1.0) for row in found[:most]
    }
    total = squares = bad = 0.0
    for row in store.interactions(row_ids=sorted(weights)):
        if row.response is None:
            continue
        weight = weights[row.row_id]
        total, squares = total + weight, squares + weight * weight
        bad += weight * refuses(row.response)
    if not total:
        return Hour(hour, 0.0, 0.0)
    effective = total * total / squares
    return Hour(hour, effective, effective * bad / total)
