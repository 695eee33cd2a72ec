"""The picture of a gate: where each set's difference lies, against what was accepted to lose."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ledger.files import write_atomic

_COLOURS = {"pass": "#1a6a3e", "fail": "#a8271f", "underpowered": "#9a6700"}
_ROW = 0.62  # inches a set


def gate_png(report: dict[str, Any], path: Path) -> None:
    """Draw a report's sets, each with its interval and its margin.

    Args:
        report: a `GateReport` as JSON; where nothing was asked the picture says so.
        path: the PNG, written whole or not at all.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sets = report.get("sets") or []
    # A figure of its own, without pyplot: nothing global, no display.
    figure = Figure(figsize=(7.2, 1.5 + _ROW * max(1, len(sets))), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    said = f"{report['candidate']} against {report['baseline']}: {report['verdict']}"
    axes.set_title(said, loc="left", fontsize=11)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if not sets:
        axes.text(0.5, 0.5, "nothing was asked", ha="center", transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])
    for row, one in enumerate(reversed(sets)):
        colour = _COLOURS[one["verdict"]]
        low, high = (100 * end for end in one["interval"])
        middle, edge = 100 * one["difference"], -100 * one["margin"]
        axes.plot([low, high], [row, row], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot([middle], [row], "o", color=colour, markersize=7)
        axes.plot([edge, edge], [row - 0.35, row + 0.35], color="#a8271f", linewidth=1.2, ls="--")
        axes.annotate(
            f"{middle:+.1f}", (middle, row), (0, 7), textcoords="offset points", ha="center",
            color=colour, fontsize=9,
        )  # fmt: skip
    if sets:
        axes.axvline(0, color="#5b626c", linewidth=1)
        axes.set_ylim(-0.6, len(sets) - 0.3)
        # A name may hold a dollar sign, which matplotlib would take for a formula's.
        names = [_label(one) for one in reversed(sets)]
        axes.set_yticks(range(len(sets)), names, fontsize=9, parse_math=False)
        level = f"{100 * report['confidence']:.0f} %"
        axes.set_xlabel(
            f"candidate minus baseline, points ({level} interval; dashed: accepted loss)",
            fontsize=9,
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())


def _label(one: dict[str, Any]) -> str:
    name = one["name"] if one["name"] == one["pack"] else f"{one['pack']}/{one['name']}"
    return f"{name}\n{one['role']}, {one['questions']} questions"
