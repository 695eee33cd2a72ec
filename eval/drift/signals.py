"""The signals by name: their rules from the settings, and what is said of them.

A false alarm is dear where a person is called, so all signals together have one budget
(`drift.false_alarms`), of which each has a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from eval.drift.detector import WINDOW, Watch, score
from eval.drift.rules import HOURS_A_DAY, Rule, limit_of
from eval.drift.windows import Window, over
from ledger.settings import Settings

State = Literal["quiet", "too_few", "warming_up", "drift"]

#: Parts of the budget of false alarms.
SHARES = {
    "negatives": 0.30,
    "edits": 0.10,
    "gold": 0.10,
    "confidence": 0.08,
    "unsure": 0.06,
    "questions": 0.08,
    "new_clusters": 0.06,
    "length": 0.05,
    "refusals": 0.06,
    "latency": 0.05,
    "errors": 0.06,
}
#: What each signal is: a share or a place, in words that a number stands before.
_WORDS = {
    "negatives": "of {of} is negative",
    "edits": "of {of} is an edit",
    "confidence": "chance that an answer is less sure than one of the baseline",
    "unsure": "of the answers are less sure than nearly all of the baseline",
    "length": "chance that an answer is longer than one of the baseline",
    "latency": "chance that an answer takes longer than one of the baseline",
    "refusals": "of the answers decline to answer",
    "errors": "of the answers are not finished",
}
_UNITS = {"negatives": "share of {of}", "edits": "share of {of}"}
_UNITS |= dict.fromkeys(("unsure", "refusals", "errors"), "share of answers")
_UNITS |= dict.fromkeys(("confidence", "length", "latency"), "chance of lying above the baseline")
_UNITS |= {"gold": "points of score lost, 0 to 1", "questions": "AUC", "new_clusters": "share"}


@dataclass(frozen=True)
class Signal:
    """How a signal stands.

    Attributes:
        effect: in `unit`; None where there is nothing to tell it from.
        low, high: its interval.
        count: events that it is told from, the effective number where they are weighted.
        minimum: fewest events for drift.
        baseline: what is usual, in the same unit.
        said: all of it in one sentence.
        limit: the effect from which a change matters.
        since: when the drift began, seconds since the epoch.
        score: how near to drift the evidence is, 0 to 1.
    """

    name: str
    state: State
    effect: float | None
    low: float | None
    high: float | None
    count: float
    minimum: float
    baseline: float | None
    unit: str
    said: str
    limit: float | None = None
    since: float | None = None
    score: float = 0.0


def rules(settings: Settings) -> dict[str, Rule]:
    """The rules of the signals that are watched hour by hour."""
    given = settings.drift
    rate: dict[str, Any] = {"minimum": given.minimum_answers, "ratio": given.rate_ratio}
    rate["least"] = given.rate_least
    place: dict[str, Any] = {"minimum": given.minimum_answers, "shift": given.shift}
    place |= {"per_version": True, "least_dispersion": 1 / 3}
    found: dict[str, dict[str, Any]] = {
        "negatives": {
            "minimum": given.minimum,
            "ratio": given.negatives_ratio,
            "ceiling": given.negatives_rate if given.rates_of == "feedback" else None,
        },
        "edits": {"minimum": given.minimum, "ratio": given.edits_ratio},
        "confidence": {**place, "down": True},
        "unsure": {**rate, "per_version": True},
        "length": {**place, "down": True},
        "latency": place,
        "refusals": {**rate, "per_version": True},
        "errors": rate,
    }
    return {
        name: Rule(share=SHARES[name], budget=given.false_alarms, **values)
        for name, values in found.items()
        if name not in given.off
    }


def watched(name: str, watch: Watch | None, rule: Rule, settings: Settings) -> Signal:
    """A signal that is watched hour by hour, from what is remembered of it."""
    given = settings.drift
    of = given.rates_of
    unit, words = _UNITS[name].format(of=of), _WORDS[name].format(of=of)
    watch = watch or Watch()
    days = given.version_warmup_days if rule.per_version else given.warmup_days
    plain: dict[str, Any] = {"name": name, "unit": unit, "minimum": rule.minimum}
    baseline = watch.baseline
    usual = None if baseline is None else baseline.rate
    limit = rule.ceiling if baseline is None else limit_of(rule, baseline)
    power = 1 / baseline.dispersion if baseline else 1.0
    if watch.drift is not None:
        since = int(watch.drift["since"])
        window = over(watch.recent, since - 1, power)
        limit = float(watch.drift["limit"])
        said = f"{_rate(window)} {words} since {_when(since)}, {_against(usual, limit)}"
        return Signal(
            state="drift", baseline=usual, limit=limit, since=since * 3600.0, score=1.0,
            said=f"{name}: {said}", **_numbers(window), **plain,
        )  # fmt: skip
    window = None if watch.hour is None else over(watch.recent, watch.hour - WINDOW, power)
    near = score(watch, rule)
    if baseline is None:
        warm = watch.warm or []
        events = sum(one[1] for one in warm)
        past = (watch.hour + 1 - warm[0][0]) / HOURS_A_DAY if warm and watch.hour else 0.0
        said = (
            f"{name}: warming up, {past:.1f} of {days:g} days and {events:.0f} of "
            f"{given.warmup_events} events"
        )
        if watch.version and rule.per_version:
            said += f" of {watch.version}"
        return Signal(
            state="warming_up", baseline=None, limit=limit, score=near, said=said,
            **{**_numbers(window), "count": events}, **plain,
        )  # fmt: skip
    enough = window is not None and window.n >= rule.minimum
    said = f"{_rate(window)} {words} in the last {WINDOW} h, {_against(usual, limit)}"
    if not enough:
        said += f"; {0 if window is None else window.n:.0f} events, {rule.minimum} tell"
    return Signal(
        state="quiet" if enough else "too_few", baseline=usual, limit=limit, score=near,
        said=f"{name}: {said}", **_numbers(window), **plain,
    )  # fmt: skip


def questions(state: Mapping[str, Any] | None, settings: Settings) -> Signal:
    """Whether today's questions can be told from those of the baseline."""
    given, state = settings.drift, state or {}
    last, reference = state.get("last"), state.get("reference")
    plain: dict[str, Any] = {"name": "questions", "unit": _UNITS["questions"]}
    plain |= {"minimum": given.questions_sample // 4, "limit": given.questions_auc}
    if reference is None or last is None:
        said = f"questions: warming up, {given.warmup_days:g} days are the baseline"
        count = last[3] if last else 0
        return Signal(
            state="warming_up", effect=None, low=None, high=None, count=count, baseline=None,
            said=said, **plain,
        )  # fmt: skip
    effect, low, high, count = last
    drift = state.get("drift")
    usual = state.get("usual", 0.5)
    said = (
        f"questions: a classifier tells the last day's from the baseline's with AUC {effect:.2f} "
        f"({low:.2f} to {high:.2f}); {usual:.2f} is usual, {given.questions_auc:.2f} the limit"
    )
    few = count < plain["minimum"]
    return Signal(
        state="drift" if drift else "too_few" if few else "quiet", effect=effect, low=low,
        high=high, count=count, baseline=usual, said=said,
        since=drift["since"] * 3600.0 if drift else None,
        score=1.0 if drift else _part(low, usual, given.questions_auc), **plain,
    )  # fmt: skip


def new_clusters(state: Mapping[str, Any] | None, settings: Settings) -> Signal:
    """What share of the traffic is in clusters that no training data has."""
    given, state = settings.drift, state or {}
    last = state.get("last")
    plain: dict[str, Any] = {"name": "new_clusters", "unit": "share of traffic", "baseline": 0.0}
    plain |= {"minimum": given.minimum, "limit": given.new_share}
    if last is None:
        said = "new_clusters: no question of the last day is in a cluster yet"
        return Signal(
            state="too_few", effect=None, low=None, high=None, count=0, said=said, **plain
        )
    effect, low, high, count = last
    drift = state.get("drift")
    said = (
        f"new_clusters: {effect:.1%} ({low:.1%} to {high:.1%}) of the last day's traffic is in "
        f"clusters that no training data has, the limit is {given.new_share:.0%}"
    )
    few = count < given.minimum
    return Signal(
        state="drift" if drift else "too_few" if few else "quiet", effect=effect, low=low,
        high=high, count=count, said=said, since=drift["since"] * 3600.0 if drift else None,
        score=1.0 if drift else _part(low, 0.0, given.new_share), **plain,
    )  # fmt: skip


def gold(state: Mapping[str, Any] | None, settings: Settings) -> Signal:
    """What the live version lost on the gold questions against the best answers to them."""
    given, state = settings.drift, state or {}
    plain: dict[str, Any] = {"name": "gold", "unit": _UNITS["gold"], "minimum": 1, "baseline": 0.0}
    drop, best, error = state.get("drop"), state.get("best"), state.get("error")
    failed = f"; the last try failed: {error}" if error else ""
    if best is None or drop is None:
        count = len(best["scores"]) if best else 0
        first = f"asked once, {_mean(best):.1%} right" if best else "not asked yet"
        return Signal(
            state="warming_up", effect=None, low=None, high=None, count=count,
            said=f"gold: {first}{failed}", **plain,
        )  # fmt: skip
    effect, low, high, right, count = drop
    drift = state.get("drift")
    said = (
        f"gold: {state['version']} lost {100 * effect:.1f} points ({100 * low:.1f} to "
        f"{100 * high:.1f}) of the best {right:.1%} on {count} questions{failed}"
    )
    limit = given.gold_drop * right
    return Signal(
        state="drift" if drift else "quiet", effect=effect, low=low, high=high, count=count,
        said=said, limit=limit, since=drift["since"] if drift else None,
        score=1.0 if drift else _part(low, 0.0, limit), **plain,
    )  # fmt: skip


def _mean(best: Mapping[str, Any]) -> float:
    scores = best["scores"].values()
    return sum(scores) / len(scores)


def _part(low: float, usual: float, limit: float) -> float:
    """How much of the way from usual to the limit the lower end of an interval has gone."""
    return min(max((low - usual) / (limit - usual), 0.0), 1.0) if limit > usual else 0.0


def _numbers(window: Window | None) -> dict[str, Any]:
    if window is None:
        return {"effect": None, "low": None, "high": None, "count": 0}
    return {"effect": window.rate, "low": window.low, "high": window.high, "count": window.n}


def _rate(window: Window | None) -> str:
    if window is None:
        return "none"
    return f"{window.rate:.1%} ({window.low:.1%} to {window.high:.1%})"


def _against(usual: float | None, limit: float | None) -> str:
    parts = [] if usual is None else [f"{usual:.1%} is usual"]
    return ", ".join([*parts, *([] if limit is None else [f"the limit is {limit:.1%}"])])


def _when(hour: int) -> str:
    return f"{datetime.fromtimestamp(hour * 3600, UTC):%Y-%m-%d %H:%M} UTC"
