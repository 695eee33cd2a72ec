"""A tick: once and no more, dry, resumed, twice at once, and with a step that fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eval.canary import Judgement
from flywheel.commands.console import Context
from flywheel.commands.loop import _meanwhile
from flywheel.loop.every import every
from flywheel.loop.tick import Tick, tick
from flywheel.loop.wheel import Turned
from flywheel.simulation.engine import SimulatedEngine
from flywheel.simulation.month import START, Month, write_gold
from flywheel.simulation.world import DAY, World
from ledger import clock
from ledger.deployments import Deployments
from ledger.errors import LedgerLocked, ServerError
from ledger.settings import Settings
from ledger.store import Store


def quiet(_: str) -> None:
    """Say nothing."""


class Wheel:
    """Counts what it is asked, and answers as the test wants."""

    def __init__(
        self, month: Month, *, unfinished: bool = False, error: Exception | None = None
    ) -> None:
        self.url = month.engine.url  # where gold questions are asked
        self.cut_off, self.error, self.turned = unfinished, error, 0

    def unfinished(self, alias: str) -> bool:
        return self.cut_off

    def retrain(self, alias: str) -> Turned:
        self.turned += 1
        if self.error is not None:
            raise self.error
        self.cut_off = False
        return Turned("run-1", f"{alias}@v1", "fail")


@pytest.fixture
def month(make_settings: Any, tmp_path: Path) -> Iterator[Month]:
    """A product of which four days have passed, without a tick."""
    write_gold(tmp_path / "gold.jsonl", 60)
    settings = make_settings(
        aliases={"support": {"gate": {"gold": [str(tmp_path / "gold.jsonl")], "margin": 0.2}}},
        curate={
            "trusted_sources": ["user", "operator"],
            "acceptance": {"new_subject_hours": 0},
        },
        triggers={"pairs": {"count": 20}},
        privacy={"redaction": "none", "key_file": str(tmp_path / "subject.key")},
        rollout={"stages": [{"share": 50, "days": 1}]},
    )
    with Month(settings, World(a_day=120, edits=0.6), tick_hours=96) as made:
        with clock.at(lambda: made.now):
            made.traffic(START + 4 * DAY)
        yield made


def turn(month: Month, wheel: Any = None, **more: Any) -> Tick:
    with clock.at(lambda: month.now):
        return tick(month.settings, month.store, wheel or month.engine, say=quiet, **more)


def events(store: Store) -> list[str]:
    return [one.kind for one in Deployments(store).events("support")]


def test_what_is_done_is_not_done_again(month: Month) -> None:
    first = turn(month)
    assert not first.failed, first.steps
    assert first.decisions["support"].because == ("calendar",)
    assert events(month.store) == ["candidate", "begin"]
    [firing] = month.store.firings("support")
    assert [o.kind for o in firing.outcomes] == ["run", "verdict"]
    again = turn(month)
    assert [step for step in again.steps if step.what != "curate"] == []
    assert events(month.store) == ["candidate", "begin"]
    assert len(month.store.firings("support")) == 1


def test_what_a_harmful_version_learned_is_not_learned_again_by_itself(month: Month) -> None:
    turn(month)
    before = month.store.waiting("support")
    harm = {"metrics": [{"name": "negatives", "harm": 1.1, "safety": 0.0}]}
    with clock.at(lambda: month.now):
        Deployments(month.store).rollback("support", who="loop", why="worse", report=harm)
    found = turn(month, wheel := Wheel(month))
    [said] = [step.said for step in found.steps if step.what == "rollout"]
    pairs = month.store.datasets("support")[-1].pairs
    assert said.startswith(f"{pairs} corrections that were new in support@v1 wait for eyes again")
    assert month.store.waiting("support")[0] == before.get(0, 0) + pairs
    assert wheel.turned == 0
    assert [step for step in turn(month, wheel).steps if step.what == "rollout"] == []


def test_a_dry_run_says_it_and_does_nothing(month: Month) -> None:
    turn(month, Wheel(month), aliases=[])  # nothing is asked of no alias
    found = turn(month, Wheel(month), dry_run=True)
    # Without its sweep there is nothing to learn from yet.
    assert found.decisions["support"].action == "wait"
    from curate.tagging.sweep import sweep

    with clock.at(lambda: month.now):
        sweep(month.settings, month.store)
    found = turn(month, wheel := Wheel(month), dry_run=True)
    assert [(step.what, step.dry) for step in found.steps] == [("decide", True)]
    assert "retrain because of calendar" in found.steps[0].said
    assert (wheel.turned, events(month.store), month.store.firings("support")) == (0, [], [])
    assert month.store.lease_held("tick/support") is None


def test_a_second_one_at_once_leaves(month: Month) -> None:
    with month.store.lease("tick/support", what="tick of support", holder="another machine"):
        found = turn(month, wheel := Wheel(month, unfinished=True))
    assert "another tick of support is running" in found.busy
    assert (found.steps, wheel.turned) == ([], 0)
    assert turn(month, Wheel(month)).busy == ""


def test_a_retrain_that_was_cut_off_goes_on_and_is_linked_to_its_cause(month: Month) -> None:
    broken = turn(month, Wheel(month, error=ServerError("the server is down")))
    assert broken.failed
    assert [o.kind for o in month.store.firings("support")[0].outcomes] == []
    found = turn(month, wheel := Wheel(month, unfinished=True))
    assert not found.failed
    assert wheel.turned == 1
    firings = month.store.firings("support")
    assert len(firings) == 1
    assert firings[0].outcome("run").report["version"] == "support@v1"


def test_a_retrain_that_was_cut_off_waits_for_a_canary_to_end(month: Month) -> None:
    deployments = Deployments(month.store)
    with clock.at(lambda: month.now):
        deployments.candidate("support", 7, who="operator:ada", why="")
        deployments.share("support", 7, 5, who="operator:ada", why="")
    wheel = Wheel(month, unfinished=True)
    assert not turn(month, wheel).failed
    assert wheel.turned == 0
    with clock.at(lambda: month.now):
        deployments.rollback("support", who="operator:ada", why="")
    turn(month, wheel)
    assert wheel.turned == 1


def test_a_step_that_fails_ends_its_aliass_turn_and_no_others(
    month: Month, make_settings: Any
) -> None:
    raw = month.settings.model_dump(mode="json")
    gate = raw["aliases"]["support"]
    both = make_settings(**{**raw, "aliases": {"another": gate, "support": gate}})

    class Half(Wheel):
        def unfinished(self, alias: str) -> bool:
            if alias == "another":
                raise ServerError("no server answers")
            return False

    with clock.at(lambda: month.now):
        found = tick(both, month.store, Half(month), say=quiet)
    assert [(s.alias, s.what) for s in found.steps if s.failed] == [("another", "resume")]
    assert "support" in found.decisions


def test_whatever_fails_beside_it_a_version_that_harms_goes_back(
    month: Month, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn(month)
    assert Deployments(month.store).state("support").stage == "canary"
    harm = Judgement("roll_back", 0, {}, "more negatives")
    monkeypatch.setattr("flywheel.rollout.stages.judge_state", lambda *_, **__: harm)

    def broken(*_: object) -> None:
        raise LedgerLocked("the disk is full")

    monkeypatch.setattr("curate.tagging.sweep.sweep", broken)
    found = turn(month)
    assert [(one.what, one.failed) for one in found.steps] == [("rollout", False), ("curate", True)]
    assert events(month.store)[-1] == "rollback"


def test_without_training_nothing_is_resumed_or_decided(month: Month) -> None:
    found = turn(month, wheel := Wheel(month, unfinished=True), train=False)
    assert [step.what for step in found.steps] == ["curate"]
    assert (found.decisions, wheel.turned) == ({}, 0)
    assert month.store.firings("support") == []


def test_what_must_not_wait_is_done_beside_a_long_turn() -> None:
    """A training of one alias takes hours; another one's canary is looked at all the same."""
    stop, said, looked = threading.Event(), [], threading.Semaphore(0)
    threads = set()

    def beside() -> Tick:
        threads.add(threading.current_thread())
        looked.release()
        raise LedgerLocked("the ledger is locked")

    def long() -> Tick:
        for _ in range(3):
            assert looked.acquire(timeout=30)
        stop.set()
        return Tick([], {})

    assert every(0.001, long, meanwhile=beside, stop=stop, say=said.append) == 1
    assert {*said} == {"tick failed: the ledger is locked"}
    [thread] = threads
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


def test_the_loop_has_that_with_a_ledger_of_its_own(config: Path) -> None:
    found = _meanwhile(Context(str(config)), "http://127.0.0.1:9/v1")
    assert not found.failed, found.steps
    assert found.decisions == {}


def test_the_loop_goes_on_after_a_tick_that_fails() -> None:
    stop, said, turns = threading.Event(), [], []

    def one() -> Tick:
        turns.append(len(turns))
        if len(turns) == 1:
            raise LedgerLocked("the ledger is locked")
        if len(turns) == 3:
            stop.set()
        return Tick([], {})

    assert every(0.001, one, stop=stop, say=said.append) == 3
    assert said == ["tick failed: the ledger is locked"]


def test_the_engine_learns_what_its_pairs_say(settings: Settings, store: Store) -> None:
    from collections import Counter

    from flywheel.simulation.engine import base_knowledge, learned

    assert isinstance(SimulatedEngine, type)
    base = base_knowledge()
    right = learned(Counter(rides=40), Counter())
    assert right["rides"] > 0.9 > base["rides"]
    assert right["billing"] == base["billing"]
    wrong = learned(Counter(), Counter(billing=40))
    assert wrong["billing"] < 0.1
    mixed = learned(Counter(rides=40), Counter(rides=40))
    assert base["rides"] < mixed["rides"] < right["rides"]
