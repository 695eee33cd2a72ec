"""Verdicts of the gate: where each difference lies, against what was accepted to lose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from curate.review.figures import axes, svg
from curate.review.figures.svg import WIDTH, Figure

_ROW, _TOP, _BOTTOM, _SIDE = 46.0, 20.0, 38.0, 16.0
_CLASSES = {"pass": "good", "fail": "bad"}


class Gate(NamedTuple):
    """One verdict. Differences are candidate minus baseline, -1 to 1; `margin` is not negative."""

    name: str
    verdict: str
    difference: float
    low: float
    high: float
    margin: float
    questions: int
    confidence: float = 0.95


def gates(title: str, verdicts: Sequence[Gate], *, note: str = "", empty: str = "") -> Figure:
    """Intervals below each other. Left of the shaded edge is more loss than was accepted."""
    if not verdicts:
        return Figure(title, None, note=empty or "No version was judged yet.")
    margins = {one.margin for one in verdicts}
    ends = [end for one in verdicts for end in (one.low, one.high, -2 * one.margin)]
    low, high = axes.limits(ends, zero=True)
    marks = axes.steps(low, high if high > 0 else 0.01, 5)
    height = _TOP + _ROW * len(verdicts) + _BOTTOM
    base = _TOP + _ROW * len(verdicts)
    x = axes.Scale(marks[0], marks[-1], _SIDE, WIDTH - _SIDE)
    parts: list[Markup] = []
    for number, one in enumerate(verdicts):
        top = _TOP + _ROW * number
        edge = x(-one.margin)
        parts.append(svg.rect(x.start, top, edge - x.start, _ROW, "loss"))
        parts.append(svg.line(edge, top, edge, top + _ROW, "edge"))
    parts.append(svg.line(x(0), _TOP, x(0), base, "zero"))
    for number, one in enumerate(verdicts):
        parts += _row(one, x, _TOP + _ROW * number)
    if len(margins) == 1:
        said = f"loses more than {100 * verdicts[0].margin:g} points"
        parts.append(svg.label(x.start, 13, said, class_="tick"))
    for mark in marks:
        parts.append(svg.line(x(mark), base, x(mark), base + 4, "axis"))
        text = svg.label(x(mark), base + 15, axes.points(mark), class_="tick", anchor="middle")
        parts.append(text)
    unit = "candidate minus baseline, percentage points"
    parts.append(svg.label(WIDTH - _SIDE, base + 31, unit, class_="tick", anchor="end"))
    says = "; ".join(
        f"{one.name} {one.verdict}: {axes.points(one.difference)} points, between "
        f"{axes.points(one.low)} and {axes.points(one.high)}"
        for one in verdicts
    )
    columns = ["version", "verdict", "difference", "from", "to", "accepted loss", "questions"]
    rows = [
        [
            one.name,
            one.verdict,
            axes.points(one.difference),
            axes.points(one.low),
            axes.points(one.high),
            f"{100 * one.margin:g}",
            str(one.questions),
        ]
        for one in verdicts
    ]
    return Figure(title, svg.picture(title, says, height, parts), columns, rows, note)


def _row(one: Gate, x: axes.Scale, top: float) -> list[Markup]:
    class_ = _CLASSES.get(one.verdict, "warn")
    middle = top + 31
    said = f"{one.verdict}, {axes.points(one.difference)} points"
    return [
        svg.label(x.start + 4, top + 15, one.name, class_="name"),
        svg.label(x.end, top + 15, said, class_=f"name {class_}", anchor="end"),
        svg.line(x(one.low), middle, x(one.high), middle, f"interval {class_}"),
        svg.line(x(one.low), middle - 4, x(one.low), middle + 4, f"interval {class_}"),
        svg.line(x(one.high), middle - 4, x(one.high), middle + 4, f"interval {class_}"),
        svg.dot(x(one.difference), middle, f"dot {class_}", 4),
    ]
