"""What was new in a version that harmed users waits for eyes again, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from curate_rows import add_feedback, add_row, decide, make_settings
from curate_versions import publish

from curate.acceptance import reasons
from curate.acceptance.harmed import SetAside, set_aside
from curate.acceptance.summary import summary
from curate.datasets.build import build, collect
from curate.judging.decisions import correct
from curate.tagging.sweep import sweep
from ledger.deployments import Deployments
from ledger.settings import Settings
from ledger.store import Store


def evidence(negatives: float, safety: float = 0.0, latency: float = 0.0) -> dict[str, Any]:
    """As `eval.canary` leaves it: how much of what is needed is shown."""
    return {
        "metrics": [
            {"name": "negatives", "harm": negatives, "safety": safety},
            {"name": "edits", "harm": 0.1, "safety": 0.2},
        ],
        "guards": [{"name": "latency", "harm": latency, "safety": None}],
    }


@pytest.fixture
def settings(tmp_path: Path, ledger_url: str) -> Settings:
    return make_settings(
        tmp_path,
        url=ledger_url,
        trusted_sources=["user", "operator"],
        acceptance={"new_subject_hours": 0, "burst": 100},
    )


@pytest.fixture
def tried(settings: Settings, store: Store, tmp_path: Path) -> Deployments:
    """Version 1 is live and knows `old`; version 2, the canary, learned `user` and `op`, too."""
    add_row(store, "old", "Where is my parcel?")
    add_feedback(store, "old", correction="delivery", ts=2000.0)
    sweep(settings, store)
    assert publish(settings, build(settings, store, "support", tmp_path / "one")) == 1
    add_row(store, "user", "Where is my money?")
    add_feedback(store, "user", correction="refund", ts=2001.0, subject="s2")
    add_row(store, "op", "Where is my card?")
    correct(store, "op", "login", "ada")
    sweep(settings, store)
    assert publish(settings, build(settings, store, "support", tmp_path / "two")) == 2
    deployments = Deployments(store)
    deployments.promote("support", 1, who="loop", why="")
    deployments.step("begin", "support", 2, 5, who="loop", why="")
    return deployments


def holds(settings: Settings, store: Store) -> dict[str, str]:
    return {pair.row_id: pair.messages[-1]["content"] for pair in
            collect(settings, store, "support").pairs}  # fmt: skip


def test_what_was_new_waits_until_somebody_says_yes_again(
    settings: Settings, store: Store, tried: Deployments
) -> None:
    everything = {"old": "delivery", "user": "refund", "op": "login"}
    assert set_aside(settings, store, "support") is None
    assert holds(settings, store) == everything
    tried.rollback("support", who="loop", why="harm", report=evidence(1.2))
    assert set_aside(settings, store, "support") == SetAside(2, 2)
    assert holds(settings, store) == {"old": "delivery"}
    assert {one.row_id for one in store.queued("support", 10)} >= {"user", "op"}
    said = store.correction_history("op")[-1]
    assert (said.decision, said.source, said.author) == ("proposed", "operator", "ada")
    assert said.why == f"proposed by the policy: {reasons.HARMED}: support@v2"
    assert summary(store, "support").waits == {reasons.HARMED: 1}  # of users
    # Twice changes nothing, needs no turn at writing, and neither do events after it.
    with store.transaction():
        assert set_aside(settings, store, "support") is None
    tried.candidate("support", 3, who="loop", why="")
    assert set_aside(settings, store, "support") is None
    sweep(settings, store)
    assert holds(settings, store) == {"old": "delivery"}

    decide(store, "user", "accepted", "eve")
    decide(store, "op", "rejected", "eve")
    correct(store, "op", "cards", "eve")
    assert set_aside(settings, store, "support") is None
    assert holds(settings, store) == {"old": "delivery", "user": "refund", "op": "cards"}


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "report",
    [
        pytest.param(None, id="by hand"),
        pytest.param(evidence(0.4, latency=3.0), id="it was slow"),
        pytest.param(evidence(1.5, safety=1.1, latency=3.0), id="harm that is tolerated"),
    ],
)
def test_other_rollbacks_leave_corrections_alone(
    settings: Settings, store: Store, tried: Deployments, report: dict[str, Any] | None
) -> None:
    tried.rollback("support", who="loop", why="back", report=report)
    assert set_aside(settings, store, "support") is None
    assert set(holds(settings, store)) == {"old", "user", "op"}


@pytest.mark.sqlite
def test_a_live_version_that_is_taken_back_sets_nothing_aside(
    settings: Settings, store: Store, tried: Deployments
) -> None:
    tried.promote("support", 2, who="loop", why="")
    tried.rollback("support", who="operator:ada", why="complaints", report=evidence(2.0))
    assert set_aside(settings, store, "support") is None
