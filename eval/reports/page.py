"""One HTML file with everything in it: tables, and every changed answer side by side.

Nothing is fetched and no script runs; what is shown is chosen by radio buttons and CSS, so that
it works from a folder, in an e-mail, or on a build server that forbids scripts.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from eval.reported import GateReport
from eval.reports import words
from eval.reports.changed import KINDS, Changed, changed, sets_of
from eval.results import EvalResults
from ledger.differences import Piece, differences

_TEMPLATES = Path(__file__).with_name("templates")


def page(report: GateReport, results: EvalResults) -> str:
    """The file's content."""
    sets = [
        (one, [] if found is None else changed(one, found, results))
        for one, found in sets_of(report, results)
    ]
    counts = {kind: sum(item.kind == kind for _, items in sets for item in items) for kind in KINDS}
    return (
        _environment()
        .get_template("gate.html")
        .render(
            report=report,
            results=results,
            sets=sets,
            counts=counts,
            words=words,
            when=datetime.fromtimestamp(results.created, UTC).strftime("%Y-%m-%d %H:%M"),
            pieces=pieces,
            bars=bars,
        )
    )


def pieces(item: Changed, sample: int) -> tuple[list[Piece], list[Piece]]:
    """Both answers of a sample, cut where they differ: the old one's parts, the new one's."""
    before = item.before[sample].text if sample < len(item.before) else ""
    after = item.after[sample].text if sample < len(item.after) else ""
    found = differences(before, after)
    return [p for p in found if p.kind != "ins"], [p for p in found if p.kind != "del"]


def bars(report: GateReport) -> dict[str, Any] | None:
    """Where each set's interval lies, as percent of a common axis; None where nothing was asked.

    `zero` is where no difference is, `rows` are (set, low, high, difference, edge of the margin).
    """
    if not report.sets:
        return None
    ends = [0.0]
    for one in report.sets:
        ends += [*one.interval, one.difference, -one.margin]
    low, high = min(ends), max(ends)
    room = max(0.01, 0.08 * (high - low))
    low, high = low - room, high + room

    def at(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    rows = [
        (one, at(one.interval[0]), at(one.interval[1]), at(one.difference), at(-one.margin))
        for one in report.sets
    ]
    return {"zero": at(0.0), "rows": rows}


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
