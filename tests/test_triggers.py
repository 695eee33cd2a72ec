"""What starts a retrain, from facts alone: each trigger, what keeps it back, what it expects, and
what is said of one that never pays."""

from __future__ import annotations

from typing import Any

import pytest

from curate.clusters import ClusterCounts
from curate.estimates import Interval
from eval.drift import Signal
from flywheel.loop.decide import decide
from flywheel.loop.facts import DAY, HOUR, Facts, Measured, NewPair
from flywheel.loop.gain import expected_gain, recovered
from flywheel.loop.history import never_pays, record
from flywheel.loop.triggers import Look, look_at
from ledger.deployments import Deployment
from ledger.settings import Settings
from ledger.store import Alert, Firing, Outcome

AT = 1_800_000_000.0


def cluster(number: int, *, share: float = 0.2, failing: float = 0.1, **more: Any) -> ClusterCounts:
    values: dict[str, Any] = {
        "cluster": number,
        "name": f"kind {number}",
        "answers": 500.0,
        "share": Interval(share, share - 0.01, share + 0.01),
        "failure_rate": Interval(failing, failing - 0.01, failing + 0.01),
        "failures": 5,
        "corrections": 3,
        "rows": 500,
        "pairs": 10,
        "first_seen": 0.0,
        "last_seen": AT,
        "new": False,
    }
    return ClusterCounts(**{**values, **more})


def pairs(count: int, *, kind: int | None = 1, ts: float = AT - HOUR) -> list[NewPair]:
    return [NewPair(f"r{kind}-{number}", ts, kind) for number in range(count)]


def facts(**more: Any) -> Facts:
    values: dict[str, Any] = {
        "alias": "support",
        "at": AT,
        "state": Deployment("support"),
        "live": "base",
        "last_retrain": AT - 3 * DAY,
        "pairs": [],
        "pool": 200,
        "waiting": 0,
        "signals": {},
        "alerts": [],
        "clusters": {1: cluster(1), 2: cluster(2)},
        "verdicts": {},
        "firings": [],
        "gpu_hours": 0.0,
        "cost": None,
        "measured": Measured(100, 1800.0, 300.0),
    }
    return Facts(**{**values, **more})


def looks(settings: Settings, **more: Any) -> dict[str, Look]:
    return {one.name: one for one in look_at(facts(**more), settings.triggers)}


def alert(ts: float = AT - 12 * HOUR) -> Alert:
    return Alert(1, "support", ts, "drift:negatives", ts - 12 * HOUR, ts, {})


def gold(effect: float, low: float) -> dict[str, Signal]:
    signal = Signal(
        name="gold", state="drift", effect=effect, low=low, high=effect + 0.05, count=200,
        minimum=50, baseline=0.9, unit="share of right answers", said="",
    )  # fmt: skip
    return {"gold": signal}


# -- each trigger ----------------------------------------------------------------------------------


def test_nothing_to_do_says_so_for_each_trigger(settings: Settings) -> None:
    found = looks(settings)
    assert {one.state for one in found.values()} == {"quiet"}
    assert set(found) == {"accuracy", "drift", "failures", "domain", "calendar", "pairs"}
    assert all(one.said for one in found.values())
    decision = decide(facts(), settings)
    assert (decision.action, decision.because) == ("wait", ())


def test_accuracy_needs_a_drop_that_its_interval_agrees_to_and_pairs(settings: Settings) -> None:
    assert looks(settings, signals=gold(0.04, 0.01), pairs=pairs(30))["accuracy"].state == "quiet"
    # Ten points on a handful of questions may be nothing.
    assert looks(settings, signals=gold(0.10, -0.02), pairs=pairs(30))["accuracy"].state == "quiet"
    short = looks(settings, signals=gold(0.10, 0.03), pairs=pairs(12))["accuracy"]
    assert (short.state, short.missing) == ("collect", "8 more new pairs")
    assert looks(settings, signals=gold(0.10, 0.03), pairs=pairs(20))["accuracy"].state == "fires"


def test_drift_counts_only_what_was_answered_since_its_window_began(settings: Settings) -> None:
    old, new = pairs(30, kind=1, ts=AT - 5 * DAY), pairs(10, kind=2, ts=AT - 20 * HOUR)
    short = looks(settings, alerts=[alert()], pairs=[*old, *new])["drift"]
    assert short.state == "collect"
    assert "10 more new pairs" in short.missing
    assert "negatives" in short.said
    enough = looks(settings, alerts=[alert()], pairs=[*old, *pairs(20, ts=AT - HOUR)])["drift"]
    assert enough.state == "fires"
    assert {one.ts for one in enough.pairs} == {AT - HOUR}


def test_failures_are_of_one_kind_of_question_and_so_are_its_pairs(settings: Settings) -> None:
    clusters = {1: cluster(1, failures=40), 2: cluster(2, failures=24)}
    other = looks(settings, clusters=clusters, pairs=pairs(15, kind=2))["failures"]
    assert (other.state, len(other.pairs)) == ("collect", 0)
    own = looks(settings, clusters=clusters, pairs=pairs(15, kind=1))["failures"]
    assert own.state == "fires"
    assert "kind 1: 40" in own.said
    # Rows that are like nothing known are no kind of question.
    stray = looks(settings, clusters={None: cluster(0, failures=90)}, pairs=pairs(50, kind=None))
    assert stray["failures"].state == "quiet"


def test_a_new_domain_needs_pairs_of_it(settings: Settings) -> None:
    clusters = {1: cluster(1), 7: cluster(7, new=True, pairs=0)}
    short = looks(settings, clusters=clusters, pairs=[*pairs(50), *pairs(19, kind=7)])["domain"]
    assert (short.state, short.missing) == ("collect", "1 more new pairs of them")
    enough = looks(settings, clusters=clusters, pairs=pairs(20, kind=7))["domain"]
    assert enough.state == "fires"
    assert "20% of traffic" in enough.said


def test_pairs_are_a_permission_and_the_calendar_is_the_cause(settings: Settings) -> None:
    many = pairs(150)
    early = facts(pairs=many)
    assert decide(early, settings).action == "wait"
    assert looks(settings, pairs=many)["pairs"].state == "permits"
    due = facts(pairs=many, last_retrain=AT - 8 * DAY)
    decision = decide(due, settings)
    assert (decision.action, decision.because) == ("retrain", ("calendar",))
    few = facts(pairs=pairs(99), last_retrain=AT - 8 * DAY)
    assert decide(few, settings).action == "wait"


def test_the_first_version_waits_for_enough_pairs_only(settings: Settings) -> None:
    assert decide(facts(last_retrain=None, pairs=pairs(99)), settings).action == "wait"
    assert decide(facts(last_retrain=None, pairs=pairs(100)), settings).action == "retrain"


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("accuracy", {"signals": gold(0.2, 0.1), "pairs": pairs(50)}),
        ("drift", {"alerts": [alert()], "pairs": pairs(50)}),
        ("failures", {"clusters": {1: cluster(1, failures=99)}, "pairs": pairs(50)}),
        ("domain", {"clusters": {1: cluster(1, new=True)}, "pairs": pairs(50)}),
        ("calendar", {"last_retrain": AT - 30 * DAY, "pairs": pairs(150)}),
    ],
)
def test_each_can_be_switched_off(make_settings: Any, name: str, more: dict[str, Any]) -> None:
    assert decide(facts(**more), make_settings()).action == "retrain"
    off = make_settings(triggers={name: {"on": False}})
    assert looks(off, **more)[name].state == "off"
    assert name not in decide(facts(**more), off).because
    assert decide(facts(**more), off).action == "wait"


# -- what keeps a retrain back ---------------------------------------------------------------------


def firing_facts(**more: Any) -> Facts:
    return facts(**{"alerts": [alert()], "pairs": pairs(50), **more})


def test_a_version_that_is_tried_goes_first(settings: Settings) -> None:
    state = Deployment("support", candidate=4, share=5.0)
    decision = decide(firing_facts(state=state), settings)
    assert decision.action == "wait"
    assert "v4 at 5 %" in decision.said[0]


def test_it_cools_down_after_a_retrain(settings: Settings) -> None:
    assert decide(firing_facts(last_retrain=AT - 23 * HOUR), settings).action == "wait"
    assert decide(firing_facts(last_retrain=AT - 25 * HOUR), settings).action == "retrain"


def test_what_came_to_nothing_again_and_again_is_not_tried_daily(make_settings: Any) -> None:
    def waits(fired: list[Firing], hours: float, **triggers: Any) -> bool:
        last = AT - hours * HOUR
        found = decide(
            firing_facts(firings=fired, last_retrain=last), make_settings(triggers=triggers)
        )
        return found.action == "wait"

    refused = [firing(n, "drift", end) for n, end in ((1, "refused"), (2, "rolled_back"))]
    assert waits(refused, 95)
    assert not waits(refused, 97)  # twice, and twice again
    assert not waits([*refused, firing(3, "drift", "live")], 25)
    assert waits([*refused, firing(3, "drift", None)], 95)  # not known yet what comes of it
    many = [firing(n, "drift", "refused") for n in range(1, 2000)]
    assert waits(many, 167)
    assert not waits(many, 169)
    assert waits(many, 169, longest_cooldown_hours=200)
    assert waits([], 199, cooldown_hours=200)  # longer than what the doubling ends at
    assert not waits(many, 0, cooldown_hours=0)

    said = decide(firing_facts(firings=refused, last_retrain=AT - HOUR), make_settings()).said
    assert "support@v1, support@v2 came to nothing" in said[1]
    assert len(decide(firing_facts(last_retrain=AT - HOUR), make_settings()).said) == 1


def test_the_weeks_budget_holds(make_settings: Any) -> None:
    # 200 pairs after 100 that took half an hour: an hour, and 5 minutes of gate.
    settings = make_settings(triggers={"gpu_hours_a_week": 2})
    assert decide(firing_facts(gpu_hours=0.9), settings).action == "retrain"
    over = decide(firing_facts(gpu_hours=1.0), settings)
    assert over.action == "wait"
    assert "gpu_hours_a_week is 2" in over.said[-1]
    paid = make_settings(triggers={"cost_a_week": 3}, prices={"gpu_hour": 2.0, "currency": "EUR"})
    assert decide(firing_facts(cost=0.5), paid).action == "retrain"
    assert "3.00 EUR in seven days" in decide(firing_facts(cost=3.0), paid).said[-1]


def test_gain_and_cost_are_printed_with_the_decision(make_settings: Any) -> None:
    settings = make_settings(prices={"gpu_hour": 2.0, "currency": "EUR"})
    decision = decide(firing_facts(), settings)
    # A fifth of the traffic fails one time in ten, and half of that is thought to be mended.
    assert decision.gain is not None
    assert decision.gain.share == pytest.approx(0.2 * 0.1 * 0.5)
    assert "1.0 more right answers in 100" in decision.said[0]
    assert "1.08 GPU hours, 2.17 EUR" in decision.said[0]
    assert decision.report()["gain"]["at_stake"] == pytest.approx(0.02)


def test_a_gain_too_small_asks_for_other_corrections(make_settings: Any) -> None:
    settings = make_settings(triggers={"min_gain": 0.05})
    decision = decide(firing_facts(), settings)
    assert decision.action == "collect"
    assert decision.missing
    # Nothing known of where they fail: that is no reason to wait.
    unknown = decide(firing_facts(clusters={}), settings)
    assert unknown.action == "retrain"


def test_collect_first_says_what_is_missing_for_whom(settings: Settings) -> None:
    decision = decide(facts(alerts=[alert()], pairs=pairs(3)), settings)
    assert (decision.action, decision.because) == ("collect", ("drift",))
    assert decision.missing == ("17 more new pairs of answers given since then (drift)",)
    assert "collect first: 17 more" in decision.text()


# -- what came of it -------------------------------------------------------------------------------


def firing(seq: int, trigger: str, end: str | None, **verdict: Any) -> Firing:
    outcomes = [Outcome(0.0, "run", {"version": f"support@v{seq}"})]
    if verdict:
        outcomes.append(Outcome(0.0, "verdict", verdict))
    if end:
        outcomes.append(Outcome(0.0, end, {"version": f"support@v{seq}"}))
    report = {"gain": {"at_stake": 0.1}}
    return Firing(seq, "support", 0.0, (trigger,), "retrain", report, tuple(outcomes))


def test_a_trigger_that_never_pays_is_named(settings: Settings) -> None:
    fired = [firing(n, "domain", "refused") for n in (1, 2)]
    fired += [firing(3, "drift", "refused"), firing(4, "drift", "live")]
    assert never_pays(fired, 3) == []
    fired.append(firing(5, "domain", "rolled_back"))
    assert [one.trigger for one in never_pays(fired, 3)] == ["domain"]
    decision = decide(facts(firings=fired), settings)
    assert decision.useless == ("domain",)
    assert "domain never paid" in decision.text()
    # One that is still under way says nothing yet.
    assert {one.trigger: one.decided for one in record([*fired, firing(6, "drift", None)])} == {
        "domain": 3,
        "drift": 2,
    }


def test_live_and_rolled_back_later_did_not_pay() -> None:
    one = firing(1, "drift", "live")
    back = one._replace(outcomes=(*one.outcomes, Outcome(1.0, "rolled_back", {})))
    assert [(p.decided, p.paid) for p in record([one])] == [(1, 1)]
    assert [(p.decided, p.paid) for p in record([back])] == [(1, 0)]


def test_what_retrains_mended_before_is_learnt() -> None:
    assert recovered([]) == 0.5
    good = [firing(n, "drift", "live", difference=0.1) for n in range(6)]
    assert recovered(good) == pytest.approx((1 + 6) / 8)
    bad = [firing(n, "drift", "refused", difference=-0.3) for n in range(6)]
    assert recovered(bad) == pytest.approx(1 / 8)
    assert expected_gain(firing_facts(firings=good), pairs(5)).share == pytest.approx(0.02 * 7 / 8)
