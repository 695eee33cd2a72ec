"""Pictures: well-formed, inside their frame, escaped, and true to their numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from curate import estimates
from curate.review.figures import (
    Bar,
    Figure,
    Gate,
    Point,
    Series,
    Spread,
    axes,
    bars,
    gates,
    histograms,
    lines,
    sparkline,
    svg,
)

NASTY = "<script>alert(1)</script>\"'&"
MONDAY = 1_763_337_600.0  # 2025-11-17 00:00 UTC


def _points(values: list[float | None]) -> list[Point]:
    return [
        Point(MONDAY + n * axes.DAY, v, None if v is None else v - 0.02, v and v + 0.02, 50)
        for n, v in enumerate(values)
    ]


def _figures(name: str) -> dict[str, Callable[[], Figure]]:
    return {
        "lines": lambda: lines(
            name, [Series(name, _points([0.1, None, 0.3, 0.2])), Series("v2", _points([0.5]))],
            write=axes.percent, events=[(MONDAY + 90_000, name)], note=name,
        ),
        "histograms": lambda: histograms(
            name, [Spread(name, [0.25, 0.75], -0.4, 12)], [-1.0, -0.5, 0.0], unit=name,
            line=(-0.7, name),
        ),
        "gates": lambda: gates(name, [Gate(name, "pass", 0.03, -0.01, 0.07, 0.02, 400)]),
        "bars": lambda: bars(name, [Bar(name, 3.0, 2.0, 4.5), Bar("b", 1.0, 0.5, 1.5)]),
    }  # fmt: skip


def _root(figure: Figure) -> ElementTree.Element:
    assert figure.svg is not None
    return ElementTree.fromstring(figure.svg)


@pytest.mark.parametrize("kind", ["lines", "histograms", "gates", "bars"])
def test_a_figure_has_words_and_escapes_what_it_is_given(kind: str) -> None:
    figure = _figures(NASTY)[kind]()
    root = _root(figure)  # parsed as XML: nothing of a name became an element
    assert root.get("role") == "img"
    assert NASTY in (root.get("aria-label") or "")
    assert {root[0].tag, root[1].tag} == {"title", "desc"}
    assert not list(root.iter("script"))
    assert not any(node.get("style") or node.get("onload") for node in root.iter())
    assert figure.rows
    assert all(len(row) == len(figure.columns) for row in figure.rows)


@pytest.mark.parametrize("kind", ["lines", "histograms", "gates", "bars"])
def test_nothing_is_drawn_outside_of_the_frame(kind: str) -> None:
    root = _root(_figures("v1")[kind]())
    _, _, width, height = map(float, (root.get("viewBox") or "").split())
    for node in root.iter():
        for key in ("x", "x1", "x2", "cx"):
            if (value := node.get(key)) is not None:
                assert 0 <= float(value) <= width, (node.tag, key, value)
        for key in ("y", "y1", "y2", "cy"):
            if (value := node.get(key)) is not None:
                assert 0 <= float(value) <= height, (node.tag, key, value)
        if (steps := node.get("d")) is not None:
            numbers = [float(n) for n in re.findall(r"[\d.]+", steps)]
            assert all(0 <= n <= width for n in numbers[::2])
            assert all(0 <= n <= height for n in numbers[1::2])
        if node.tag == "rect":
            assert float(node.get("x", 0)) + float(node.get("width", 0)) <= width + 0.1


def test_without_numbers_a_figure_says_why() -> None:
    for figure in (
        lines("a", [], empty="no answers"),
        lines("a", [Series("v1", [Point(0.0, None)])], empty="no answers"),
        histograms("a", [Spread("v1", [0.0], None, 0)], [0.0, 1.0], unit="", empty="no answers"),
        gates("a", [], empty="no answers"),
        bars("a", [], empty="no answers"),
    ):
        assert (figure.svg, figure.note) == (None, "no answers")
    assert sparkline("a", []) == ""


def test_a_gap_breaks_the_line_and_a_point_alone_has_a_whisker() -> None:
    figure = lines("a", [Series("v1", _points([0.1, 0.2, None, 0.3, 0.4, None, 0.5]))])
    root = _root(figure)
    classes = [node.get("class") for node in root.iter()]
    assert classes.count("line c1") == 2
    assert classes.count("band c1") == 2
    assert classes.count("whisker c1") == 1
    assert [row[2] for row in figure.rows] == ["0.1", "0.2", "0.3", "0.4", "0.5"]


def test_a_version_keeps_its_colour_whatever_else_is_drawn() -> None:
    both = _root(lines("a", [Series("v1", _points([0.1]), 1), Series("v2", _points([0.2]), 2)]))
    alone = _root(lines("a", [Series("v2", _points([0.2]), 2)]))
    rows = _root(histograms("a", [Spread("v2", [1.0], -0.5, 9, 2)], [-1.0, 0.0], unit=""))
    for root, classes in ((both, {"dot c2", "dot c3"}), (alone, {"dot c3"})):
        assert {node.get("class") for node in root.iter("circle")} == classes
    assert "bar c3" in {node.get("class") for node in rows.iter("rect")}


def test_an_interval_of_few_answers_does_not_flatten_the_others() -> None:
    wide = [Point(0.0, 0.02, 0.01, 0.03), Point(1.0, 0.03, 0.0, 0.98)]
    root = _root(lines("a", [Series("v1", wide)], write=axes.percent, times=False))
    ticks = [node.text or "" for node in root.iter("text")]
    assert "8 %" in ticks
    assert not {"10 %", "50 %", "100 %"} & set(ticks)


def test_the_gate_is_drawn_where_it_stands() -> None:
    root = _root(gates("a", [Gate("v2", "fail", -0.05, -0.08, -0.02, 0.02, 400)]))
    at = {node.get("class"): float(node.get("cx") or 0) for node in root.iter("circle")}
    loss = next(node for node in root.iter("rect") if node.get("class") == "loss")
    edge = float(loss.get("x") or 0) + float(loss.get("width") or 0)
    zero = next(node for node in root.iter("line") if node.get("class") == "zero")
    assert at["dot bad"] < edge < float(zero.get("x1") or 0)


def test_bars_are_as_long_as_their_values() -> None:
    root = _root(bars("a", [Bar("one", 4.0), Bar("two", 1.0)]))
    widths = [float(node.get("width") or 0) for node in root.iter("rect")]
    assert widths[0] == pytest.approx(4 * widths[1], rel=0.01)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 0.31, [0, 0.1, 0.2, 0.3, 0.4]), (-3, 0, [-3, -2, -1, 0]), (5, 5, [5, 6, 7, 8, 9, 10])],
)
def test_axes_have_round_values(low: float, high: float, expected: list[float]) -> None:
    found = axes.steps(low, high)
    if low == high:
        assert found[0] <= low < found[-1]
    else:
        assert found == pytest.approx(expected)


def test_days_and_hours_at_an_axis() -> None:
    week = axes.days(MONDAY, MONDAY + 6 * axes.DAY)
    assert [tick.text for tick in week] == ["17 Nov", "19 Nov", "21 Nov", "23 Nov"]
    assert all(tick.value % axes.DAY == 0 for tick in week)
    assert [tick.text for tick in axes.days(MONDAY, MONDAY + 3 * 3600)] == [
        "00:00", "01:00", "02:00", "03:00",
    ]  # fmt: skip


def test_numbers_in_words() -> None:
    assert [axes.percent(n) for n in (0, 0.5, 0.031, 0.0004)] == ["0 %", "50 %", "3.1 %", "0.04 %"]
    assert [axes.points(n) for n in (0, 0.031, -0.02)] == ["0", "+3.1", "−2"]
    assert [axes.plain(n) for n in (0, 12345, 0.0421, -2.5)] == ["0", "12,345", "0.0421", "−2.5"]


def test_labels_are_moved_apart() -> None:
    places = svg.spread([50, 51, 52, 180], 12, 10, 182)
    assert all(b - a >= 12 - 1e-9 for a, b in pairwise(places))
    assert min(places) >= 10
    assert max(places) <= 182
    assert places[3] == 180


def test_wilson_and_the_weighted_mean() -> None:
    # Agresti & Coull, The American Statistician 52 (1998): 0 of 10 and 5 of 10.
    none, half = estimates.rate(0, 10), estimates.rate(5, 10)
    assert none is not None
    assert half is not None
    assert (none.low, none.high) == pytest.approx((0.0, 0.2775), abs=1e-3)
    assert (half.low, half.high) == pytest.approx((0.2366, 0.7634), abs=1e-3)
    assert estimates.rate(0, 0) is None
    assert estimates.mean([]) is None
    # One row kept with probability 0.1 stands for ten answers.
    weighted = estimates.mean([(-2.0, 1.0), (-1.0, 0.1)])
    assert weighted is not None
    assert weighted.value == pytest.approx((-2 - 10) / 11)
    assert estimates.median([(-2.0, 1.0), (-1.0, 0.1), (-0.5, 1.0)]) == -1.0
    from eval.estimate import mean

    values = [(-1.0, 0.2), (-0.5, 1.0), (-2.0, 0.5), (-0.1, 0.05)]
    ours, theirs = estimates.mean(values), mean(*zip(*values, strict=True))
    assert ours == pytest.approx((theirs.value, theirs.low, theirs.high))
