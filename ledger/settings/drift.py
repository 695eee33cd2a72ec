"""Settings: what is watched, and from when on a change is one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ledger.settings.section import Section

#: What can be watched.
SignalName = Literal[
    "gold",
    "negatives",
    "edits",
    "confidence",
    "unsure",
    "questions",
    "new_clusters",
    "length",
    "refusals",
    "latency",
    "errors",
]


class Drift(Section):
    """What is watched, and from when on a change is one (docs/drift.md)."""

    off: tuple[SignalName, ...] = Field((), description="signals that are not watched")
    false_alarms: float = Field(
        1.0, gt=0, le=30, description="most false alarms in 30 quiet days, all signals together"
    )
    warmup_days: float = Field(
        7, gt=0, description="length of the window that says what is usual, days"
    )
    version_warmup_days: float = Field(
        3, gt=0, description="the same for what each version has its own usual of: confidence, "
        "length, refusals, latency",
    )  # fmt: skip
    warmup_events: int = Field(
        300, ge=20, description="fewest events in that window; it is made longer until it has them"
    )
    minimum: int = Field(
        50, ge=5, description="fewest events since a change of feedback began that make it drift"
    )
    minimum_answers: int = Field(
        200, ge=20, description="the same for what is counted of all answers"
    )
    rates_of: Literal["feedback", "answers"] = Field(
        "feedback",
        description="what negatives and edits are a share of: `feedback` for products whose users "
        "also say when they are content, `answers` for those whose users only complain",
    )
    subject_hours_a_day: int = Field(
        4, ge=1, description="most hours of a UTC day in which one user's feedback counts; in each "
        "of them it counts as one event",
    )  # fmt: skip
    negatives_ratio: float = Field(
        1.5, gt=1, description="negative feedback: limit as a multiple of the baseline"
    )
    negatives_rate: float = Field(
        0.15, gt=0, lt=1, description="negative feedback: limit whatever the baseline, 0 to 1"
    )
    edits_ratio: float = Field(1.25, gt=1, description="edits: limit as a multiple of the baseline")
    rate_ratio: float = Field(
        1.5, gt=1, description="refusals, errors and unsure answers: limit as a multiple of the "
        "baseline",
    )  # fmt: skip
    rate_least: float = Field(0.01, ge=0, lt=1, description="and at least so far above it, 0 to 1")
    shift: float = Field(
        0.10, gt=0, lt=0.5, description="confidence, length, latency: limit of the chance that an "
        "answer lies above one of the baseline, as a distance from a half (0.10 is some 0.36 "
        "standard deviations)",
    )  # fmt: skip
    questions_auc: float = Field(
        0.60, gt=0.5, lt=1, description="questions: limit of a classifier's AUC that tells today's "
        "from those of the baseline; 0.5 tells nothing",
    )  # fmt: skip
    questions_sample: int = Field(
        400, ge=50, description="questions of each side that the classifier gets"
    )
    new_share: float = Field(
        0.10, gt=0, lt=1, description="limit of the share of traffic in clusters that no training "
        "data has, 0 to 1",
    )  # fmt: skip
    texts_an_hour: int = Field(
        60, ge=1, description="answers an hour whose text is opened to count refusals"
    )
    gold_hours: float = Field(
        24, gt=0, description="how often the live endpoint is asked the gold questions, hours"
    )
    gold_drop: float = Field(
        0.05, gt=0, lt=1, description="limit of the drop from the best score, as a part of it"
    )
    tag_hours: float = Field(
        12, gt=0, description="window before an alert whose rows get the tag `drift_window`, hours"
    )
    tag_rows: int = Field(
        2000, ge=0, description="most rows of that window that are tagged, taken at random"
    )
    webhook: str | None = Field(
        None, description="address that alerts are posted to as JSON, without anybody's text"
    )
    webhook_seconds: float = Field(
        5, gt=0, description="longest wait for the webhook; it is tried again at later looks, "
        "seconds",
    )  # fmt: skip
