"""Results and a report of a gate, made by hand: three sets, one of them of users' rows."""

from __future__ import annotations

from typing import Any

from eval.client import Answer
from eval.reported import GateReport, LimitReport, RuleReport, SetReport, SliceReport
from eval.results import CheckOutcome, EvalResults, PackUsed, SetResults, question_hash
from ledger.gold import GoldQuestion
from ledger.packs import FailureSet, GoldSet
from ledger.settings import Gate

NEW, OLD = "support@v2", "support@v1"
SECRET = "my card ends in four and I live by the mill"


def answer(model: str, text: str, **more: Any) -> Answer:
    return Answer(
        model=model,
        text=text,
        finish_reason=more.pop("finish_reason", "stop"),
        prompt_tokens=10,
        completion_tokens=3,
        latency_s=0.5,
        **more,
    )


def gold(number: int, said: str = "Where is order {}?") -> GoldQuestion:
    return GoldQuestion.model_validate(
        {
            "id": f"q{number}",
            "messages": [
                {"role": "system", "content": "Name the queue"},
                {"role": "user", "content": said.format(number)},
            ],
            "checks": [{"type": "normalised", "value": "delivery"}],
            "slice": "parcels" if number % 2 else "letters | post",
        }
    )


def _set(
    rules: Any, pack: str, questions: list[GoldQuestion], wrong: dict[str, set[str]], **more: Any
) -> SetResults:
    """A set; `wrong` names the questions that each model answers wrongly."""
    answers: dict[str, dict[str, list[Answer]]] = {}
    checks: dict[str, dict[str, list[list[CheckOutcome]]]] = {}
    for model in (NEW, OLD):
        for question in questions:
            bad = question.id in wrong[model]
            text = f"the <b>billing</b> team of {model}" if bad else "delivery"
            answers.setdefault(model, {})[question.id] = [answer(model, text)]
            reason = "is not 'delivery'" if bad else ""
            outcome = CheckOutcome(passed=not bad, reason=reason)
            checks.setdefault(model, {})[question.id] = [[outcome]]
    return SetResults(
        pack=pack,
        name=rules.name,
        rules=rules,
        sampling={"temperature": 0, "seed": 0, "samples": 1, "max_tokens": 16},
        questions=questions,
        question_hash=question_hash(questions, of_users=isinstance(rules, FailureSet)),
        answers=answers,
        checks=checks,
        **more,
    )


def _report(one: SetResults, verdict: str, **more: Any) -> SetReport:
    ids = [question.id for question in one.questions]

    def right(model: str, number: str) -> bool:
        return one.checks[model][number][0][0].passed

    score = {model: sum(right(model, n) for n in ids) / len(ids) for model in (NEW, OLD)}
    difference = score[NEW] - score[OLD]
    fields: dict[str, Any] = {
        "kind": one.rules.kind,
        "role": one.rules.role,
        "reasons": [f"the difference lies around {100 * difference:+.1f} points"],
        "questions": len(ids),
        "units": len(ids),
        "samples": 1,
        "question_hash": one.question_hash,
        "margin": 0.02,
        "method": "exact McNemar",
        "candidate": score[NEW],
        "baseline": score[OLD],
        "difference": difference,
        "interval": (difference - 0.05, difference + 0.05),
        "p_value": 0.2,
        "p_corrected": 0.0004,
        "detectable": 0.11,
        "needed": 1200,
        "fixed": [n for n in ids if right(NEW, n) and not right(OLD, n)],
        "broken": [n for n in ids if right(OLD, n) and not right(NEW, n)],
        "both_wrong": [n for n in ids if not right(NEW, n) and not right(OLD, n)],
    }
    return SetReport.model_validate(
        {"pack": one.pack, "name": one.name, "verdict": verdict, **fields, **more}
    )


def made(verdict: str = "fail") -> tuple[GateReport, EvalResults]:
    """A gate on 20 gold questions, 6 on format and 4 past failures."""
    main = _set(
        GoldSet(name="gold", kind="gold", gold=("g.jsonl",), margin=0.02),
        "gold",
        [gold(number) for number in range(20)],
        {NEW: {"q1", "q2", "q9"}, OLD: {"q9", "q11"}},
    )
    form = _set(
        GoldSet(name="form", kind="gold", gold=("f.jsonl",), role="informative", margin=0),
        "house",
        [gold(number, "Say {}") for number in range(100, 106)],
        {NEW: {"q101"}, OLD: set()},
    )
    rows = [
        gold(number).model_copy(
            update={"id": f"chatcmpl-{number}", "messages": [{"role": "user", "content": SECRET}]}
        )
        for number in range(4)
    ]
    past = _set(
        FailureSet(name="past", kind="failures", role="guard", margin=0.02),
        "house",
        rows,
        {NEW: {"chatcmpl-0"}, OLD: {"chatcmpl-1", "chatcmpl-2"}},
    )
    slices = {
        "letters | post": SliceReport(
            questions=10, candidate=0.9, baseline=1.0, floor=0.95, verdict="fail", p_value=0.01
        ),
        "parcels": SliceReport(questions=10, candidate=0.8, baseline=0.8),
    }
    rule = RuleReport(
        rule="no_control_tokens",
        answers=20,
        candidate=0.1,
        baseline=0.0,
        at_most=0.0,
        verdict="fail",
        p_value=0.01,
        questions=["q1", "q2"],
    )
    limit = LimitReport(
        limit="completion_tokens",
        at_most=1.5,
        candidate=6.0,
        baseline=3.0,
        ratio=2.0,
        interval=(1.8, 2.2),
        verdict="fail",
        p_value=0.01,
    )
    sets = [
        _report(main, verdict, slices=slices, rules=[rule], limits=[limit]),
        _report(form, "underpowered"),
        _report(past, "pass", forgotten=1),
    ]
    first = sets[0]
    report = GateReport(
        run_id="r1",
        alias="support",
        candidate=NEW,
        baseline=OLD,
        verdict=verdict,  # type: ignore[arg-type]
        reasons=first.reasons,
        packs={"gold": "fw1:pack:a", "house": "fw1:pack:b"},
        sets=sets,
        tests=5,
        confidence=0.95,
        seconds=12.5,
        questions=first.questions,
        gold_hash=first.question_hash,
        margin=first.margin,
        gold_candidate=first.candidate,
        gold_baseline=first.baseline,
        difference=first.difference,
        interval=first.interval,
        p_value=first.p_value,
        fixed=first.fixed,
        broken=first.broken,
        also={"tiny": 0.25},
    )
    results = EvalResults(
        run_id="r1",
        alias="support",
        candidate=NEW,
        baseline=OLD,
        base_model="tiny",
        also=["tiny"],
        created=1_790_000_000.0,
        seconds=12.5,
        gate=Gate(),
        packs=[
            PackUsed(name=name, pack_hash=hash_, description="", origin="configured")
            for name, hash_ in report.packs.items()
        ],
        sets=[main, form, past],
        probes=[],
        bootstrap_seed=0,
        packages={},
        asked=50,
        cached=10,
    )
    return report, results
