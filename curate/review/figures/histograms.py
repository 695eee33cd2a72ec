"""Distributions below each other on one axis, so that they can be compared by eye."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from curate.review.figures import axes, svg
from curate.review.figures.svg import WIDTH, Figure

_ROW, _BAR, _TOP, _BOTTOM, _SIDE = 62.0, 40.0, 4.0, 36.0, 10.0


class Spread(NamedTuple):
    """One distribution: `shares[n]` of it lies between edge n and n + 1; they add up to 1.

    Attributes:
        median: None where unknown.
        of: how many answers it stands for.
        colour: one for all figures of a page.
    """

    name: str
    shares: Sequence[float]
    median: float | None
    of: int
    colour: int = 0


def histograms(
    title: str,
    spreads: Sequence[Spread],
    edges: Sequence[float],
    *,
    unit: str,
    write: Callable[[float], str] = axes.plain,
    line: tuple[float, str] | None = None,
    note: str = "",
    empty: str = "Nothing to draw yet.",
) -> Figure:
    """Histograms with one axis; their areas are equal.

    Args:
        edges: ascending, one more than each spread has shares; the outermost bars hold what
            lies beyond them, too.
        unit: of the axis.
        line: a value that is marked in all of them, with its word.
    """
    drawn = [one for one in spreads if sum(one.shares) > 0]
    if not drawn:
        return Figure(title, None, note=empty)
    height = _TOP + _ROW * len(drawn) + _BOTTOM
    x = axes.Scale(edges[0], edges[-1], _SIDE, WIDTH - _SIDE)
    tallest = max(max(one.shares) for one in drawn)
    base = _TOP + _ROW * len(drawn)
    parts: list[Markup] = []
    if line is not None:
        at = x(line[0])
        parts.append(svg.line(at, _TOP + 18, at, base, "event"))
    for number, one in enumerate(drawn):
        parts += _row(one, x, edges, _TOP + _ROW * number, tallest, svg.colour(one.colour), write)
    for mark in axes.steps(edges[0], edges[-1], 5):
        if edges[0] <= mark <= edges[-1]:
            parts.append(svg.line(x(mark), base, x(mark), base + 4, "axis"))
            text = svg.label(x(mark), base + 15, write(mark), class_="tick", anchor="middle")
            parts.append(text)
    parts.append(svg.label(WIDTH - _SIDE, base + 30, unit, class_="tick", anchor="end"))
    if line is not None:
        said = f"┆ {line[1]} {write(line[0])}"
        parts.append(svg.label(_SIDE, base + 30, said, class_="tick"))
    says = "; ".join(
        f"{one.name}: median {write(one.median)}" for one in drawn if one.median is not None
    )
    columns = ["from", "to", *(one.name for one in drawn)]
    rows = [
        [write(edges[n]), write(edges[n + 1]), *(axes.percent(one.shares[n]) for one in drawn)]
        for n in range(len(edges) - 1)
        if any(one.shares[n] for one in drawn)
    ]
    return Figure(title, svg.picture(title, says, height, parts), columns, rows, note)


def _row(
    one: Spread,
    x: axes.Scale,
    edges: Sequence[float],
    top: float,
    tallest: float,
    colour: str,
    write: Callable[[float], str],
) -> list[Markup]:
    base = top + _ROW
    parts = [svg.line(x.start, base, x.end, base, "grid")]
    for share, low, high in zip(one.shares, edges, edges[1:], strict=False):
        if share:
            size = max(_BAR * share / tallest, 0.6)
            width = x(high) - x(low) - 1
            parts.append(svg.rect(x(low) + 0.5, base - size, width, size, f"bar {colour}"))
    if one.median is not None:
        at = x(one.median)
        parts.append(svg.line(at, base - _BAR, at, base + 3, "median"))
    parts.append(svg.label(x.start, top + 14, one.name, class_=f"name {colour}"))
    median = "" if one.median is None else f"median {write(one.median)}, "
    said = f"{median}{one.of:,} answers"
    parts.append(svg.label(x.end, top + 14, said, class_="tick", anchor="end"))
    return parts
