"""Times as people type them."""

from __future__ import annotations

import click
import pytest

from flywheel.commands.times import Moment, Span, SpanType
from ledger import clock

NOW = 1_800_000_000.0  # 2027-01-15 08:00 UTC


@pytest.mark.parametrize(
    ("text", "span"), [("30s", 30), ("5m", 300), ("1.5h", 5400), ("1d", 86400), ("4w", 2_419_200)]
)
def test_spans_of_time(text: str, span: float) -> None:
    found = SpanType().convert(text, None, None)
    assert (found.seconds, str(found)) == (span, text)
    assert SpanType().convert(found, None, None) == Span(span, text)


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "0s", "5 minutes", "1e3s", "2026-05-01"])
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 30s, 5m"):
        SpanType().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2h", NOW - 7200),
        ("0d", NOW),
        ("now", NOW),
        ("2027-01-15", NOW - 8 * 3600),
        ("2027-01-15T07:00", NOW - 3600),
        ("2027-01-15T09:00+02:00", NOW - 3600),
    ],
)
def test_moments_are_of_the_clock_and_utc(text: str, moment: float) -> None:
    with clock.at(lambda: NOW):
        assert Moment().convert(text, None, None) == moment


@pytest.mark.parametrize("text", ["", "soon", "7", "-7d", "2027-13-01"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no time: write 7d"):
        Moment().convert(text, None, None)
