"""A rollout on a real server: stages are obeyed, users keep their side, nothing of the shadow is
logged."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from servers import KEY, Ours, wait_for

from benchmarks.adapters import publish_random_adapter
from eval.fake import FakeServer
from flywheel.rollout import abort, advance, begin, pause, resume
from flywheel.rollout.shadow import shadow
from ledger.deployments import Deployment, version_name
from ledger.records import Evaluation
from ledger.settings import Settings
from ledger.settings.rollout import Guards, Rollout, Shadow, Stage
from serve.routing import route

USERS = [f"visitor-{number}" for number in range(160)]


@pytest.fixture
def candidate(ours: Ours) -> Iterator[int]:
    """A version that passed its gate; afterwards the base model has all the traffic."""
    made = publish_random_adapter(ours.settings, "support", ours.model, 31)
    ours.store.add_evaluation(
        Evaluation(run_id="run", ts=time.time(), alias="support", candidate=made.name,
                   baseline=ours.settings.model.name, verdict="pass", report={})
    )  # fmt: skip
    yield made.manifest.version
    state = ours.deployments.state("support")
    if state.candidate is not None:
        ours.follow(ours.deployments.withdraw("support", who="test", why="tidy up"))
    if state.live:
        ours.follow(ours.deployments.promote("support", 0, who="test", why="tidy up"))


def staged(settings: Settings, **shadow: Any) -> Settings:
    """Stages that a minute of traffic can end, with enough answers on both sides."""
    rules = {"days": 0, "events": 50, "feedback": 0, "tolerance": 50}
    rollout = Rollout(
        stages=(Stage(share=40, **rules), Stage(share=55, **rules)),
        tolerance_points=0.9,
        # A random adapter, and slower than no adapter on some machines: neither is asked here.
        guards=Guards(points=0.9),
        shadow=Shadow(**shadow),
    )
    return settings.model_copy(update={"rollout": rollout})


def everybody(ours: Ours, state: Deployment) -> set[str]:
    """Each user asks once; returns those whom the candidate answered.

    Every answer is by the version that the pure function of (alias, user, deployment) names.
    """

    def ask(user: str) -> tuple[str, str, str]:
        answer = ours.client.chat.completions.create(
            model="support",
            messages=[{"role": "user", "content": f"I am {user}. Where does it go?"}],
            temperature=0,
            max_tokens=4,
            user=user,
        )
        return user, answer.model, answer.id

    with ThreadPoolExecutor(16) as pool:
        said = list(pool.map(ask, USERS))
    base = ours.settings.model.name
    for user, model, _ in said:
        assert model == version_name("support", route(state, user).version, base)
    ours.row(said[-1][2])
    return {user for user, model, _ in said if model != base}


def test_stages_are_obeyed_and_users_keep_their_side(ours: Ours, candidate: int) -> None:
    settings = staged(ours.settings)
    began = begin(settings, ours.store, "support", candidate, why="run")
    assert began is not None
    ours.follow(began)
    few = everybody(ours, began.after)
    assert 0.2 < len(few) / len(USERS) < 0.6
    for change in (pause(ours.store, "support", because="x"),
                   resume(ours.store, "support", because="x")):  # fmt: skip
        ours.follow(change)
        assert everybody(ours, change.after) == few

    def go_on() -> Any:
        return advance(settings, ours.store, "support", now=time.time())

    expanded = wait_for(go_on, "the next stage")
    assert (expanded.event.kind, expanded.after.share) == ("expand", 55), expanded.event.why
    ours.follow(expanded)
    many = everybody(ours, expanded.after)
    assert few < many
    # Only answers of this stage count.
    live = wait_for(go_on, "all the traffic")
    assert live.event.kind == "promote"
    assert 50 <= live.event.report["answers"]["canary"] <= len(USERS)
    ours.follow(live)
    assert everybody(ours, live.after) == set(USERS)


def test_an_aborted_rollout_is_over_at_once(ours: Ours, candidate: int) -> None:
    began = begin(staged(ours.settings), ours.store, "support", candidate)
    assert began is not None
    ours.follow(began)
    assert everybody(ours, began.after)
    ended = abort(ours.store, "support", because="a test")
    ours.follow(ended)
    assert everybody(ours, ended.after) == set()


def test_the_candidate_answers_out_of_sight(ours: Ours, candidate: int) -> None:
    def judge(messages: list[dict[str, Any]]) -> str:
        data = json.loads(messages[1]["content"])
        return json.dumps({"better": "A" if data["A"] < data["B"] else "B"})

    with FakeServer({"judge": judge}) as judging:
        settings = staged(ours.settings, share=1.0, an_hour=6)
        settings = settings.model_copy(
            update={
                "curate": settings.curate.model_copy(
                    update={"judge": _teacher(judging.url)},
                )
            }
        )
        began = begin(settings, ours.store, "support", candidate)
        assert began is not None
        ours.follow(began)
        everybody(ours, began.after)
        before = ours.store.counts("support")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FLYWHEEL_API_KEYS", KEY)
            found = shadow(settings, ours.store, "support", url=ours.url, now=time.time())
    assert found.asked == 6, found.said
    assert found.won + found.lost + found.tied == 6
    assert found.won + found.lost > 0  # the two versions say different things
    [row_id, *_] = sorted(ours.store.shadowed_rows("support", f"support@v{candidate}", since=0))
    assert ours.store.shadow_text(row_id, f"support@v{candidate}")
    time.sleep(0.3)  # longer than the writer waits for others: nothing more comes
    assert ours.store.counts("support") == before


def _teacher(url: str) -> Any:
    from ledger.settings.curation import Teacher

    return Teacher(url=url, model="judge")
