"""What a retrain is expected to bring, and what it will cost: rough, stated, and held against
what came of earlier ones.

Gain is the share of all answers that should become right. Each kind of question with new pairs
gives its share of the traffic times its rate of failures; of that a retrain recovers a part,
which is one half before anything is known and moves towards what earlier retrains recovered
(gold difference over what was expected of them, each counted once, the first guess twice).

Cost is what the last retrain took, training scaled by pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from flywheel.loop.facts import HOUR, Facts, NewPair
from ledger.settings import Prices
from ledger.store import Firing

_GUESS, _GUESS_COUNTS = 0.5, 2


class Gain(NamedTuple):
    """Expected gain, share of all answers, 0 to 1; None where nothing is known to tell it from.

    Attributes:
        at_stake: failures among the kinds of question with new pairs, share of all answers.
        recovered: part of them that a retrain is thought to mend.
    """

    share: float | None
    at_stake: float | None
    recovered: float


class Cost(NamedTuple):
    """GPU hours, and currency where `prices.gpu_hour` is set; None before the first retrain."""

    gpu_hours: float | None
    amount: float | None
    currency: str

    @property
    def said(self) -> str:
        """In words."""
        if self.gpu_hours is None:
            return "unknown before the first retrain"
        priced = "" if self.amount is None else f", {self.amount:.2f} {self.currency}"
        return f"{self.gpu_hours:.2f} GPU hours{priced}"


def expected_gain(facts: Facts, pairs: Sequence[NewPair]) -> Gain:
    """What training on these new pairs should bring."""
    part = recovered(facts.firings)
    stakes = []
    for number in {one.cluster for one in pairs}:
        known = facts.clusters.get(number)
        if known is not None and known.share is not None and known.failure_rate is not None:
            stakes.append(known.share.value * known.failure_rate.value)
    if stakes:
        return Gain(sum(stakes) * part, sum(stakes), part)
    if facts.negative_rate is not None:
        return Gain(facts.negative_rate * part, facts.negative_rate, part)
    return Gain(None, None, part)


def expected_cost(facts: Facts, prices: Prices) -> Cost:
    """What the next retrain should take."""
    if facts.measured is None:
        return Cost(None, None, prices.currency)
    scale = facts.pool / max(1, facts.measured.pairs)
    hours = (facts.measured.train * scale + facts.measured.gate) / HOUR
    price = prices.gpu_hour
    return Cost(hours, None if price is None else hours * price, prices.currency)


def recovered(firings: Sequence[Firing]) -> float:
    """The part of what is at stake that retrains mend, from those that were judged."""
    total, count = _GUESS * _GUESS_COUNTS, float(_GUESS_COUNTS)
    for firing in firings:
        verdict = firing.outcome("verdict")
        stake: Any = (firing.report.get("gain") or {}).get("at_stake")
        difference = None if verdict is None else verdict.report.get("difference")
        if stake and difference is not None:
            total += min(1.0, max(0.0, difference / stake))
            count += 1
    return total / count
