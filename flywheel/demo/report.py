"""What the demo came to: a table for a newcomer, JSON for a program."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Report(BaseModel):
    """The numbers of one demo. Scores are shares of gold questions, 0 to 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests: int
    failed_requests: int
    failures: list[str] = Field(default_factory=list, description="the first ten")
    mixed_version_responses: int = Field(
        description="answers that name two versions, or hold what another version answers"
    )
    rows_logged: int
    corrections: int = Field(description="edits by users")
    votes: int = Field(description="thumbs down without an edit")
    waiting: int = Field(description="answers that wait in the queue for a person")
    pairs: int = Field(description="examples of the dataset, held-out ones included")
    gold_questions: int
    gold_base: float
    gold_live: float
    gate: dict[str, Any]
    rollback_seconds: float = Field(
        description="from the rollback to the start of the last request that the dropped "
        "version still answered"
    )
    seconds: dict[str, float]
    versions: dict[str, int] = Field(description="answers by version")

    def table(self) -> str:
        """The report in words."""
        low, high = self.gate["interval"]
        shown = [
            ("requests sent", f"{self.requests}"),
            ("of them failed", f"{self.failed_requests}"),
            ("answers that mixed two versions", f"{self.mixed_version_responses}"),
            ("answers in the log", f"{self.rows_logged}"),
            ("corrections by users", f"{self.corrections}"),
            ("training pairs made of them", f"{self.pairs}"),
            ("thumbs down, and answers that wait for a person", f"{self.votes}, {self.waiting}"),
            (
                f"right on {self.gold_questions} gold questions, base model",
                _percent(self.gold_base),
            ),
            ("  the adapter that is live now", _percent(self.gold_live)),
            (
                "gate",
                f"{self.gate['verdict']}: {self.gate['difference']:+.0%} "
                f"(between {low:+.0%} and {high:+.0%})",
            ),
            ("a rollback was obeyed after", f"{self.rollback_seconds:.2f} s"),
            ("whole demo", f"{self.seconds['total']:.0f} s"),
        ]
        width = max(len(name) for name, _ in shown)
        lines = [f"  {name:<{width}}  {value}" for name, value in shown]
        return "\n".join(lines)

    @property
    def sound(self) -> bool:
        """Whether nothing was lost, mixed or forgotten."""
        return (
            self.failed_requests == 0
            and self.mixed_version_responses == 0
            and self.rows_logged == self.requests
        )


def _percent(share: float) -> str:
    return f"{share:.1%}"
