"""What each trigger says, and why.

    accuracy   gold questions are answered worse than they were
    drift      a drift alert, and corrections of what was answered since its window began
    failures   one kind of question goes wrong again and again
    domain     a kind of question that nothing was learned about
    calendar   time has passed, and there is something to learn
    pairs      enough new pairs: a permission for the calendar, never a cause

A trigger that has its cause and lacks pairs to learn from says what is missing: `collect` is an
outcome, too. Pure: everything comes in as `Facts`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Literal, NamedTuple

from flywheel.loop.facts import DAY, Facts, NewPair
from ledger.settings.triggers import Triggers

State = Literal["off", "quiet", "collect", "fires", "permits"]


class Look(NamedTuple):
    """What a trigger says.

    Attributes:
        said: why it fires or does not, one sentence.
        missing: what has to be collected first; "" where nothing is missing.
        pairs: the new pairs that it is about.
    """

    name: str
    state: State
    said: str
    missing: str = ""
    pairs: tuple[NewPair, ...] = ()


def look_at(facts: Facts, settings: Triggers) -> list[Look]:
    """Every trigger's word, those that are switched off among them."""
    every: tuple[tuple[str, bool, Callable[[Facts, Triggers], Look]], ...] = (
        ("accuracy", settings.accuracy.on, _accuracy),
        ("drift", settings.drift.on, _drift),
        ("failures", settings.failures.on, _failures),
        ("domain", settings.domain.on, _domain),
        ("calendar", settings.calendar.on, _calendar),
        ("pairs", settings.pairs.on, _pairs),
    )
    return [
        see(facts, settings) if on else Look(name, "off", "switched off") for name, on, see in every
    ]


def _accuracy(facts: Facts, settings: Triggers) -> Look:
    ours, gold = settings.accuracy, facts.signals.get("gold")
    if gold is None or gold.effect is None:
        return Look("accuracy", "quiet", "the gold questions were not asked yet")
    # The effect is the loss against the best score; `low` is the end that can be relied on.
    low = gold.low or 0.0
    said = f"gold questions lost {_points(gold.effect)} of their best, at least {_points(low)}"
    if gold.effect <= ours.points or low <= 0:
        return Look("accuracy", "quiet", f"{said}; more than {_points(ours.points)} would count")
    return _with_pairs("accuracy", said, facts.pairs, ours.min_pairs, "new pairs")


def _drift(facts: Facts, settings: Triggers) -> Look:
    if not facts.alerts:
        since = "" if facts.last_retrain is None else " since the last retrain"
        return Look("drift", "quiet", f"no drift alert{since}")
    first = min(one.since for one in facts.alerts)
    kinds = sorted({one.kind.removeprefix("drift:") for one in facts.alerts})
    said = f"drift noticed ({', '.join(kinds)}), its window began {_when(first)}"
    ours = tuple(one for one in facts.pairs if one.ts >= first)
    return _with_pairs(
        "drift", said, ours, settings.drift.min_pairs, "new pairs of answers given since then"
    )


def _failures(facts: Facts, settings: Triggers) -> Look:
    ours = settings.failures
    bad = [
        one
        for number, one in facts.clusters.items()
        if number is not None and one.failures >= ours.failures
    ]
    if not bad:
        worst = max((one.failures for n, one in facts.clusters.items() if n is not None), default=0)
        return Look(
            "failures",
            "quiet",
            f"no kind of question failed {ours.failures} times in {ours.days:g} days; the worst "
            f"{worst} times",
        )
    enough = [one for one in bad if len(_of(facts, [one.cluster])) >= ours.min_pairs]
    meant = enough or bad
    names = "; ".join(f"{one.name}: {one.failures}" for one in meant[:3])
    return _with_pairs(
        "failures",
        f"answers that failed in {ours.days:g} days, by kind of question: {names}",
        _of(facts, [one.cluster for one in meant]),
        ours.min_pairs,
        "new pairs of one such kind",
    )


def _domain(facts: Facts, settings: Triggers) -> Look:
    new = [one for n, one in facts.clusters.items() if n is not None and one.new and one.answers]
    if not new:
        return Look("domain", "quiet", "no kind of question that training has not seen")
    new.sort(key=lambda one: -one.answers)
    names = "; ".join(one.name for one in new[:3])
    share = sum(one.share.value for one in new if one.share is not None)
    said = f"training has not seen {len(new)} kind(s) of question, {share:.0%} of traffic: {names}"
    pairs = _of(facts, [one.cluster for one in new])
    return _with_pairs("domain", said, pairs, settings.domain.min_pairs, "new pairs of them")


def _calendar(facts: Facts, settings: Triggers) -> Look:
    days = settings.calendar.days
    needed = settings.pairs.count if settings.pairs.on else 1
    if facts.last_retrain is not None and facts.at < facts.last_retrain + days * DAY:
        due = _when(facts.last_retrain + days * DAY)
        return Look("calendar", "quiet", f"the last retrain was {_when(facts.last_retrain)}, the "
                    f"next by the calendar is {due}")  # fmt: skip
    said = (
        "no version was trained yet"
        if facts.last_retrain is None
        else f"{days:g} days have passed since {_when(facts.last_retrain)}"
    )
    if len(facts.pairs) < needed:
        # Not `collect`: without a cause nobody has to hurry.
        return Look("calendar", "quiet", f"{said}; {len(facts.pairs)} of {needed} new pairs")
    return Look("calendar", "fires", f"{said}; {len(facts.pairs)} new pairs", "",
                tuple(facts.pairs))  # fmt: skip


def _pairs(facts: Facts, settings: Triggers) -> Look:
    have, needed = len(facts.pairs), settings.pairs.count
    said = f"{have} of {needed} new pairs"
    if have < needed:
        return Look("pairs", "quiet", said, f"{needed - have} more corrections")
    return Look("pairs", "permits", f"{said}: the calendar may take them along", "",
                tuple(facts.pairs))  # fmt: skip


def _with_pairs(name: str, said: str, pairs: Sequence[NewPair], needed: int, what: str) -> Look:
    """A trigger that has its cause: it fires with enough pairs, else says what is missing."""
    have = f"{len(pairs)} of {needed} {what}"
    if len(pairs) >= needed:
        return Look(name, "fires", f"{said}; {have}", "", tuple(pairs))
    return Look(name, "collect", f"{said}; {have}", f"{needed - len(pairs)} more {what}",
                tuple(pairs))  # fmt: skip


def _of(facts: Facts, clusters: Collection[int | None]) -> tuple[NewPair, ...]:
    return tuple(one for one in facts.pairs if one.cluster in clusters)


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _when(ts: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ts))
