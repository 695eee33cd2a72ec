"""Clusters over time: their numbers, and a day's share for each of the last days."""

from __future__ import annotations

import math
from typing import NamedTuple

from markupsafe import Markup

from curate import clusters
from curate.estimates import Interval
from curate.review.figures import Figure, sparkline
from curate.review.looks import pictures
from curate.review.looks.series import DAY
from ledger.settings import Settings
from ledger.store import Store

_PICTURED = 12


class Theme(NamedTuple):
    """A cluster with its answers a day as a small picture.

    Attributes:
        recent: its share of recent traffic, where the newest dataset has no row of it; else 0.
        new: whether that is so much that somebody should look.
    """

    counts: clusters.ClusterCounts
    spark: Markup
    recent: float
    new: bool


class Themes(NamedTuple):
    """The clusters of an alias, and the largest as a picture."""

    all: list[Theme]
    figure: Figure
    answers: float
    rows: int


def themes(settings: Settings, store: Store, alias: str, days: int, now: float) -> Themes:
    """The clusters of an alias over the last days."""
    since = (math.floor(now / DAY) + 1 - days) * DAY
    counted = clusters.counts(store, alias, since=since)
    by_day: dict[int | None, dict[int, float]] = {}
    for day in clusters.daily(store, alias, since=since):
        by_day.setdefault(day.cluster, {})[round((day.day - since) / DAY)] = day.answers
    wanted = settings.curate.clusters
    lately = {
        one.cluster: one.share.value
        for one in clusters.counts(store, alias, since=now - 3600 * wanted.recent_hours)
        if one.new and one.share is not None
    }
    found = []
    for one in counted:
        values = by_day.get(one.cluster, {})
        title = f"answers a day, up to yesterday: {one.name}"
        spark = sparkline(title, [values.get(n, 0.0) for n in range(days - 1)])
        recent = lately.get(one.cluster, 0.0)
        found.append(Theme(one, spark, recent, recent > wanted.new_share))
    largest = sorted(
        (one for one in found if one.counts.share is not None), key=lambda one: -one.counts.answers
    )
    parts = [
        (one.counts.name, Interval(*one.counts.share), one.new)
        for one in largest[:_PICTURED]
        if one.counts.share is not None
    ]
    answers = sum(one.answers for one in counted)
    note = f"Of {answers:,.0f} answers, estimated from a sample. Line: Wilson's 95 % interval."
    if any(new for _, _, new in parts):
        note += " In another colour: not in the training data."
    figure = pictures.shares("Share of the traffic", parts, note)
    return Themes(found, figure, answers, sum(one.rows for one in counted))
