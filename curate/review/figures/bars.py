"""Bars with error bars, and a line as small as a word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from curate.review.figures import axes, svg
from curate.review.figures.svg import CHARACTER, WIDTH, Figure, element

_ROW, _TOP = 30.0, 2.0


class Bar(NamedTuple):
    """One bar; `class_` is good, bad or warn where its colour says something."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    class_: str = ""


def bars(
    title: str,
    shown: Sequence[Bar],
    *,
    write: Callable[[float], str] = axes.plain,
    note: str = "",
    empty: str = "Nothing to draw yet.",
) -> Figure:
    """Horizontal bars from 0, each below its name and with its value beside it."""
    if not shown:
        return Figure(title, None, note=empty)
    ends = [one.value if one.high is None else max(one.value, one.high) for one in shown]
    highest = max(ends) or 1.0
    room = 8 + CHARACTER * max(len(write(one.value)) for one in shown)
    x = axes.Scale(0.0, highest, 0.0, WIDTH - room)
    most = int((WIDTH - 4) / CHARACTER)
    parts: list[Markup] = []
    for number, one in enumerate(shown):
        top = _TOP + _ROW * number
        parts.append(svg.label(0, top + 11, axes.shorten(one.name, most)))
        parts.append(svg.rect(0, top + 16, max(x(one.value), 0.8), 8, f"bar {one.class_ or 'c1'}"))
        end = x(one.value)
        if one.low is not None and one.high is not None:
            middle = top + 20
            parts.append(svg.line(x(one.low), middle, x(one.high), middle, "whisker"))
            end = max(end, x(one.high))
        parts.append(svg.label(end + 5, top + 24, write(one.value), class_="tick"))
    ranged = any(one.low is not None for one in shown)
    columns = ["what", "value"] + ["95 % interval"] * ranged
    rows = [[one.name, write(one.value)] for one in shown]
    if ranged:
        for row, one in zip(rows, shown, strict=True):
            known = one.low is not None and one.high is not None
            row.append(f"{write(one.low or 0.0)} to {write(one.high or 0.0)}" if known else "")
    says = "; ".join(f"{one.name}: {write(one.value)}" for one in shown[:8])
    drawn = svg.picture(title, says, _TOP + _ROW * len(shown), parts)
    return Figure(title, drawn, columns, rows, note)


def sparkline(title: str, values: Sequence[float]) -> Markup:
    """A line as small as a word; the last value has a dot. Nothing where there are no values."""
    if not values:
        return Markup("")
    highest = max(values) or 1.0
    x = axes.Scale(0.0, max(len(values) - 1, 1), 2.0, 96.0)
    y = axes.Scale(0.0, highest, 20.0, 3.0)
    places = [(x(n), y(value)) for n, value in enumerate(values)]
    parts = [svg.line(2, 20, 96, 20, "grid")]
    parts += [svg.path(places, "line c1")] if len(places) > 1 else []
    parts.append(svg.dot(*places[-1], "dot c1", 2.2))
    return element(
        "svg", *parts, class_="spark", viewBox="0 0 100 22", role="img", aria_label=title
    )
