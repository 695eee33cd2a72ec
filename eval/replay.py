"""Judging a run again from its file, with no model and no server: `flywheel gate --replay RUN`.

Hashes of packs and questions are derived again, then the verdict, from the stored answers and
seeds. It is the same verdict as long as nobody changed the file or the rule; where people were
forgotten since, it is the verdict on what is left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from eval import results as stored
from eval.results import EvalResults
from eval.verdict import GateReport, judge
from ledger.store import Store


class Replay(NamedTuple):
    """A run judged again.

    Attributes:
        before: the verdict that the file has; None where it has none.
        differs: names of the report's fields that are not what the file says.
        forgotten: questions that nobody can read any more.
    """

    results: EvalResults
    report: GateReport
    before: str | None
    differs: list[str]
    forgotten: int

    def notes(self) -> list[str]:
        """What a reader has to know beside the report."""
        found = []
        if self.forgotten:
            found.append(
                f"{self.forgotten} question(s) are of people who were forgotten since; judged is "
                "the rest"
            )
        if self.before != self.report.verdict:
            found.append(f"the file says {self.before}, its answers say {self.report.verdict}")
        elif self.differs:
            found.append(f"the same verdict; other than in the file: {', '.join(self.differs)}")
        return found

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "run": self.results.run_id,
            "verdict": self.report.verdict,
            "stored_verdict": self.before,
            "same": not self.differs,
            "differs": self.differs,
            "forgotten": self.forgotten,
            "report": self.report.model_dump(mode="json"),
        }


def replay(folder: Path, store: Store) -> Replay:
    """Judge a run again.

    Raises:
        RecordError: see `eval.results.load`.
    """
    results = stored.load(folder, store)
    report = judge(results)
    now, before = report.model_dump(mode="json"), results.report or {}
    differs = sorted(name for name in {*now, *before} if now.get(name) != before.get(name))
    forgotten = sum(one.forgotten for one in results.sets)
    return Replay(results, report, before.get("verdict"), differs, forgotten)
