"""What is live now: shares, stages, alerts, what waits. Numbers over time are in `series`."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import sqlalchemy as sa

from curate.review.looks.series import DAY
from ledger.database import tables
from ledger.deployments import Deployment, DeploymentEvent, Deployments, fold, version_name
from ledger.glance import Glance, spent_on
from ledger.keeping.rollups import SECONDS, used
from ledger.marks import rank_name
from ledger.settings import Settings
from ledger.store import Store


class Share(NamedTuple):
    """A version with traffic. `share` is percent, as set; `seen` of the last day's answers."""

    name: str
    role: str
    share: float
    answers: int
    seen: float | None


class Alert(NamedTuple):
    """A warning about a window of time; `says` is its report, flat, `said` one sentence, `open`
    whether it is a drift that is not over."""

    ts: float
    kind: str
    since: float
    until: float
    says: dict[str, str]
    said: str
    open: bool


class Tried(NamedTuple):
    """The version that is being tried.

    Attributes:
        share, next_share: percent; the next one is None where nobody has judged the stage yet.
        days: how long its stage has run, pauses left out.
        action, said: what was last judged, and when: `at`. None, "" and None before that.
        rates: name, canary's, control's rate, 0 to 1, of what is judged.
        verdict: of its gate; None without one.
    """

    name: str
    share: float
    next_share: float | None
    days: float
    paused: bool
    asked: bool
    by_stages: bool
    action: str | None
    said: str
    at: float | None
    rates: tuple[tuple[str, float, float], ...]
    verdict: str | None


class Signal(NamedTuple):
    """What is watched. `score` is how near to drift the evidence is, 0 to 1."""

    name: str
    state: str
    score: float
    said: str


class Spending(NamedTuple):
    """What was spent on something; `hours` and `cost` None where nobody wrote them down."""

    what: str
    hours: float | None
    tokens: int
    cost: float | None


class Waits(NamedTuple):
    """Rows of the queue: how many, by what brought them."""

    total: int
    by: dict[str, int]


def history(store: Store, alias: str) -> tuple[Deployment, list[DeploymentEvent]]:
    """What holds now, and all events, oldest first."""
    events, state = Deployments(store).events(alias), Deployment(alias)
    for event in events:
        state = fold(state, event)
    return state, events


def shares(settings: Settings, store: Store, state: Deployment, now: float) -> list[Share]:
    """Who gets how much of the traffic, as set, and as the last day's answers have it."""
    base, rows = settings.model.name, tables.interactions
    parts = [(state.live, "live", 100.0 - state.share)]
    if state.candidate is not None:
        parts.append((state.candidate, state.stage, state.share))
    counts = []
    with store.reading() as connection:
        for number, _, _ in parts:
            query = sa.select(sa.func.count()).where(
                rows.c.version == version_name(state.alias, number, base),
                rows.c.ts >= now - DAY,
            )
            if len(settings.aliases) > 1:
                query = query.where(rows.c.alias == state.alias)
            counts.append(connection.scalar(query) or 0)
    whole = sum(counts)
    return [
        Share(
            version_name(state.alias, number, base),
            role,
            share,
            count,
            100 * count / whole if whole else None,
        )
        for (number, role, share), count in zip(parts, counts, strict=True)
    ]


def alerts(store: Store, alias: str, limit: int = 20) -> list[Alert]:
    """The newest alerts, newest first."""
    current = {one.seq: one for one in store.open_drifts(alias)}
    newest = {one.seq: one for one in store.alerts(alias, limit=limit)}
    found = sorted((current | newest).values(), key=lambda one: (one.ts, one.seq), reverse=True)
    return [
        Alert(
            one.ts,
            one.kind,
            one.since,
            one.until,
            flat(one.report),
            str(one.report.get("said", "")),
            one.seq in current,
        )
        for one in found
    ]


def tried(seen: Glance, base: str, now: float) -> Tried | None:
    """The version that is being tried; None where none is."""
    state, last = seen.state, seen.rollout or {}
    if state.candidate is None:
        return None
    name = version_name(state.alias, state.candidate, base)
    evidence = last.get("evidence") or {}
    judged = (*evidence.get("metrics", ()), *evidence.get("guards", ()))
    return Tried(
        name,
        state.share,
        last.get("next_share"),
        state.stage_seconds(now) / DAY,
        state.paused,
        state.asked,
        state.stages,
        last.get("action"),
        last.get("said", ""),
        last.get("at"),
        tuple((one["name"], one["canary"], one["control"]) for one in judged),
        seen.judged.get(name),
    )


def signals(seen: Glance) -> list[Signal]:
    """How the signals of drift stood when they were last looked at, the nearest to drift first."""
    found = [
        Signal(name, one["state"], one["score"], one["said"].removeprefix(f"{name}: "))
        for name, one in seen.signals.items()
    ]
    return sorted(found, key=lambda one: -one.score)


def spending(store: Store, alias: str, now: float) -> list[Spending]:
    """What was spent for an alias in the last seven days, and what it served.

    What serving costs is an estimate that `flywheel costs` makes.
    """
    served = used(store, since=int((now - 7 * DAY) // SECONDS)).items()
    tokens = sum(
        one.prompt_tokens + one.completion_tokens for (asked, _), one in served if asked == alias
    )
    return ([Spending("serving", None, tokens, None)] if tokens else []) + [
        Spending(what, one.gpu_seconds / 3600, one.prompt_tokens + one.completion_tokens, one.cost)
        for what, one in spent_on(store, alias, since=now - 7 * DAY).items()
    ]


def waits(store: Store, alias: str) -> Waits:
    """What waits for eyes."""
    by = {rank_name(rank): count for rank, count in sorted(store.waiting(alias).items())}
    return Waits(sum(by.values()), by)


def flat(report: dict[str, Any]) -> dict[str, str]:
    """The numbers and words of a JSON object; lists and objects within as JSON."""
    return {str(key): word(value) for key, value in report.items() if value is not None}


def word(value: Any) -> str:
    """A JSON value in a line."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value, ensure_ascii=False)
