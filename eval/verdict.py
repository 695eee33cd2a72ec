"""From stored answers to a verdict. No model and no server is needed.

Everything in `GateReport` is derived from `EvalResults` by `judge`, so the same file always gives
the same verdict.

A set is judged by non-inferiority on paired differences, candidate minus baseline:

    pass          the interval's lower end is not below -margin
    fail          the interval lies below 0 and the test, corrected for all tests of the gate,
                  agrees
    underpowered  anything between: the questions cannot tell

To that come its slices, rules and limits; the set's verdict is the worst of all. Floors of slices
and shares of rules are held against what was observed: what breaks one never passes, and it fails
where that is no accident. A limit is broken only where its whole interval is.

The version's verdict is the worst of its required sets; a guard counts only where it fails. All
must pass, each at its own level: that needs no correction (Berger, Technometrics 24, 1982). That
any of them fails by accident would be likelier the more there are, so their p-values are
corrected by Holm's method over all sets, slices, rules and limits that can refuse the version.
With no true difference a fail then needs a one-sided error: at most half of 1 - confidence of the
time, whatever the number of sets. Margin alone never fails a version: on few questions the mean
falls below it by luck.

A candidate that answers exactly like the base model is not really live: it fails unasked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from eval import demands, power, scoring, stats
from eval.reasons import gate_reasons, set_reasons
from eval.reported import GateReport, LimitReport, RuleReport, SetReport, SliceReport, Verdict
from eval.results import CheckOutcome, EvalResults, Probe, SetResults, parse
from ledger.packs import ANY_SLICE, SliceRule
from ledger.settings import Gate
from ledger.store import Store

__all__ = [
    "CheckOutcome",
    "EvalResults",
    "GateReport",
    "Probe",
    "SetReport",
    "Verdict",
    "decide",
    "judge",
    "recompute",
]

_TOLERANCE = 1e-9  # means of thousandths are not exact in binary
_WORST: tuple[Verdict, ...] = ("fail", "underpowered", "pass")


def recompute(eval_results: Mapping[str, Any], store: Store | None = None) -> GateReport:
    """The verdict from the content of `eval_results.json`, with no model.

    Raises:
        RecordError: see `eval.results.parse`, or an answer is missing.
    """
    return judge(parse(eval_results, store))


def judge(results: EvalResults) -> GateReport:
    """Derive the report.

    Raises:
        RecordError: an answer is missing.
    """
    common: dict[str, Any] = {
        "run_id": results.run_id,
        "alias": results.alias,
        "candidate": results.candidate,
        "baseline": results.baseline,
        "packs": {pack.name: pack.pack_hash for pack in results.packs},
        "confidence": results.gate.confidence,
        "seconds": results.seconds,
    }
    if not any(probe.differs for probe in results.probes):
        reason = (
            f"{results.candidate} answers exactly like the base model {results.base_model} on "
            f"{len(results.probes)} probe(s), logprobs included: the adapter is not really live "
            "there, or training changed nothing"
        )
        first = results.sets[0]
        return GateReport(
            verdict="fail",
            reasons=[reason],
            questions=len(first.questions),
            gold_hash=first.question_hash,
            margin=_margin(first, results.gate),
            **common,
        )
    draws = _draws(results)
    examined = [_examine(one, results, draws) for one in results.sets if one.questions]
    corrected = _corrected(examined)
    reports = [
        _set_report(one, corrected[number], results, _count(examined))
        for number, one in enumerate(examined)
    ]
    deciding = [one.verdict for one in reports if one.role == "required"]
    deciding += [one.verdict for one in reports if one.role == "guard" and one.verdict == "fail"]
    verdict = worst(deciding)
    main = next((one for one in reports if one.role == "required"), reports[0])
    shared = (
        *("questions", "margin", "difference", "interval", "p_value", "detectable", "needed"),
        *("fixed", "broken", "slices", "also", "truncated"),
    )
    return GateReport(
        verdict=verdict,
        reasons=[*gate_reasons(verdict, reports, main), *_notes(results)],
        sets=reports,
        tests=_count(examined),
        gold_hash=main.question_hash,
        gold_candidate=main.candidate,
        gold_baseline=main.baseline,
        **{name: getattr(main, name) for name in shared},
        **common,
    )


def decide(
    interval: stats.Interval, p_worse: float, *, margin: float, confidence: float
) -> Verdict:
    """The rule for one difference. A loss equal to the margin is still accepted.

    Args:
        p_worse: one-sided, corrected for the number of tests.
    """
    if interval.low >= -margin - _TOLERANCE:
        return "pass"
    if interval.high < 0 and p_worse <= (1 - confidence) / 2 + _TOLERANCE:
        return "fail"
    return "underpowered"


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The worst of them; `pass` where there is none."""
    return min(verdicts, key=_WORST.index, default="pass")


class _Slice(NamedTuple):
    name: str
    rule: SliceRule | None
    candidate: float
    baseline: float
    found: stats.Comparison
    p_value: float | None  # one-sided, of the worse of what is broken


class _Examined(NamedTuple):
    """What is computed of a set before the correction."""

    results: SetResults
    scores: dict[str, dict[str, float]]
    found: stats.Comparison
    slices: list[_Slice]
    rules: list[demands.RuleFound]
    limits: list[demands.LimitFound]

    @property
    def p_values(self) -> list[float]:
        """Of everything that can make it fail: the difference first, then in the order above."""
        found = [self.found.p_worse]
        found += [one.p_value for one in self.slices if one.p_value is not None]
        found += [one.p_value for one in self.rules]
        return found + [one.p_value for one in self.limits]


def _notes(results: EvalResults) -> list[str]:
    """What was not asked, and why."""
    found = [f"{one.key} has no questions yet" for one in results.sets if not one.questions]
    return found + [
        f"{one.key}: {one.left_out} long answer(s) are left out: only a judge could compare them"
        for one in results.sets
        if one.left_out
    ]


def _draws(results: EvalResults) -> int:
    """Resamples: at least as many as the smallest corrected p-value needs to be seen."""
    tests = sum(
        1 + len(scoring.slices(one.questions)) + len(one.rules.rules) + 2 for one in results.sets
    )
    return max(results.gate.resamples, round(4 * tests / (1 - results.gate.confidence)))


def _margin(one: SetResults, gate: Gate) -> float:
    return gate.margin if one.rules.margin is None else one.rules.margin


def _examine(one: SetResults, results: EvalResults, draws: int) -> _Examined:
    gate, new, old = results.gate, results.candidate, results.baseline
    scores = scoring.scores(one, [new, old, *results.also], new, old)
    ids = [question.id for question in one.questions]
    clusters = scoring.clusters(one.questions)
    options = {"resamples": draws, "seed": results.bootstrap_seed}

    def compared(which: Sequence[str]) -> stats.Comparison:
        differences = [scores[new][i] - scores[old][i] for i in which]
        of_each = [clusters[i] for i in which]
        return stats.compare(differences, of_each, confidence=gate.confidence, **options)

    slices = []
    for name, members in scoring.slices(one.questions).items():
        rule = one.rules.slices.get(name, one.rules.slices.get(ANY_SLICE))
        candidate = scoring.mean(scores[new][i] for i in members)
        baseline = scoring.mean(scores[old][i] for i in members)
        found = compared(members)
        p_value = None
        if rule is not None:
            # Two tests where both are set: Bonferroni's correction, before that of all.
            both = 2 if None not in (rule.floor, rule.max_loss) else 1
            tails = [1.0]
            if _below(rule, candidate):
                values = [scores[new][i] for i in members]
                of_each = [clusters[i] for i in members]
                tails.append(stats.share_below(values, of_each, rule.floor or 0.0))
            if _lost(rule, candidate, baseline):
                tails.append(found.p_worse)
            p_value = min(1.0, both * min(tails))
        slices.append(_Slice(name, rule, candidate, baseline, found, p_value))
    return _Examined(
        one,
        scores,
        compared(ids),
        slices,
        demands.rules(one, new, old, clusters, gate.confidence, **options),
        demands.limits(one, new, old, clusters, gate.confidence, **options),
    )


def _below(rule: SliceRule, candidate: float) -> bool:
    return rule.floor is not None and candidate < rule.floor - _TOLERANCE


def _lost(rule: SliceRule, candidate: float, baseline: float) -> bool:
    return rule.max_loss is not None and baseline - candidate > rule.max_loss + _TOLERANCE


def _refuses(one: _Examined) -> bool:
    return one.results.rules.role != "informative"


def _count(examined: Sequence[_Examined]) -> int:
    return sum(len(one.p_values) for one in examined if _refuses(one))


def _corrected(examined: Sequence[_Examined]) -> list[list[float]]:
    """p-values of each set, corrected over all that can refuse; others as they are."""
    together = [p for one in examined if _refuses(one) for p in one.p_values]
    corrected = iter(stats.holm(together))
    return [
        [next(corrected) for _ in one.p_values] if _refuses(one) else list(one.p_values)
        for one in examined
    ]


def _set_report(
    one: _Examined, corrected: Sequence[float], results: EvalResults, tests: int
) -> SetReport:
    gate, given, found = results.gate, one.results, one.found
    new, old = results.candidate, results.baseline
    level, margin = (1 - gate.confidence) / 2, _margin(given, gate)
    left = iter(corrected)
    own = decide(found.interval, next(left), margin=margin, confidence=gate.confidence)
    slices = {}
    for part in one.slices:
        p_value = None if part.p_value is None else next(left)
        verdict: Verdict | None = None
        if part.rule is not None and p_value is not None:
            broken = _below(part.rule, part.candidate)
            broken |= _lost(part.rule, part.candidate, part.baseline)
            verdict = _observed(broken, p_value, level)
        slices[part.name] = SliceReport(
            questions=part.found.questions,
            candidate=part.candidate,
            baseline=part.baseline,
            interval=tuple(part.found.interval),
            p_value=p_value,
            floor=part.rule and part.rule.floor,
            max_loss=part.rule and part.rule.max_loss,
            verdict=verdict,
        )
    rules = []
    for kept in one.rules:
        p_value = next(left)
        if kept.found is None:
            verdict = _observed(kept.broken, p_value, level)
        else:
            verdict = decide(
                kept.found.interval, p_value, margin=margin, confidence=gate.confidence
            )
        rules.append(
            RuleReport(
                rule=kept.rule,
                answers=kept.answers,
                candidate=kept.candidate,
                baseline=kept.baseline,
                at_most=kept.at_most,
                verdict=verdict,
                p_value=p_value,
                questions=kept.questions,
            )
        )
    limits = []
    for limit in one.limits:
        p_value = next(left)
        limits.append(
            LimitReport(
                **limit._asdict() | {"p_value": p_value},
                verdict="fail" if p_value <= level else "pass",
            )
        )
    ids = [question.id for question in given.questions]
    scores = one.scores
    # A loss that Holm's method would find for certain, were it the only one: Bonferroni's level.
    refusing = max(1, tests if _refuses(one) else 1)
    report = SetReport(
        pack=given.pack,
        name=given.name,
        kind=given.rules.kind,
        role=given.rules.role,
        verdict=worst(
            [own]
            + [part.verdict for part in slices.values() if part.verdict is not None]
            + [kept.verdict for kept in rules]
            + [limit.verdict for limit in limits]
        ),
        reasons=[],
        questions=len(ids),
        units=found.units,
        samples=int(given.sampling["samples"]),
        question_hash=given.question_hash,
        margin=margin,
        method=found.method,
        candidate=scoring.mean(scores[new].values()),
        baseline=scoring.mean(scores[old].values()),
        difference=found.difference,
        interval=tuple(found.interval),
        p_value=found.p_value,
        p_corrected=corrected[0],
        detectable=power.detectable(found, confidence=1 - (1 - gate.confidence) / refusing),
        needed=power.needed(found, margin, confidence=gate.confidence),
        fixed=[i for i in ids if scores[new][i] > scores[old][i]],
        broken=[i for i in ids if scores[new][i] < scores[old][i]],
        both_wrong=[i for i in ids if scores[new][i] == scores[old][i] == 0],
        slices=slices,
        rules=rules,
        limits=limits,
        agreement=scoring.agreement(given, gate.confidence),
        also={m: scoring.mean(scores[m].values()) for m in results.also if m in scores},
        truncated={
            model: sum(a.finish_reason == "length" for said in listed.values() for a in said)
            for model, listed in given.answers.items()
        },
        forgotten=given.forgotten,
    )
    return report.model_copy(update={"reasons": set_reasons(report, own)})


def _observed(broken: bool, p_value: float, level: float) -> Verdict:
    """Of a rule about what was observed: broken by accident or for certain, or kept."""
    if not broken:
        return "pass"
    return "fail" if p_value <= level + _TOLERANCE else "underpowered"
