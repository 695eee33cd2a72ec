"""Answers, feedback and confidence of each version over time.

Numbers of answers are of all that were given: rows that are there and rows that were let go and
left their numbers (`ledger.keeping.rollups`). Feedback is of answers that somebody said something
about, which are always kept. Confidence is estimated from a sample of the rows that are there, at
most some thousand a version, each weighted by how likely it was to stay.

Covers no clusters, and no text: nothing is opened here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from curate import estimates
from curate.estimates import Interval
from curate.review.looks.search import negative
from ledger.database import tables
from ledger.deployments import BASE, DeploymentEvent, parse_version, version_name
from ledger.keeping.rollups import SECONDS as HOUR
from ledger.marks import USER_EDIT
from ledger.registry import Registry
from ledger.settings import Settings
from ledger.store import Store
from ledger.store.base import STREAM

DAY = 86_400.0
#: Rows of a version whose confidence is read.
SAMPLED = 4000
#: Newest pieces of feedback and tags that are read.
SAID = 100_000
# Ends of the bars of a histogram of mean logprobs, nats.
EDGES = tuple(n / 10 for n in range(-30, 1))

_rows, _rollups = tables.interactions, tables.rollups
_feedback, _tags = tables.feedback, tables.tags


class Window(NamedTuple):
    """Times from `since` up to `until`, seconds since the epoch, in buckets of equal length."""

    since: float
    until: float
    seconds: float

    @property
    def length(self) -> int:
        """Number of buckets."""
        return round((self.until - self.since) / self.seconds)

    @property
    def starts(self) -> list[float]:
        """Where each bucket begins."""
        return [self.since + n * self.seconds for n in range(self.length)]

    def bucket(self, ts: float) -> int:
        """Which bucket a time is in; it may be none of them."""
        return math.floor((ts - self.since) / self.seconds)


def window(days: int, now: float) -> Window:
    """The last days of UTC up to the end of today; the last two in hours."""
    size = HOUR if days <= 2 else DAY
    until = (math.floor(now / size) + 1) * size
    return Window(until - days * DAY, until, size)


def first(store: Store, alias: str) -> float | None:
    """When the first answer was given of which anything is left, seconds since the epoch."""
    rows, gone = tables.interactions, tables.rollups
    with store.reading() as connection:
        row = connection.scalar(sa.select(sa.func.min(rows.c.ts)).where(rows.c.alias == alias))
        hour = connection.scalar(sa.select(sa.func.min(gone.c.hour)).where(gone.c.alias == alias))
    times = [] if row is None else [float(row)]
    times += [] if hour is None else [float(hour * HOUR)]
    return min(times, default=None)


class Bucket:
    """The numbers of one version in one bucket.

    Attributes:
        answers: all that were given.
        negatives, edits: answers that somebody was not content with, or wrote anew.
        feedback: answers that somebody said anything about.
        sure: mean logprob, nats, and probability of being kept, of the rows that were read.
        gone: number and sum of the mean logprobs of rows that were let go.
    """

    __slots__ = ("answers", "edits", "feedback", "gone", "negatives", "sure")

    def __init__(self) -> None:
        self.answers = self.feedback = self.negatives = self.edits = 0
        self.sure: list[tuple[float, float]] = []
        self.gone = (0, 0.0, 0.0)

    def add(self, other: Bucket) -> None:
        """Take in another's numbers."""
        for name in ("answers", "feedback", "negatives", "edits"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.sure += other.sure
        a, b = self.gone, other.gone
        self.gone = (a[0] + b[0], a[1] + b[1], a[2] + b[2])

    @property
    def confidence(self) -> Interval | None:
        """Mean logprob, nats; of rows that were let go where none is left."""
        if self.sure:
            return estimates.mean(self.sure)
        count, total, squares = self.gone
        if not count:
            return None
        middle = total / count
        spread = max(squares / count - middle * middle, 0.0)
        reach = 1.96 * math.sqrt(spread / count)
        return Interval(middle, middle - reach, middle + reach)


class Over(NamedTuple):
    """The numbers of one version over a window, oldest bucket first; `number` 0 is the base."""

    name: str
    short: str
    number: int
    buckets: list[Bucket]

    @property
    def answers(self) -> int:
        """All answers of the window."""
        return sum(one.answers for one in self.buckets)

    @property
    def sure(self) -> list[tuple[float, float]]:
        """The confidence of the rows that were read."""
        return [pair for one in self.buckets for pair in one.sure]


def names(
    settings: Settings, alias: str, events: Sequence[DeploymentEvent], most: int = 6
) -> dict[str, str]:
    """Short name by version: the base model and the newest versions, oldest first."""
    found = {event.version for event in events if event.version}
    found |= {one.manifest.version for one in Registry(settings.registry).versions(alias)}
    base = settings.model.name
    numbers = [BASE, *sorted(found)[-most:]]
    return {
        version_name(alias, number, base): "base" if number == BASE else f"v{number}"
        for number in numbers
    }


def over(
    settings: Settings, store: Store, alias: str, versions: dict[str, str], span: Window
) -> list[Over]:
    """The numbers of versions over a window; those that said nothing in it are left out."""
    found = {name: [Bucket() for _ in range(span.length)] for name in versions}
    with store.reading() as connection:
        _count(connection, settings, alias, span, found)
        _add_gone(connection, settings, alias, span, found)
        _add_said(connection, settings, alias, span, found)
        _add_confidence(connection, settings, alias, span, found)
    series = [
        Over(name, short, _number(settings, alias, name), found[name])
        for name, short in versions.items()
    ]
    return [one for one in series if one.answers]


def histogram(one: Over) -> list[float]:
    """Shares of the answers' mean logprobs between `EDGES`."""
    counts = [0.0] * (len(EDGES) - 1)
    width = EDGES[1] - EDGES[0]
    for value, p in one.sure:
        place = math.floor((value - EDGES[0]) / width)
        counts[min(max(place, 0), len(counts) - 1)] += 1 / p
    whole = sum(counts) or 1.0
    return [count / whole for count in counts]


def _number(settings: Settings, alias: str, name: str) -> int:
    return BASE if name == settings.model.name else parse_version(name, alias)


def _mine(settings: Settings, alias: str, version: str) -> sa.ColumnElement[bool]:
    """Rows of a version. Several aliases may share the base model: then only this one's.

    Requests that name a version themselves are among them.
    """
    chosen = _rows.c.version == version
    shared = version == settings.model.name and len(settings.aliases) > 1
    return chosen & (_rows.c.alias == alias) if shared else chosen


def _count(
    connection: sa.Connection,
    settings: Settings,
    alias: str,
    span: Window,
    found: dict[str, list[Bucket]],
) -> None:
    """Count the rows that are there: one range of an index for each version and bucket."""
    for name, buckets in found.items():
        mine = _mine(settings, alias, name)
        columns = [
            sa.select(sa.func.count())
            .where(mine, _rows.c.ts >= start, _rows.c.ts < start + span.seconds)
            .scalar_subquery()
            for start in span.starts
        ]
        row = connection.execute(sa.select(*columns)).one()
        for bucket, count in zip(buckets, row, strict=True):
            bucket.answers = int(count)


def _add_gone(
    connection: sa.Connection,
    settings: Settings,
    alias: str,
    span: Window,
    found: dict[str, list[Bucket]],
) -> None:
    """Add the numbers of rows that were let go."""
    query = sa.select(_rollups).where(
        _rollups.c.hour >= int(span.since // HOUR),
        _rollups.c.hour < math.ceil(span.until / HOUR),
        _rollups.c.version.in_(list(found)),
    )
    shared = settings.model.name if len(settings.aliases) > 1 else None
    for old in connection.execute(query):
        if old.version == shared and old.alias != alias:
            continue
        bucket = _of(found, old.version, old.hour * HOUR, span)
        if bucket is None:
            continue
        read = json.loads(old.stats)
        counts, surprise = read["counts"], read["measures"]["surprise"]
        bucket.answers += old.rows
        bucket.feedback += counts.get("feedback", 0)
        bucket.negatives += counts.get("feedback:negative", 0)
        bucket.edits += counts.get(f"tag:{USER_EDIT}", 0)
        count, total, squares = bucket.gone
        bucket.gone = (
            count + surprise["count"],
            total - surprise["sum"],
            squares + surprise["squares"],
        )


def _add_said(
    connection: sa.Connection,
    settings: Settings,
    alias: str,
    span: Window,
    found: dict[str, list[Bucket]],
) -> None:
    """Count answers with feedback and edits; each answer once, whatever was said how often."""
    newest = _newest(connection, _feedback)
    shared = settings.model.name if len(settings.aliases) > 1 else None
    query = (
        sa.select(_rows.c.row_id, _rows.c.version, _rows.c.alias, _rows.c.ts, negative())
        .select_from(_feedback.join(_rows, _rows.c.row_id == _feedback.c.row_id))
        .where(_feedback.c.seq > newest, _feedback.c.ts >= span.since, *_within(found, span))
    )
    seen: dict[str, bool] = {}
    for row_id, version, of, ts, bad in connection.execution_options(**STREAM).execute(query):
        bucket = _of(found, version, ts, span)
        if bucket is None or (version == shared and of != alias):
            continue
        before = seen.get(row_id)
        bucket.feedback += before is None
        bucket.negatives += bool(bad) and not before
        seen[row_id] = bool(bad or before)
    tagged = (
        sa.select(_rows.c.version, _rows.c.alias, _rows.c.ts, _rows.c.row_id)
        .select_from(_tags.join(_rows, _rows.c.row_id == _tags.c.row_id))
        .where(_tags.c.tag == USER_EDIT, _tags.c.ts >= span.since, *_within(found, span))
        .distinct()
        .limit(SAID)
    )
    for row in connection.execute(tagged):
        bucket = _of(found, row.version, row.ts, span)
        if bucket is not None and not (row.version == shared and row.alias != alias):
            bucket.edits += 1


def _add_confidence(
    connection: sa.Connection,
    settings: Settings,
    alias: str,
    span: Window,
    found: dict[str, list[Bucket]],
) -> None:
    """Read the confidence of every n-th row of a version."""
    columns = (_rows.c.ts, _rows.c.mean_logprob, _rows.c.inclusion_probability)
    for name, buckets in found.items():
        step = max(sum(bucket.answers for bucket in buckets) // SAMPLED, 1)
        query = sa.select(*columns).where(
            _mine(settings, alias, name),
            _rows.c.ts >= span.since,
            _rows.c.ts < span.until,
            _rows.c.mean_logprob.is_not(None),
        )
        if step > 1:
            query = query.where(_rows.c.seq % step == 0)
        for ts, value, p in connection.execution_options(**STREAM).execute(query):
            buckets[span.bucket(ts)].sure.append((value, p))


def _within(found: dict[str, list[Bucket]], span: Window) -> list[sa.ColumnElement[bool]]:
    """Rows of the window, asked for so that no database starts from them: they are the many."""
    ts = _rows.c.ts + 0.0
    return [(_rows.c.version + "").in_(list(found)), ts >= span.since, ts < span.until]


def _newest(connection: sa.Connection, table: sa.Table) -> int:
    """Number after which a table's newest `SAID` rows begin."""
    last: Any = connection.scalar(sa.select(sa.func.max(table.c.seq)))
    return int(last or 0) - SAID


def _of(found: dict[str, list[Bucket]], name: str, ts: float, span: Window) -> Bucket | None:
    place = span.bucket(ts)
    buckets = found.get(name)
    return None if buckets is None or not 0 <= place < len(buckets) else buckets[place]
