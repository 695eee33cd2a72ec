"""Asking a judge: both orders of every pair, each pair once for all gates.

The judge is a model behind any OpenAI-compatible endpoint (`gate.judge`). What it said is kept in
the ledger as the gate's other answers are; where the pair holds a stored row's text it is sealed
as the row is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from eval.asking import Wanted, ask
from eval.client import Client, Sampling
from eval.judge import words
from eval.results import Calibration, Judgement, JudgeUse, Preferred, SetResults
from eval.scoring import is_judged
from ledger.errors import ServerError
from ledger.gold import GoldQuestion
from ledger.hashing import content_hash
from ledger.packs import FailureSet, JudgeSet
from ledger.settings.curation import Teacher
from ledger.store import Spent, Store

_MILLION = 1e6
_PREFERRED: dict[str, Preferred] = {"first": "candidate", "second": "baseline", "tie": "tie"}


class _Pair(NamedTuple):
    """Two answers to one question; `calibrates` is the number of a pair that people compared."""

    of: SetResults
    question: GoldQuestion
    sample: int
    first: str
    second: str
    calibrates: int | None


async def judged(
    sets: Sequence[SetResults],
    judge: Teacher,
    *,
    candidate: str,
    baseline: str,
    store: Store,
    alias: str,
    days: float,
    on_progress: Callable[[int, int, int], None] | None = None,
) -> tuple[list[SetResults], JudgeUse]:
    """The sets with the judge's words on them, and what that took.

    What it cost is also recorded in the ledger.

    Raises:
        ServerError: the judge fails. What it said before stays kept.
    """
    pairs = [pair for one in sets for pair in _pairs(one, candidate, baseline)]
    wanted = [
        Wanted(
            id=f"{number}/{order}",
            messages=words.question(
                pair.question.messages,
                *((pair.first, pair.second) if order == 0 else (pair.second, pair.first)),
                rubric=_rubric(pair.of),
                reference=pair.question.reference,
                instructions=judge.instructions,
            ),
            max_tokens=judge.max_tokens,
            row_id=pair.question.id if pair.of.of_users else None,
            sampling=Sampling(temperature=judge.temperature),
        )
        for number, pair in enumerate(pairs)
        for order in (0, 1)
    ]
    key = os.environ.get(judge.key_variable) or "none"
    try:
        async with Client(
            judge.url,
            key,
            concurrency=judge.concurrency,
            timeout_seconds=judge.timeout_seconds,
            retries=judge.retries,
            any_model=True,
        ) as client:
            done = await ask(
                client,
                wanted,
                [judge.model],
                store=store,
                alias=alias,
                known={judge.model: content_hash("model", {"url": judge.url, "m": judge.model})},
                days=days,
                on_progress=on_progress,
            )
    except ServerError as error:
        raise ServerError(
            f"the judge {judge.model}: {error.problem}",
            rule=error.rule,
            remedy=f"See gate.judge; its key is read from {judge.key_variable}.",
        ) from error
    given = done.answers[judge.model]
    said = [(given[f"{n}/0"][0], given[f"{n}/1"][0]) for n in range(len(pairs))]
    new = [answer for both in said for answer in both if not answer.cached]
    asked, written = sum(a.prompt_tokens for a in new), sum(a.completion_tokens for a in new)
    cost = _cost(judge, asked, written)
    if new:
        store.add_spending(
            alias,
            "judge",
            judge.model,
            Spent(len(new), asked, written, cost),
            version=candidate,
        )
    use = JudgeUse(
        model=judge.model,
        calls=len(new),
        cached=done.cached,
        prompt_tokens=asked,
        completion_tokens=written,
        cost=cost,
    )
    spoken = [(pair, a.text, b.text) for pair, (a, b) in zip(pairs, said, strict=True)]
    return [_with(one, [item for item in spoken if item[0].of is one]) for one in sets], use


def needs_judge(one: SetResults) -> bool:
    """Whether a set has questions that only a judge can score."""
    return any(is_judged(one, question) for question in one.questions)


def _pairs(one: SetResults, candidate: str, baseline: str) -> list[_Pair]:
    pairs = []
    for question in one.questions:
        if not is_judged(one, question):
            continue
        new, old = one.answers[candidate][question.id], one.answers[baseline][question.id]
        for sample, (a, b) in enumerate(zip(new, old, strict=True)):
            pairs.append(_Pair(one, question, sample, a.text, b.text, None))
        for number, labelled in enumerate(question.human or ()):
            pairs.append(_Pair(one, question, 0, labelled.a, labelled.b, number))
    return pairs


def _with(one: SetResults, spoken: Sequence[tuple[_Pair, str, str]]) -> SetResults:
    judgements, calibrations = [], []
    for pair, first, second in spoken:
        found = words.winner(first, second)
        if pair.calibrates is None:
            judgements.append(
                Judgement(
                    question=pair.question.id,
                    sample=pair.sample,
                    candidate_first=first,
                    baseline_first=second,
                    preferred=_PREFERRED[found],
                )
            )
            continue
        labelled = (pair.question.human or [])[pair.calibrates]
        names: dict[str, Any] = {"first": "a", "second": "b", "tie": "tie"}
        calibrations.append(
            Calibration(
                question=pair.question.id,
                pair=pair.calibrates,
                human=labelled.preferred,
                a_first=first,
                b_first=second,
                judged=names[found],
            )
        )
    changed = {"judgements": judgements, "calibrations": calibrations}
    return one.model_copy(update=changed)


def _rubric(one: SetResults) -> str:
    assert isinstance(one.rules, JudgeSet | FailureSet)
    return one.rules.rubric


def _cost(judge: Teacher, prompt: int, completion: int) -> float | None:
    if judge.prompt_price is None or judge.completion_price is None:
        return None
    return (prompt * judge.prompt_price + completion * judge.completion_price) / _MILLION
