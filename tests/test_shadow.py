"""Shadow mode: the candidate answers out of sight, a judge compares, the result is evidence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import MakeSettings
from rollout_rows import DAY, Product, version

from eval.canary import judge
from eval.fake import FakeFailure, FakeServer
from flywheel.rollout import begin
from flywheel.rollout.shadow import shadow
from ledger import clock
from ledger.deployments import Deployments
from ledger.settings import Settings
from ledger.store import ShadowAnswer, Store

SAID = {"base": "billing", "support@v1": "delivery"}


def prefers(text: str) -> Any:
    """A judge that prefers an answer wherever it stands."""

    def says(messages: list[dict[str, Any]]) -> str:
        data = json.loads(messages[1]["content"])
        better = next((place for place in "AB" if data[place] == text), "tie")
        return json.dumps({"better": better})

    return says


@pytest.fixture
def server() -> Iterator[FakeServer]:
    models: dict[str, Any] = {
        name: (lambda messages, text=text: text) for name, text in SAID.items()
    }
    with FakeServer({**models, "judge": prefers("delivery")}) as made:
        yield made


@pytest.fixture
def settings(make_settings: MakeSettings, server: FakeServer) -> Settings:
    return make_settings(
        curate={"judge": {"url": server.url, "model": "judge", "prompt_price": 1.0,
                          "completion_price": 2.0}},
        rollout={
            "stages": [{"share": 5, "days": 1, "events": 20, "feedback": 20}],
            "shadow": {"share": 1.0, "an_hour": 15},
        },
    )  # fmt: skip


@pytest.fixture
def product(store: Store, settings: Settings) -> Iterator[Product]:
    made = Product(store, a_day=600)
    made.keep_text = True
    with clock.at(lambda: made.now):
        begin(settings, store, "support", version(settings, store))
        made.live(1.0)
        yield made


def test_the_candidate_is_asked_what_users_asked_and_nothing_is_logged(
    settings: Settings, store: Store, product: Product, server: FakeServer
) -> None:
    before = store.counts("support")
    found = shadow(settings, store, "support", url=server.url, now=product.now)
    assert (found.asked, found.won, found.lost, found.tied) == (15, 15, 0, 0)
    assert store.counts("support") == before
    asked = [one for one in server.seen if one.body["model"] in SAID]
    assert {one.headers["x-flywheel-purpose"] for one in asked} == {"evaluation"}
    assert {one.body["model"] for one in asked} == {"base", "support@v1"}
    assert len(asked) == 30
    # Both orders.
    assert len([one for one in server.seen if one.body["model"] == "judge"]) == 30
    # The hour is used up; the next one has room, for users not asked about yet.
    again = shadow(settings, store, "support", url=server.url, now=product.now)
    assert again.asked == 0
    product.now += 3601
    more = shadow(settings, store, "support", url=server.url, now=product.now)
    assert more.asked == 15
    rows = store.shadowed_rows("support", "support@v1", since=0)
    assert len(rows) == 30
    users = {row.subject for row in store.interactions(row_ids=sorted(rows))}
    assert len(users) == 30
    assert all(row.arm == "live" for row in store.interactions(row_ids=sorted(rows)))
    spent = {key.what: one for key, one in store.spending_by_version("support").items()}
    assert spent["shadow"].calls == 60
    assert spent["judge"].cost is not None
    assert spent["judge"].cost > 0


@pytest.mark.sqlite
def test_with_too_little_feedback_it_decides(
    settings: Settings, store: Store, product: Product, server: FakeServer
) -> None:
    with store.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM feedback")
    held = judge(settings, store, "support", now=product.now)
    assert held.action == "hold"
    assert "too little feedback" in held.said
    for _ in range(3):
        shadow(settings, store, "support", url=server.url, now=product.now)
        product.now += 3601
    found = judge(settings, store, "support", now=product.now)
    assert found.action == "expand"
    assert found.evidence["shadow"]["won"] == 45


@pytest.mark.sqlite
def test_a_candidate_that_loses_is_taken_back(
    settings: Settings, store: Store, product: Product, server: FakeServer
) -> None:
    server.models["judge"] = prefers("billing")
    with store.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM feedback")
    for _ in range(3):
        shadow(settings, store, "support", url=server.url, now=product.now)
        product.now += 3601
    found = judge(settings, store, "support", now=product.now)
    assert found.action == "roll_back"
    assert "comparisons lost" in found.said


@pytest.mark.sqlite
def test_a_judge_that_goes_by_the_place_says_nothing(
    settings: Settings, store: Store, product: Product, server: FakeServer
) -> None:
    server.models["judge"] = lambda messages: '{"better": "A"}'
    found = shadow(settings, store, "support", url=server.url, now=product.now)
    assert (found.won, found.lost, found.tied) == (0, 0, 15)


@pytest.mark.sqlite
def test_who_wants_nothing_stored_or_is_forgotten_is_not_asked_about(
    settings: Settings, store: Store, product: Product, server: FakeServer
) -> None:
    rows = [row for row in store.interactions(alias="support") if row.arm == "live"]
    for row in rows[:200]:
        assert row.subject is not None
        store.forget(row.subject, who="operator:ada", why="asked to")
    gone = {row.subject for row in rows[:200]}
    shadow(settings, store, "support", url=server.url, now=product.now)
    asked = store.interactions(
        row_ids=sorted(store.shadowed_rows("support", "support@v1", since=0))
    )
    subjects = {row.subject for row in asked}
    assert len(subjects) == 15
    assert not subjects & gone
    # Nor can what was said about them before be read afterwards.
    [row_id, *_] = sorted(store.shadowed_rows("support", "support@v1", since=0))
    assert store.shadow_text(row_id, "support@v1") == "delivery"
    subject = store.interaction(row_id).subject
    assert subject is not None
    store.forget(subject, who="operator:ada", why="asked to")
    assert store.shadow_text(row_id, "support@v1") is None
    answer = ShadowAnswer(row_id, "support@v9", "text", None, 1, 1, 1.0, None)
    assert not store.add_shadow("support", answer)
    product.keep_text = False
    product.now += DAY
    product.live(0.5)
    fresh = [row.row_id for row in store.interactions(since=product.now - DAY / 2)]
    shadow(settings, store, "support", url=server.url, now=product.now)
    assert not set(fresh) & store.shadowed_rows("support", "support@v1", since=0)


@pytest.mark.sqlite
def test_a_server_or_judge_that_fails_is_named_and_stops_nothing(
    settings: Settings, store: Store, product: Product, server: FakeServer
) -> None:
    def fails(messages: list[dict[str, Any]]) -> str:
        raise FakeFailure(400, "no")

    server.models["judge"] = fails
    found = shadow(settings, store, "support", url=server.url, now=product.now)
    assert "stopped" in found.said
    assert store.shadowed_rows("support", "support@v1", since=0) == set()


@pytest.mark.sqlite
def test_it_is_off_unless_it_is_asked_for(
    make_settings: MakeSettings, store: Store, product: Product, server: FakeServer
) -> None:
    before = len(server.seen)
    off = make_settings(rollout={"shadow": {"share": 0.0}})
    assert shadow(off, store, "support", url=server.url, now=product.now).said == ""
    without = make_settings(rollout={"shadow": {"share": 0.5}})
    said = shadow(without, store, "support", url=server.url, now=product.now).said
    assert "no judge" in said
    assert len(server.seen) == before


@pytest.mark.sqlite
def test_a_share_of_the_questions(
    make_settings: MakeSettings, store: Store, product: Product, server: FakeServer
) -> None:
    part = make_settings(
        curate={"judge": {"url": server.url, "model": "judge"}},
        rollout={"shadow": {"share": 0.1, "an_hour": 1000}},
    )
    found = shadow(part, store, "support", url=server.url, now=product.now)
    assert 30 <= found.asked <= 85  # of about 500 users
    state = Deployments(store).state("support")
    assert state.share == 5
