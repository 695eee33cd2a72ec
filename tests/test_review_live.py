"""The page Live: what is tried, noticed, waited for and spent, as the loop left it."""

from __future__ import annotations

import re
import time
from html import unescape
from typing import Any

import pytest
import review_rows
from browser import PHONE, axe_findings, is_wider_than_the_screen, logged_in, screenshot, served
from kept_rows import make
from review_client import enter

from curate.review.app import create
from ledger.deployments import Deployments
from ledger.glance import LOOP, ROLLOUT, SIGNALS, remember
from ledger.settings import Settings
from ledger.store import Spent, Store


def text_of(page: str) -> str:
    """What a reader sees, in one line."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())


def live(settings: Settings, store: Store) -> str:
    app = create(settings, store)
    name = f"ada{len(app.state.people.all())}"
    with enter(app, name, "operator") as client:
        answer = client.get("/support/live")
    assert answer.status_code == 200
    return text_of(answer.text)


def leave(store: Store) -> None:
    """What a tick leaves while a canary runs and something has drifted."""
    now = time.time()
    stage = Deployments(store).state("support").stage_seq
    rate = {"canary": 0.12, "control": 0.1}
    evidence = {
        "metrics": [{"name": "negatives", **rate}, {"name": "edits", **rate}],
        "guards": [{"name": "errors", **rate}],
    }
    said = "harm of negatives above 25 % is not excluded yet: 140 of 200 answers"
    rollout = {"stage": stage, "action": "hold", "said": said, "next_share": 50.0}
    remember(store, "support", ROLLOUT, {**rollout, "evidence": evidence}, at=now - 300)
    decision = {
        "action": "collect", "because": ["drift"], "never_pay": ["calendar"],
        "said": ["there is a cause and too little to learn from"],
        "missing": ["31 more accepted corrections (drift)"],
    }  # fmt: skip
    loop = {"decision": decision, "failed": ["the gold questions could not be asked: no server"]}
    remember(store, "support", LOOP, loop, at=now - 300)
    names = ("negatives", "edits", "confidence", "questions", "latency")
    signals = {
        name: {
            "state": "drift" if name == "negatives" else "warming_up" if place == 4 else "quiet",
            "score": 1 - place / 4,
            "said": f"{name}: 21 % (17 % to 25 %) of feedback, 10 % is usual",
        }
        for place, name in enumerate(names)
    }  # fmt: skip
    remember(store, "support", SIGNALS, {"signals": signals}, at=now)
    with store.transaction() as connection:
        report = {"signal": "negatives", "said": "negatives drifted: 0.21 of feedback"}
        store.add_alert(
            "support", "drift:negatives", report, connection, at=now, since=now - 9e4, until=now
        )
    store.add_spending("support", "training", "base", Spent(1, 90_000, 0, 1.25, 5400.0))
    store.add_spending("support", "teacher", "large", Spent(40, 50_000, 9_000, None))


def test_a_new_ledger_has_nothing_to_tell(settings: Settings, store: Store) -> None:
    text = live(settings, store)
    assert "No tick of the loop yet." in text
    assert "Nothing on training, gates or other models." in text
    assert "Being tried" not in text
    assert "What is watched" not in text


def test_it_shows_what_status_does(settings: Settings, store: Store) -> None:
    deployments = Deployments(store)
    deployments.promote("support", 1, who="ada", why="better")
    began = deployments.step("begin", "support", 2, 5.0, who="loop", why="it passed")
    rows = [
        make(f"r{n}", hour=time.time() // 3600 - 2, prompt_tokens=90, completion_tokens=10)
        for n in range(30)
    ]
    store.add_interactions(rows)
    text = live(settings, store)
    assert "support@v2 at 5 %" in text
    assert "Nobody has judged this stage yet" in text
    leave(store)
    text = live(settings, store)
    assert "Hold: harm of negatives above 25 % is not excluded yet" in text
    assert "negatives 12.0 % 10.0 %" in text
    assert "drift:negatives (not over)" in text
    assert "1 of 5 signals drifted" in text
    assert "75 % of the way to drift" in text
    assert "collect more first there is a cause" in text
    assert "missing: 31 more accepted corrections (drift)" in text
    assert "Never paid so far: calendar." in text
    assert "The last tick failed: the gold questions" in text
    assert "training 1.50 90,000 1.25" in text
    assert "teacher 0.00 59,000 no price" in text
    assert "serving – 3,000 –" in text
    deployments.mark("ask", "support", who="loop", why="too long")
    assert "a person is asked" in live(settings, store)
    deployments.step("expand", "support", 2, 50.0, who="loop", why="fine")
    assert "Nobody has judged this stage yet" in live(settings, store)
    deployments.rollback("support", who="loop", why="harm")
    assert "Being tried" not in live(settings, store)
    assert began.after.stage_seq > 0


def test_a_share_set_by_hand_waits_for_a_hand(settings: Settings, store: Store) -> None:
    Deployments(store).share("support", 1, 10.0, who="operator:ada", why="try it")
    assert "A person set its share" in live(settings, store)


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("light", {}),
        ("dark", {"color_scheme": "dark"}),
        ("phone", {"viewport": PHONE}),
    ],
)
def test_it_is_readable(
    browser: Any, settings: Settings, store: Store, name: str, options: dict[str, Any]
) -> None:
    review_rows.fill(settings, store, time.time(), 120)
    leave(store)
    with served(settings, store) as page:
        tab = logged_in(browser, page, "ada", **options)
        tab.goto("/support/live")
        assert tab.get_by_text("What it waits for").is_visible()
        assert not is_wider_than_the_screen(tab)
        assert axe_findings(tab) == []
        screenshot(tab, f"live-{name}")
        tab.context.close()
