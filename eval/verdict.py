"""From stored answers to a verdict. No model and no server is needed.

`EvalResults` is the file `eval_results.json`: whatever the verdict follows from. Everything in
`GateReport` is derived from it by `judge`, so the same file always gives the same verdict.

The rule is non-inferiority on paired differences, candidate minus baseline:

    pass          the interval's lower end is not below -margin
    fail          the interval lies below 0 and the exact McNemar test agrees; or the candidate
                  answers exactly like the base model, so it is not really live
    underpowered  anything between: the questions cannot tell. It is refused too

With no true difference a fail needs a two-sided test to err to one side: at most half of
1 - confidence of the time. Margin alone never fails a version: on few questions the mean
falls below it by luck.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval import stats
from eval.client import Answer, TokenLogprob
from ledger import checking
from ledger.errors import RecordError
from ledger.gold import GoldQuestion, gold_hash
from ledger.settings import Gate

Verdict = Literal["pass", "fail", "underpowered"]

#: Logprobs closer than this are taken for equal, nats.
SAME_NATS = 1e-3

_TOLERANCE = 1e-9  # means of thousandths are not exact in binary


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Probe(_Stored):
    """The first tokens of three answers to one question, asked one after the other."""

    question: str
    base: list[TokenLogprob]
    candidate: list[TokenLogprob]
    base_again: list[TokenLogprob]

    @property
    def differs(self) -> bool:
        """Whether the candidate differs from the base by more than the base from itself.

        A server that batches and caches does not compute the same prompt alike twice.
        """
        noise = _distance(self.base, self.base_again)
        return _distance(self.base, self.candidate) > max(SAME_NATS, 2 * noise)


class CheckOutcome(_Stored):
    """The result of one check; `reason` is "" where it passed."""

    passed: bool
    reason: str


class EvalResults(_Stored):
    """All that a verdict follows from, and under which conditions it was asked.

    `answers` and `checks` go by model, then by question id. `checks` is there to be read:
    the verdict is derived from the answers' texts. The questions and answers are kept as they
    are, not redacted, for a check could not be repeated on anything else.
    """

    format: Literal[1] = 1
    run_id: str
    alias: str
    candidate: str
    baseline: str
    base_model: str
    also: list[str] = Field(default_factory=list)
    created: float = Field(description="seconds since the epoch, UTC")
    seconds: float = Field(description="spent asking")
    gate: Gate
    gold_hash: str
    questions: list[GoldQuestion]
    probes: list[Probe]
    answers: dict[str, dict[str, Answer]]
    checks: dict[str, dict[str, list[CheckOutcome]]]
    sampling: dict[str, float]
    bootstrap_seed: int
    packages: dict[str, str]
    template_hash: str | None = None
    report: dict[str, Any] | None = Field(None, description="the `GateReport` of that time")


class SliceReport(_Stored):
    """Mean scores, 0 to 1, over one part of the gold set."""

    questions: int
    candidate: float
    baseline: float


class GateReport(_Stored):
    """A verdict and what it rests on. Scores and differences are 0 to 1, not per cent.

    Where the candidate turned out not to be live nothing was asked: scores are None.

    Attributes:
        interval: of `difference`, at the level `confidence`.
        p_value: two-sided exact McNemar test.
        detectable: smallest true difference seen with 80 % power on this many questions.
        needed: questions with which an equally good candidate passes with 80 % power; None
            where the margin is 0.
        fixed, broken: ids of questions that only the candidate, only the baseline got right.
        also: mean scores of models that were asked for information.
        truncated: answers of each model that reached their longest length.
    """

    run_id: str
    alias: str
    candidate: str
    baseline: str
    verdict: Verdict
    reasons: list[str]
    questions: int
    gold_hash: str
    margin: float
    confidence: float
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
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the candidate may take traffic."""
        return self.verdict == "pass"


def recompute(eval_results: dict[str, Any]) -> GateReport:
    """The verdict from the content of `eval_results.json`, with no model.

    Raises:
        RecordError: it is not such a file, lacks answers, or its questions were changed.
    """
    try:
        results = EvalResults.model_validate(eval_results)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RecordError(
            f"not the results of a gate: {field}: {first['msg']}", field=field
        ) from error
    found = gold_hash(results.questions)
    if found != results.gold_hash:
        raise RecordError(
            f"the questions have the hash {found}, the file says {results.gold_hash}",
            field="gold_hash",
            rule="Results belong to the questions that were asked.",
        )
    return judge(results)


def judge(results: EvalResults) -> GateReport:
    """Derive the report.

    Raises:
        RecordError: an answer is missing.
    """
    gate = results.gate
    common: dict[str, Any] = {
        "run_id": results.run_id,
        "alias": results.alias,
        "candidate": results.candidate,
        "baseline": results.baseline,
        "questions": len(results.questions),
        "gold_hash": results.gold_hash,
        "margin": gate.margin,
        "confidence": gate.confidence,
        "seconds": results.seconds,
    }
    if not any(probe.differs for probe in results.probes):
        reason = (
            f"{results.candidate} answers exactly like the base model {results.base_model} on "
            f"{len(results.probes)} probe(s), logprobs included: the adapter is not really live "
            "there, or training changed nothing"
        )
        return GateReport(verdict="fail", reasons=[reason], **common)

    scores = {
        model: _scores(results, model)
        for model in dict.fromkeys([results.candidate, results.baseline, *results.also])
    }
    candidate, baseline = scores[results.candidate], scores[results.baseline]
    ids = [question.id for question in results.questions]
    differences = [candidate[i] - baseline[i] for i in ids]
    interval = stats.bootstrap_interval(
        differences,
        confidence=gate.confidence,
        resamples=gate.resamples,
        seed=results.bootstrap_seed,
    )
    fixed = [i for i in ids if candidate[i] > baseline[i]]
    broken = [i for i in ids if candidate[i] < baseline[i]]
    p_value = stats.mcnemar_exact(len(fixed), len(broken))
    discordant = stats.discordance(differences)
    detectable = stats.detectable_difference(len(ids), discordant, confidence=gate.confidence)
    needed = stats.questions_needed(gate.margin, discordant, confidence=gate.confidence)
    verdict = decide(interval, p_value, margin=gate.margin, confidence=gate.confidence)
    return GateReport(
        verdict=verdict,
        reasons=_reasons(verdict, interval, len(ids), detectable, needed, gate),
        gold_candidate=_mean(candidate.values()),
        gold_baseline=_mean(baseline.values()),
        difference=_mean(differences),
        interval=(interval.low, interval.high),
        p_value=p_value,
        detectable=detectable,
        needed=needed,
        fixed=fixed,
        broken=broken,
        slices=_slices(results.questions, candidate, baseline),
        also={model: _mean(scores[model].values()) for model in results.also},
        truncated={
            model: sum(a.finish_reason == "length" for a in results.answers[model].values())
            for model in scores
        },
        **common,
    )


def decide(
    interval: stats.Interval, p_value: float, *, margin: float, confidence: float
) -> Verdict:
    """The rule in this module's docstring. A loss equal to the margin is still accepted."""
    if interval.low >= -margin - _TOLERANCE:
        return "pass"
    if interval.high < 0 and p_value < 1 - confidence:
        return "fail"
    return "underpowered"


def _reasons(
    verdict: Verdict,
    interval: stats.Interval,
    questions: int,
    detectable: float,
    needed: int | None,
    gate: Gate,
) -> list[str]:
    low, high = 100 * interval.low, 100 * interval.high
    where = f"the difference lies between {low:+.1f} and {high:+.1f} points"
    sight = (
        f"{questions} questions show differences of {100 * detectable:.1f} points and more "
        f"{stats.POWER:.0%} of the time, smaller ones less often"
    )
    if verdict == "pass":
        return [f"{where}: no loss of more than the {100 * gate.margin:g} accepted", sight]
    if verdict == "fail":
        return [f"{where}: the candidate is worse than the version it would replace"]
    more = (
        "with a margin of 0 no number of questions is enough for two equal versions: raise "
        "gate.margin"
        if needed is None
        else f"about {needed} questions would let an equally good candidate pass"
    )
    return [
        f"{where}: that rules out neither a loss of more than the {100 * gate.margin:g} points "
        "accepted nor that nothing got worse",
        sight,
        more,
    ]


def _scores(results: EvalResults, model: str) -> dict[str, float]:
    answers = results.answers.get(model, {})
    missing = [q.id for q in results.questions if q.id not in answers]
    if missing:
        raise RecordError(
            f"{model} has no answer to {len(missing)} question(s), first {missing[0]!r}",
            field=f"answers.{model}",
        )
    return {q.id: checking.score(q, answers[q.id].text).value for q in results.questions}


def _slices(
    questions: list[GoldQuestion], candidate: dict[str, float], baseline: dict[str, float]
) -> dict[str, SliceReport]:
    members: dict[str, list[str]] = {}
    for question in questions:
        if question.slice is not None:
            members.setdefault(question.slice, []).append(question.id)
    return {
        name: SliceReport(
            questions=len(ids),
            candidate=_mean([candidate[i] for i in ids]),
            baseline=_mean([baseline[i] for i in ids]),
        )
        for name, ids in sorted(members.items())
    }


def _mean(values: Any) -> float:
    listed = list(values)
    return float(sum(listed) / len(listed))


def _distance(a: list[TokenLogprob], b: list[TokenLogprob]) -> float:
    """Largest difference of logprobs, nats; infinite where the tokens differ."""
    if [item.token for item in a] != [item.token for item in b]:
        return float("inf")
    return max((abs(x.logprob - y.logprob) for x, y in zip(a, b, strict=True)), default=0.0)
