"""What `flywheel status --json` says: all of it, from the ledger and the running server."""

from __future__ import annotations

from typing import Any

from flywheel.forget import trained_on_forgotten
from flywheel.server import Server
from ledger.clock import now
from ledger.deployments import name_or_none, version_name
from ledger.errors import ConfigError, FlywheelError, ServerError
from ledger.glance import Glance, glance
from ledger.keeping.confidence import newest
from ledger.keeping.settle import held
from ledger.marks import rank_name
from ledger.registry import Registry
from ledger.settings import Settings
from ledger.store import Store

WEEK = 7 * 86_400.0
# Alerts of the last week that are shown beside the drifts that are not over.
_ALERTS = 20


def status(settings: Settings, store: Store, aliases: list[str], url: str | None) -> dict[str, Any]:
    """The state of aliases and of the server."""
    found: dict[str, Any] = {"aliases": {}, "tags": store.tag_counts(), "to_review": {}}
    for alias in aliases:
        waiting = sorted(store.waiting(alias).items())
        found["to_review"][alias] = {rank_name(rank): count for rank, count in waiting}
        found["aliases"][alias] = _alias(settings, store, alias)
    found["server"] = _server(settings, url)
    found["held"] = held(store)._asdict()
    found["trained_on_forgotten"] = trained_on_forgotten(settings, store)
    found["incomplete"] = [str(path) for path in Registry(settings.registry).incomplete()]
    return found


def _alias(settings: Settings, store: Store, alias: str) -> dict[str, Any]:
    seen, base, at = glance(store, alias), settings.model.name, now()
    state, answers = seen.state, store.counts(alias)
    found = {
        "live": version_name(alias, state.live, base),
        "previous": name_or_none(alias, state.previous, base),
        "candidate": name_or_none(alias, state.candidate, base),
        "share": state.share,
        "stage": state.stage,
        "since": state.since or None,
        "why": state.why,
        "event": state.seq,
        "answers": answers,
        "confidence": {name: _confidence(store, name) for name in answers},
        "last_verdicts": dict(list(seen.judged.items())[-3:]),
        "drift": [{"since": a.since, "said": a.said} for a in store.open_drifts(alias)],
        "signals": {name: dict(said) for name, said in seen.signals.items()},
        "alerts": [
            {"ts": a.ts, "kind": a.kind, "said": a.said}
            for a in store.alerts(alias, since=at - WEEK, limit=_ALERTS)
        ],
        "waits_for": _decision(settings, store, alias, at),
        "loop": _loop(seen),
        "cost": _cost(settings, store, alias, at),
    }
    if state.stage == "canary":
        found["rollout"] = _rollout(settings, store, alias)
    return found


def _rollout(settings: Settings, store: Store, alias: str) -> dict[str, Any]:
    """What a canary waits for, without the numbers; `flywheel rollout` shows these."""
    from flywheel.rollout.shown import look  # numpy: only where a canary runs

    seen = look(settings, store, alias, now=now())
    return {key: value for key, value in seen.items() if key not in ("alias", "evidence")}


def _decision(settings: Settings, store: Store, alias: str, at: float) -> dict[str, Any]:
    """What the triggers say now; `flywheel triggers --explain` says why.

    `action` is None where it cannot be said: `said` has the reason.
    """
    from flywheel.loop.decide import decide  # numpy: not for every command
    from flywheel.loop.facts import facts

    try:
        return decide(facts(settings, store, alias, now=at), settings).report()
    except FlywheelError as error:
        return {"action": None, "because": [], "said": [error.problem], "missing": []}


def _cost(settings: Settings, store: Store, alias: str, at: float) -> dict[str, Any]:
    """The bill of the last seven days, as `flywheel costs --json` has it.

    `lines` is None where it cannot be made out: `problem` has the reason.
    """
    from flywheel.costs import costs

    try:
        found = costs(settings, store, since=at - WEEK, until=at, aliases=[alias])
    except FlywheelError as error:
        return {"lines": None, "problem": error.problem}
    return {
        "currency": found.currency,
        "total": found.totals[alias]._asdict(),
        "lines": [one._asdict() for one in found.lines],
    }


def _loop(seen: Glance) -> dict[str, Any] | None:
    """When the last tick was, and what went wrong in it; None before the first."""
    if seen.loop is None:
        return None
    return {"at": seen.loop["at"], "failed": seen.loop["failed"]}


def _confidence(store: Store, version: str) -> dict[str, float] | None:
    """Mean logprob of the version's newest answers, each weighted by how likely it was to stay."""
    from eval.estimate import mean  # numpy: not for every command

    said = newest(store, version)
    if not said:
        return None
    found = mean(*zip(*said, strict=True))
    return {"mean_logprob": found.value, "error": found.error, "answers": len(said)}


def _server(settings: Settings, url: str | None) -> dict[str, Any]:
    try:
        server = Server.of(settings, url)
        problems = server.deployments()["problems"]
        return {"url": server.url, "up": True, "problems": problems, **server.numbers()}
    except (ServerError, ConfigError) as error:
        return {"up": False, "reason": error.problem}
