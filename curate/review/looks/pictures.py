"""Figures of the numbers that the pages show: which series, in which unit, of what."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from curate import estimates
from curate.estimates import Interval
from curate.review.figures import (
    Bar,
    Figure,
    Gate,
    Point,
    Series,
    Spread,
    bars,
    gates,
    histograms,
    lines,
)
from curate.review.figures.axes import percent, plain, points, shorten
from curate.review.looks import series
from curate.review.looks.judged import name_of
from curate.review.looks.series import Bucket, Over, Window
from ledger.records import Evaluation

Events = Sequence[tuple[float, str]]
# Fewest answers that a point of a rate or a mean is of.
_LEAST = 30


def nats(value: float) -> str:
    """A logprob at an axis."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "0", "") else text.replace("-", "−")


def answers(found: Sequence[Over], span: Window, events: Events) -> Figure:
    """Answers of each version over time."""
    per, now = "hour" if span.seconds < series.DAY else "day", span.until - span.seconds
    if over := not any(_timed(one, span, now) for one in found):
        now = math.inf  # all there is was answered just now
    return lines(
        f"Answers per {per}",
        [
            Series(
                one.short,
                [Point(ts, float(b.answers)) for ts, b in _timed(one, span, now)],
                one.number,
            )
            for one in found
        ],
        write=_count,
        events=events,
        note="All answers that were given, those whose rows were let go included"
        + (f"; the {per} is not over." if over else f", without the {per} that is not over."),
        empty="No answers in this window.",
    )


def negatives(found: Sequence[Over], span: Window, events: Events) -> Figure:
    """Share of answers that somebody was not content with."""
    return _rates(
        "Answers users were not content with",
        found,
        span,
        events,
        lambda bucket: bucket.negatives,
        "Thumbs down, a score below 0.5, asked again, reported or failed, of all answers. "
        f"A point is of {_LEAST} answers or more. Band: Wilson's 95 % interval.",
    )


def edits(found: Sequence[Over], span: Window, events: Events) -> Figure:
    """Share of answers that a user wrote anew."""
    return _rates(
        "Answers users wrote anew",
        found,
        span,
        events,
        lambda bucket: bucket.edits,
        "Answers with the tag user_edit, of all answers. Band: Wilson's 95 % interval.",
    )


def confidence(found: Sequence[Over], span: Window, events: Events) -> Figure:
    """Mean logprob of each version over time."""
    drawn = []
    for one in found:
        points_ = []
        for ts, bucket in _grouped(one, span):
            at = bucket.confidence
            known = len(bucket.sure) or bucket.gone[0]
            # One or two rows have no interval worth the name.
            sure = at if known > 2 else None
            points_.append(Point(ts, at and at.value, sure and sure.low, sure and sure.high, known))
        drawn.append(Series(one.short, points_, one.number))
    return lines(
        "Mean logprob of the answers, nats",
        drawn,
        write=nats,
        zero=False,
        events=events,
        of="rows read",
        note=f"Estimated from up to {series.SAMPLED:,} rows a version, each weighted by how "
        "likely it was to be kept. Band: 95 % interval.",
        empty="No answer of this window has a logprob.",
    )


def spreads(found: Sequence[Over], unsure: float) -> Figure:
    """Confidence histogram of each version, with the line below which an answer is unsure."""
    return histograms(
        "How sure each version was",
        [
            Spread(
                one.short,
                series.histogram(one),
                estimates.median(one.sure),
                one.answers,
                one.number,
            )
            for one in found
        ],
        series.EDGES,
        unit="mean logprob of an answer, nats",
        write=nats,
        line=(unsure, "low confidence below"),
        note=f"Estimated as above. Answers below {nats(series.EDGES[0])} are in the first bar.",
        empty="No answer of this window has a logprob.",
    )


def gate_results(verdicts: Sequence[Evaluation], *, title: str = "Verdicts of the gate") -> Figure:
    """Differences with their intervals; verdicts without one are left out."""
    drawn = [one for verdict in verdicts if (one := gate_of(verdict)) is not None]
    level = f"{100 * drawn[0].confidence:g} %" if drawn else "95 %"
    return gates(
        title,
        drawn,
        note=f"Score on the gold questions, candidate minus what was live. Line: {level} "
        "interval. A version passes when its interval does not reach into the shaded loss.",
        empty="No version was judged yet: the gate's results appear here.",
    )


def gate_sets(verdict: Evaluation, sets: Sequence[dict[str, Any]]) -> Figure:
    """Each set of one gate; the whole of it where it has none."""
    if not sets:
        return gate_results([verdict], title="Against what was live")
    level = float(verdict.report.get("confidence") or 0.95)
    drawn = [
        Gate(
            name_of(one),
            str(one["verdict"]),
            float(one["difference"]),
            float(one["interval"][0]),
            float(one["interval"][1]),
            float(one["margin"]),
            int(one["questions"]),
            level,
        )
        for one in sets
    ]
    return gates(
        "Against what was live, set by set",
        drawn,
        note=f"Score, candidate minus what was live. Line: {100 * level:g} % interval. A required "
        "set passes when its interval does not reach into the shaded loss.",
    )


def gate_of(verdict: Evaluation) -> Gate | None:
    """A verdict as a line of the picture; None where nothing was asked."""
    report = verdict.report
    interval, difference = report.get("interval"), report.get("difference")
    if not interval or difference is None:
        return None
    return Gate(
        verdict.candidate.rpartition("@")[2],
        verdict.verdict,
        float(difference),
        float(interval[0]),
        float(interval[1]),
        float(report.get("margin") or 0.0),
        int(report.get("questions") or 0),
        float(report.get("confidence") or 0.95),
    )


def loss(values: Sequence[float]) -> Figure:
    """Training loss of each step; long runs as means of equal pieces."""
    size = max(math.ceil(len(values) / 120), 1)
    points_ = [
        Point(float(start + 1), sum(part) / len(part))
        for start in range(0, len(values), size)
        if (part := values[start : start + size])
    ]
    note = f"Each point is the mean of {size} steps. " if size > 1 else ""
    return lines(
        "Training loss, nats a token",
        [Series("loss", points_)] if values else [],
        times=False,
        zero=True,
        note=f"{note}{len(values):,} steps.",
        empty="This version's folder has no training record.",
    )


def counted(title: str, counts: dict[str, int], most: int = 10, note: str = "") -> Figure:
    """The largest of some counts as bars."""
    items = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [Bar(name or "none", float(count)) for name, count in items[:most]]
    if len(items) > most:
        rest = sum(count for _, count in items[most:])
        shown.append(Bar(f"{len(items) - most} more", float(rest)))
    return bars(title, shown, write=_count, note=note, empty="Nothing was counted.")


def shares(title: str, parts: Sequence[tuple[str, Interval, bool]], note: str) -> Figure:
    """Shares with intervals; the flag marks those that are new."""
    return bars(
        title,
        [
            Bar(shorten(name, 48), at.value, at.low, at.high, "warn" if new else "")
            for name, at, new in parts
        ],
        write=percent,
        note=note,
        empty="No clusters yet.",
    )


def difference(value: float | None) -> str:
    """A difference in points, in a table."""
    return "–" if value is None else points(value)


def _rates(
    title: str,
    found: Sequence[Over],
    span: Window,
    events: Events,
    count: Callable[[Bucket], int],
    note: str,
) -> Figure:
    drawn = []
    for one in found:
        points_ = []
        for ts, bucket in _grouped(one, span):
            at = estimates.rate(count(bucket), bucket.answers)
            points_.append(
                Point(ts, None)
                if at is None
                else Point(ts, at.value, at.low, at.high, bucket.answers)
            )
        drawn.append(Series(one.short, points_, one.number))
    return lines(
        title,
        drawn,
        write=percent,
        events=events,
        note=note,
        empty="No answers in this window.",
    )


def _timed(one: Over, span: Window, until: float = math.inf) -> list[tuple[float, Bucket]]:
    """Buckets with the time at which they begin, from the first answer to the last."""
    timed = [pair for pair in zip(span.starts, one.buckets, strict=True) if pair[0] < until]
    said = [n for n, (_, bucket) in enumerate(timed) if bucket.answers]
    return timed[said[0] : said[-1] + 1] if said else []


def _grouped(one: Over, span: Window) -> list[tuple[float, Bucket]]:
    """The same, neighbours taken together until each has `_LEAST` answers.

    A share of three answers says nothing, and its interval would stretch the picture.
    """
    found: list[tuple[float, Bucket]] = []
    open_: list[tuple[float, Bucket]] = []
    for pair in _timed(one, span):
        open_.append(pair)
        if sum(bucket.answers for _, bucket in open_) >= _LEAST:
            found.append(_together(open_))
            open_ = []
    if open_ and found:  # too few are left: they belong to the last ones
        found[-1] = _together([found[-1], *open_], at=found[-1][0])
    return found or ([_together(open_)] if open_ else [])


def _together(
    pairs: Sequence[tuple[float, Bucket]], at: float | None = None
) -> tuple[float, Bucket]:
    whole = Bucket()
    for _, bucket in pairs:
        whole.add(bucket)
    middle = sum(ts for ts, _ in pairs) / len(pairs)
    return middle if at is None else at, whole


def _count(value: float) -> str:
    return plain(value) if value < 100_000 else f"{value / 1000:,.0f} k"
