"""What `flywheel triggers` shows: the decision of this moment, and what came of earlier ones."""

from __future__ import annotations

import time
from typing import Any

from flywheel.loop.decide import decide
from flywheel.loop.facts import facts
from flywheel.loop.history import link, record
from ledger.clock import now
from ledger.settings import Settings
from ledger.store import Store


def explained(settings: Settings, store: Store, alias: str, history: int) -> dict[str, Any]:
    """The decision, every trigger's word and record, and the newest decisions with outcomes."""
    link(settings, store, alias)
    found = facts(settings, store, alias, now=now())
    decision = decide(found, settings)
    return {
        "alias": alias,
        **decision.report(),
        "record": [one._asdict() for one in record(found.firings)],
        "history": [
            {
                "firing": one.seq,
                "ts": one.ts,
                "triggers": list(one.triggers),
                "decision": one.decision,
                "outcomes": [{"ts": o.ts, "kind": o.kind, **o.report} for o in one.outcomes],
            }
            for one in found.firings[-history:]
        ],
    }


def text(found: dict[str, Any], *, all_of_them: bool) -> str:
    """For a person."""
    lines = [f"{found['alias']}: {found['action']}"]
    for name, one in found["triggers"].items():
        if all_of_them or one["state"] in ("fires", "collect", "permits"):
            lines.append(f"  {name:<10} {one['state']:<8} {one['said']}")
    lines += [f"  {line}" for line in found["said"]]
    lines += [f"  collect first: {line}" for line in found["missing"]]
    for one in found["record"]:
        if one["trigger"] in found["never_pay"]:
            lines.append(
                f"  {one['trigger']} never paid: none of its {one['decided']} retrains stayed "
                f"live; look why, or set triggers.{one['trigger']}.on to false"
            )
    if found["history"]:
        lines.append("earlier decisions")
    for one in found["history"]:
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(one["ts"]))
        came = ", ".join(_outcome(o) for o in one["outcomes"]) or "nothing yet"
        why = ", ".join(one["triggers"])
        lines.append(f"  {when}  {one['decision']:<8} {why}: {came}")
    return "\n".join(lines)


def _outcome(one: dict[str, Any]) -> str:
    if one["kind"] == "run":
        return f"{one['version']} trained"
    if one["kind"] == "verdict":
        return str(one["verdict"])
    return str(one["kind"]).replace("_", " ")
