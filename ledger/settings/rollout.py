"""Settings: how a version that passed the gate gets its traffic."""

from __future__ import annotations

from itertools import pairwise
from typing import Self

from pydantic import Field, model_validator

from ledger.settings.section import Section


class Stage(Section):
    """A share of the traffic, and what must be known before the next one."""

    share: float = Field(gt=0, lt=100, description="percent of the traffic")
    days: float = Field(ge=0, description="shortest time, days; pauses do not count")
    events: int = Field(300, ge=1, description="fewest answers of the canary")
    feedback: float = Field(
        20, ge=0, description="fewest of them that would have got feedback at the control's rate; "
        "with less the shadow comparison decides",
    )  # fmt: skip
    tolerance: float = Field(
        0.25, gt=0, description="harm that is accepted: 0.25 is a rate of negatives or edits a "
        "quarter above the control's; above it must be excluded before the next stage",
    )  # fmt: skip


class Guards(Section):
    """What else must not get much worse: shares of answers beyond a line that the control draws.

    A guard rolls back when more than `points` above the control's share is shown.
    """

    points: float = Field(
        0.1, gt=0, lt=1, description="share of answers beyond the line, above the control's"
    )
    latency: float = Field(
        1.5, ge=1, description="slow: longer than this times the control's 90th percentile"
    )
    length: float = Field(
        2.0, ge=1, description="long: more tokens than this times the control's 95th percentile"
    )
    confidence: float = Field(
        0.25, ge=0, description="unsure: mean logprob so far below the control's 5th percentile, "
        "nats",
    )  # fmt: skip


class Shadow(Section):
    """The candidate answers live questions out of sight; a judge compares. Opt-in."""

    share: float = Field(
        0.0, ge=0, le=1, description="share of the stored questions that the candidate answers, "
        "too; 0: none",
    )  # fmt: skip
    an_hour: int = Field(20, ge=1, description="most questions an hour")
    concurrency: int = Field(1, ge=1, description="questions asked at once; users go first")
    max_tokens: int = Field(512, ge=1, description="longest answer, tokens")
    timeout_seconds: float = Field(120, gt=0, description="longest wait for one answer, seconds")
    rubric: str = Field(
        "Prefer the answer that is correct and does what the conversation's instructions ask for. "
        "Do not prefer one for its length.",
        description="what the judge goes by",
    )
    tolerance: float = Field(
        0.1, gt=0, lt=0.5, description="how far above one half the share of decided comparisons "
        "that the candidate loses may be",
    )  # fmt: skip


class Rollout(Section):
    """How a version that passed the gate gets its traffic."""

    stages: tuple[Stage, ...] = Field(
        (
            Stage(share=5, days=7, tolerance=0.5),
            Stage(share=50, days=14, events=1000, feedback=50, tolerance=0.25),
        ),
        description="stages before all the traffic; none: a person promotes",
    )
    tolerance_points: float = Field(
        0.01, gt=0, lt=1, description="harm that is accepted however rare negatives or edits are, "
        "as a share of the answers; 0.01 is one point",
    )  # fmt: skip
    false_rollbacks: float = Field(
        0.01, gt=0, lt=0.5, description="how often a canary as good as the control may be rolled "
        "back, over all looks at one stage and all that is looked at",
    )  # fmt: skip
    false_expansions: float = Field(
        0.05, gt=0, lt=0.5, description="how often harm as large as the tolerance may be taken for "
        "less, over all looks at one stage",
    )  # fmt: skip
    user_day: float = Field(
        5, gt=0, description="answers that one user or session counts for, at most, a day"
    )
    ask_days: float = Field(
        28, gt=0, description="age of a stage at which a person is asked, days; pauses do not count"
    )
    guards: Guards = Field(default_factory=Guards, description="what else must not get much worse")
    shadow: Shadow = Field(default_factory=Shadow, description="comparing out of sight")

    @model_validator(mode="after")
    def _rising(self) -> Self:
        for before, after in pairwise(self.stages):
            if after.share <= before.share:
                raise ValueError(
                    f"stages: {after.share:g} % comes after {before.share:g} %; shares must rise"
                )
        return self
