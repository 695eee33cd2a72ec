"""Datasets: what the card says, which pairs are in, which rows were left out and why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from curate.datasets import diff
from curate.review.looks.row import trained_on
from ledger.database import tables
from ledger.dataset import MANIFEST
from ledger.files import read_json
from ledger.settings import Settings
from ledger.store import Frozen, Store

#: Row ids shown for each reason, and pairs shown at once.
NAMED, PAIRS = 20, 25
#: Two datasets of at most so many pairs are compared without being asked: it reads their files.
COMPARED = 5000


class Listed(NamedTuple):
    """A dataset, what its card counts, and the versions that were trained on it."""

    frozen: Frozen
    counts: dict[str, dict[str, int]]
    facts: dict[str, int]
    versions: list[int]
    before: Frozen | None


class Left(NamedTuple):
    """Rows that were left out for one reason; the first of them by name."""

    reason: str
    number: int
    row_ids: list[str]


def listed(settings: Settings, store: Store, alias: str) -> list[Listed]:
    """The datasets of an alias, newest first."""
    known, versions = store.datasets(alias), trained_on(settings, alias)
    return [
        Listed(
            one,
            {key: tally(one.report, key) for key in _TALLIES},
            {key: value for key in _FACTS if isinstance(value := one.report.get(key), int)},
            versions.get(one.dataset_id, []),
            known[place - 1] if place else None,
        )
        for place, one in reversed(list(enumerate(known)))
    ]


_TALLIES = (
    "sources", "kinds", "splits", "versions", "tags", "clusters", "left_out", "capped_subjects",
)  # fmt: skip
_FACTS = ("conversations", "gold_kept_out", "duplicates", "spare_good_answers")


def tally(report: Mapping[str, Any], key: str) -> dict[str, int]:
    """Counts of a card; of what is none, nothing."""
    found = report.get(key)
    if not isinstance(found, dict):
        return {}
    return {str(name): count for name, count in found.items() if isinstance(count, int)}


def left_out(store: Store, one: Listed) -> list[Left]:
    """Why rows are not in a dataset, most rows first.

    From its folder; where that is gone, the counts of the card alone.
    """
    try:
        rows = read_json(Path(one.frozen.path) / MANIFEST)["left_out"]
        found = {str(reason): [str(row) for row in ids] for reason, ids in rows.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        found = {}
    counts = {reason: len(ids) for reason, ids in found.items()} or one.counts["left_out"]
    return [
        Left(reason, count, found.get(reason, [])[:NAMED])
        for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def pairs(store: Store, dataset_id: str, after: str = "") -> tuple[list[str], str | None]:
    """Row ids of a dataset in the order of their names, and after which one the next page is."""
    table = tables.dataset_rows
    query = (
        sa.select(table.c.row_id)
        .where(table.c.dataset_id == dataset_id, table.c.row_id > after)
        .order_by(table.c.row_id)
        .limit(PAIRS + 1)
    )
    with store.reading() as connection:
        found = list(connection.scalars(query))
    return found[:PAIRS], found[PAIRS - 1] if len(found) > PAIRS else None


def compared(store: Store, one: Listed, *, asked: bool) -> diff.Diff | None:
    """What is different from the dataset before; None where there is none, or it is long."""
    if one.before is None:
        return None
    if not asked and max(one.frozen.pairs, one.before.pairs) > COMPARED:
        return None
    return diff.diff(store, one.before, one.frozen)
