"""The picture of a report: answers by version, and what users made of them, by day."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING

from flywheel.weekly.facts import TRIED, Day, Facts
from flywheel.weekly.period import DAY
from ledger.files import write_atomic
from ledger.store.alerts import DRIFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito: told apart by those who see fewer colours, too.
_COLOURS = ("#7a828c", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
_NEGATIVE, _EDITED, _QUIET = "#a8271f", "#0072b2", "#5b626c"
_MARKED = ("live", "rolled back", "taken back while it was tried", "refused")
#: Width of a letter of a mark's word, as a part of the axes' width.
_LETTER = 0.0098
#: Versions with a colour of their own; the others share the first.
_SHOWN = 6


def draw(facts: Facts, path: Path) -> None:
    """Draw it; the PNG is written whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A figure of its own, without pyplot: nothing global, no display.
    figure = Figure(figsize=(8.4, 5.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 4))
    for axes in (top, bottom):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.tick_params(labelsize=9)
    top.set_title(f"{facts.alias}, {facts.period.said}", loc="left", fontsize=11, parse_math=False)
    _answers(top, facts)
    _reactions(bottom, facts)
    _marks(top, bottom, facts)
    _days(bottom, facts)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())


def _answers(axes: Axes, facts: Facts) -> None:
    most = sorted(facts.versions, key=lambda name: -sum(facts.versions[name]))[:_SHOWN]
    shown = [name for name in facts.versions if name in most]
    places = [day.ts + DAY / 2 for day in facts.days]
    below = [0] * len(places)
    others = [name for name in facts.versions if name not in most]
    groups = [(name, [name], _COLOURS[1:][n % 6]) for n, name in enumerate(shown)]
    if others:
        groups.insert(0, (f"{len(others)} others", others, _COLOURS[0]))
    for label, names, colour in groups:
        values = [sum(facts.versions[name][n] for name in names) for n in range(len(places))]
        axes.bar(places, values, 0.8 * DAY, bottom=below, color=colour, label=label)
        below = [a + b for a, b in zip(below, values, strict=True)]
    axes.set_ylabel("answers a day", fontsize=9)
    axes.set_ylim(0, max([*below, 1]) * 1.05)
    if groups:
        legend = axes.legend(
            fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5)
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    else:
        axes.text(0.5, 0.5, "no answers", ha="center", transform=axes.transAxes)


def _reactions(axes: Axes, facts: Facts) -> None:
    highest = 0.0
    for label, colour, shift, read in (
        ("negative", _NEGATIVE, -0.06, lambda day: day.negative_rate),
        ("edited", _EDITED, 0.06, lambda day: day.edit_rate),
    ):
        found = [(day, read(day)) for day in facts.days if day.answers]
        if not found:
            continue
        places = [day.ts + (0.5 + shift) * DAY for day, _ in found]
        values = [100 * one.value for _, one in found]
        ends = [
            [100 * (one.value - one.low) for _, one in found],
            [100 * (one.high - one.value) for _, one in found],
        ]
        axes.errorbar(
            places, values, ends, color=colour, marker="o", ms=5, lw=1.2, elinewidth=1.2, capsize=2,
            label=label,
        )  # fmt: skip
        highest = max([highest, *(100 * one.high for _, one in found)])
    axes.set_ylim(0, min(100.0, highest * 1.15) or 1.0)
    axes.set_ylabel("% of answers, 95 % interval", fontsize=9)
    if highest:
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _marks(top: Axes, bottom: Axes, facts: Facts) -> None:
    """Where versions went live or back, and where drift was noticed."""
    marks = [
        (one.ts, _word(one.version, one.what), _QUIET)
        for one in facts.history
        if one.what in _MARKED or one.what.startswith(TRIED)
    ]
    marks += [
        (one.ts, f"drift: {one.kind.removeprefix(DRIFT).replace('_', ' ')}", _NEGATIVE)
        for one in facts.alerts
        if one.kind.startswith(DRIFT)
    ]
    # Each word in the first row in which none is in its way.
    ends: list[float] = []
    for ts, word, colour in sorted(marks):
        for axes in (top, bottom):
            axes.axvline(ts, color=colour, lw=1, ls=":")
        width = _LETTER * (len(word) + 2) * (facts.period.until - facts.period.since)
        late = ts + width > facts.period.until
        begin = ts - width if late else ts
        row = next((n for n, end in enumerate(ends) if end <= begin), len(ends))
        ends[row:] = [begin + width, *ends[row + 1 :]]
        top.annotate(
            word, (ts, 1.0), xycoords=("data", "axes fraction"),
            xytext=(-3 if late else 3, 2 + 11 * row), textcoords="offset points", fontsize=8,
            color=colour, va="bottom", ha="right" if late else "left", parse_math=False,
            annotation_clip=False,
        )  # fmt: skip
    top.set_title(
        f"{facts.alias}, {facts.period.said}", loc="left", fontsize=11, pad=8 + 11 * len(ends),
        parse_math=False,
    )  # fmt: skip


def _word(version: str, what: str) -> str:
    short = version.rpartition("@")[2]
    if what.startswith(TRIED):
        return f"{short} {what.removeprefix(TRIED).split(' of ')[0]}"
    return f"{short} {'taken back' if what.startswith('taken') else what}"


def _days(axes: Axes, facts: Facts) -> None:
    axes.set_xlim(facts.period.since, facts.period.until)
    step = max(1, -(-len(facts.days) // 10))
    shown: list[Day] = facts.days[::step]
    form = "%a %d" if len(facts.days) <= 10 else "%d %b"
    axes.set_xticks(
        [day.ts + DAY / 2 for day in shown],
        [time.strftime(form, time.gmtime(day.ts)) for day in shown],
    )
