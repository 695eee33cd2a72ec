"""The gold questions, put to the live endpoint on a schedule, against the best answers it gave.

The same questions are compared one by one, so a hard question is hard on both sides. `best` is
raised only by a pass that is better beyond chance: the best of many equal passes would be a lucky
one. A change of the questions begins anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from eval.stats import bootstrap_interval, mcnemar_exact
from ledger import checking
from ledger import settings as configuration
from ledger.gold import GoldQuestion
from ledger.packs import load_packs
from ledger.settings import Settings

#: Asks a version, named as it is served, and returns each question's score, 0 to 1.
AskGold = Callable[[str], Mapping[str, float]]


class Drop(NamedTuple):
    """Points lost against the best, 0 to 1, with an interval; negative: better than ever.

    Attributes:
        best: mean score of the best pass.
        questions: compared.
    """

    value: float
    low: float
    high: float
    best: float
    questions: int


def gold_asker(settings: Settings, alias: str, url: str) -> AskGold | None:
    """Asks the gold questions of an alias at a server; None where the alias has none.

    Args:
        url: of the API, ending in /v1.

    Raises:
        GoldError: the questions cannot be read.
        ConfigError: the key file cannot be read.
    """
    from eval.asking import concurrency  # brings the openai client: seconds
    from eval.client import Client, Question

    gate = settings.alias(alias).gate
    questions = {
        f"{loaded.pack.name}/{one.name}/{question.id}": question
        for loaded in load_packs(gate)
        for one in loaded.pack.sets
        if one.kind == "gold"
        for question in loaded.questions[one.name]
    }
    if not questions:
        return None
    key = next(iter(configuration.api_keys(settings.serve)), "none")

    async def answers(version: str) -> dict[str, float]:
        asked = [
            Question(version, q.messages, q.max_tokens or gate.max_tokens, q.tools, name)
            for name, q in questions.items()
        ]
        async with Client(
            url,
            key,
            concurrency=concurrency(settings, alias),
            timeout_seconds=gate.timeout_seconds,
        ) as client:
            given = await client.ask_all(asked)
        return {
            question.name: _score(questions[question.name], answer.text)
            for question, answer in zip(asked, given, strict=True)
        }

    return lambda version: asyncio.run(answers(version))


def _score(question: GoldQuestion, text: str) -> float:
    return checking.score(question, text).value


def compare(best: Mapping[str, float], scores: Mapping[str, float], level: float) -> Drop:
    """What was lost against the best pass, over the same questions.

    Args:
        level: chance that the drop is below `low` though nothing was lost, 0 to 0.5.

    Raises:
        ValueError: they are not the same questions.
    """
    if best.keys() != scores.keys() or not best:
        raise ValueError("two passes over different questions")
    lost = [best[name] - scores[name] for name in sorted(best)]
    interval = bootstrap_interval(lost, confidence=1 - 2 * level, resamples=20_000)
    broken, fixed = sum(one > 0 for one in lost), sum(one < 0 for one in lost)
    if mcnemar_exact(fixed, broken) > 2 * level:
        # A resample of few changed answers is too sure; the exact test has to agree.
        interval = type(interval)(min(interval.low, 0.0), max(interval.high, 0.0))
    whole = len(lost)
    return Drop(sum(lost) / whole, interval.low, interval.high, sum(best.values()) / whole, whole)


def remember(
    state: Mapping[str, Any] | None, version: str, scores: Mapping[str, float], *, at: float,
    level: float,
) -> tuple[dict[str, Any], Drop | None]:  # fmt: skip
    """The state after a pass, and what it lost; None where it is the first of its questions."""
    new = {"asked": at, "version": version, "error": None}
    one = {"version": version, "ts": at, "scores": dict(scores)}
    best = None if state is None else state.get("best")
    if best is None or best["scores"].keys() != scores.keys():
        return {**new, "best": one, "drift": None}, None
    drop = compare(best["scores"], scores, level)
    assert state is not None
    kept = one if drop.high < 0 else best
    return {**new, "best": kept, "drop": list(drop), "drift": state.get("drift")}, drop
