"""How each version stands: what it is or was, and why it was turned away.

live, previous, candidate, canary    what the alias does now
retired      had all the traffic once
rejected     its last gate did not pass, or it was taken back before it had all the traffic
superseded   another candidate took its place
waiting      made, and neither of these
"""

from __future__ import annotations

from typing import NamedTuple

from ledger.deployments import Deployment, fold
from ledger.records import DeploymentEvent, Evaluation


class Standing(NamedTuple):
    """One version.

    Attributes:
        state: see the module.
        why: of a rejected version: what was said, last thing first.
        since: when the last thing happened to it, seconds since the epoch; 0 where nothing did.
    """

    state: str
    why: list[str]
    since: float


#: States of versions that never had all the traffic and that nothing waits for.
TURNED_AWAY = ("rejected", "superseded")


def standings(
    alias: str,
    numbers: list[int],
    events: list[DeploymentEvent],
    verdicts: dict[str, Evaluation],
) -> dict[int, Standing]:
    """How the versions of an alias stand, by number.

    Args:
        events: all deployment events of the alias, oldest first.
        verdicts: the last one on each version, by its name.
    """
    state = Deployment(alias)
    was_live: set[int] = set()
    last: dict[int, float] = {}
    dropped: dict[int, str] = {}  # versions that were candidates and are not: why
    superseded: dict[int, str] = {}
    for event in events:
        before, state = state, fold(state, event)
        if event.version is not None:
            last[event.version] = event.ts
            dropped.pop(event.version, None)
            superseded.pop(event.version, None)
        if event.kind == "promote" and event.version is not None:
            was_live.add(event.version)
        gone = before.candidate
        if gone is None or gone in (state.candidate, state.live):
            continue
        last[gone] = event.ts
        if event.kind in ("rollback", "withdraw", "abort"):
            ended = {"rollback": "rolled back", "withdraw": "withdrawn", "abort": "aborted"}
            said = ended[event.kind]
            dropped[gone] = f"{said} by {event.who}" + (f": {event.why}" if event.why else "")
        else:
            superseded[gone] = f"{alias}@v{event.version} took its place"
    roles = {state.previous: "previous", state.candidate: state.stage, state.live: "live"}
    found = {}
    for number in numbers:
        verdict = verdicts.get(f"{alias}@v{number}")
        why = [dropped[number]] if number in dropped else []
        if verdict is not None and verdict.verdict != "pass":
            reasons = verdict.report.get("reasons") or []
            why.append(f"gate: {verdict.verdict}" + (f": {'; '.join(reasons)}" * bool(reasons)))
        if number in roles:
            name, why = roles[number], []
        elif number in was_live:
            name = "retired"
        elif why:
            name = "rejected"
        elif number in superseded:
            name, why = "superseded", [superseded[number]]
        else:
            name = "waiting"
        since = max(last.get(number, 0.0), verdict.ts if verdict else 0.0)
        found[number] = Standing(name, why, since)
    return found
