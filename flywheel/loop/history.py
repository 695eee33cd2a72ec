"""Linking decisions to what came of them, and what they teach: triggers that never pay, and
versions in a row that came to nothing.

A retrain pays when its version had all the traffic and was not rolled back. Outcomes are read
from the ledger's verdicts and deployment events, so they are the same whoever retrained, and
reading them again adds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ledger.deployments import Deployments, parse_version
from ledger.settings import Settings
from ledger.store import Firing, Store

#: What ends the story of a firing.
LIVE, ROLLED_BACK, REFUSED, DROPPED = "live", "rolled_back", "refused", "dropped"
# Events by which a version is being tried; `supersede` also ends the one before.
_TRIED = ("candidate", "share", "begin", "expand", "supersede")


class Paid(NamedTuple):
    """A trigger's record: retrains it caused, those decided by now, and those that paid."""

    trigger: str
    retrains: int
    decided: int
    paid: int


def link(settings: Settings, store: Store, alias: str) -> int:
    """Append what came of the alias's retrains since they were last looked at; how many."""
    verdicts = store.evaluations(alias)
    events = Deployments(store).events(alias)
    new = 0
    for firing in store.firings(alias):
        run = firing.outcome("run")
        if firing.decision != "retrain" or run is None or "version" not in run.report:
            continue
        name = run.report["version"]
        number = parse_version(name, alias)
        verdict = verdicts.get(name)
        if verdict is not None:
            said = {
                "version": name,
                "verdict": verdict.verdict,
                "difference": verdict.report.get("difference"),
            }
            new += store.add_outcome(firing.seq, "verdict", said)
            if verdict.verdict != "pass":
                new += store.add_outcome(firing.seq, REFUSED, {"version": name})
        candidate, live = False, False
        for event in events:
            said = {"version": name, "event": event.seq, "who": event.who}
            if event.version == number and event.kind in _TRIED:
                candidate = True
            elif event.kind == "promote":
                if event.version == number:
                    candidate, live = False, True
                    new += store.add_outcome(firing.seq, LIVE, said)
                else:
                    live = False  # another one took over, which is no rollback
            elif event.kind == "rollback" and (candidate or live):
                new += store.add_outcome(firing.seq, ROLLED_BACK, said)
                candidate = live = False
            elif event.kind in ("withdraw", "abort", "supersede") and candidate:
                new += store.add_outcome(firing.seq, DROPPED, said)
                candidate = False
    return new


def record(firings: Sequence[Firing]) -> list[Paid]:
    """Every trigger that ever caused a retrain, in the order of their names."""
    found: dict[str, list[int]] = {}
    for firing in firings:
        if firing.decision != "retrain":
            continue
        ends = [o.kind for o in firing.outcomes if o.kind in (LIVE, ROLLED_BACK, REFUSED, DROPPED)]
        for trigger in firing.triggers:
            one = found.setdefault(trigger, [0, 0, 0])
            one[0] += 1
            one[1] += bool(ends)
            one[2] += bool(ends) and ends[-1] == LIVE
    return [Paid(trigger, *numbers) for trigger, numbers in sorted(found.items())]


def in_vain(firings: Sequence[Firing]) -> list[str]:
    """Versions refused or rolled back since one last stayed live, oldest first."""
    found: list[str] = []
    for firing in firings:
        ends = [o for o in firing.outcomes if o.kind in (LIVE, ROLLED_BACK, REFUSED)]
        if not ends:
            continue
        if ends[-1].kind == LIVE:
            found = []
        else:
            found.append(ends[-1].report["version"])
    return found


def never_pays(firings: Sequence[Firing], after: int) -> list[Paid]:
    """Triggers whose last `after` decided retrains, or more, all came to nothing."""
    return [one for one in record(firings) if one.decided >= after and one.paid == 0]
