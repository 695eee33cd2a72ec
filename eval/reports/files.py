"""Writing all reports of a gate into its run's folder."""

from __future__ import annotations

from pathlib import Path

from eval.reported import GateReport
from eval.reports.junit import junit
from eval.reports.markdown import markdown
from eval.reports.page import page
from eval.results import EvalResults
from ledger.files import write_atomic

JUNIT = "gate.junit.xml"
MARKDOWN = "gate.md"
PAGE = "gate.html"
PICTURE = "gate.png"


def write_reports(report: GateReport, results: EvalResults, folder: Path) -> list[Path]:
    """Write `gate.md`, `gate.junit.xml`, `gate.html` and `gate.png`; returns where they are."""
    from eval.plot import gate_png  # matplotlib takes a second to import

    contents = {
        MARKDOWN: markdown(report, results).encode(),
        JUNIT: junit(report, results),
        PAGE: page(report, results).encode(),
    }
    written = []
    for name, content in contents.items():
        write_atomic(folder / name, content)
        written.append(folder / name)
    gate_png(report.model_dump(mode="json"), folder / PICTURE)
    return [*written, folder / PICTURE]
