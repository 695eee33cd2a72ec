"""The stages of a rollout: beginning, and doing what is due. What is due says `eval.canary`.

Every step is decided on one state of the alias and appended only if that state still holds, so
that two who advance at once are one, and a person who came between is not overruled.
"""

from __future__ import annotations

from typing import Literal

from eval.canary import Judgement, judge_state
from flywheel.rollout.asking import tell
from flywheel.rollout.changes import check
from ledger.deployments import Change, Deployment, Deployments, version_name
from ledger.errors import GateRefused, StaleDeployment
from ledger.glance import ROLLOUT, remember
from ledger.settings import Settings
from ledger.store import Store


def begin(
    settings: Settings,
    store: Store,
    alias: str,
    version: int,
    *,
    who: str = "loop",
    why: str = "",
    force: bool = False,
) -> Change | None:
    """Give a version that passed its gate the share of the first stage.

    A canary of another version is superseded: the newer version takes its place.

    Args:
        force: also without a pass; `why` must say why.

    Returns:
        None where there is nothing to begin: no stages are configured, or the version is live or
        being tried already.

    Raises:
        GateRefused, RegistryError, UsageError: see `flywheel.rollout.changes.check`.
        StaleDeployment: the alias changed meanwhile.
    """
    rollout = settings.rollout_of(alias)
    deployments = Deployments(store)
    state = deployments.state(alias)
    if not rollout.stages or state.live == version:
        return None
    running = state.stage == "canary"
    if running and state.candidate == version:
        return None
    check(settings, store, alias, version, because=why, force=force)
    share = rollout.stages[0].share
    kind: Literal["supersede", "begin"] = "supersede" if running else "begin"
    if running and state.candidate is not None:
        old = version_name(alias, state.candidate, settings.model.name)
        why = f"instead of {old} at {state.share:g} %" + (f": {why}" if why else "")
    return deployments.step(kind, alias, version, share, who=who, why=why, seen=state)


def advance(
    settings: Settings, store: Store, alias: str, *, now: float, who: str = "loop"
) -> Change | None:
    """Do what is due: the next stage, all the traffic, back, or a question to a person.

    A version that passed its gate and waits without traffic begins its stages: whoever was to
    begin them was cut off. A canary whose share a person set outside of a rollout is left to them.

    Args:
        now: seconds since the epoch.

    Returns:
        None where nothing is due, or somebody else was faster.
    """
    deployments = Deployments(store)
    state = deployments.state(alias)
    try:
        if state.stage == "candidate" and state.candidate is not None:
            return _begin_late(settings, store, state, who)
        if state.stage != "canary" or not state.stages:
            return None
        found = judge_state(settings, store, state, now=now)
        _leave(settings, store, state, found, now)
        change = _act(settings, deployments, state, found, who)
    except StaleDeployment:
        return None
    if change is not None and change.event.kind == "ask":
        tell(settings, change)
    return change


def _leave(
    settings: Settings, store: Store, state: Deployment, found: Judgement, now: float
) -> None:
    """For the review page and metrics, which do not judge."""
    said = {
        "stage": state.stage_seq,
        "action": found.action,
        "said": found.said,
        "next_share": next_share(settings, state) or 100.0,
        "evidence": found.evidence,
    }
    remember(store, state.alias, ROLLOUT, said, at=now)


def _begin_late(settings: Settings, store: Store, state: Deployment, who: str) -> Change | None:
    assert state.candidate is not None
    try:
        return begin(
            settings, store, state.alias, state.candidate, who=who, why="it passed its gate"
        )
    except GateRefused:
        return None  # its gate is still to come, or a person looks at what it said


def _act(
    settings: Settings, deployments: Deployments, state: Deployment, found: Judgement, who: str
) -> Change | None:
    alias, candidate, why, report = state.alias, state.candidate, found.said, found.evidence
    assert candidate is not None
    match found.action:
        case "roll_back":
            return deployments.rollback(alias, who=who, why=why, report=report, seen=state)
        case "ask":
            return deployments.mark("ask", alias, who=who, why=why, report=report, seen=state)
        case "hold":
            return None
    share = next_share(settings, state)
    if share is None:
        return deployments.promote(alias, candidate, who=who, why=why, report=report, seen=state)
    return deployments.step(
        "expand", alias, candidate, share, who=who, why=why, report=report, seen=state
    )


def next_share(settings: Settings, state: Deployment) -> float | None:
    """The share of the next stage, percent; None where that is all the traffic."""
    larger = [
        stage.share
        for stage in settings.rollout_of(state.alias).stages
        if stage.share > state.share
    ]
    return larger[0] if larger else None
