"""Drift, on numbers alone: false alarms, delay, and what each step does. No ledger."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from benchmarks.drift import World, defaults, month, noticed
from eval.drift.calibration import calibrate
from eval.drift.detector import Watch, adopt, step
from eval.drift.gold import compare
from eval.drift.questions import delong, told_apart
from eval.drift.rules import Hour, Rule
from eval.drift.signals import SHARES, rules
from eval.drift.watching import gold_step

RULE = Rule(share=0.3, budget=1, minimum=50, ratio=1.5, ceiling=0.15)
WARM = 7 * 24


def warmed_watch(rate: float = 0.05, a_hour: float = 40, rule: Rule = RULE) -> Watch:
    watch = Watch()
    draw = np.random.default_rng(3)
    for hour in range(WARM):
        s = float(draw.binomial(int(a_hour), rate))
        step(watch, rule, Hour(hour, a_hour, s), "v1")
    adopt(watch, calibrate(watch.warm or [], rule), "v1")
    return watch


def test_the_budget_is_split() -> None:
    assert math.isclose(sum(SHARES.values()), 1.0)


def test_quiet_months_have_few_false_alarms() -> None:
    """Of all signals together at most one in 30 quiet days; shown with many more months by
    `python -m benchmarks.drift`."""
    draw = np.random.default_rng(1)
    settings = defaults()
    names = tuple(name for name in SHARES if name != "gold")
    runs = [month(draw, settings, World(), names).total() for _ in range(5)]
    assert np.mean(runs) <= 1.0


def test_a_doubling_is_noticed_within_a_day() -> None:
    draw = np.random.default_rng(2)
    settings = defaults()
    rule = rules(settings)["negatives"]
    for rate in (0.05, 0.08):
        found = [noticed(draw, rule, settings, World(negatives=rate)) or 9999 for _ in range(25)]
        assert np.mean(np.asarray(found) <= 24) >= 0.8, found
        assert np.median(found) <= 14


def test_a_change_needs_its_size_too() -> None:
    """A rise that is certain but smaller than its limit is no drift."""
    watch = warmed_watch(0.05, a_hour=1000)
    changes = [step(watch, RULE, Hour(WARM + k, 1000, 62.0), "v1") for k in range(24 * 10)]
    assert not any(changes)
    assert watch.baseline is not None
    assert max(watch.evidence["up"]) > 0


def test_a_change_needs_its_events_too() -> None:
    watch = warmed_watch()
    found = step(watch, RULE, Hour(WARM, 40, 40.0), "v1")
    assert found is None  # forty complaints of forty, ten short of the minimum
    found = step(watch, RULE, Hour(WARM + 1, 40, 40.0), "v1")
    assert found is not None
    assert (found.kind, found.line) == ("drift", "up")
    assert found.window is not None
    assert (found.window.since, found.window.n) == (WARM, 80)


def test_drift_is_told_once_and_its_end_too() -> None:
    watch = warmed_watch()
    kinds = []
    for k in range(24 * 20):
        rate = 0.20 if k < 24 * 5 else 0.05
        change = step(watch, RULE, Hour(WARM + k, 40, 40 * rate), "v1")
        kinds += [(k // 24, change.kind)] if change else []
    assert [kind for _, kind in kinds] == ["drift", "recovered"]
    assert kinds[0][0] == 0
    assert 5 <= kinds[1][0] <= 7


def test_the_ceiling_is_watched_from_the_first_hour() -> None:
    watch = Watch()
    found = [step(watch, RULE, Hour(k, 40, 12.0), "v1") for k in range(48)]
    first = next(one for one in found if one)
    assert (first.kind, first.line) == ("drift", "ceiling")


def test_a_place_that_falls_is_noticed_where_it_counts() -> None:
    rule = Rule(0.1, 1, 200, shift=0.1, down=True, least_dispersion=1 / 3)
    watch = warmed_watch(0.5, rule=rule, a_hour=100)
    found = [step(watch, rule, Hour(WARM + k, 100, 30.0), "v1") for k in range(12)]
    first = next(one for one in found if one)
    assert (first.kind, first.line) == ("drift", "down")


def test_another_version_warms_up_anew_where_it_has_its_own_usual() -> None:
    own = RULE._replace(per_version=True)
    for rule, kept in ((RULE, True), (own, False)):
        watch = warmed_watch(rule=rule)
        step(watch, rule, Hour(WARM, 40, 2.0), "v2")
        assert (watch.baseline is not None) == kept
        assert watch.warm == [[WARM, 40, 2.0]]


def test_the_time_of_day_is_taken_off() -> None:
    """A rate that triples each night is no drift each night."""
    rule = Rule(0.3, 1, 50, ratio=1.5)

    def hour(k: int) -> Hour:
        return Hour(k, 100.0, 15.0 if k % 24 < 6 else 5.0)

    watch = Watch()
    for k in range(WARM):
        step(watch, rule, hour(k), "v1")
    adopt(watch, calibrate(watch.warm or [], rule), "v1")
    assert not any(step(watch, rule, hour(WARM + k), "v1") for k in range(24 * 30))


def test_what_is_remembered_survives_json() -> None:
    one = warmed_watch()
    other = Watch.load(json.loads(json.dumps(one.dump())))
    assert other == one
    for k in range(30):
        hour = Hour(WARM + k, 40.0, 8.0)
        assert step(one, RULE, hour, "v1") == step(other, RULE, hour, "v1")
    assert one.dump() == other.dump()


# -- gold and questions ------------------------------------------------------------------------


def scores(wrong: int, of: int = 100) -> dict[str, float]:
    return {f"q{k}": float(k >= wrong) for k in range(of)}


def test_a_drop_of_the_gold_score_is_told_with_its_interval() -> None:
    settings = defaults()
    state, seen = gold_step(settings, None, "base", scores(10), now=0.0)
    assert seen == []
    state, seen = gold_step(settings, state, "base", scores(12), now=86_400.0)
    assert seen == []  # two questions: chance
    state, seen = gold_step(settings, state, "base", scores(30), now=2 * 86_400.0)
    assert [one.kind for one in seen] == ["drift"]
    assert seen[0].numbers["low"] > 0
    state, seen = gold_step(settings, state, "base", scores(30), now=3 * 86_400.0)
    assert seen == []
    state, seen = gold_step(settings, state, "base", scores(10), now=4 * 86_400.0)
    assert [one.kind for one in seen] == ["recovered"]
    other, seen = gold_step(settings, state, "base", scores(90, 200), now=5 * 86_400.0)
    assert seen == []  # other questions: they begin anew
    assert len(other["best"]["scores"]) == 200


def test_passes_over_other_questions_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="different questions"):
        compare({"a": 1.0}, {"b": 1.0}, 0.05)


def test_the_auc_of_delong() -> None:
    value, variance = delong(np.array([0.8, 0.4, 0.6]), np.array([0.1, 0.4, 0.5]))
    assert value == pytest.approx((3 + 1.5 + 3) / 9)
    assert variance > 0


def test_questions_are_told_apart_only_where_they_differ() -> None:
    draw = np.random.default_rng(5)
    shop = ["where is my parcel", "refund please", "order late", "invoice wrong", "delivery when"]
    coffee = ["espresso leaks", "steam wand blocked", "grinder noise", "pump pressure"]

    def ask(words: list[str], count: int) -> list[str]:
        return [f"{draw.choice(words)} {draw.integers(9)}" for _ in range(count)]

    same = told_apart(ask(shop, 200), ask(shop, 200), 0.003)
    other = told_apart(ask(shop, 200), ask(shop, 100) + ask(coffee, 100), 0.003)
    assert same is not None
    assert other is not None
    assert same.low < 0.5 < same.high
    assert other.low > 0.6
    assert told_apart(["a"], ["b"], 0.01) is None
