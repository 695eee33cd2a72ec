"""Rollouts on the real ledger, by a clock that is moved by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from conftest import MakeSettings
from curate_versions import write_key
from rollout_rows import DAY, Product, version

from eval.canary import judge
from flywheel.rollout import abort, advance, begin, pause, promote, resume, rollback
from flywheel.rollout.shown import look, text
from flywheel.status import status, status_text
from ledger import clock
from ledger.deployments import Deployment, Deployments, fold
from ledger.errors import GateRefused, StaleDeployment, UsageError
from ledger.records import DeploymentEvent, Feedback
from ledger.registry.standing import standings
from ledger.settings import Settings
from ledger.store import Store


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    """Shorter stages than the shipped ones, so that a test needs fewer rows."""
    stages = [
        {"share": 10, "days": 2, "events": 200, "tolerance": 0.6, "feedback": 10},
        {"share": 50, "days": 1, "events": 300, "tolerance": 0.5, "feedback": 20},
    ]
    made = make_settings(rollout={"stages": stages, "ask_days": 6})
    write_key(made.privacy.key_file)  # it draws the sample that is kept: the same in each run
    return made


@pytest.fixture
def product(store: Store) -> Iterator[Product]:
    made = Product(
        store,
        a_day=1600,
        negatives={"base": 0.15, "support@v1": 0.1, "support@v2": 0.3},
        edits={"base": 0.1, "support@v1": 0.06, "support@v2": 0.1},
    )
    with clock.at(lambda: made.now):
        yield made


def run(settings: Settings, product: Product, days: float, step: float = 0.5) -> list[Any]:
    """Let time pass, with a look every `step` days."""
    changes = []
    end = product.now + days * DAY
    while product.now < end - 1:
        product.live(step)
        change = advance(settings, product.store, "support", now=product.now)
        if change is not None:
            changes.append(change)
        # Idempotent: what was done is not done again.
        assert advance(settings, product.store, "support", now=product.now) is None
    return changes


def test_a_good_version_goes_through_all_stages_and_a_bad_one_back(
    settings: Settings, store: Store, product: Product
) -> None:
    one = version(settings, store)
    began = begin(settings, store, "support", one, why="run 1")
    assert began is not None
    assert (began.event.kind, began.after.share, began.after.stages) == ("begin", 10, True)
    assert begin(settings, store, "support", one) is None
    changes = run(settings, product, 8)
    assert [c.event.kind for c in changes] == ["expand", "promote"]
    assert changes[0].event.ts >= began.event.ts + 2 * DAY
    assert changes[1].event.ts >= changes[0].event.ts + 1 * DAY
    assert changes[-1].after.history == (0, 1)
    # Who, why, and the numbers that it rests on, without anybody's text.
    event = Deployments(store).events("support")[1]
    assert event.who == "loop"
    assert "negatives" in event.why
    assert event.report is not None
    assert event.report["answers"]["canary"] >= 200
    assert "delivery" not in json.dumps(event.report)
    metrics = {one["name"]: one for one in event.report["metrics"]}
    assert metrics["negatives"]["safety"] >= 1
    assert metrics["negatives"]["ratio"][1] <= 1.6
    # Nobody moved within a stage, and who was in the small share is in the large one.
    assert product.sides
    assert all(len(sides) == 1 for sides in product.sides.values())
    for arms in product.arms.values():
        assert arms == sorted(arms, reverse=True)  # live, then candidate, never back

    product.sides.clear()
    two = version(settings, store)
    assert begin(settings, store, "support", two) is not None
    [back] = run(settings, product, 4)
    assert back.event.kind == "rollback"
    assert "negatives" in back.event.why
    assert "times as many" in back.event.why
    assert back.after.live == 1
    assert back.after.candidate is None
    assert back.event.ts < product.now
    stand = standings("support", [1, 2], Deployments(store).events("support"), {})
    assert stand[2].state == "rejected"


def test_a_stage_needs_its_time_and_its_answers(
    settings: Settings, store: Store, product: Product
) -> None:
    begin(settings, store, "support", version(settings, store))
    product.live(1.5)
    found = judge(settings, store, "support", now=product.now)
    assert found.action == "hold"
    assert "1.5 of 2 days" in found.said
    product.a_day = 2
    product.live(1.0)
    product.a_day = 1600
    assert judge(settings, store, "support", now=product.now).action == "expand"
    few = settings.model_copy(
        update={"rollout": settings.rollout.model_copy(update={"stages": (
            settings.rollout.stages[0].model_copy(update={"events": 100_000}),)})}
    )  # fmt: skip
    found = judge(few, store, "support", now=product.now)
    assert (found.action, "of 100000 answers" in found.said) == ("hold", True)


@pytest.mark.sqlite
def test_only_a_version_that_passed_gets_traffic(
    settings: Settings, store: Store, product: Product
) -> None:
    failed = version(settings, store, "fail")
    with pytest.raises(GateRefused, match="has the verdict fail"):
        begin(settings, store, "support", failed)
    never = version(settings, store, None)
    with pytest.raises(GateRefused, match="never put before its gate"):
        begin(settings, store, "support", never)
    Deployments(store).candidate("support", never, who="retrain", why="run")
    assert advance(settings, store, "support", now=product.now) is None
    with pytest.raises(UsageError, match="--because"):
        begin(settings, store, "support", never, force=True)
    change = begin(settings, store, "support", never, force=True, why="a demonstration")
    assert change is not None
    assert change.event.why == "a demonstration"


@pytest.mark.sqlite
def test_a_version_that_passed_and_waits_begins_with_the_next_look(
    settings: Settings, store: Store, product: Product
) -> None:
    one = version(settings, store)
    Deployments(store).candidate("support", one, who="retrain", why="run")
    change = advance(settings, store, "support", now=product.now)
    assert change is not None
    assert (change.event.kind, change.after.candidate) == ("begin", one)
    none = settings.model_copy(
        update={"rollout": settings.rollout.model_copy(update={"stages": ()})}
    )
    assert begin(none, store, "support", version(settings, store)) is None


def test_pause_resume_and_abort(settings: Settings, store: Store, product: Product) -> None:
    begin(settings, store, "support", version(settings, store))
    product.live(1.0)
    paused = pause(store, "support", because="holiday")
    assert (paused.after.share, paused.after.paused) == (10, True)
    with pytest.raises(UsageError, match="paused already"):
        pause(store, "support", because="again")
    product.live(3.0)
    assert advance(settings, store, "support", now=product.now) is None
    found = judge(settings, store, "support", now=product.now)
    assert "it is paused" in found.said
    assert found.evidence["days"] == pytest.approx(1.0)
    resumed = resume(store, "support", because="back")
    with pytest.raises(UsageError, match="is not paused"):
        resume(store, "support", because="again")
    assert resumed.after.stage_seconds(product.now) == pytest.approx(DAY)
    product.live(1.1)
    change = advance(settings, store, "support", now=product.now)
    assert change is not None
    assert change.event.kind == "expand"
    # Through pause and resume everybody stayed on their side.
    assert all(len(sides) == 1 for sides in product.sides.values())
    ended = abort(store, "support", because="enough")
    assert (ended.after.live, ended.after.candidate, ended.after.share) == (0, None, 0)
    with pytest.raises(UsageError, match="no rollout to abort"):
        abort(store, "support", because="again")
    kinds = [e.kind for e in Deployments(store).events("support")]
    assert kinds == ["begin", "pause", "resume", "expand", "abort"]


def test_a_pause_does_not_keep_a_harmful_canary(
    settings: Settings, store: Store, product: Product
) -> None:
    product.negatives["support@v1"] = 0.6
    begin(settings, store, "support", version(settings, store))
    pause(store, "support", because="holiday")
    product.live(1.0)
    change = advance(settings, store, "support", now=product.now)
    assert change is not None
    assert change.event.kind == "rollback"


@pytest.mark.sqlite
def test_a_newer_version_supersedes(settings: Settings, store: Store, product: Product) -> None:
    one, two = version(settings, store), version(settings, store)
    begin(settings, store, "support", one)
    product.live(1.0)
    change = begin(settings, store, "support", two, why="run 2")
    assert change is not None
    assert (change.event.kind, change.after.candidate, change.after.share) == ("supersede", two, 10)
    assert change.event.why == "instead of support@v1 at 10 %: run 2"
    # Its stage begins anew, with none of the other's answers.
    found = judge(settings, store, "support", now=product.now)
    assert found.evidence["answers"]["canary"] == 0
    stand = standings("support", [1, 2], Deployments(store).events("support"), {})
    assert [stand[n].state for n in (1, 2)] == ["superseded", "canary"]


@pytest.mark.sqlite
def test_by_hand_during_the_stages(settings: Settings, store: Store, product: Product) -> None:
    one = version(settings, store)
    begin(settings, store, "support", one)
    product.live(0.5)
    moved = promote(settings, store, "support", version=None, share=30, because="faster")
    assert (moved.after.share, moved.after.stages) == (30, True)
    assert moved.after.stage_seconds(product.now) == 0
    product.live(2.1)
    change = advance(settings, store, "support", now=product.now)
    assert change is not None
    assert change.after.share == 50
    assert promote(settings, store, "support", version=None, share=None, because="").after.live == 1
    assert rollback(store, "support", because="").after.live == 0
    # A share that a person set outside of a rollout is theirs.
    promote(settings, store, "support", version="1", share=10, because="a try")
    product.negatives["support@v1"] = 0.9
    product.live(1.0)
    assert advance(settings, store, "support", now=product.now) is None
    found = look(settings, store, "support", now=product.now)
    assert found["action"] == "roll_back"
    assert "share set by hand" in text(found)


class _Hook:
    """A webhook that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Stay silent."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.mark.sqlite
def test_a_stage_that_does_not_end_asks_a_person_once(
    settings: Settings, store: Store, product: Product
) -> None:
    hook = _Hook()
    try:
        told = settings.model_copy(
            update={"drift": settings.drift.model_copy(update={"webhook": hook.url})}
        )
        product.a_day = 20
        begin(told, store, "support", version(settings, store))
        [asked] = run(told, product, 9, step=1.0)
    finally:
        hook.close()
    assert asked.event.kind == "ask"
    assert "after 6 days at 10 %" in asked.event.why
    assert (asked.after.share, asked.after.asked) == (10, True)
    [call] = hook.got
    assert (call["kind"], call["version"]) == ("rollout_ask", "support@v1")
    assert call["said"] == asked.event.why
    found = look(told, store, "support", now=product.now)
    assert "(asked)" in text(found)
    shown = status_text(status(told, store, ["support"], "http://127.0.0.1:9/v1"))
    assert "a person is asked, hold after 9.0 days" in shown
    # The answer of a person.
    assert promote(told, store, "support", version=None, share=None, because="fine").after.live == 1


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("errors", {"finish_reason": "error"}),
        ("latency", {"latency_ms": 900.0}),
        ("long", {"completion_tokens": 60}),
        ("empty", {"completion_tokens": 1}),
        ("confidence", {"mean_logprob": -4.0}),
    ],
)
def test_guards_take_back_what_is_clearly_much_worse(
    settings: Settings, store: Store, product: Product, name: str, fields: dict[str, Any]
) -> None:
    product.a_day, product.negatives, product.edits = 900, {}, {}
    Deployments(store)
    begin(settings, store, "support", version(settings, store))
    _live_with(product, fields)
    change = advance(settings, store, "support", now=product.now)
    assert change is not None
    assert change.event.kind == "rollback"
    assert change.event.why.startswith(name)


def _live_with(product: Product, fields: dict[str, Any]) -> None:
    """A day in which the candidate's answers have these fields instead of the usual ones."""
    import rollout_rows

    usual = rollout_rows.make

    def made(row_id: str, **values: Any) -> Any:
        return usual(row_id, **(values | fields if values["arm"] == "candidate" else values))

    rollout_rows.make = made
    try:
        product.live(1.0)
    finally:
        rollout_rows.make = usual


@pytest.mark.sqlite
def test_shorter_and_surer_answers_are_no_harm(
    settings: Settings, store: Store, product: Product
) -> None:
    begin(settings, store, "support", version(settings, store))
    _live_with(product, {"completion_tokens": 2, "mean_logprob": -0.01, "latency_ms": 10.0})
    found = judge(settings, store, "support", now=product.now)
    assert found.action == "hold"
    assert all(one["harm"] < 1 for one in found.evidence["guards"])


@pytest.mark.sqlite
def test_without_feedback_nothing_expands(
    settings: Settings, store: Store, product: Product
) -> None:
    """No complaint from users who never say anything is no evidence."""
    begin(settings, store, "support", version(settings, store))
    product.negatives, product.edits = {}, {}
    product.live(3.0)
    with store.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM feedback")
    found = judge(settings, store, "support", now=product.now)
    assert found.action == "hold"
    assert "too little feedback" in found.said


@pytest.mark.sqlite
def test_who_decides_on_what_no_longer_holds_does_nothing(
    settings: Settings, store: Store, product: Product
) -> None:
    one = version(settings, store)
    begin(settings, store, "support", one)
    seen = Deployments(store).state("support")
    pause(store, "support", because="first")
    with pytest.raises(StaleDeployment):
        Deployments(store).step("expand", "support", one, 50, who="loop", why="", seen=seen)
    assert Deployments(store).state("support").share == 10


def test_events_of_older_ledgers_fold_as_before() -> None:
    state = Deployment("support")
    for seq, (kind, number, share) in enumerate(
        [
            ("candidate", 1, None),
            ("share", 1, 5.0),
            ("share", 1, 50.0),
            ("promote", 1, None),
            ("share", 2, 5.0),
            ("rollback", None, None),
            ("candidate", 3, None),
            ("withdraw", None, None),
            ("rollback", None, None),
        ],
        start=1,
    ):
        event = DeploymentEvent(
            seq=seq, alias="support", ts=seq, kind=kind, version=number, share=share, who="w"
        )
        state = fold(state, event)
        assert not state.stages
    assert (state.history, state.candidate, state.share, state.seq) == ((0,), None, 0.0, 9)


def test_stages_must_rise(make_settings: MakeSettings) -> None:
    from ledger.errors import ConfigError

    stages = [{"share": 50, "days": 1}, {"share": 5, "days": 1}]
    with pytest.raises(ConfigError, match="shares must rise"):
        make_settings(rollout={"stages": stages})


@pytest.mark.sqlite
def test_an_alias_may_have_stages_of_its_own(make_settings: MakeSettings, store: Store) -> None:
    own = make_settings(
        aliases={"support": {"rollout": {"stages": [{"share": 20, "days": 0}]}}, "other": {}}
    )
    assert [s.share for s in own.rollout_of("support").stages] == [20]
    assert [s.share for s in own.rollout_of("other").stages] == [5, 50]
    change = begin(own, store, "support", version(own, store))
    assert change is not None
    assert change.after.share == 20


@pytest.mark.sqlite
def test_rows_that_stand_for_others_count_for_them(
    settings: Settings, store: Store, product: Product
) -> None:
    """A day later a sample is left, and what is said of all answers stays true."""
    from ledger.keeping.settle import Settle

    begin(settings, store, "support", version(settings, store))
    product.live(1.0)
    whole = judge(settings, store, "support", now=product.now).evidence
    product.now += 2 * DAY
    for _ in Settle(store, settings, lambda: product.now).steps():
        pass
    left = sum(1 for _ in store.interactions(alias="support"))
    assert left < 800
    part = judge(settings, store, "support", now=product.now).evidence
    for side in ("canary", "control"):
        assert part["answers"][side] == pytest.approx(whole["answers"][side], rel=0.25)
    for before, after in zip(whole["metrics"], part["metrics"], strict=True):
        assert after["control"] == pytest.approx(before["control"], rel=0.25)
        low, high = after["ratio"]
        assert low <= before["ratio"][0] + 0.05
        assert high is None or before["ratio"][1] is None or high >= before["ratio"][1] - 0.05


@pytest.mark.sqlite
def test_one_user_with_many_thumbs_down_moves_nothing(
    settings: Settings, store: Store, product: Product
) -> None:
    from kept_rows import make

    begin(settings, store, "support", version(settings, store))
    product.live(1.0)
    state = Deployments(store).state("support")
    rows = [
        make(
            f"angry-{number}",
            ts=product.now - 3600,
            version="support@v1",
            arm="candidate",
            deployment=state.seq,
            subject="angry",
            finish_reason="stop",
            stored_text=False,
        )
        for number in range(300)
    ]
    store.add_interactions(rows)
    with store.transaction() as connection:
        for row in rows:
            one = Feedback(feedback_id=row.row_id, row_id=row.row_id, ts=row.ts, rating="down")
            store.add_feedback(one, connection)
    found = judge(settings, store, "support", now=product.now)
    assert found.action == "hold"
    assert found.evidence["metrics"][0]["harm"] < 0.5


@pytest.mark.sqlite
def test_feedback_that_comes_late_belongs_to_the_side_of_its_row(
    settings: Settings, store: Store, product: Product
) -> None:
    """Also when the user was moved meanwhile, and the stage of the answer is over: not to this."""
    begin(settings, store, "support", version(settings, store))
    product.live(1.0)
    first = [row.row_id for row in store.interactions() if row.arm == "candidate"]
    before = judge(settings, store, "support", now=product.now).evidence["metrics"][0]
    for row_id in first[:10]:
        late = Feedback(feedback_id=f"late-{row_id}", row_id=row_id, ts=product.now, rating="down")
        assert store.add_feedback(late)
    after = judge(settings, store, "support", now=product.now).evidence["metrics"][0]
    assert after["canary"] > before["canary"]
    assert after["control"] == before["control"]
    promote(settings, store, "support", version=None, share=50, because="faster")
    product.live(0.2)
    fresh = judge(settings, store, "support", now=product.now).evidence
    assert fresh["answers"]["canary"] < 0.7 * 0.2 * product.a_day
