"""The status for a person, on one screen: what matters first, and what is more only counted."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flywheel.server import losses
from ledger.clock import now

_WIDTH, _LABEL = 100, 11
# Lines of one kind that are shown before the rest is only counted.
_MOST = 3
_NEAR = 0.5


def status_text(found: dict[str, Any]) -> str:
    """What `status` found, as text."""
    lines = _server(found["server"])
    for alias, state in found["aliases"].items():
        lines += _live(alias, state)
        lines += _labelled("trying", _tried(state))
        lines += _labelled("noticed", _noticed(state))
        lines += _labelled("waits for", _waited(state, found["to_review"][alias]))
        lines += _labelled("this week", textwrap.wrap(_cost(state), _WIDTH - _LABEL))
    lines += _labelled("log", [_log(found)])
    lines += _forgotten(found)
    lines += [f"{'incomplete':<{_LABEL}}{path}" for path in found["incomplete"]]
    return "\n".join(lines)


def _labelled(label: str, said: Sequence[str]) -> list[str]:
    """Lines under a label, each cut to the screen's width."""
    lines = []
    for number, line in enumerate(said):
        short = textwrap.shorten(line, _WIDTH - _LABEL, placeholder=" …")
        lines.append(f"{label if number == 0 else '':<{_LABEL}}{short}")
    return lines


def _most(lines: Iterable[str], more: str) -> list[str]:
    """The first few lines, and how many are left; `more` says where they are."""
    every = list(lines)
    left = len(every) - _MOST
    return every if left <= 1 else [*every[:_MOST], f"and {left} more: {more}"]


def _server(server: Mapping[str, Any]) -> list[str]:
    if not server["up"]:
        return _labelled("server", [f"down: {server['reason']}"])
    lost = losses(dict(server))
    lines = [f"server     {server['url']}{'' if lost else ', nothing lost since its start'}"]
    lines += [f"           {line}" for line in lost]
    return lines + [f"           {name}: {why}" for name, why in server["problems"].items()]


def _live(alias: str, state: Mapping[str, Any]) -> list[str]:
    since = f" since {_when(state['since'])}" if state["since"] else ""
    back = f"; a rollback goes to {state['previous']}" if state["previous"] else ""
    lines = [f"live {state['live']}{since}{back}"]
    # The newest versions, and what answers now.
    answers = sorted(state["answers"].items(), reverse=True)
    for version, count in answers[:_MOST]:
        sure = state["confidence"].get(version)
        said = f", mean logprob {sure['mean_logprob']:.2f} nats" if sure else ""
        lines.append(f"{count} answers by {version}{said}")
    if older := answers[_MOST:]:
        lines.append(f"{sum(count for _, count in older)} answers by {len(older)} others")
    label = alias if len(alias) < _LABEL else f"{alias[: _LABEL - 2]}…"
    return _labelled(label, lines)


def _tried(state: Mapping[str, Any]) -> list[str]:
    lines = []
    if state["candidate"]:
        lines.append(f"trying {state['candidate']} at {state['share']:g} %")
    if running := state.get("rollout"):
        marks = ["paused"] * running["paused"] + ["a person is asked"] * running["asked"]
        does = {"roll_back": "roll back"}.get(running["action"], running["action"])
        next_share = running["next_share"]
        then = f", then {next_share:g} %" if next_share and running["by_stages"] else ""
        lines.append(f"{', '.join([*marks, does])} after {running['days']:.1f} days{then}: ")
        lines[-1] += running["said"]
    verdicts = [f"{name} {verdict}" for name, verdict in state["last_verdicts"].items()]
    return lines + ([f"gate: {', '.join(verdicts)}"] if verdicts else [])


def _noticed(state: Mapping[str, Any]) -> list[str]:
    """Drifts, then what else was noticed this week, then how near the other signals are."""
    lines = [f"drift: {one['said']}" for one in state["drift"]]
    others = [one for one in state["alerts"] if not one["kind"].startswith("drift:")]
    lines += [f"{one['kind']} {_ago(one['ts'])} ago: {one['said']}" for one in others]
    lines = _most(lines, "flywheel status --json")
    signals: dict[str, dict[str, Any]] = state["signals"]
    if not signals:
        return [*lines, "no look at drift yet"]
    near = [
        f"{name} {one['score']:.0%} of the way to drift"
        for name, one in signals.items()
        if one["state"] != "drift" and one["score"] >= _NEAR
    ]
    warming = [name for name, one in signals.items() if one["state"] == "warming_up"]
    quiet = sum(one["state"] in ("quiet", "too_few") for one in signals.values())
    counted = [f"{quiet} of {len(signals)} signals quiet"]
    counted += [f"{len(warming)} warming up"] if warming else []
    return [*lines, ", ".join([*counted, *near])]


def _waited(state: Mapping[str, Any], to_review: Mapping[str, int]) -> list[str]:
    decision, loop = state["waits_for"], state["loop"]
    action = decision["action"]
    head = {"collect": "collect more first", "retrain": "a retrain is due", None: "unknown"}
    said = "; ".join(decision["said"])
    lines = [said if action == "wait" else f"{head[action]}: {said}"]
    lines += _most((f"missing: {one}" for one in decision["missing"]), "flywheel triggers")
    if never := decision.get("never_pay"):
        lines.append(f"never paid so far: {', '.join(never)}")
    why = ", ".join(f"{count} {name}" for name, count in to_review.items())
    lines.append(f"{sum(to_review.values())} answers for a person" + (f": {why}" if why else ""))
    if loop is None:
        lines.append("no tick yet: `make loop` or `flywheel tick` acts on this")
    else:
        failed = f", it failed: {loop['failed'][0]}" if loop["failed"] else ""
        lines.append(f"last tick {_ago(loop['at'])} ago{failed}")
    return lines


def _cost(state: Mapping[str, Any]) -> str:
    """What was spent, by what it was spent on; versions are added up."""
    cost = state["cost"]
    if cost["lines"] is None:
        return f"unknown: {cost['problem']}"
    if not cost["lines"]:
        return "nothing spent"
    parts = []
    for what in dict.fromkeys(one["what"] for one in cost["lines"]):
        lines = [one for one in cost["lines"] if one["what"] == what]
        tokens = sum(one["prompt_tokens"] + one["completion_tokens"] for one in lines)
        hours = sum(one["gpu_seconds"] or 0.0 for one in lines) / 3600
        much = f"{hours:.2f} h" if hours else f"{tokens:,} tokens"
        paid = [one["cost"] for one in lines if one["cost"] is not None]
        price = f"{sum(paid):.2f}" if len(paid) == len(lines) else "no price"
        parts.append(f"{what} {much} ({price})")
    total = cost["total"]
    whole = f"{total['known']:.2f} {cost['currency']}"
    whole += "" if total["cost"] is not None else " and what has no price"
    return f"{whole}: {', '.join(parts)}"


def _log(found: Mapping[str, Any]) -> str:
    waits = found["held"]
    said = f"{waits['rows']} answers wait for late feedback, {waits['bytes'] / 2**20:.1f} MiB"
    if waits["early"]:
        said += f"; {waits['early']} hours decided early"
    tags = sorted(found["tags"].items(), key=lambda one: -one[1])
    more = f", {len(tags) - 4} more" if len(tags) > 4 else ""
    shown = ", ".join(f"{count} {tag}" for tag, count in tags[:4])
    return f"{said}; tags: {shown or 'none'}{more}"


def _forgotten(found: Mapping[str, Any]) -> list[str]:
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


def _ago(ts: float) -> str:
    seconds = max(0.0, now() - ts)
    for length, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
