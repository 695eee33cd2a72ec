"""Scores of the questions of a set, 0 to 1, from what was said to them.

By checks: the share of a question's samples that pass all of them. By a judge: 1 for the answer
it prefers, a half to both for a tie; the words are read again each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from eval import stats
from eval.judge import words
from eval.reported import Agreement
from eval.results import CheckOutcome, SetResults
from ledger import checking
from ledger.errors import RecordError
from ledger.gold import GoldQuestion
from ledger.packs import JudgeSet

Scores = dict[str, dict[str, float]]


def is_judged(one: SetResults, question: GoldQuestion) -> bool:
    """Whether a judge scores a question of a set, not its checks."""
    return isinstance(one.rules, JudgeSet) or not question.checks


def scores(one: SetResults, models: Sequence[str], candidate: str, baseline: str) -> Scores:
    """By model, then by question. Models other than the two are left out where a judge scores.

    Raises:
        RecordError: an answer or a judgement is missing.
    """
    judged = {q.id for q in one.questions if is_judged(one, q)}
    shown = [m for m in dict.fromkeys(models) if not judged or m in (candidate, baseline)]
    _require_answers(one, shown)
    found: Scores = {
        model: {
            q.id: mean(checking.score(q, a.text).value for a in one.answers[model][q.id])
            for q in one.questions
            if q.id not in judged
        }
        for model in shown
    }
    if judged:
        wins = _wins(one, judged)
        # In the order of the questions, whoever scored them.
        for model, sign in ((candidate, 1), (baseline, -1)):
            own = found[model]
            found[model] = {
                q.id: own[q.id] if q.id in own else 0.5 + sign * (wins[q.id] - 0.5)
                for q in one.questions
            }
    return found


def outcomes(one: SetResults) -> dict[str, dict[str, list[list[CheckOutcome]]]]:
    """What each check said of each answer, for readers."""
    return {
        model: {
            q.id: [
                [
                    CheckOutcome(passed=check.passed, reason=check.reason)
                    for check in checking.score(q, answer.text).checks
                ]
                for answer in given[q.id]
            ]
            for q in one.questions
            if q.id in given
        }
        for model, given in one.answers.items()
    }


def clusters(questions: Sequence[GoldQuestion]) -> dict[str, str]:
    """The unit that each question belongs to: its conversation, else itself."""
    return {
        q.id: f"question {q.id}" if q.conversation is None else f"conversation {q.conversation}"
        for q in questions
    }


def slices(questions: Sequence[GoldQuestion]) -> dict[str, list[str]]:
    """Ids of the questions of each slice, by the slice's name."""
    members: dict[str, list[str]] = {}
    for question in questions:
        if question.slice is not None:
            members.setdefault(question.slice, []).append(question.id)
    return dict(sorted(members.items()))


def agreement(one: SetResults, confidence: float) -> Agreement | None:
    """How far the judge agrees with people; None where nobody was asked."""
    if not one.calibrations:
        return None
    names = {"first": "a", "second": "b", "tie": "tie"}
    judged = [names[words.winner(c.a_first, c.b_first)] for c in one.calibrations]
    human = [c.human for c in one.calibrations]
    hits = sum(a == b for a, b in zip(judged, human, strict=True))
    return Agreement(
        pairs=len(human),
        share=hits / len(human),
        interval=tuple(stats.share_interval(hits, len(human), confidence=confidence)),
        kappa=stats.kappa(judged, human),
        turned=mean(float(words.turned(c.a_first, c.b_first)) for c in one.calibrations),
    )


def mean(values: Iterable[float]) -> float:
    """Their mean; there is at least one."""
    listed = list(values)
    return float(sum(listed) / len(listed))


def _wins(one: SetResults, judged: set[str]) -> dict[str, float]:
    """Score of the candidate's answers, over the samples of each question."""
    worth = {"first": 1.0, "tie": 0.5, "second": 0.0}
    found: dict[str, list[float]] = {}
    for said in one.judgements:
        preferred = words.winner(said.candidate_first, said.baseline_first)
        found.setdefault(said.question, []).append(worth[preferred])
    missing = [i for i in sorted(judged) if len(found.get(i, ())) != one.sampling["samples"]]
    if missing:
        raise RecordError(
            f"{one.key}: {len(missing)} question(s) were not judged, first {missing[0]!r}",
            field="judgements",
        )
    return {i: mean(found[i]) for i in judged}


def _require_answers(one: SetResults, models: Sequence[str]) -> None:
    for model in models:
        given: Mapping[str, Sequence[object]] = one.answers.get(model, {})
        missing = [
            q.id for q in one.questions if len(given.get(q.id, ())) != one.sampling["samples"]
        ]
        if missing:
            raise RecordError(
                f"{one.key}: {model} has no answer to {len(missing)} question(s), first "
                f"{missing[0]!r}",
                field=f"answers.{model}",
            )
