"""Every question whose answers are worth a look: fixed, broken, or wrong with both versions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from eval.client import Answer
from eval.reported import GateReport, SetReport
from eval.results import EvalResults, SetResults
from ledger.checks import AnyOf, Check, Contains, NoneOf, Regex
from ledger.gold import GoldQuestion

Kind = Literal["broken", "fixed", "both wrong"]
KINDS: tuple[Kind, ...] = ("broken", "fixed", "both wrong")


class Said(NamedTuple):
    """An answer and why it does not do; `why` is "" where it does."""

    text: str
    why: str
    cut: bool


class Changed(NamedTuple):
    """A question with the answers of both versions, one a sample.

    Attributes:
        row: of a question that is a stored row, its id. Such a question has no texts here.
        turns: role and text of each message.
        wanted: what the checks ask for, in words.
        judged: what a judge preferred, one a sample.
    """

    kind: Kind
    id: str
    row: str | None
    slice: str | None
    turns: list[tuple[str, str]]
    wanted: str
    before: list[Said]
    after: list[Said]
    judged: list[str]


def changed(report: SetReport, results: SetResults, gate: EvalResults) -> list[Changed]:
    """The questions of one set, broken ones first."""
    questions = {question.id: question for question in results.questions}
    lists = {"broken": report.broken, "fixed": report.fixed, "both wrong": report.both_wrong}
    return [
        _one(kind, questions[number], results, gate)
        for kind in KINDS
        for number in lists[kind]
        if number in questions
    ]


def sets_of(
    report: GateReport, results: EvalResults
) -> Iterator[tuple[SetReport, SetResults | None]]:
    """Each set's report with what it was made from."""
    by_key = {one.key: one for one in results.sets}
    for one in report.sets:
        yield one, by_key.get(f"{one.pack}/{one.name}")


def _one(kind: Kind, question: GoldQuestion, results: SetResults, gate: EvalResults) -> Changed:
    if results.of_users:
        return Changed(kind, question.id, question.id, None, [], "", [], [], [])
    judged = [one.preferred for one in results.judgements if one.question == question.id]
    wanted = "; ".join(map(in_words, question.checks))
    return Changed(
        kind,
        question.id,
        None,
        question.slice,
        [(str(m.get("role", "?")), text_of(m)) for m in question.messages],
        wanted or (question.reference or ""),
        _said(results, gate.baseline, question.id),
        _said(results, gate.candidate, question.id),
        list(judged),
    )


def _said(results: SetResults, model: str, number: str) -> list[Said]:
    answers: list[Answer] = results.answers.get(model, {}).get(number, [])
    outcomes = results.checks.get(model, {}).get(number, [])
    found = []
    for sample, answer in enumerate(answers):
        checks = outcomes[sample] if sample < len(outcomes) else []
        why = "; ".join(check.reason for check in checks if check.reason)
        found.append(Said(answer.text, why, answer.finish_reason == "length"))
    return found


def text_of(message: dict[str, Any]) -> str:
    """A message's content as one text; calls of tools as JSON."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        content = "\n".join(part if part is not None else "(not text)" for part in parts)
    if content:
        return str(content)
    calls = [call.get("function", {}) for call in message.get("tool_calls") or ()]
    return json.dumps(calls, ensure_ascii=False) if calls else ""


def in_words(check: Check) -> str:
    """What a check asks for."""
    match check:
        case AnyOf():
            return " or ".join(map(in_words, check.value))
        case NoneOf():
            return "not " + " and not ".join(map(in_words, check.value))
        case Contains():
            return f"contains “{check.value}”"
        case Regex():
            return f"matches {check.value}"
        case _:
            value = check.value
            said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            return said if check.type in ("exact", "normalised") else f"{check.type}: {said}"
