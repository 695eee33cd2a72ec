"""Elements of an SVG picture, and what a figure is. Covers no layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

#: Width of every figure, in its own units; one is about a pixel on a phone.
WIDTH = 360.0
#: Rough width of a character of a label, in the same units.
CHARACTER = 5.9


class Figure(NamedTuple):
    """A picture with its words.

    Attributes:
        title: what it shows, in a line.
        svg: None where there is nothing to draw; `note` then says why.
        columns, rows: the same numbers as a table of text.
        note: what the numbers are of, below the picture.
    """

    title: str
    svg: Markup | None
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    note: str = ""


def element(name: str, *children: str, **attributes: object) -> Markup:
    """An element; everything is escaped that is not an element already.

    Args:
        attributes: `_` stands for `-`, and one at the end for nothing (`class_`); None is left
            out, and numbers are rounded to tenths.
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(escape(child) for child in children)
    return Markup(f"<{name}{said}>{inner}</{name}>" if inner else f"<{name}{said}/>")


def label(x: float, y: float, text: str, *, class_: str = "", anchor: str = "start") -> Markup:
    """A text at a place; `anchor` is start, middle or end."""
    return element("text", text, x=x, y=y, class_=class_ or None, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def rect(x: float, y: float, width: float, height: float, class_: str) -> Markup:
    """A rectangle."""
    return element("rect", x=x, y=y, width=max(width, 0), height=max(height, 0), class_=class_)


def dot(x: float, y: float, class_: str, radius: float = 3) -> Markup:
    """A filled circle."""
    return element("circle", cx=x, cy=y, r=radius, class_=class_)


def path(points: Sequence[tuple[float, float]], class_: str, *, closed: bool = False) -> Markup:
    """A line through points, or the area that they enclose."""
    steps = " ".join(f"{'L' if n else 'M'}{x:.1f} {y:.1f}" for n, (x, y) in enumerate(points))
    return element("path", d=steps + ("Z" if closed else ""), class_=class_)


def picture(title: str, says: str, height: float, children: Sequence[Markup]) -> Markup:
    """The outermost element.

    Args:
        says: what is seen, in a sentence; read aloud instead of the picture.
    """
    return element(
        "svg",
        element("title", title),
        element("desc", says),
        *children,
        class_="figure",
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        role="img",
        aria_label=f"{title}. {says}",
    )


def colour(number: int) -> str:
    """Class of the colour of the n-th series; there are four, then they repeat."""
    return f"c{number % 4 + 1}"


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places of labels, moved as little as it takes to keep them a gap apart and in sight."""
    order = sorted(range(len(places)), key=lambda n: places[n])
    found = list(places)
    floor = low
    for n in order:
        found[n] = max(found[n], floor)
        floor = found[n] + gap
    ceiling = high
    for n in reversed(order):
        found[n] = min(found[n], ceiling)
        ceiling = found[n] - gap
    return found


def _text(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
