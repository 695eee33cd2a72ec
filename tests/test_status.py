"""`flywheel status`: one screen, and everything on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import rollout_rows
from kept_rows import make

from flywheel.loop.tick import tick
from flywheel.rollout import advance, begin
from flywheel.status import status, status_text
from ledger import clock
from ledger.deployments import Deployments
from ledger.glance import SIGNALS, remember
from ledger.settings import Settings
from ledger.store import Spent, Store

pytestmark = pytest.mark.sqlite
NOWHERE = "http://127.0.0.1:9/v1"
LINES = 24


@pytest.fixture
def at() -> Iterator[float]:
    """The clock stands still."""
    with clock.at(lambda: rollout_rows.START):
        yield rollout_rows.START


@pytest.fixture
def product(store: Store) -> Iterator[rollout_rows.Product]:
    """Users, and their clock."""
    made = rollout_rows.Product(store, a_day=50)
    with clock.at(lambda: made.now):
        yield made


def look(settings: Settings, store: Store) -> dict[str, Any]:
    found = status(settings, store, ["support"], NOWHERE)
    assert json.loads(json.dumps(found)) == found
    return found


def wheel() -> Any:
    return SimpleNamespace(url=NOWHERE, unfinished=lambda _: False)


def test_a_new_ledger(settings: Settings, store: Store) -> None:
    found = look(settings, store)
    text = status_text(found)
    for said in (
        "live base",
        "no look at drift yet",
        "no tick yet",
        "no trigger fires",
        "nothing spent",
    ):
        assert said in text
    assert len(text.splitlines()) <= LINES


def test_everything_that_goes_on_fits_on_one_screen(
    settings: Settings, store: Store, product: rollout_rows.Product
) -> None:
    names = ["first", "second", "third"]
    numbers = [rollout_rows.version(settings, store) for _ in names]
    deployments = Deployments(store)
    for number in numbers[:2]:
        deployments.promote("support", number, who="ada", why="it is better " * 9)
    begin(settings, store, "support", numbers[2])
    product.live(1.0)
    advance(settings, store, "support", now=clock.now())
    signal = {"state": "quiet", "score": 0.7, "effect": 0.1, "said": "unsure: 4 %"}
    others = {f"other{n}": {**signal, "score": 0.1} for n in range(9)}
    remember(store, "support", SIGNALS, {"signals": {"unsure": signal, **others}}, at=1.0)
    with store.transaction() as connection:
        for number in range(12):
            kind = f"drift:signal{number}" if number < 6 else "new_cluster"
            store.add_alert(
                "support", kind, {"said": f"noticed {number} " * 20}, connection,
                at=clock.now(), since=0.0, until=1.0,
            )  # fmt: skip
    for what, cost in (("training", 1.5), ("gate", None), ("teacher", 0.25)):
        spent = Spent(3, 1000, 500, cost, 3600.0 if what == "training" else 0.0)
        store.add_spending("support", what, "base", spent)
    product.now += 60

    found = look(settings, store)
    state, text = found["aliases"]["support"], status_text(found)
    lines = text.splitlines()
    assert len(lines) <= LINES, text
    assert max(map(len, lines)) <= 100
    # What is live, and what is tried, what it waits for.
    assert "live support@v2" in text
    assert "a rollback goes to support@v1" in text
    assert "trying support@v3 at 5 %" in text
    assert state["rollout"]["said"][:20] in text
    assert "then 50 %" in text
    assert "support@v3 pass" in text
    # What was noticed: some of it, and how much more there is.
    assert "drift: noticed 0" in text
    assert "and 9 more" in text
    assert len(state["drift"]) == 6
    assert len(state["alerts"]) == 12
    assert "unsure 70% of the way to drift" in text
    # What it waits for, and what it cost.
    assert "one version at a time" in text
    assert "training 1.00 h (1.50)" in " ".join(text.split())
    assert "gate 1,500 tokens (no price)" in text
    assert "1.75 USD and what has no price" in text
    assert "serving" in text
    gate = next(one for one in state["cost"]["lines"] if one["what"] == "gate")
    assert gate["cost"] is None


def test_the_last_tick_and_what_is_missing(settings: Settings, store: Store, at: float) -> None:
    store.add_interactions([make("r1", version="base", ts=at - 60)])
    done = tick(settings, store, wheel(), say=lambda _: None)
    found = look(settings, store)
    state = found["aliases"]["support"]
    failed = [step.said for step in done.steps if step.failed]
    assert state["loop"] == {"at": at, "failed": failed}
    assert "last tick 0 s ago" in status_text(found)
    assert set(state["signals"]) >= {"negatives", "edits", "confidence", "latency"}
    assert "warming up" in status_text(found)
    assert state["waits_for"]["action"] == done.decisions["support"].action


def test_a_tick_that_failed_says_so(settings: Settings, store: Store, at: float) -> None:
    def broken(alias: str) -> bool:
        from ledger.errors import RegistryError

        raise RegistryError("the shared folder is gone")

    tick(settings, store, SimpleNamespace(url=NOWHERE, unfinished=broken), say=lambda _: None)
    text = status_text(look(settings, store))
    assert "it failed: the shared folder is gone" in text


def test_a_dry_run_leaves_nothing(settings: Settings, store: Store) -> None:
    tick(settings, store, wheel(), dry_run=True, say=lambda _: None)
    assert look(settings, store)["aliases"]["support"]["loop"] is None


def test_collect_first_names_what_is_missing() -> None:
    state: dict[str, Any] = {
        "live": "base", "previous": None, "candidate": None, "share": 0.0, "since": None,
        "answers": {}, "confidence": {}, "last_verdicts": {}, "drift": [], "alerts": [],
        "signals": {}, "loop": {"at": 0.0, "failed": []}, "cost": {"lines": []},
        "waits_for": {
            "action": "collect", "said": ["too little to learn from"], "never_pay": ["calendar"],
            "missing": ["12 more accepted corrections (drift)"],
        },
    }  # fmt: skip
    found = {
        "aliases": {"support": state}, "to_review": {"support": {"low_confidence": 4}},
        "server": {"up": False, "reason": "away"}, "tags": {},
        "held": {"rows": 0, "bytes": 0, "early": 0}, "trained_on_forgotten": [], "incomplete": [],
    }  # fmt: skip
    text = status_text(found)
    assert "collect more first: too little to learn from" in text
    assert "missing: 12 more accepted corrections (drift)" in text
    assert "never paid so far: calendar" in text
    assert "4 answers for a person: 4 low_confidence" in text
