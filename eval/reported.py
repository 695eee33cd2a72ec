"""A verdict and what it rests on, as it is recorded, printed and drawn. Holds no text of users.

Scores and differences are 0 to 1, not per cent. Derived from `eval.results` by `eval.verdict`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eval.results import Stored
from ledger.packs import Role

Verdict = Literal["pass", "fail", "underpowered"]


class SliceReport(Stored):
    """Mean scores over one part of a set.

    Attributes:
        interval: of the difference, at the level of the report.
        p_value: one-sided, that the candidate is worse; None where it has no rule.
        floor, max_loss: the rule, where there is one.
        verdict: None where it has no rule.
    """

    questions: int
    candidate: float
    baseline: float
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    floor: float | None = None
    max_loss: float | None = None
    verdict: Verdict | None = None


class RuleReport(Stored):
    """How often answers broke a rule of their set.

    Attributes:
        rule: its type, with its value where that says which one it is.
        answers: of each model.
        at_most: share that may break it; None: judged by the live version's.
        questions: ids of those whose candidate's answer breaks it.
    """

    rule: str
    answers: int
    candidate: float
    baseline: float
    at_most: float | None
    verdict: Verdict
    p_value: float
    questions: list[str] = Field(default_factory=list)


class LimitReport(Stored):
    """What the candidate needs as a multiple of what the live version needs.

    Attributes:
        limit: `p95_latency` (seconds) or `completion_tokens` (mean).
        ratio: None where nothing could be measured, such as latencies of answers that were
            kept from earlier gates.
    """

    limit: Literal["p95_latency", "completion_tokens"]
    at_most: float
    candidate: float | None
    baseline: float | None
    ratio: float | None
    interval: tuple[float, float] | None
    verdict: Verdict
    p_value: float


class Agreement(Stored):
    """A judge against people, on pairs of answers that people had compared.

    Attributes:
        share: of the pairs on which they agree, with its exact interval.
        kappa: Cohen's: 1 is full agreement, 0 is what chance gives; None where it has no meaning.
        turned: share of pairs on which the judge's preference changed with the order.
    """

    pairs: int
    share: float
    interval: tuple[float, float]
    kappa: float | None
    turned: float


class SetReport(Stored):
    """The verdict on one set.

    Attributes:
        verdict: the worst of its difference, slices, rules and limits. What it means for the
            version is `role`'s business.
        candidate, baseline: mean scores; in a set that a judge scores, 1 for each preferred
            answer, a half for a tie.
        units: groups of questions that are independent of each other: conversations.
        method: how interval and p-value came about.
        p_value: two-sided.
        p_corrected: one-sided, that the candidate is worse, corrected for all tests of the gate.
        detectable: smallest true loss that makes this set fail with 80 % power.
        needed: questions with which an equally good candidate passes with 80 % power; None where
            the margin is 0.
        fixed, broken: ids of questions on which the candidate scores higher, lower.
        both_wrong: ids of questions on which neither is right.
        also: mean scores of models that were asked for information.
        truncated: answers of each model that reached their longest length.
        forgotten: questions that are left out because nobody can read them any more.
    """

    pack: str
    name: str
    kind: Literal["gold", "judge", "failures"]
    role: Role
    verdict: Verdict
    reasons: list[str]
    questions: int
    units: int
    samples: int
    question_hash: str
    margin: float
    method: str
    candidate: float
    baseline: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    p_corrected: float
    detectable: float
    needed: int | None
    fixed: list[str] = Field(default_factory=list)
    broken: list[str] = Field(default_factory=list)
    both_wrong: list[str] = Field(default_factory=list)
    slices: dict[str, SliceReport] = Field(default_factory=dict)
    rules: list[RuleReport] = Field(default_factory=list)
    limits: list[LimitReport] = Field(default_factory=list)
    agreement: Agreement | None = None
    also: dict[str, float] = Field(default_factory=dict)
    truncated: dict[str, int] = Field(default_factory=dict)
    forgotten: int = 0


class GateReport(Stored):
    """The verdict on a version: the worst of what its required and guarding sets say.

    The fields from `questions` to `truncated` repeat those of the first required set, the alias's
    main one, or of the first set where none is required; `sets` has all. Where the candidate
    turned out not to be live nothing was asked: scores are None and there are no sets.

    Attributes:
        packs: hash of each pack that was part of it, by name.
        tests: how many tests the correction is for.
        p_value: two-sided.
        detectable: smallest true difference seen with 80 % power on this many questions.
        needed: questions with which an equally good candidate passes with 80 % power; None
            where the margin is 0.
        seconds: spent asking.
    """

    run_id: str
    alias: str
    candidate: str
    baseline: str
    verdict: Verdict
    reasons: list[str]
    packs: dict[str, str] = Field(default_factory=dict)
    sets: list[SetReport] = Field(default_factory=list)
    tests: int = 0
    confidence: float
    seconds: float = 0.0
    questions: int
    gold_hash: str
    margin: float
    gold_candidate: float | None = None
    gold_baseline: float | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    detectable: float | None = None
    needed: int | None = None
    fixed: list[str] = Field(default_factory=list)
    broken: list[str] = Field(default_factory=list)
    slices: dict[str, SliceReport] = Field(default_factory=dict)
    also: dict[str, float] = Field(default_factory=dict)
    truncated: dict[str, int] = Field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the candidate may take traffic."""
        return self.verdict == "pass"
