"""Values over time or over steps, each line with its interval as a band."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from curate.review.figures import axes, svg
from curate.review.figures.svg import CHARACTER, WIDTH, Figure

_HEIGHT, _TOP, _BOTTOM = 190.0, 14.0, 24.0
# An interval may stretch the axis to so many times what the values need; beyond it is cut.
_STRETCH = 2.5


class Point(NamedTuple):
    """A value at a time or step; `value` None is a gap. `of` is how many answers it is of."""

    x: float
    value: float | None
    low: float | None = None
    high: float | None = None
    of: int | None = None


class Series(NamedTuple):
    """A line with its name, oldest point first; `colour` is one for all figures of a page."""

    name: str
    points: Sequence[Point]
    colour: int = 0


def lines(
    title: str,
    series: Sequence[Series],
    *,
    write: Callable[[float], str] = axes.plain,
    times: bool = True,
    zero: bool = True,
    events: Sequence[tuple[float, str]] = (),
    note: str = "",
    empty: str = "Nothing to draw yet.",
    of: str = "answers",
) -> Figure:
    """Lines with bands, labelled at their ends.

    Args:
        write: how a value is written, with its unit.
        times: whether x is seconds since the epoch; a step else.
        zero: whether the axis begins at 0, as it must where areas or ratios are compared.
        events: times with a word each, marked by a line from top to bottom.
    """
    drawn = [one for one in series if any(p.value is not None for p in one.points)]
    if not drawn:
        return Figure(title, None, note=empty)
    low, high = _range(drawn, zero)
    marks = axes.steps(low, high)
    left = 8 + CHARACTER * max(len(write(mark)) for mark in marks)
    named = len(drawn) > 1
    right = 10 + (CHARACTER * max(len(one.name) for one in drawn) if named else 6)
    xs = [p.x for one in series for p in one.points]
    x = axes.Scale(min(xs), max(xs), left, WIDTH - right)
    y = axes.Scale(marks[0], marks[-1], _HEIGHT - _BOTTOM, _TOP)
    parts: list[Markup] = []
    for mark in marks:
        parts.append(svg.line(left, y(mark), WIDTH - right, y(mark), "grid"))
        parts.append(svg.label(left - 5, y(mark) + 3.5, write(mark), class_="tick", anchor="end"))
    parts += _x_axis(x, min(xs), max(xs), times)
    parts += _events(x, events, min(xs), max(xs))
    for one in drawn:
        parts += _line(one, x, y, svg.colour(one.colour))
    if named:
        ends = [y(_last(one).value or 0.0) for one in drawn]
        places = svg.spread(ends, 12, _TOP, _HEIGHT - _BOTTOM)
        for one, place in zip(drawn, places, strict=True):
            class_ = f"name {svg.colour(one.colour)}"
            # A line that ended before the others is named where it ended.
            at = x(_last(one).x) + 7
            parts.append(
                svg.label(min(at, WIDTH - right + 7), place + 3.5, one.name, class_=class_)
            )
    says = "; ".join(_says(one, write) for one in drawn)
    columns, rows = _table(drawn, write, times, of)
    return Figure(title, svg.picture(title, says, _HEIGHT, parts), columns, rows, note)


def _range(series: Sequence[Series], zero: bool) -> tuple[float, float]:
    """Lowest and highest value that the axis must show."""
    values = [p.value for one in series for p in one.points if p.value is not None]
    low, high = axes.limits(values, zero=zero)
    reach = (high - low) * _STRETCH or abs(high) or 1.0
    ends = [
        end
        for one in series
        for p in one.points
        for end in (p.low, p.high)
        if end is not None and p.value is not None
    ]
    if ends:
        lowest, highest = min(ends), max(ends)
        middle = (low + high) / 2
        low = min(low, max(lowest, middle - reach / 2))
        high = max(high, min(highest, low + reach if zero and low == 0 else middle + reach / 2))
    return low, high


def _x_axis(x: axes.Scale, first: float, last: float, times: bool) -> list[Markup]:
    base = _HEIGHT - _BOTTOM
    if times:
        ticks = axes.days(first, last)
    else:
        ticks = [
            axes.Tick(v, axes.plain(v)) for v in axes.steps(first, last, 6) if first <= v <= last
        ]
    parts = []
    for tick in ticks:
        at = x(tick.value)
        parts.append(svg.line(at, base, at, base + 4, "axis"))
        parts.append(svg.label(at, base + 16, tick.text, class_="tick", anchor="middle"))
    return parts


def _events(
    x: axes.Scale, events: Sequence[tuple[float, str]], first: float, last: float
) -> list[Markup]:
    parts, free = [], 0.0
    for ts, word in events:
        if first <= ts <= last:
            at = x(ts)
            parts.append(svg.line(at, _TOP - 4, at, _HEIGHT - _BOTTOM, "event"))
            width = CHARACTER * len(word)
            if at - width / 2 >= free:
                parts.append(svg.label(at, _TOP - 5, word, class_="tick", anchor="middle"))
                free = at + width / 2 + 6
    return parts


def _line(one: Series, x: axes.Scale, y: axes.Scale, colour: str) -> list[Markup]:
    """Band, line and single points, with gaps where nothing is known."""
    bands, strokes, dots = [], [], []
    for run in _runs(one.points):
        banded = [p for p in run if p.low is not None and p.high is not None]
        if len(run) == 1:
            at, value = run[0], run[0].value or 0.0
            dots.append(svg.dot(x(at.x), y(value), f"dot {colour}"))
            if banded:
                ends = y(at.low or 0.0), y(at.high or 0.0)
                strokes.append(svg.line(x(at.x), ends[0], x(at.x), ends[1], f"whisker {colour}"))
            continue
        if len(banded) == len(run):
            over = [(x(p.x), y(p.high or 0.0)) for p in run]
            under = [(x(p.x), y(p.low or 0.0)) for p in reversed(run)]
            bands.append(svg.path([*over, *under], f"band {colour}", closed=True))
        strokes.append(svg.path([(x(p.x), y(p.value or 0.0)) for p in run], f"line {colour}"))
    last = _last(one)
    dots.append(svg.dot(x(last.x), y(last.value or 0.0), f"dot {colour}", 2.5))
    return bands + strokes + dots


def _runs(points: Sequence[Point]) -> list[list[Point]]:
    """Points without a gap between them."""
    runs: list[list[Point]] = [[]]
    for point in points:
        if point.value is None:
            runs.append([])
        else:
            runs[-1].append(point)
    return [run for run in runs if run]


def _last(one: Series) -> Point:
    return [p for p in one.points if p.value is not None][-1]


def _says(one: Series, write: Callable[[float], str]) -> str:
    known = [p.value for p in one.points if p.value is not None]
    if len(known) == 1:
        return f"{one.name}: {write(known[0])}"
    return f"{one.name}: from {write(known[0])} to {write(known[-1])}, at most {write(max(known))}"


def _table(
    series: Sequence[Series], write: Callable[[float], str], times: bool, of: str
) -> tuple[list[str], list[list[str]]]:
    """One row a point that has a value; intervals and counts where there are any."""
    points = [p for one in series for p in one.points if p.value is not None]
    ranged = any(p.low is not None for p in points)
    counted = any(p.of is not None for p in points)
    columns = ["when" if times else "step", "what", "value"]
    columns += ["95 % interval"] * ranged + [of] * counted
    rows = []
    for one in series:
        for p in one.points:
            if p.value is None:
                continue
            row = [_when(p.x) if times else axes.plain(p.x), one.name, write(p.value)]
            if ranged:
                known = p.low is not None and p.high is not None
                row.append(f"{write(p.low or 0.0)} to {write(p.high or 0.0)}" if known else "")
            if counted:
                row.append("" if p.of is None else f"{p.of:,}")
            rows.append(row)
    return columns, rows


def _when(ts: float) -> str:
    return axes.moment(ts)
