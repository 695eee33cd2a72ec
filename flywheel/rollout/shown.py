"""What a rollout does and waits for, for `flywheel rollout`, status and the review page."""

from __future__ import annotations

from typing import Any

from eval.canary import judge_state
from flywheel.rollout.stages import next_share
from ledger.deployments import Deployments, name_or_none
from ledger.settings import Settings
from ledger.store import Store


def look(settings: Settings, store: Store, alias: str, *, now: float) -> dict[str, Any]:
    """What holds for the rollout of an alias, with the numbers.

    Args:
        now: seconds since the epoch.
    """
    state = Deployments(store).state(alias)
    base = settings.model.name
    found: dict[str, Any] = {
        "alias": alias,
        "live": name_or_none(alias, state.live, base),
        "candidate": name_or_none(alias, state.candidate, base),
        "share": state.share,
        "by_stages": state.stages,
        "paused": state.paused,
        "asked": state.asked,
        "days": round(state.stage_seconds(now) / 86_400, 3),
        "next_share": None,
        "action": None,
        "said": "no version is being tried",
        "evidence": {},
    }
    if state.candidate is None:
        return found
    judgement = judge_state(settings, store, state, now=now)
    if state.share > 0:
        found["next_share"] = next_share(settings, state) or 100.0
    return found | {
        "action": judgement.action,
        "said": judgement.said,
        "evidence": judgement.evidence,
    }


def text(found: dict[str, Any]) -> str:
    """The same for a person."""
    if found["candidate"] is None:
        return f"{found['alias']}: {found['live']} is live; {found['said']}"
    marks = [mark for mark in ("paused", "asked") if found[mark]]
    if found["share"] and not found["by_stages"]:
        marks.append("share set by hand: nothing happens by itself")
    tried = f"{found['candidate']} gets {found['share']:g} %"
    head = f"{found['alias']}: {tried} beside {found['live']}"
    head += f", for {found['days']:.1f} days" if found["share"] else ""
    lines = [head + (f" ({', '.join(marks)})" if marks else "")]
    evidence = found["evidence"]
    if evidence:
        answers = evidence["answers"]
        lines.append(
            f"  answers    {answers['canary']} beside {answers['control']}; feedback expected "
            f"{evidence['feedback']:g}"
        )
        lines.append(f"  {'':<10} {'canary':>8} {'control':>8}   ratio between   harm  safe")
        lines += [_line(one) for one in (*evidence["metrics"], *evidence["guards"])]
        shadow = evidence["shadow"]
        if shadow["won"] or shadow["lost"] or shadow["tied"]:
            lines.append(
                f"  shadow     {shadow['won']} won, {shadow['lost']} lost, {shadow['tied']} tied"
            )
    action = {"roll_back": "roll back", None: "hold"}.get(found["action"], found["action"])
    then = f" to {found['next_share']:g} %" if found["action"] == "expand" else ""
    lines.append(f"  {action}{then}: {found['said']}")
    return "\n".join(lines)


def _line(one: dict[str, Any]) -> str:
    low, high = one["ratio"]
    between = f"{low:.2f} and {high:.2f}" if high is not None else f"{low:.2f} and any"
    safe = "" if one["safety"] is None else f"{min(one['safety'], 9.99):.0%}"
    return (
        f"  {one['name']:<10} {one['canary']:>8.2%} {one['control']:>8.2%}   {between:<14} "
        f"{min(one['harm'], 9.99):>5.0%} {safe:>5}"
    )
