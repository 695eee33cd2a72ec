"""What a run of `flywheel distill` did, for a person and for a program."""

from __future__ import annotations

from typing import Any, NamedTuple

from ledger.store import Spent


class Report(NamedTuple):
    """What a run did. Numbers are rows, except where they say otherwise.

    Attributes:
        asked: rows that got an answer, of whatever kind.
        agrees: answers that say what the row's answer says: it is good.
        why: reasons of what was not accepted.
        failed: rows that the teacher cannot answer; they are not asked again.
        unanswered: rows to which no answer came; the next run asks them.
        skipped: rows that cannot be asked about, by reason.
        left: rows that were not come to.
        teacher, judge: calls, tokens, and cost in the currency of the price table.
        stopped: `budget`, or "" where all rows were asked.
        most: in a dry run the most that it can cost; None where no price is set.
    """

    alias: str
    rows: int
    asked: int
    accepted: int
    proposed: int
    rejected: int
    agrees: int
    failed: int
    unanswered: int
    overtaken: int
    left: int
    why: dict[str, int]
    skipped: dict[str, int]
    teacher: Spent
    judge: Spent
    stopped: str
    seconds: float
    dry_run: bool = False
    most: float | None = None

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        return {
            **self._asdict(),
            "teacher": self.teacher._asdict(),
            "judge": self.judge._asdict(),
        }

    def text(self) -> str:
        """For a person."""
        if self.dry_run:
            most = "unknown: no prices are set" if self.most is None else f"at most {self.most:.4f}"
            lines = [f"{self.rows} rows of {self.alias} would be asked about, cost {most}"]
        else:
            lines = [f"{self.asked} of {self.rows} rows of {self.alias} in {self.seconds:.1f} s"]
        said = {
            "accepted": self.accepted,
            "proposed": self.proposed,
            "rejected": self.rejected,
            "the answer was good": self.agrees,
            "cannot be answered": self.failed,
            "no answer, asked again next time": self.unanswered,
            "corrected by somebody meanwhile": self.overtaken,
        }
        lines += [f"  {n:>6}  {what}" for what, n in said.items() if n]
        lines += [f"  {n:>6}  because: {why}" for why, n in sorted(self.why.items())]
        lines += [f"  {n:>6}  skipped: {why}" for why, n in sorted(self.skipped.items())]
        for name, paid in (("teacher", self.teacher), ("judge", self.judge)):
            if paid.calls:
                lines.append(f"  {name}: {paid_for(paid)}")
        if self.stopped:
            lines.append(f"  stopped by the {self.stopped}; {self.left} rows are left")
        return "\n".join(lines)


def paid_for(sum_: Spent) -> str:
    """A sum in words."""
    tokens = f"{sum_.prompt_tokens} + {sum_.completion_tokens} tokens"
    price = "no prices are set" if sum_.cost is None else f"cost {sum_.cost:.4f}"
    return f"{sum_.calls} calls, {tokens}, {price}"


def added(one: Spent, other: Spent) -> Spent:
    """Two sums as one; without a cost where one has none."""
    unknown = one.cost is None or other.cost is None
    return Spent(
        one.calls + other.calls,
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        None if unknown else (one.cost or 0.0) + (other.cost or 0.0),
    )
