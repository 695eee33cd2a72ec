"""What the demo that nobody steers came to."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Turn(BaseModel):
    """One retrain of the loop, from its decision to its end. Moments in days of the story."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    because: list[str] = Field(description="triggers that fired")
    decided: float
    verdict: str
    difference: float | None = Field(description="gold score against the live version, 0 to 1")
    end: str = Field(description="live, rolled_back, dropped or refused")
    ended: float
    why: str = Field(description="what the last event of its rollout says")
    seconds: float = Field(description="real seconds from the decision to its end")


class AloneReport(BaseModel):
    """The numbers of one such demo."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    minute_is_hours: float
    turns: list[Turn]
    drift: list[str] = Field(description="drift alerts while the new product came up")
    expected: list[str] = Field(description="how the turns had to end")
    noticed: bool = Field(description="drift had to be noticed, and a retrain be caused by it")
    requests: int
    failed_requests: int
    failures: list[str] = Field(default_factory=list, description="the first ten")
    mixed_version_responses: int = Field(description="answers that name two versions")
    rows_logged: int
    corrections: int
    wrong_corrections: int = Field(description="of the operator's bad batch")
    commands: int = Field(0, description="typed after the start")
    rollback_seconds: float = Field(
        description="from the rollback to the start of the last request that the dropped "
        "version still answered"
    )
    seconds: float
    versions: dict[str, int] = Field(description="answers by version")

    def table(self) -> str:
        """The report in words."""
        lines = ["  version      cause          decided  gate                 came to"]
        for turn in self.turns:
            gain = "" if turn.difference is None else f" {turn.difference:+.0%}"
            lines.append(
                f"  {turn.version:<12} {', '.join(turn.because):<14} day {turn.decided:4.1f} "
                f"{turn.verdict + gain:<20} {turn.end.replace('_', ' ')}, day {turn.ended:.1f} "
                f"({turn.seconds:.0f} s)"
            )
        lost = self.requests - self.rows_logged
        shown = [
            ("drift noticed", f"{len(self.drift)} alert(s)"),
            ("requests sent", f"{self.requests}"),
            ("failed, mixed two versions, missing in the log",
             f"{self.failed_requests}, {self.mixed_version_responses}, {lost}"),
            ("corrections by users, wrong ones by an operator",
             f"{self.corrections}, {self.wrong_corrections}"),
            ("the rollback was obeyed after", f"{self.rollback_seconds:.2f} s"),
            ("commands typed", f"{self.commands}"),
            ("whole demo", f"{self.seconds:.0f} s, a minute of them was "
             f"{self.minute_is_hours:g} hours"),
        ]  # fmt: skip
        width = max(len(name) for name, _ in shown)
        return "\n".join([*lines, "", *(f"  {name:<{width}}  {value}" for name, value in shown)])

    @property
    def sound(self) -> bool:
        """Whether the story went as it had to, and nothing was lost or mixed."""
        ends = [turn.end for turn in self.turns]
        rest = iter(ends)
        caused = any("drift" in turn.because and turn.end == "live" for turn in self.turns)
        return (
            all(wanted in rest for wanted in self.expected)
            and (not self.noticed or (bool(self.drift) and caused))
            and self.failed_requests == 0
            and self.mixed_version_responses == 0
            and self.rows_logged == self.requests
        )
