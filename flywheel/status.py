"""What is live, what is tried, what waits: for `flywheel status`."""

from __future__ import annotations

import time
from typing import Any

from flywheel.forget import trained_on_forgotten
from flywheel.server import Server, losses
from ledger.clock import now
from ledger.deployments import Deployments, name_or_none, version_name
from ledger.errors import ConfigError, ServerError
from ledger.keeping.confidence import newest
from ledger.keeping.settle import held
from ledger.marks import rank_name
from ledger.registry import Registry
from ledger.settings import Settings
from ledger.store import Store


def status(settings: Settings, store: Store, aliases: list[str], url: str | None) -> dict[str, Any]:
    """The state of aliases and of the server."""
    deployments, base = Deployments(store), settings.model.name
    tags = store.tag_counts()
    found: dict[str, Any] = {"aliases": {}, "tags": tags, "to_review": {}}
    for alias, state in deployments.states(aliases).items():
        waiting = sorted(store.waiting(alias).items())
        found["to_review"][alias] = {rank_name(rank): count for rank, count in waiting}
        verdicts, answers = store.evaluations(alias), store.counts(alias)
        found["aliases"][alias] = {
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
            "last_verdicts": {name: e.verdict for name, e in list(verdicts.items())[-3:]},
            "drift": [{"since": a.since, "said": a.said} for a in store.open_drifts(alias)],
        }
        if state.stage == "canary":
            found["aliases"][alias]["rollout"] = _rollout(settings, store, alias)
    found["server"] = _server(settings, url)
    found["held"] = held(store)._asdict()
    found["trained_on_forgotten"] = trained_on_forgotten(settings, store)
    found["incomplete"] = [str(path) for path in Registry(settings.registry).incomplete()]
    return found


def _rollout(settings: Settings, store: Store, alias: str) -> dict[str, Any]:
    """What a canary waits for, without the numbers; `flywheel rollout` shows these."""
    from flywheel.rollout.shown import look  # numpy: only where a canary runs

    seen = look(settings, store, alias, now=now())
    return {key: value for key, value in seen.items() if key not in ("alias", "evidence")}


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


def status_text(found: dict[str, Any]) -> str:
    """The status for a person, on one screen."""
    server = found["server"]
    lines = []
    if server["up"]:
        lost = losses(server)
        well = "" if lost else ", nothing lost since its start"
        lines.append(f"server     {server['url']}{well}")
        lines += [f"           {line}" for line in lost]
        lines += [f"           {name}: {why}" for name, why in server["problems"].items()]
    else:
        lines.append(f"server     down: {server['reason']}")
    for alias, state in found["aliases"].items():
        since = f" since {_when(state['since'])}" if state["since"] else ""
        lines.append(f"{alias:<10} live {state['live']}{since}")
        if state["candidate"]:
            lines.append(f"           trying {state['candidate']} at {state['share']:g} %")
        if running := state.get("rollout"):
            marks = ["paused"] * running["paused"] + ["a person is asked"] * running["asked"]
            does = {"roll_back": "roll back"}.get(running["action"], running["action"])
            lines.append(
                f"           {', '.join([*marks, does])} after {running['days']:.1f} days: "
                f"{running['said']}"
            )
        if state["previous"]:
            lines.append(f"           a rollback goes to {state['previous']}")
        for version, count in sorted(state["answers"].items()):
            sure = state["confidence"].get(version)
            said = f", mean logprob {sure['mean_logprob']:.2f} nats" if sure else ""
            lines.append(f"           {count} answers by {version}{said}")
        lines += [f"           drift: {one['said']}" for one in state["drift"]]
        for name, verdict in state["last_verdicts"].items():
            lines.append(f"           gate: {name} {verdict}")
    tags = ", ".join(f"{count} {tag}" for tag, count in sorted(found["tags"].items()))
    lines.append(f"tags       {tags or 'none'}")
    waits = found["held"]
    lines.append(
        f"held       {waits['rows']} answer(s) wait for late feedback, "
        f"{waits['bytes'] / 2**20:.1f} MiB"
        + (f"; {waits['early']} hour(s) decided early" if waits["early"] else "")
    )
    for alias, waiting in found["to_review"].items():
        why = ", ".join(f"{count} {name}" for name, count in waiting.items())
        lines.append(
            f"review     {sum(waiting.values())} of {alias} wait" + (f": {why}" * bool(why))
        )
    lines += _forgotten(found)
    lines += [f"incomplete {path}" for path in found["incomplete"]]
    return "\n".join(lines)


def _forgotten(found: dict[str, Any]) -> list[str]:
    """Versions that may answer and were trained on somebody who was forgotten since."""
    roles = ("live", "candidate", "previous")
    return [
        f"forgotten  {state[role]} ({role}) was trained on pairs of somebody who was forgotten: "
        f"retrain {alias}"
        for alias, state in found["aliases"].items()
        for role in roles
        if state[role] in found["trained_on_forgotten"]
    ]


def _when(ts: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(ts))
