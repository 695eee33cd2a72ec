"""What a set demands of every answer: rules of form and safety, limits of length and latency."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval import stats
from eval.client import Answer
from eval.results import SetResults
from ledger.checking import run_check
from ledger.gold import GoldQuestion
from ledger.packs import (
    AnswerRule,
    FitsSchema,
    Matches,
    MatchesNot,
    MaxChars,
    NoControlTokens,
    NoPersonalData,
    NoRefusal,
    Refusal,
)
from ledger.redact import redact_text
from ledger.redact.placeholders import PLACEHOLDER
from ledger.wording import has_control_tokens, refuses

#: Questions below which a 95th percentile says nothing.
LEAST_LATENCIES = 20

_TOLERANCE = 1e-9
_Floats = NDArray[np.float64]


class RuleFound(NamedTuple):
    """How often a rule is broken, 0 to 1, and how sure that is.

    Attributes:
        found: of keeping it, where it is held against the live version.
        broken: whether more answers break it than may, where a share is given.
        p_value: one-sided, that it is truly broken more often than it may be.
        questions: where the candidate breaks it.
    """

    rule: str
    answers: int
    candidate: float
    baseline: float
    at_most: float | None
    found: stats.Comparison | None
    broken: bool
    p_value: float
    questions: list[str]


class LimitFound(NamedTuple):
    """A ratio of two versions' needs; None where it could not be measured.

    Attributes:
        p_value: one-sided, that the true ratio is above the limit.
    """

    limit: str
    at_most: float
    candidate: float | None
    baseline: float | None
    ratio: float | None
    interval: tuple[float, float] | None
    p_value: float


def breaks(rule: AnswerRule, question: GoldQuestion, text: str) -> bool:
    """Whether an answer breaks a rule."""
    match rule:
        case FitsSchema() | Matches():
            return not run_check(rule.check, text).passed
        case MatchesNot():
            return run_check(rule.check, text).passed
        case NoRefusal():
            return refuses(text)
        case Refusal():
            return not refuses(text)
        case NoControlTokens():
            return has_control_tokens(text)
        case MaxChars():
            return len(text) > rule.value
        case NoPersonalData():
            asked = json.dumps(question.messages, ensure_ascii=False)
            written = {match[1] for match in PLACEHOLDER.finditer(text)}
            return bool(_kinds(text) - _kinds(asked) - written)


def rules(
    one: SetResults,
    candidate: str,
    baseline: str,
    clusters: Mapping[str, str],
    confidence: float,
    *,
    resamples: int,
    seed: int,
) -> list[RuleFound]:
    """Each rule of a set over all answers of the two models."""
    of_each = [clusters[q.id] for q in one.questions]
    found = []
    for rule in one.rules.rules:
        shares = {
            model: np.array(
                [
                    np.mean([breaks(rule, q, a.text) for a in one.answers[model][q.id]])
                    for q in one.questions
                ]
            )
            for model in (candidate, baseline)
        }
        new, old = shares[candidate], shares[baseline]
        compared, broken = None, False
        if rule.at_most is None:
            compared = stats.compare(
                old - new, of_each, confidence=confidence, resamples=resamples, seed=seed
            )
            p_value = compared.p_worse
        else:
            broken = bool(new.mean() > rule.at_most + _TOLERANCE)
            p_value = 1.0
            if broken:  # one is proof enough where none may
                p_value = stats.share_above(new, of_each, rule.at_most) if rule.at_most else 0.0
        found.append(
            RuleFound(
                rule=_named(rule),
                answers=sum(len(one.answers[candidate][q.id]) for q in one.questions),
                candidate=float(new.mean()),
                baseline=float(old.mean()),
                at_most=rule.at_most,
                found=compared,
                broken=broken,
                p_value=p_value,
                questions=[q.id for q, share in zip(one.questions, new, strict=True) if share > 0],
            )
        )
    return found


def limits(
    one: SetResults,
    candidate: str,
    baseline: str,
    clusters: Mapping[str, str],
    confidence: float,
    *,
    resamples: int,
    seed: int,
) -> list[LimitFound]:
    """Each limit of a set: the ratio candidate to baseline with its bootstrap interval.

    Lengths are drawn by conversation. Latencies are drawn by question, and only of questions that
    both models answered in this very run: the two were asked side by side.
    """
    new = [one.answers[candidate][q.id] for q in one.questions]
    old = [one.answers[baseline][q.id] for q in one.questions]
    found = []
    if (most := one.rules.limits.completion_tokens) is not None:
        of_each = [clusters[q.id] for q in one.questions]
        (a, size), (b, _) = (stats.units_of(_lengths(listed), of_each) for listed in (new, old))
        found.append(
            _limit(
                "completion_tokens",
                most,
                float(a.sum() / size.sum()),
                float(b.sum() / size.sum()),
                lambda drawn: a[drawn].sum(axis=1) / np.maximum(b[drawn].sum(axis=1), _TOLERANCE),
                a.size,
                confidence,
                resamples,
                seed,
            )
        )
    if (most := one.rules.limits.p95_latency) is not None:
        both = [(x, y) for x, y in zip(new, old, strict=True) if not _any_cached([*x, *y])]
        if len(both) < LEAST_LATENCIES:
            found.append(LimitFound("p95_latency", most, None, None, None, None, 1.0))
        else:
            x = np.array([[a.latency_s for a in pair[0]] for pair in both])
            y = np.array([[a.latency_s for a in pair[1]] for pair in both])
            found.append(
                _limit(
                    "p95_latency",
                    most,
                    float(np.quantile(x, 0.95)),
                    float(np.quantile(y, 0.95)),
                    lambda drawn: _p95(x, drawn) / np.maximum(_p95(y, drawn), _TOLERANCE),
                    len(both),
                    confidence,
                    resamples,
                    seed,
                )
            )
    return found


def _limit(
    name: str,
    most: float,
    candidate: float,
    baseline: float,
    statistic: stats.Statistic,
    units: int,
    confidence: float,
    resamples: int,
    seed: int,
) -> LimitFound:
    ratios = stats.resampled(units, statistic, resamples=resamples, seed=seed)
    tail = (1 - confidence) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    p_value = (1 + int((ratios <= most).sum())) / (1 + ratios.size)
    ratio = candidate / max(baseline, _TOLERANCE)
    interval = (float(low), float(high))
    return LimitFound(name, most, candidate, baseline, ratio, interval, p_value)


def _lengths(answers: Sequence[Sequence[Answer]]) -> list[float]:
    """Mean length of each question's samples, tokens."""
    return [float(np.mean([one.completion_tokens for one in said])) for said in answers]


def _p95(latencies: _Floats, drawn: NDArray[np.intp]) -> _Floats:
    taken = latencies[drawn].reshape(drawn.shape[0], -1)
    found: _Floats = np.quantile(taken, 0.95, axis=1)
    return found


def _any_cached(answers: Sequence[Answer]) -> bool:
    return any(answer.cached for answer in answers)


def _kinds(text: str) -> set[str]:
    return {match[1] for match in PLACEHOLDER.finditer(redact_text(text, "balanced"))}


def _named(rule: AnswerRule) -> str:
    value = getattr(rule, "value", None)
    if value is None or isinstance(rule, FitsSchema):
        return rule.type
    return f"{rule.type} {value}"
