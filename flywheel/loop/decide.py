"""From what the triggers say to one decision: retrain, collect more first, or wait."""

from __future__ import annotations

import time
from typing import Any, Literal, NamedTuple

from flywheel.loop.facts import HOUR, Facts, NewPair
from flywheel.loop.gain import Cost, Gain, expected_cost, expected_gain
from flywheel.loop.history import in_vain, never_pays
from flywheel.loop.triggers import Look, look_at
from ledger.settings import Settings
from ledger.settings.triggers import Triggers

Action = Literal["retrain", "collect", "wait"]


class Decision(NamedTuple):
    """What is to be done for an alias, and why.

    Attributes:
        because: names of the triggers that fire.
        said: the reasons, a sentence each.
        missing: what has to be collected first.
        looks: every trigger's word.
        gain, cost: what a retrain is expected to bring and to take; None where none is meant.
        useless: triggers that never paid.
    """

    alias: str
    at: float
    action: Action
    because: tuple[str, ...]
    said: tuple[str, ...]
    missing: tuple[str, ...]
    looks: tuple[Look, ...]
    gain: Gain | None
    cost: Cost | None
    useless: tuple[str, ...]

    def report(self) -> dict[str, Any]:
        """For the ledger and for programs; no text of users but the terms that name clusters."""
        return {
            "action": self.action,
            "because": list(self.because),
            "said": list(self.said),
            "missing": list(self.missing),
            "triggers": {
                one.name: {"state": one.state, "said": one.said, "pairs": len(one.pairs)}
                for one in self.looks
            },
            "gain": None if self.gain is None else self.gain._asdict(),
            "cost": None if self.cost is None else self.cost._asdict(),
            "never_pay": list(self.useless),
        }

    def text(self) -> str:
        """For a person: every trigger, then what follows."""
        lines = [f"{self.alias}: {self.action}"]
        lines += [f"  {one.name:<10} {one.state:<8} {one.said}" for one in self.looks]
        lines += [f"  {line}" for line in self.said]
        lines += [f"  collect first: {line}" for line in self.missing]
        lines += [
            f"  {name} never paid: none of its retrains stayed live; switch it off or look why"
            for name in self.useless
        ]
        return "\n".join(lines)


def decide(facts: Facts, settings: Settings) -> Decision:
    """The decision that follows from the facts; the same facts give the same decision."""
    ours = settings.triggers
    looks = tuple(look_at(facts, ours))
    firing = [one for one in looks if one.state == "fires"]
    short = [one for one in looks if one.state == "collect"]
    useless = tuple(one.trigger for one in never_pays(facts.firings, ours.never_pays_after))

    def decision(
        action: Action, *said: str, missing: tuple[str, ...] = (),
        gain: Gain | None = None, cost: Cost | None = None,
    ) -> Decision:  # fmt: skip
        because = tuple(one.name for one in (firing or short)) if action != "wait" else ()
        return Decision(
            facts.alias, facts.at, action, because, said, missing, looks, gain, cost, useless
        )

    if facts.state.candidate is not None:
        tried = f"v{facts.state.candidate} at {facts.state.share:g} %"
        return decision("wait", f"{tried} is being tried: one version at a time")
    if facts.last_retrain is not None:
        vain = in_vain(facts.firings)
        until = facts.last_retrain + _cooldown(ours, len(vain)) * HOUR
        if facts.at < until and (firing or short):
            when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(until))
            said = [f"cooling down after the last retrain until {when}"]
            if vain:
                said.append(
                    f"{', '.join(vain[-3:])} came to nothing since a version last went live: see "
                    "what they learned (`flywheel versions`, `flywheel review`) before the next"
                )
            return decision("wait", *said)
    if not firing:
        if short:
            return decision(
                "collect",
                "there is a cause and too little to learn from",
                missing=tuple(f"{one.missing} ({one.name})" for one in short),
            )
        return decision("wait", "no trigger fires")

    pairs: dict[str, NewPair] = {p.row_id: p for one in firing for p in one.pairs}
    gain = expected_gain(facts, list(pairs.values()))
    cost = expected_cost(facts, settings.prices)
    weighed = (
        f"expected: {_gain(gain)}, for {cost.said}",
        f"{len(facts.pairs)} new pairs in a pool of {facts.pool}",
    )
    if over := _over_budget(facts, settings, cost):
        return decision("wait", *weighed, over, gain=gain, cost=cost)
    if gain.share is not None and gain.share < ours.min_gain:
        return decision(
            "collect",
            *weighed,
            f"below triggers.min_gain ({100 * ours.min_gain:g} in 100 answers)",
            missing=("corrections of questions that go wrong more often",),
            gain=gain,
            cost=cost,
        )
    return decision("retrain", *weighed, gain=gain, cost=cost)


def _cooldown(settings: Triggers, in_vain: int) -> float:
    """Hours until the next retrain: what came to nothing again and again is not tried daily."""
    once = settings.cooldown_hours
    return max(once, min(once * 2 ** min(in_vain, 20), settings.longest_cooldown_hours))


def _gain(gain: Gain) -> str:
    if gain.share is None or gain.at_stake is None:
        return "a gain that nothing is known to tell from"
    return (
        f"{100 * gain.share:.1f} more right answers in 100 ({gain.recovered:.0%} of the "
        f"{100 * gain.at_stake:.1f} that fail there)"
    )


def _over_budget(facts: Facts, settings: Settings, cost: Cost) -> str:
    """Why the week's budget does not allow a retrain, "" where it does."""
    ours, currency = settings.triggers, settings.prices.currency
    hours, amount = cost.gpu_hours or 0.0, cost.amount or 0.0
    if ours.gpu_hours_a_week is not None and facts.gpu_hours + hours > ours.gpu_hours_a_week:
        return (
            f"over budget: {facts.gpu_hours:.2f} GPU hours in seven days and about {hours:.2f} "
            f"more, triggers.gpu_hours_a_week is {ours.gpu_hours_a_week:g}"
        )
    if ours.cost_a_week is not None and (facts.cost or 0.0) + amount > ours.cost_a_week:
        return (
            f"over budget: {facts.cost or 0.0:.2f} {currency} in seven days and about "
            f"{amount:.2f} more, triggers.cost_a_week is {ours.cost_a_week:g}"
        )
    return ""
